// TURN, SOFTMAX and NORM: one instruction at a time, WIDTH banks of TOKENS tokens a cycle.
module vector #(
    parameter int PES = 16,
    parameter int LANES = 4,
    parameter int BANKS = 8,
    parameter int TOKENS = 8,
    parameter int WIDTH = 4,
    parameter int ACT_DEPTH = 4096,
    parameter int WGT_DEPTH = 512,
    parameter int PAR_DEPTH = 256,
    parameter int ENTRIES = 4,
    parameter int INSN = 24
) (
    input logic clk,
    input logic rst,

    input  logic            start,
    input  logic [   127:0] in_word,
    input  logic [INSN-1:0] in_insn,
    output logic            busy,
    output logic [     2:0] op,
    input  logic            hold,     // no read in this cycle
    output logic            exclusive,  // keeps a word in the banks' read registers

    output logic                       act_re,
    output logic [               15:0] act_ra,
    input  logic [BANKS*TOKENS*8-1:0]  act_rd,
    output logic                       par_re,
    output logic [               15:0] par_ra,
    input  logic [     ENTRIES*64-1:0] par_rd,

    // dense weight words
    output logic                   wgt_we,
    output logic [           15:0] wgt_wa,
    output logic [        PES-1:0] wgt_rows,
    output logic [PES*LANES*8-1:0] wgt_wd,

    // scales of a tile's tokens
    output logic                 tsc_we,
    output logic [          9:0] tsc_wa,
    output logic [TOKENS*22-1:0] tsc_wd,

    output logic                        post_valid,
    output logic [WIDTH*TOKENS*8-1:0]   post_data,
    output logic [  WIDTH*TOKENS-1:0]   post_absent,
    output logic                        post_use_table,
    output logic                        post_table,
    output logic [              15:0]   post_addr,
    output logic [         BANKS-1:0]   post_we,
    input  logic                        post_busy,
    input  logic                        post_out_valid,
    input  logic [WIDTH*TOKENS*8-1:0]   post_out_data,

    output logic            done_valid,
    output logic [     1:0] done_push,
    output logic [INSN-1:0] done_insn,
    output logic            fault,
    output logic [INSN-1:0] fault_insn
);
  localparam int PHASES = BANKS / WIDTH;
  localparam int VB = BANKS > 1 ? $clog2(BANKS) : 1;
  localparam int PB = PHASES > 1 ? $clog2(PHASES) : 1;
  localparam int KEY_PASSES = BANKS / LANES;
  localparam int VALUE_PASSES = TOKENS / LANES;

  logic [127:0] word;
  logic [INSN-1:0] insn;
  isa_pkg::turn_t turn;
  isa_pkg::norm_t norm;
  isa_pkg::softmax_t softmax;
  assign turn = word;
  assign norm = word;
  assign softmax = word;
  assign op = word[2:0];
  logic is_norm, is_soft;
  assign is_norm = op == isa_pkg::OP_NORM;
  assign is_soft = op == isa_pkg::OP_SOFTMAX;

  // the shape all three have in common
  logic [9:0] tiles;
  logic [13:0] count;
  logic [13:0] slots;
  logic [10:0] stride_in, stride_res, stride_out;
  assign tiles = is_norm ? norm.tiles : is_soft ? softmax.tiles : turn.tiles;
  assign count = is_norm ? {1'b0, norm.count} : softmax.count;
  assign slots = is_norm || is_soft ? (count + 14'(BANKS - 1)) >> VB : {3'b0, turn.slots};
  assign stride_in = is_norm ? {1'b0, norm.input_stride} : is_soft ? softmax.input_stride : turn.input_stride;
  assign stride_res = {1'b0, norm.residual_stride};
  assign stride_out = is_norm ? {1'b0, norm.output_stride} : softmax.output_stride;

  typedef enum logic [3:0] {
    IDLE,
    TURN_READ,
    TURN_WRITE,
    EPS,
    EPS_WAIT,
    FIRST,   // maximum, or sums
    FIRST_WAIT,
    STATS,
    ROOT,
    SECOND,  // write the results
    SECOND_WAIT,
    DIVIDE,
    NEXT,
    LEAVE
  } state_t;
  state_t state;
  logic [9:0] tile;
  logic [13:0] slot;
  logic [PB:0] phase;
  logic odd;  // NORM reads x, then the residual
  logic [22:0] in_base, res_base, out_base;
  logic [7:0] pass;
  logic [5:0] wait_left;
  logic [6:0] steps;
  logic sweeping, step, last_step;
  assign busy = state != IDLE;
  assign exclusive = state == TURN_READ || state == TURN_WRITE;
  assign sweeping = state == FIRST || state == SECOND;
  assign step = sweeping && !hold && (!is_norm || odd);
  assign last_step = slot == slots - 1'b1 && 32'(phase) == PHASES - 1;

  // reads
  logic [22:0] read_at;
  assign read_at = (is_norm && odd ? res_base : in_base) + {9'b0, slot};
  assign act_re  = state == TURN_READ || (sweeping && !hold);
  assign act_ra  = read_at[15:0];
  logic [16:0] par_at;
  logic [15:0] feature;
  assign feature = 16'(slot) * 16'(BANKS) + 16'(phase) * 16'(WIDTH);
  assign par_at = {5'b0, norm.params} + (state == EPS ? 17'd0 : 17'd1 + 17'(feature / ENTRIES));
  assign par_re = state == EPS || (is_norm && step);
  assign par_ra = par_at[15:0];

  // V1: the last word of a step is in the read registers
  localparam int STAGES = 10;
  logic [STAGES:1] sv;
  logic second1;
  logic [PB:0] phase1;
  localparam int PARTS = ENTRIES / WIDTH;
  localparam int EB = PARTS > 1 ? $clog2(PARTS) : 1;
  logic [EB-1:0] entry1;
  logic [WIDTH*64-1:0] entries;
  choose #(.N(PARTS), .WIDTH(WIDTH * 64)) u_entries (.words(par_rd), .index(entry1), .word(entries));
  logic [22:0] out1;
  logic [WIDTH-1:0] valid1;
  logic [WIDTH*TOKENS*8-1:0] pick, x1;
  // x is read a cycle before the residual, the phase is the same
  choose #(.N(PHASES), .WIDTH(WIDTH * TOKENS * 8)) u_pick (.words(act_rd), .index(phase1[PB-1:0]), .word(pick));
  logic read_x1;
  always_ff @(posedge clk) begin
    sv <= rst ? '0 : {sv[STAGES-1:1], step};
    second1 <= state == SECOND;
    phase1 <= phase;
    read_x1 <= sweeping && !hold && is_norm && !odd;
    entry1 <= EB'(feature % ENTRIES / WIDTH);
    out1 <= out_base + {9'b0, slot};
    for (int w = 0; w < WIDTH; w++) valid1[w] <= feature + 16'(w) < {2'b0, count};
    if (read_x1) x1 <= pick;
  end

  // V2: registered operands
  logic second2;
  logic [WIDTH*TOKENS*8-1:0] x2, r2;
  logic [WIDTH*64-1:0] par2;
  logic [WIDTH-1:0] valid2;
  logic [15:0] out_addr[2:9];
  logic [PB:0] phases[2:9];
  logic [WIDTH-1:0] valids[2:9];
  logic [9:2] seconds;
  assign second2 = seconds[2];
  assign valid2  = valids[2];
  always_ff @(posedge clk) begin
    x2 <= is_norm ? x1 : pick;
    r2 <= pick;
    par2 <= entries;
    out_addr[2] <= out1[15:0];
    phases[2] <= phase1;
    valids[2] <= valid1;
    seconds <= {seconds[8:2], second1};
    for (int s = 3; s < 10; s++) begin
      out_addr[s] <= out_addr[s-1];
      phases[s] <= phases[s-1];
      valids[s] <= valids[s-1];
    end
  end

  // SOFTMAX: maximum, then table indices (V2 -> post)
  logic signed [7:0] most[0:TOKENS-1];
  logic [WIDTH*TOKENS*8-1:0] index;
  logic [WIDTH*TOKENS-1:0] absent;
  always_comb
    for (int w = 0; w < WIDTH; w++)
      for (int t = 0; t < TOKENS; t++) begin
        index[(w*TOKENS+t)*8+:8] = most[t] - x2[(w*TOKENS+t)*8+:8];
        absent[w*TOKENS+t] = !valid2[w] || x2[(w*TOKENS+t)*8+:8] == 8'h80;
      end
  for (genvar t = 0; t < TOKENS; t++) begin : g_most
    logic signed [7:0] here;
    always_comb begin
      here = most[t];
      for (int w = 0; w < WIDTH; w++)
        if (valid2[w] && $signed(x2[(w*TOKENS+t)*8+:8]) > here) here = x2[(w*TOKENS+t)*8+:8];
    end
    always_ff @(posedge clk)
      if (state == NEXT || state == IDLE) most[t] <= -8'sd128;
      else if (sv[2] && !second2 && is_soft) most[t] <= here;
  end

  // NORM: see norm_lane.sv for the stages
  logic [WIDTH*TOKENS*8-1:0] out9;
  logic [WIDTH*TOKENS*16-1:0] z4;
  logic [WIDTH*TOKENS*32-1:0] zz5;
  logic signed [28:0] sum[0:TOKENS-1];
  logic [43:0] squares[0:TOKENS-1];
  logic [TOKENS*16-1:0] recip;
  logic [TOKENS*6-1:0] recip_shift;
  logic [WIDTH*32-1:0] gb[3:8];
  logic [55:0] eps;
  always_ff @(posedge clk) begin
    for (int w = 0; w < WIDTH; w++) gb[3][w*32+:32] <= par2[w*64+32+:32];
    for (int s = 4; s < 9; s++) gb[s] <= gb[s-1];
    if (state == EPS_WAIT) eps <= par_rd[55:0];
  end
  for (genvar w = 0; w < WIDTH; w++) begin : g_norm
    for (genvar t = 0; t < TOKENS; t++) begin : g_token
      localparam int I = w * TOKENS + t;
      norm_lane u_lane (
          .clk, .x(x2[I*8+:8]), .r(r2[I*8+:8]), .a(par2[w*64+:16]), .b(par2[w*64+16+:16]), .valid(valids[3][w]),
          .count, .sum(sum[t]), .recip(recip[t*16+:16]), .recip_shift(recip_shift[t*6+:6]), .stats(norm.stats),
          .gamma(gb[7][w*32+:16]), .beta(gb[8][w*32+16+:16]), .shift(norm.shift), .z(z4[I*16+:16]),
          .zz(zz5[I*32+:32]), .out(out9[I*8+:8]));
    end
  end
  // sums of z (from V5's copy) and squares
  logic [WIDTH*TOKENS*16-1:0] zc5;
  always_ff @(posedge clk) zc5 <= z4;
  logic [20:0] total[0:TOKENS-1];
  for (genvar t = 0; t < TOKENS; t++) begin : g_sums
    logic signed [28:0] zs;
    logic [43:0] qs;
    logic [20:0] es;
    always_comb begin
      zs = '0;
      qs = '0;
      es = '0;
      for (int w = 0; w < WIDTH; w++) begin
        zs = zs + {{13{zc5[(w*TOKENS+t)*16+15]}}, zc5[(w*TOKENS+t)*16+:16]};
        qs = qs + {12'b0, zz5[(w*TOKENS+t)*32+:32]};
        es = es + {13'b0, post_out_data[(w*TOKENS+t)*8+:8]};
      end
    end
    always_ff @(posedge clk)
      if (state == NEXT || state == IDLE) begin
        sum[t] <= '0;
        squares[t] <= '0;
        total[t] <= '0;
      end else begin
        if (sv[5] && !seconds[5] && is_norm) begin
          sum[t] <= sum[t] + zs;
          squares[t] <= squares[t] + qs;
        end
        if (is_soft && post_out_valid) total[t] <= total[t] + es;
      end
  end

  // radicands: a token a cycle, so that one pair of wide multipliers does
  logic [57:0] scaled, squared;
  localparam int TB = TOKENS > 1 ? $clog2(TOKENS) : 1;
  always_ff @(posedge clk) begin
    scaled <= squares[steps[TB-1:0]] * count;
    squared <= 58'($signed(sum[steps[TB-1:0]]) * $signed(58'(sum[steps[TB-1:0]])));
  end

  for (genvar t = 0; t < TOKENS; t++) begin : g_root
    root u_root (
        .clk, .set(state == STATS && 32'(steps) == t + 1), .radicand(scaled - squared + {2'b0, eps}),
        .clear(state == STATS), .rooting(state == ROOT), .dividing(state == DIVIDE), .first(steps == 0),
        .of_root(is_norm), .total(total[t]), .recip(recip[t*16+:16]), .recip_shift(recip_shift[t*6+:6]));
    assign tsc_wd[t*22+:22] = {recip_shift[t*6+:6], recip[t*16+:16]};
  end
  assign tsc_we = is_soft && state == NEXT;
  assign tsc_wa = tile;

  // to post
  always_comb begin
    post_we = '0;
    for (int b = 0; b < BANKS; b++)
      post_we[b] = 32'(is_soft ? phases[2] : phases[9]) == b / WIDTH;
    post_absent = absent;
    if (!is_soft)
      for (int i = 0; i < WIDTH * TOKENS; i++) post_absent[i] = !valids[9][i/TOKENS];
  end
  assign post_valid = is_soft ? sv[2] && second2 : is_norm && sv[9] && seconds[9];
  assign post_data = is_soft ? index : out9;
  assign post_use_table = is_soft;
  assign post_table = softmax.table_;
  assign post_addr = is_soft ? out_addr[2] : out_addr[9];

  // TURN
  logic [15:0] turn_word;
  logic [15:0] element0;
  logic [7:0] passes;
  assign passes = turn.kind ? 8'(VALUE_PASSES) : 8'(KEY_PASSES);
  assign turn_word = {4'b0, turn.weights} + (turn.kind ? 16'(tile) * 16'(VALUE_PASSES) : 16'(slot) * 16'(KEY_PASSES)) +
      16'(pass);
  assign wgt_we = state == TURN_WRITE;
  assign wgt_wa = turn_word;
  assign element0 = (turn.kind ? 16'(tile) * 16'(TOKENS) : 16'(slot) * 16'(BANKS)) + 16'(pass) * 16'(LANES);
  localparam int KB = KEY_PASSES > 1 ? $clog2(KEY_PASSES) : 1;
  localparam int VPB = VALUE_PASSES > 1 ? $clog2(VALUE_PASSES) : 1;
  // of this pass: the features of every token, the tokens of every feature
  logic [TOKENS*LANES*8-1:0] keys;
  logic [BANKS*LANES*8-1:0] values;
  for (genvar l = 0; l < LANES; l++) begin : g_element
    for (genvar t = 0; t < TOKENS; t++) begin : g_key
      logic [KEY_PASSES*8-1:0] all;
      for (genvar q = 0; q < KEY_PASSES; q++) assign all[q*8+:8] = act_rd[((q*LANES+l)*TOKENS+t)*8+:8];
      choose #(.N(KEY_PASSES), .WIDTH(8)) u_key (.words(all), .index(pass[KB-1:0]), .word(keys[(t*LANES+l)*8+:8]));
    end
    for (genvar b = 0; b < BANKS; b++) begin : g_value
      logic [VALUE_PASSES*8-1:0] all;
      for (genvar q = 0; q < VALUE_PASSES; q++) assign all[q*8+:8] = act_rd[(b*TOKENS+q*LANES+l)*8+:8];
      choose #(.N(VALUE_PASSES), .WIDTH(8)) u_value (
          .words(all), .index(pass[VPB-1:0]), .word(values[(b*LANES+l)*8+:8]));
    end
  end
  for (genvar p = 0; p < PES; p++) begin : g_turn
    assign wgt_rows[p] = turn.kind ? 16'(p / BANKS) == 16'(slot) : 16'(p / TOKENS) == 16'(tile);
    for (genvar l = 0; l < LANES; l++) begin : g_lane
      logic [7:0] key, value;
      logic counts;
      // row p takes token p % TOKENS, feature pass * LANES + l; or the other way round
      assign key = keys[(p%TOKENS*LANES+l)*8+:8];
      assign value = values[(p%BANKS*LANES+l)*8+:8];
      assign counts = element0 + 16'(l) >= {2'b0, turn.first} && element0 + 16'(l) < {2'b0, turn.end_};
      assign wgt_wd[(p*LANES+l)*8+:8] = !counts ? 8'd0 : turn.kind ? value : key;
    end
  end

  // control
  logic more_tiles;
  assign more_tiles = tile + 1'b1 != tiles;
  isa_pkg::turn_t in_turn;
  isa_pkg::norm_t in_norm;
  isa_pkg::softmax_t in_soft;
  assign in_turn = in_word;
  assign in_norm = in_word;
  assign in_soft = in_word;
  always_ff @(posedge clk) begin
    if (rst) state <= IDLE;
    else
      case (state)
        IDLE:
        if (start) begin
          word <= in_word;
          insn <= in_insn;
          tile <= '0;
          slot <= '0;
          phase <= '0;
          odd <= 1'b0;
          res_base <= {7'b0, in_norm.residual};
          case (in_word[2:0])
            isa_pkg::OP_TURN: begin
              in_base <= {7'b0, in_turn.input_};
              state <= TURN_READ;
            end
            isa_pkg::OP_NORM: begin
              in_base <= {7'b0, in_norm.input_};
              out_base <= {7'b0, in_norm.output_};
              state <= EPS;
            end
            default: begin
              in_base <= {7'b0, in_soft.input_};
              out_base <= {7'b0, in_soft.output_};
              state <= FIRST;
            end
          endcase
        end
        TURN_READ: begin
          pass <= '0;
          state <= TURN_WRITE;
        end
        TURN_WRITE: begin
          pass <= pass + 1'b1;
          if (pass + 1'b1 == passes) begin
            if (slot + 1'b1 == slots) begin
              slot <= '0;
              tile <= tile + 1'b1;
              in_base <= in_base + {12'b0, stride_in};
              state <= more_tiles ? TURN_READ : LEAVE;
            end else begin
              slot  <= slot + 1'b1;
              state <= TURN_READ;
            end
          end
        end
        EPS: state <= EPS_WAIT;
        EPS_WAIT: state <= norm.stats ? FIRST : SECOND;
        FIRST, SECOND:
        if (!hold) begin
          if (is_norm) odd <= ~odd;
          if (step) begin
            phase <= 32'(phase) == PHASES - 1 ? '0 : phase + 1'b1;
            if (32'(phase) == PHASES - 1) slot <= slot + 1'b1;
            if (last_step) begin
              slot <= '0;
              wait_left <= is_norm ? (state == FIRST ? 6'd5 : 6'd10) : state == FIRST ? 6'd2 : 6'd4;
              state <= state == FIRST ? FIRST_WAIT : SECOND_WAIT;
            end
          end
        end
        FIRST_WAIT: begin
          wait_left <= wait_left - 1'b1;
          steps <= '0;
          if (wait_left == 0) state <= is_norm ? STATS : SECOND;
        end
        STATS: begin
          steps <= steps + 1'b1;
          if (32'(steps) == TOKENS) begin
            steps <= '0;
            state <= ROOT;
          end
        end
        ROOT: begin
          steps <= steps + 1'b1;
          if (steps == 28) begin
            steps <= '0;
            state <= DIVIDE;
          end
        end
        DIVIDE: begin
          // load, 17 bits, the result
          steps <= steps + 1'b1;
          if (steps == 18) begin
            steps <= '0;
            state <= is_norm ? SECOND : NEXT;
          end
        end
        SECOND_WAIT: begin
          wait_left <= wait_left - 1'b1;
          steps <= '0;
          if (wait_left == 0) state <= is_norm ? NEXT : DIVIDE;
        end
        NEXT: begin
          tile <= tile + 1'b1;
          in_base <= in_base + {12'b0, stride_in};
          res_base <= res_base + {12'b0, stride_res};
          out_base <= out_base + {12'b0, stride_out};
          state <= !more_tiles ? LEAVE : is_norm && !norm.stats ? SECOND : FIRST;
        end
        LEAVE: if (!post_busy) state <= IDLE;
        default: state <= IDLE;
      endcase
  end
  assign done_valid = state == LEAVE && !post_busy;
  assign done_push = {word[6], word[5]};
  assign done_insn = insn;

  // faults
  logic [22:0] write_at;
  assign write_at = out_base + {9'b0, slot};
  assign fault = act_re && read_at >= 23'(ACT_DEPTH) || par_re && par_at >= 17'(PAR_DEPTH) ||
      state == SECOND && step && write_at >= 23'(ACT_DEPTH) || wgt_we && turn_word >= 16'(WGT_DEPTH);
  assign fault_insn = insn;
endmodule
