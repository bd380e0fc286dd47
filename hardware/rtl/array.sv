// LINEAR: the sequencer, PES processing elements and the drain that hands WIDTH rows a cycle to `post`.
// Stages: S0 weight word | S1 slots, activation banks | S2 window .. S6 accumulators (see pe.sv) | drain.
module array #(
    parameter int PES = 16,
    parameter int LANES = 4,
    parameter int BANKS = 8,
    parameter int TOKENS = 8,
    parameter int WIDTH = 4,
    parameter int SLOT_BITS = 8,
    parameter int ACT_DEPTH = 4096,
    parameter int WGT_DEPTH = 512,
    parameter int PAR_DEPTH = 256,
    parameter int ENTRIES = 4,  // parameters a word
    parameter int INSN = 24
) (
    input logic clk,
    input logic rst,

    input  logic            start,
    input  logic [   127:0] in_word,
    input  logic [INSN-1:0] in_insn,
    output logic            ready,    // can start
    output logic            idle,     // nothing under way
    input  logic            hold,     // leave the banks to the store for a cycle

    output logic                                wgt_re,
    output logic [                        15:0] wgt_ra,
    input  logic [           PES*LANES*8-1:0] wgt_values,
    input  logic [PES*BANKS+BANKS*SLOT_BITS-1:0] wgt_rest,
    output logic                                act_re,
    output logic [                BANKS*16-1:0] act_ra,
    input  logic [          BANKS*TOKENS*8-1:0] act_rd,
    output logic                                par_re,
    output logic [                        15:0] par_ra,
    input  logic [              ENTRIES*64-1:0] par_rd,
    output logic                                tsc_re,
    output logic [                         9:0] tsc_ra,

    output logic                         post_valid,
    output logic [WIDTH*TOKENS*32-1:0]   post_acc,
    output logic [       WIDTH*64-1:0]   post_params,
    output logic                         post_token_scale,
    output logic [                1:0]   post_activation,
    output logic                         post_table,
    output logic [               15:0]   post_addr,
    output logic [          BANKS-1:0]   post_we,

    output logic            issued,
    output logic            yielded,
    output logic            done_valid,
    output logic [     1:0] done_push,
    output logic [INSN-1:0] done_insn,
    output logic            fault,
    output logic [     3:0] fault_code,
    output logic [INSN-1:0] fault_insn
);
  localparam int PASSES = BANKS / LANES;
  localparam int GROUPS = PES / WIDTH;  // drain cycles a tile
  localparam int IB = BANKS > 1 ? $clog2(BANKS) : 1;
  localparam int GB = GROUPS > 1 ? $clog2(GROUPS) : 1;

  // S0
  isa_pkg::linear_t k;
  logic [127:0] k_word;
  logic [INSN-1:0] k_insn;
  logic run, last_window, last_tile, gate, end_job;
  logic [11:0] window;
  logic [9:0] tile;
  logic [21:0] in_base, out_base;
  logic [10:0] slot;
  logic [IB:0] pass;
  logic [GB:0] gap;
  assign k = k_word;
  assign last_window = window == k.windows - 1'b1;
  assign last_tile = tile == k.tiles - 1'b1;
  assign gate = last_window && gap != 0;
  assign issued = run && !gate && !hold;
  assign yielded = run && !gate && hold;
  assign end_job = issued && last_window && last_tile;
  assign ready = !run || end_job;
  assign wgt_re = issued;
  assign wgt_ra = {4'b0, k.weights} + {4'b0, window};
  isa_pkg::linear_t n;
  assign n = in_word;
  always_ff @(posedge clk) begin
    if (rst) begin
      run <= 1'b0;
      gap <= '0;
    end else begin
      if (issued && last_window) gap <= (GB + 1)'(GROUPS - 1);
      else if (gap != 0) gap <= gap - 1'b1;
      if (start) begin
        run <= 1'b1;
        k_word <= in_word;
        k_insn <= in_insn;
        window <= '0;
        tile <= '0;
        slot <= '0;
        pass <= '0;
        in_base <= {6'b0, n.input_};
        out_base <= {6'b0, n.output_};
      end else if (issued) begin
        if (end_job) run <= 1'b0;
        pass <= last_window || pass == (IB + 1)'(PASSES - 1) ? '0 : pass + 1'b1;
        slot <= last_window ? '0 : slot + {10'b0, pass == (IB + 1)'(PASSES - 1)};
        window <= last_window ? '0 : window + 1'b1;
        if (last_window) begin
          tile <= tile + 1'b1;
          in_base <= in_base + {11'b0, k.input_stride};
          out_base <= out_base + {11'b0, k.output_stride};
        end
      end
    end
  end

  // what travels with a window, and is used where its tile is drained
  typedef struct packed {
    logic first;
    logic last;
    logic last_tile;
    logic sparse;
    logic [1:0] push;
    logic [INSN-1:0] insn;
    logic [21:0] out_base;
    logic [11:0] params;
    logic [1:0] activation;
    logic table_;
    logic token_scale;
    logic [9:0] tile;
    logic [6:0] row_first;
    logic [7:0] row_end;
  } control_t;
  control_t c0, c1, c2, c3, c4, c5, c6, d;
  logic v1, v2, v3, v4, v5, v6;
  assign c0 = {window == 0, last_window, last_tile, k.sparse, k.push_next, k.push_prev, k_insn, out_base, k.params,
               k.activation, k.table_, k.token_scale, tile, k.row_first, k.row_end};
  logic [21:0] base1;
  logic [10:0] slot1, stride1;
  logic [IB:0] pass1, pass2;
  always_ff @(posedge clk) begin
    {v1, v2, v3, v4, v5, v6} <= rst ? '0 : {issued, v1, v2, v3, v4, v5};
    {c1, c2, c3, c4, c5, c6} <= {c0, c1, c2, c3, c4, c5};
    {base1, slot1, stride1, pass1} <= {in_base, slot, k.input_stride, pass};
    pass2 <= pass1;
  end

  // S1
  logic bad_slot, bad_act;
  logic [PES*LANES*8-1:0] values2;
  logic [PES*BANKS-1:0] masks2;
  assign act_re = v1;
  always_comb begin
    bad_slot = 1'b0;
    bad_act  = 1'b0;
    for (int b = 0; b < BANKS; b++) begin
      logic [22:0] at;
      logic [15:0] own;
      own = c1.sparse ? 16'(wgt_rest[PES*BANKS+b*SLOT_BITS+:SLOT_BITS]) : {5'b0, slot1};
      at  = {1'b0, base1} + {7'b0, own};
      act_ra[b*16+:16] = at[15:0];
      bad_slot = bad_slot | (c1.sparse && own >= {5'b0, stride1});
      bad_act = bad_act | (at >= 23'(ACT_DEPTH));
    end
  end
  always_ff @(posedge clk) begin
    values2 <= wgt_values;
    masks2  <= wgt_rest[PES*BANKS-1:0];
  end

  // S2..S6
  logic [PES*TOKENS*32-1:0] acc;
  for (genvar p = 0; p < PES; p++) begin : g_pe
    pe #(
        .LANES (LANES),
        .BANKS (BANKS),
        .TOKENS(TOKENS)
    ) u_pe (
        .clk,
        .window(act_rd),
        .weights(values2[p*LANES*8+:LANES*8]),
        .mask(masks2[p*BANKS+:BANKS]),
        .sparse(c2.sparse),
        .first_bank((IB + 1)'(pass2 * LANES)),
        .sum_valid(v5),
        .sum_first(c5.first),
        .acc(acc[p*TOKENS*32+:TOKENS*32])
    );
  end

  // drain
  logic draining, tile_done;
  logic [GB-1:0] group;
  logic [PES*TOKENS*32-1:0] snap;
  logic [15:0] row;
  logic [BANKS-1:0] we;
  logic [22:0] out_addr;
  logic [16:0] par_addr;
  assign tile_done = v6 && c6.last;
  assign row = 16'(group) * WIDTH;
  assign out_addr = {1'b0, d.out_base} + 23'(row / BANKS);
  assign par_addr = {5'b0, d.params} + 17'(row / ENTRIES);
  assign par_re = draining;
  assign par_ra = par_addr[15:0];
  assign tsc_re = draining;
  assign tsc_ra = d.tile;
  always_comb begin
    we = '0;
    for (int b = 0; b < BANKS; b++)
      if (b / WIDTH == 32'(row % BANKS) / WIDTH)
        we[b] = row + 16'(b % WIDTH) >= {9'b0, d.row_first} && row + 16'(b % WIDTH) < {8'b0, d.row_end};
  end
  localparam int PARTS = ENTRIES / WIDTH;
  localparam int EB = PARTS > 1 ? $clog2(PARTS) : 1;
  logic [EB-1:0] entry;
  always_ff @(posedge clk) begin
    if (rst) draining <= 1'b0;
    else if (tile_done) begin
      draining <= 1'b1;
      group <= '0;
      snap <= acc;
      d <= c6;
    end else if (draining) begin
      group <= group + 1'b1;
      snap  <= snap >> (WIDTH * TOKENS * 32);
      if (32'(group) == GROUPS - 1) draining <= 1'b0;
    end
    post_valid <= draining & ~rst;
    post_acc <= snap[WIDTH*TOKENS*32-1:0];
    post_token_scale <= d.token_scale;
    post_activation <= d.activation;
    post_table <= d.table_;
    post_addr <= out_addr[15:0];
    post_we <= we;
    entry <= EB'(row % ENTRIES / WIDTH);
  end
  choose #(.N(PARTS), .WIDTH(WIDTH * 64)) u_params (.words(par_rd), .index(entry), .word(post_params));

  // the last rows are written 5 cycles after they entered `post`
  logic [5:0] tail;
  logic [1:0] tail_push[0:5];
  logic [INSN-1:0] tail_insn[0:5];
  logic ending;
  assign ending = draining && 32'(group) == GROUPS - 1 && d.last_tile;
  always_ff @(posedge clk) begin
    tail <= rst ? '0 : {tail[4:0], ending};
    tail_push[0] <= d.push;
    tail_insn[0] <= d.insn;
    for (int s = 1; s < 6; s++) begin
      tail_push[s] <= tail_push[s-1];
      tail_insn[s] <= tail_insn[s-1];
    end
  end
  assign done_valid = tail[5];
  assign done_push = tail_push[5];
  assign done_insn = tail_insn[5];
  assign idle = !run && !(v1 | v2 | v3 | v4 | v5 | v6) && !draining && tail == 0;

  // faults
  logic bad_wgt, bad_drain;
  assign bad_wgt = issued && wgt_ra >= 16'(WGT_DEPTH);
  assign bad_drain = draining && we != 0 && (out_addr >= 23'(ACT_DEPTH) || par_addr >= 17'(PAR_DEPTH));
  always_comb begin
    fault = 1'b1;
    fault_code = isa_pkg::FAULT_ADDRESS;
    if (bad_drain) fault_insn = d.insn;
    else if (v1 && (bad_slot || bad_act)) begin
      fault_insn = c1.insn;
      if (bad_slot) fault_code = isa_pkg::FAULT_SLOT;
    end else begin
      fault_insn = k_insn;
      fault = bad_wgt;
    end
  end
endmodule
