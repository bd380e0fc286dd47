// The accelerator: fetch and checks, three queues with tokens, the memories on chip and the units around them.
module core #(
    parameter int PES = 16,
    parameter int LANES = 4,
    parameter int BANKS = 8,
    parameter int TOKENS = 8,
    parameter int WIDTH = 4,
    parameter int BUS = 16,
    parameter int SLOT_BITS = 8,
    parameter int ACT_DEPTH = 4096,
    parameter int WGT_DEPTH = 512,
    parameter int PAR_DEPTH = 256,
    parameter int TILE_DEPTH = 32,
    parameter int QUEUE = 32
) (
    input logic clk,
    input logic rst,

    input  logic         i_valid,
    input  logic         i_end,    // no more instructions
    input  logic [127:0] i_word,
    output logic         i_ready,

    input logic [4*33-1:0] limits,

    output logic             req_valid,
    output logic [      1:0] req_region,
    output logic [     31:0] req_addr,
    output logic [      7:0] req_beats,
    input  logic             req_ready,
    input  logic             data_valid,
    output logic             data_ready,
    input  logic [BUS*8-1:0] data,

    output logic             out_valid,
    output logic [      1:0] out_region,
    output logic [     31:0] out_addr,
    output logic [BUS*8-1:0] out_data,
    input  logic             out_ready,

    output logic        done,
    output logic [ 3:0] fault,
    output logic [31:0] fault_insn,
    output logic [31:0] oldest,       // the first instruction that is not done, for the watchdog outside

    output logic load_busy,
    output logic store_busy,
    output logic in_linear,
    output logic in_turn,
    output logic in_norm,
    output logic in_softmax,
    output logic window,
    output logic conflict,
    output logic yielded
);
  localparam int INSN = 24;
  localparam int ENTRIES = (8 * WIDTH > BUS ? 8 * WIDTH : BUS) / 8;
  localparam int VALUE_BITS = PES * LANES * 8;
  localparam int REST_BITS = PES * BANKS + BANKS * SLOT_BITS;
  localparam int ACT_BITS = BANKS * TOKENS * 8;
  localparam int ACT_BEATS = BANKS * TOKENS / BUS;
  localparam int DENSE_BEATS = (VALUE_BITS / 8 + BUS - 1) / BUS;
  localparam int WGT_BEATS = ((VALUE_BITS + REST_BITS) / 8 + BUS - 1) / BUS;
  localparam int PAR_BEATS = ENTRIES * 8 / BUS;
  localparam int TAB_BEATS = 256 / BUS;
  localparam int A0 = ACT_BEATS > WGT_BEATS ? ACT_BEATS : WGT_BEATS;
  localparam int WORD_BEATS = A0 > PAR_BEATS ? A0 : PAR_BEATS;
  localparam int TAB_AW = $clog2(isa_pkg::TABLES * TAB_BEATS);
  localparam int AA = $clog2(ACT_DEPTH);
  localparam int WA = $clog2(WGT_DEPTH);
  localparam int PA = $clog2(PAR_DEPTH);
  localparam int TA = TILE_DEPTH > 1 ? $clog2(TILE_DEPTH) : 1;

  // ---- fetch: check and hand to a queue
  logic [INSN-1:0] pc;
  logic finished, push_load, push_compute, push_store, bad_stream, bad_geometry, bad_fields;
  isa_pkg::finish_t head;
  isa_pkg::load_t f_load;
  isa_pkg::linear_t f_linear;
  isa_pkg::turn_t f_turn;
  isa_pkg::norm_t f_norm;
  isa_pkg::softmax_t f_soft;
  isa_pkg::start_t f_start;
  assign head = i_word;
  assign f_load = i_word;
  assign f_linear = i_word;
  assign f_turn = i_word;
  assign f_norm = i_word;
  assign f_soft = i_word;
  assign f_start = i_word;
  assign bad_stream = finished || (pc == 0) != (head.op == isa_pkg::OP_START);
  assign bad_geometry = head.op == isa_pkg::OP_START && (
      f_start.version != 8'(isa_pkg::ISA_VERSION) || f_start.pes != 8'(PES) || f_start.lanes != 5'(LANES) ||
      f_start.banks != 6'(BANKS) || f_start.tokens != 7'(TOKENS) || f_start.width != 6'(WIDTH) ||
      f_start.bus != 8'(BUS) || f_start.slot_bits != 5'(SLOT_BITS) || f_start.act_depth != 17'(ACT_DEPTH) ||
      f_start.wgt_depth != 13'(WGT_DEPTH) || f_start.par_depth != 13'(PAR_DEPTH) ||
      f_start.tile_depth != 11'(TILE_DEPTH));
  always_comb
    case (head.op)
      isa_pkg::OP_LOAD:
      bad_fields = head.pop_prev | head.push_prev | f_load.mem > isa_pkg::MEM_TAB | f_load.count == 0 | f_load.rows == 0;
      isa_pkg::OP_STORE:
      bad_fields = head.pop_next | head.push_next | f_load.mem != isa_pkg::MEM_ACT | f_load.count == 0 |
          f_load.rows == 0;
      isa_pkg::OP_LINEAR:
      bad_fields = f_linear.activation > isa_pkg::ACTIVATION_TABLE | f_linear.windows == 0 | f_linear.tiles == 0 |
          {1'b0, f_linear.row_first} >= f_linear.row_end | f_linear.row_end > 8'(PES) |
          (f_linear.token_scale & {1'b0, f_linear.tiles} > 11'(TILE_DEPTH));
      isa_pkg::OP_TURN:
      bad_fields = f_turn.slots == 0 | f_turn.tiles == 0 |
          (f_turn.kind ? f_turn.slots > 11'(PES / BANKS) : f_turn.tiles > 10'(PES / TOKENS));
      isa_pkg::OP_NORM: bad_fields = f_norm.tiles == 0 | f_norm.count == 0 | f_norm.shift < 7;
      isa_pkg::OP_SOFTMAX:
      bad_fields = f_soft.tiles == 0 | f_soft.count == 0 | {1'b0, f_soft.tiles} > 11'(TILE_DEPTH);
      isa_pkg::OP_START: bad_fields = head.pop_prev | head.pop_next | head.push_prev | head.push_next;
      default: bad_fields = 1'b0;
    endcase
  logic load_full, compute_full, store_full, load_none, compute_none, store_none;
  logic pop_load, pop_compute, pop_store;
  logic [127:0] load_word, compute_word, store_word;
  logic [INSN-1:0] load_insn, compute_insn, store_insn;
  assign i_ready = !load_full && !compute_full && !store_full;
  logic take;
  assign take = i_valid && i_ready && !bad_stream && !bad_geometry && !bad_fields;
  assign push_load = take && head.op == isa_pkg::OP_LOAD;
  assign push_store = take && head.op == isa_pkg::OP_STORE;
  assign push_compute = take && !push_load && !push_store && head.op != isa_pkg::OP_START;
  always_ff @(posedge clk)
    if (rst) begin
      pc <= '0;
      finished <= 1'b0;
    end else if (i_valid && i_ready) begin
      pc <= pc + 1'b1;
      if (head.op == isa_pkg::OP_FINISH) finished <= 1'b1;
    end
  fifo #(.WIDTH(128 + INSN), .DEPTH(QUEUE)) q_load (
      .clk, .rst, .push(push_load), .in({pc, i_word}), .full(load_full),
      .pop(pop_load), .out({load_insn, load_word}), .empty(load_none));
  fifo #(.WIDTH(128 + INSN), .DEPTH(QUEUE)) q_compute (
      .clk, .rst, .push(push_compute), .in({pc, i_word}), .full(compute_full),
      .pop(pop_compute), .out({compute_insn, compute_word}), .empty(compute_none));
  fifo #(.WIDTH(128 + INSN), .DEPTH(QUEUE)) q_store (
      .clk, .rst, .push(push_store), .in({pc, i_word}), .full(store_full),
      .pop(pop_store), .out({store_insn, store_word}), .empty(store_none));

  // ---- tokens: 0 load to compute, 1 compute to load, 2 compute to store, 3 store to compute
  logic [3:0] give, get, over;
  logic [INSN-1:0] giver[0:3];
  logic [5:0] tokens[0:3];
  for (genvar c = 0; c < 4; c++) begin : g_tokens
    assign over[c] = give[c] && !get[c] && tokens[c] == 6'(isa_pkg::TOKEN_LIMIT);
    always_ff @(posedge clk)
      if (rst) tokens[c] <= '0;
      else tokens[c] <= tokens[c] + {5'b0, give[c]} - {5'b0, get[c]};
  end

  // ---- load
  isa_pkg::finish_t load_head, compute_head, store_head;
  assign load_head = load_word;
  assign compute_head = compute_word;
  assign store_head = store_word;
  logic load_done, load_push, load_fault;
  logic [3:0] load_code;
  logic [INSN-1:0] load_done_insn, load_fault_insn;
  logic l_act_we, l_wgt_we, l_sparse, l_par_we, l_tab_we;
  logic [15:0] l_wa;
  logic [7:0] l_beat;
  logic [WORD_BEATS*BUS*8-1:0] l_wd;
  logic act_taken, wgt_taken;
  load #(
      .BUS(BUS), .WORD_BEATS(WORD_BEATS), .ACT_BEATS(ACT_BEATS), .WGT_BEATS(WGT_BEATS),
      .DENSE_BEATS(DENSE_BEATS), .PAR_BEATS(PAR_BEATS), .TAB_BEATS(TAB_BEATS), .ACT_DEPTH(ACT_DEPTH),
      .WGT_DEPTH(WGT_DEPTH), .PAR_DEPTH(PAR_DEPTH), .INSN(INSN)
  ) u_load (
      .clk, .rst,
      .in_valid(!load_none && (!load_head.pop_next || tokens[1] != 0)),
      .in_word(load_word), .in_insn(load_insn), .in_pop(pop_load), .limits,
      .req_valid, .req_region, .req_addr, .req_beats, .req_ready, .data_valid, .data_ready, .data,
      .act_taken, .wgt_taken, .act_we(l_act_we), .wgt_we(l_wgt_we), .wgt_sparse(l_sparse), .par_we(l_par_we),
      .tab_we(l_tab_we), .wa(l_wa), .beat(l_beat), .wd(l_wd),
      .done_valid(load_done), .done_push(load_push), .done_insn(load_done_insn), .busy(load_busy),
      .fault(load_fault), .fault_code(load_code), .fault_insn(load_fault_insn));
  assign get[1] = pop_load && load_head.pop_next;
  assign give[0] = load_done && load_push;
  assign giver[0] = load_done_insn;

  // ---- store
  logic store_done, store_push, store_fault, store_want, store_press, store_grant;
  logic [3:0] store_code;
  logic [INSN-1:0] store_done_insn, store_fault_insn;
  logic [15:0] store_addr;
  logic [ACT_BITS-1:0] act_rd;
  store #(
      .BUS(BUS), .ACT_BEATS(ACT_BEATS), .ACT_DEPTH(ACT_DEPTH), .INSN(INSN)
  ) u_store (
      .clk, .rst,
      .in_valid(!store_none && (!store_head.pop_prev || tokens[2] != 0)),
      .in_word(store_word), .in_insn(store_insn), .in_pop(pop_store), .limits,
      .act_want(store_want), .act_press(store_press), .act_grant(store_grant), .act_addr(store_addr),
      .act_data(act_rd), .out_valid, .out_region, .out_addr, .out_data, .out_ready,
      .done_valid(store_done), .done_push(store_push), .done_insn(store_done_insn), .busy(store_busy),
      .fault(store_fault), .fault_code(store_code), .fault_insn(store_fault_insn));
  assign get[2] = pop_store && store_head.pop_prev;
  assign give[3] = store_done && store_push;
  assign giver[3] = store_done_insn;

  // ---- compute
  logic array_ready, array_idle, array_start, vector_busy, vector_start, overlaps, ready_tokens, last_linear;
  isa_pkg::linear_t next_linear;
  assign next_linear = compute_word;
  logic [36:0] last_shape, next_shape;
  assign next_shape = {next_linear.input_, next_linear.input_stride, next_linear.tiles};
  assign overlaps = last_linear && last_shape == next_shape;
  assign ready_tokens = !compute_none && (!compute_head.pop_prev || tokens[0] != 0) &&
      (!compute_head.pop_next || tokens[3] != 0);
  assign array_start = ready_tokens && compute_head.op == isa_pkg::OP_LINEAR && !vector_busy && array_ready &&
      (array_idle || overlaps);
  assign vector_start = ready_tokens && !vector_busy && array_idle && (compute_head.op == isa_pkg::OP_TURN ||
      compute_head.op == isa_pkg::OP_NORM || compute_head.op == isa_pkg::OP_SOFTMAX);
  assign done = ready_tokens && compute_head.op == isa_pkg::OP_FINISH && !vector_busy && array_idle && load_none &&
      store_none && !load_busy && !store_busy && i_end;
  assign pop_compute = array_start || vector_start;
  assign get[0] = pop_compute && compute_head.pop_prev;
  assign get[3] = pop_compute && compute_head.pop_next;
  always_ff @(posedge clk)
    if (rst) last_linear <= 1'b0;
    else if (pop_compute) begin
      last_linear <= array_start;
      last_shape  <= next_shape;
    end

  logic a_wgt_re, a_act_re, a_par_re, a_tsc_re, a_done, a_fault, a_post, a_token_scale, a_table;
  logic [15:0] a_wgt_ra, a_par_ra, a_addr;
  logic [BANKS*16-1:0] a_act_ra;
  logic [9:0] a_tsc_ra;
  logic [WIDTH*TOKENS*32-1:0] a_acc;
  logic [WIDTH*64-1:0] a_params;
  logic [1:0] a_activation, a_push;
  logic [BANKS-1:0] a_we;
  logic [INSN-1:0] a_done_insn, a_fault_insn;
  logic [3:0] a_code;
  logic [VALUE_BITS-1:0] wgt_values;
  logic [REST_BITS-1:0] wgt_rest;
  logic [ENTRIES*64-1:0] par_rd;
  logic [TOKENS*22-1:0] tsc_rd;
  array #(
      .PES(PES), .LANES(LANES), .BANKS(BANKS), .TOKENS(TOKENS), .WIDTH(WIDTH), .SLOT_BITS(SLOT_BITS),
      .ACT_DEPTH(ACT_DEPTH), .WGT_DEPTH(WGT_DEPTH), .PAR_DEPTH(PAR_DEPTH), .ENTRIES(ENTRIES), .INSN(INSN)
  ) u_array (
      .clk, .rst, .start(array_start), .in_word(compute_word), .in_insn(compute_insn), .ready(array_ready),
      .idle(array_idle), .hold(store_press), .wgt_re(a_wgt_re), .wgt_ra(a_wgt_ra), .wgt_values, .wgt_rest,
      .act_re(a_act_re), .act_ra(a_act_ra), .act_rd, .par_re(a_par_re), .par_ra(a_par_ra), .par_rd,
      .tsc_re(a_tsc_re), .tsc_ra(a_tsc_ra), .post_valid(a_post), .post_acc(a_acc), .post_params(a_params),
      .post_token_scale(a_token_scale), .post_activation(a_activation), .post_table(a_table), .post_addr(a_addr),
      .post_we(a_we), .issued(window), .yielded, .done_valid(a_done), .done_push(a_push), .done_insn(a_done_insn),
      .fault(a_fault), .fault_code(a_code), .fault_insn(a_fault_insn));

  logic v_act_re, v_par_re, v_wgt_we, v_tsc_we, v_post, v_use_table, v_table, v_done, v_fault, exclusive;
  logic [2:0] v_op;
  logic [15:0] v_act_ra, v_par_ra, v_wgt_wa, v_addr;
  logic [9:0] v_tsc_wa;
  logic [PES-1:0] v_rows;
  logic [VALUE_BITS-1:0] v_wd;
  logic [TOKENS*22-1:0] v_tsc_wd;
  logic [WIDTH*TOKENS*8-1:0] v_data, post_data;
  logic [WIDTH*TOKENS-1:0] v_absent;
  logic [BANKS-1:0] v_we, post_we;
  logic [1:0] v_push;
  logic [INSN-1:0] v_done_insn, v_fault_insn;
  logic post_busy, post_valid;
  logic [15:0] post_addr;
  vector #(
      .PES(PES), .LANES(LANES), .BANKS(BANKS), .TOKENS(TOKENS), .WIDTH(WIDTH), .ACT_DEPTH(ACT_DEPTH),
      .WGT_DEPTH(WGT_DEPTH), .PAR_DEPTH(PAR_DEPTH), .ENTRIES(ENTRIES), .INSN(INSN)
  ) u_vector (
      .clk, .rst, .start(vector_start), .in_word(compute_word), .in_insn(compute_insn), .busy(vector_busy),
      .op(v_op), .hold(store_press), .exclusive, .act_re(v_act_re), .act_ra(v_act_ra), .act_rd, .par_re(v_par_re),
      .par_ra(v_par_ra), .par_rd, .wgt_we(v_wgt_we), .wgt_wa(v_wgt_wa), .wgt_rows(v_rows), .wgt_wd(v_wd),
      .tsc_we(v_tsc_we), .tsc_wa(v_tsc_wa), .tsc_wd(v_tsc_wd), .post_valid(v_post), .post_data(v_data),
      .post_absent(v_absent), .post_use_table(v_use_table), .post_table(v_table), .post_addr(v_addr),
      .post_we(v_we), .post_busy, .post_out_valid(post_valid), .post_out_data(post_data), .done_valid(v_done),
      .done_push(v_push), .done_insn(v_done_insn), .fault(v_fault), .fault_insn(v_fault_insn));
  assign give[1] = a_done && a_push[0] || v_done && v_push[0];
  assign give[2] = a_done && a_push[1] || v_done && v_push[1];
  assign giver[1] = a_done ? a_done_insn : v_done_insn;
  assign giver[2] = giver[1];

  post #(
      .WIDTH(WIDTH), .TOKENS(TOKENS), .BANKS(BANKS), .BUS(BUS), .TAB_AW(TAB_AW)
  ) u_post (
      .clk, .rst, .in_valid(a_post), .in_acc(a_acc), .in_params(a_params), .in_scales(tsc_rd),
      .in_token_scale(a_token_scale), .in_activation(a_activation), .in_table(a_table), .in_addr(a_addr),
      .in_we(a_we), .vec_valid(v_post), .vec_data(v_data), .vec_absent(v_absent), .vec_use_table(v_use_table),
      .vec_table(v_table), .vec_addr(v_addr), .vec_we(v_we), .tab_we(l_tab_we),
      .tab_wa(TAB_AW'(32'(l_wa) * TAB_BEATS + 32'(l_beat))), .tab_wd(data), .out_valid(post_valid),
      .out_data(post_data), .out_addr(post_addr), .out_we(post_we), .busy(post_busy));

  // ---- memories
  assign act_taken = post_valid;
  assign wgt_taken = v_wgt_we;
  assign store_grant = store_want && !a_act_re && !v_act_re && !exclusive;
  assign conflict = a_act_re && (store_grant || v_act_re);
  for (genvar b = 0; b < BANKS; b++) begin : g_bank
    ram #(.WIDTH(TOKENS * 8), .DEPTH(ACT_DEPTH)) u_act (
        .clk,
        .we(post_valid ? post_we[b] : l_act_we),
        .wa(post_valid ? post_addr[AA-1:0] : l_wa[AA-1:0]),
        .wd(post_valid ? post_data[(b%WIDTH)*TOKENS*8+:TOKENS*8] : l_wd[b*TOKENS*8+:TOKENS*8]),
        .re(a_act_re || v_act_re || store_grant),
        .ra(a_act_re ? a_act_ra[b*16+:AA] : v_act_re ? v_act_ra[AA-1:0] : store_addr[AA-1:0]),
        .rd(act_rd[b*TOKENS*8+:TOKENS*8]));
  end
  for (genvar p = 0; p < PES; p++) begin : g_values
    ram #(.WIDTH(LANES * 8), .DEPTH(WGT_DEPTH)) u_values (
        .clk,
        .we(v_wgt_we ? v_rows[p] : l_wgt_we),
        .wa(v_wgt_we ? v_wgt_wa[WA-1:0] : l_wa[WA-1:0]),
        .wd(v_wgt_we ? v_wd[p*LANES*8+:LANES*8] : l_wd[p*LANES*8+:LANES*8]),
        .re(a_wgt_re), .ra(a_wgt_ra[WA-1:0]), .rd(wgt_values[p*LANES*8+:LANES*8]));
  end
  ram #(.WIDTH(REST_BITS), .DEPTH(WGT_DEPTH)) u_rest (
      .clk, .we(l_wgt_we && l_sparse), .wa(l_wa[WA-1:0]), .wd(l_wd[VALUE_BITS+:REST_BITS]),
      .re(a_wgt_re), .ra(a_wgt_ra[WA-1:0]), .rd(wgt_rest));
  ram #(.WIDTH(ENTRIES * 64), .DEPTH(PAR_DEPTH)) u_par (
      .clk, .we(l_par_we), .wa(l_wa[PA-1:0]), .wd(l_wd[ENTRIES*64-1:0]),
      .re(a_par_re || v_par_re), .ra(a_par_re ? a_par_ra[PA-1:0] : v_par_ra[PA-1:0]), .rd(par_rd));
  ram #(.WIDTH(TOKENS * 22), .DEPTH(TILE_DEPTH), .STYLE("distributed")) u_tsc (
      .clk, .we(v_tsc_we), .wa(v_tsc_wa[TA-1:0]), .wd(v_tsc_wd), .re(a_tsc_re), .ra(a_tsc_ra[TA-1:0]), .rd(tsc_rd));

  // ---- faults; the first one stays
  logic [9:0] quiet;
  logic moving, blocked;
  assign blocked = i_valid && !i_ready || i_end;
  assign moving = load_busy || store_busy || vector_busy || !array_idle || !blocked || pop_load || pop_compute ||
      pop_store || done;
  always_comb begin
    oldest = {8'b0, pc};
    if (!load_none && {8'b0, load_insn} < oldest) oldest = {8'b0, load_insn};
    if (!compute_none && {8'b0, compute_insn} < oldest) oldest = {8'b0, compute_insn};
    if (!store_none && {8'b0, store_insn} < oldest) oldest = {8'b0, store_insn};
  end
  always_ff @(posedge clk) begin
    quiet <= rst || moving ? '0 : quiet + 1'b1;
    if (rst) begin
      fault <= isa_pkg::FAULT_NONE;
      fault_insn <= '0;
    end else if (fault == isa_pkg::FAULT_NONE) begin
      fault_insn <= {8'b0, pc};
      if (i_valid && i_ready && bad_stream) fault <= isa_pkg::FAULT_STREAM;
      else if (i_valid && i_ready && bad_geometry) fault <= isa_pkg::FAULT_GEOMETRY;
      else if (i_valid && i_ready && bad_fields) fault <= isa_pkg::FAULT_FIELD;
      else if (load_fault) begin
        fault <= load_code;
        fault_insn <= {8'b0, load_fault_insn};
      end else if (store_fault) begin
        fault <= store_code;
        fault_insn <= {8'b0, store_fault_insn};
      end else if (a_fault) begin
        fault <= a_code;
        fault_insn <= {8'b0, a_fault_insn};
      end else if (v_fault) begin
        fault <= isa_pkg::FAULT_ADDRESS;
        fault_insn <= {8'b0, v_fault_insn};
      end else if (over != 0) begin
        fault <= isa_pkg::FAULT_TOKEN;
        fault_insn <= {8'b0, over[0] ? giver[0] : over[3] ? giver[3] : giver[1]};
      end else if (i_end && !finished) fault <= isa_pkg::FAULT_TRUNCATED;
      else if (&quiet) begin
        fault <= isa_pkg::FAULT_STUCK;
        fault_insn <= oldest;
      end
    end
  end

  assign in_linear = !array_idle;
  assign in_turn = vector_busy && v_op == isa_pkg::OP_TURN;
  assign in_norm = vector_busy && v_op == isa_pkg::OP_NORM;
  assign in_softmax = vector_busy && v_op == isa_pkg::OP_SOFTMAX;
endmodule
