// Load queue: requests run ahead of the data, so the latency of external memory is paid once.
module load #(
    parameter int BUS = 16,
    parameter int WORD_BEATS = 8,  // the longest word of any memory
    parameter int ACT_BEATS = 4,
    parameter int WGT_BEATS = 6,
    parameter int DENSE_BEATS = 4,
    parameter int PAR_BEATS = 1,
    parameter int TAB_BEATS = 16,
    parameter int ACT_DEPTH = 4096,
    parameter int WGT_DEPTH = 512,
    parameter int PAR_DEPTH = 256,
    parameter int INSN = 24
) (
    input logic clk,
    input logic rst,

    input  logic              in_valid,
    input  logic [     127:0] in_word,
    input  logic [  INSN-1:0] in_insn,
    output logic              in_pop,     // instruction taken, its token too

    input logic [4*33-1:0] limits,  // beats of each region

    output logic         req_valid,
    output logic [  1:0] req_region,
    output logic [ 31:0] req_addr,
    output logic [  7:0] req_beats,
    input  logic         req_ready,
    input  logic         data_valid,
    output logic         data_ready,
    input  logic [BUS*8-1:0] data,

    // a whole word for a memory on chip, or a beat of a table
    input  logic                        act_taken,  // the compute unit writes activations now
    input  logic                        wgt_taken,
    output logic                        act_we,
    output logic                        wgt_we,
    output logic                        wgt_sparse,
    output logic                        par_we,
    output logic                        tab_we,
    output logic [                15:0] wa,
    output logic [                 7:0] beat,
    output logic [WORD_BEATS*BUS*8-1:0] wd,

    output logic            done_valid,
    output logic            done_push,
    output logic [INSN-1:0] done_insn,
    output logic            busy,
    output logic            fault,
    output logic [     3:0] fault_code,
    output logic [INSN-1:0] fault_insn
);
  function automatic logic [7:0] beats_of(input logic [2:0] mem);
    case (mem)
      isa_pkg::MEM_ACT: beats_of = 8'(ACT_BEATS);
      isa_pkg::MEM_WGT: beats_of = 8'(WGT_BEATS);
      isa_pkg::MEM_WGT_DENSE: beats_of = 8'(DENSE_BEATS);
      isa_pkg::MEM_PAR: beats_of = 8'(PAR_BEATS);
      default: beats_of = 8'(TAB_BEATS);
    endcase
  endfunction
  function automatic logic [16:0] depth_of(input logic [2:0] mem);
    case (mem)
      isa_pkg::MEM_ACT: depth_of = 17'(ACT_DEPTH);
      isa_pkg::MEM_WGT, isa_pkg::MEM_WGT_DENSE: depth_of = 17'(WGT_DEPTH);
      isa_pkg::MEM_PAR: depth_of = 17'(PAR_DEPTH);
      default: depth_of = 17'(isa_pkg::TABLES);
    endcase
  endfunction

  // requests
  isa_pkg::load_t i;
  assign i = in_word;
  logic asking;
  logic [2:0] r_mem;
  logic [28:0] r_sram;
  logic [36:0] r_addr, r_row;
  logic [15:0] r_word, r_count;
  logic [11:0] r_left;
  logic [23:0] r_stride;
  logic [1:0] r_region;
  logic [INSN-1:0] r_insn;
  logic job_full, job_empty, job_pop;
  logic last_word;
  logic [32:0] limit;
  choose #(.N(4), .WIDTH(33)) u_limit (.words(limits), .index(r_region), .word(limit));
  assign in_pop = in_valid && !asking && !job_full;
  assign last_word = r_word == r_count;
  assign fault = asking && (r_sram >= {12'b0, depth_of(r_mem)} || r_addr + {29'b0, beats_of(r_mem)} > {4'b0, limit});
  assign fault_code = r_sram >= {12'b0, depth_of(r_mem)} ? isa_pkg::FAULT_ADDRESS : isa_pkg::FAULT_MEMORY;
  assign fault_insn = r_insn;
  assign req_valid = asking && !fault;
  assign req_region = r_region;
  assign req_addr = r_addr[31:0];
  assign req_beats = beats_of(r_mem);
  always_ff @(posedge clk) begin
    if (rst) asking <= 1'b0;
    else if (in_pop) begin
      asking <= 1'b1;
      {r_mem, r_region, r_count, r_left, r_stride, r_insn} <= {i.mem, i.region, i.count, i.rows, i.stride, in_insn};
      r_sram <= {13'b0, i.sram};
      r_addr <= {5'b0, i.dram};
      r_row <= {5'b0, i.dram};
      r_word <= 16'd1;
    end else if (req_valid && req_ready) begin
      r_sram <= r_sram + 1'b1;
      r_word <= last_word ? 16'd1 : r_word + 1'b1;
      r_addr <= last_word ? r_row + {13'b0, r_stride} : r_addr + {29'b0, beats_of(r_mem)};
      if (last_word) begin
        r_row  <= r_row + {13'b0, r_stride};
        r_left <= r_left - 1'b1;
        if (r_left == 1) asking <= 1'b0;
      end
    end
  end

  // data
  isa_pkg::load_t j;
  logic [127:0] j_word;
  logic [INSN-1:0] j_insn;
  assign j = j_word;
  fifo #(
      .WIDTH(128 + INSN),
      .DEPTH(32)
  ) jobs (
      .clk, .rst,
      .push(in_pop),
      .in({in_insn, in_word}),
      .full(job_full),
      .pop(job_pop),
      .out({j_insn, j_word}),
      .empty(job_empty)
  );
  logic [15:0] d_word;
  logic [11:0] d_row;
  logic [15:0] d_sram;
  logic last_beat, word_in, j_table;
  logic [WORD_BEATS*BUS*8-1:0] held;
  assign j_table = j.mem == isa_pkg::MEM_TAB;
  assign last_beat = beat + 1'b1 == beats_of(j.mem);
  assign data_ready = !job_empty && !(last_beat && (act_taken && j.mem == isa_pkg::MEM_ACT ||
      wgt_taken && (j.mem == isa_pkg::MEM_WGT || j.mem == isa_pkg::MEM_WGT_DENSE)));
  assign word_in = data_valid && data_ready && last_beat;
  assign job_pop = word_in && d_word + 1'b1 == j.count && d_row + 1'b1 == j.rows;
  assign wa = j.sram + d_sram;
  assign act_we = word_in && j.mem == isa_pkg::MEM_ACT;
  assign wgt_we = word_in && (j.mem == isa_pkg::MEM_WGT || j.mem == isa_pkg::MEM_WGT_DENSE);
  assign wgt_sparse = j.mem == isa_pkg::MEM_WGT;
  assign par_we = word_in && j.mem == isa_pkg::MEM_PAR;
  assign tab_we = data_valid && data_ready && j_table;
  always_comb begin
    wd = held;
    for (int b = 0; b < WORD_BEATS; b++) if (beat == 8'(b)) wd[b*BUS*8+:BUS*8] = data;
  end
  assign done_valid = job_pop;
  assign done_push = j.push_next;
  assign done_insn = j_insn;
  assign busy = asking || !job_empty;
  always_ff @(posedge clk) begin
    if (data_valid && data_ready && !j_table) held <= wd;
    if (rst || job_pop) begin
      beat <= '0;
      d_word <= '0;
      d_row <= '0;
      d_sram <= '0;
    end else if (data_valid && data_ready) begin
      beat <= last_beat ? '0 : beat + 1'b1;
      if (last_beat) begin
        d_sram <= d_sram + 1'b1;
        d_word <= d_word + 1'b1 == j.count ? '0 : d_word + 1'b1;
        if (d_word + 1'b1 == j.count) d_row <= d_row + 1'b1;
      end
    end
  end
endmodule
