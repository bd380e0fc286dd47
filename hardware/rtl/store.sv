// Store queue: reads activations in the gaps that the compute unit leaves. After PATIENCE cycles without one it
// asks the compute unit to leave a gap.
module store #(
    parameter int BUS = 16,
    parameter int ACT_BEATS = 4,
    parameter int ACT_DEPTH = 4096,
    parameter int INSN = 24,
    parameter int PATIENCE = 1
) (
    input logic clk,
    input logic rst,

    input  logic            in_valid,
    input  logic [   127:0] in_word,
    input  logic [INSN-1:0] in_insn,
    output logic            in_pop,

    input logic [4*33-1:0] limits,

    output logic                       act_want,
    output logic                       act_press,
    input  logic                       act_grant,  // the read happens in this cycle, its data is there in the next
    output logic [               15:0] act_addr,
    input  logic [ACT_BEATS*BUS*8-1:0] act_data,

    output logic             out_valid,
    output logic [      1:0] out_region,
    output logic [     31:0] out_addr,
    output logic [BUS*8-1:0] out_data,
    input  logic             out_ready,

    output logic            done_valid,
    output logic            done_push,
    output logic [INSN-1:0] done_insn,
    output logic            busy,
    output logic            fault,
    output logic [     3:0] fault_code,
    output logic [INSN-1:0] fault_insn
);
  isa_pkg::store_t i;
  assign i = in_word;
  localparam int AHEAD = 4;  // words read but not yet written
  logic running, reading, arriving, none, bad_word;
  logic push;
  logic [1:0] region;
  logic [28:0] sram;
  logic [36:0] addr, row_addr;
  logic [15:0] word, count;
  logic [11:0] left;
  logic [23:0] stride;
  logic [INSN-1:0] insn;
  logic [31:0] arriving_addr, this_addr;
  logic [ACT_BEATS*BUS*8-1:0] this_data;
  logic [7:0] beat;
  logic [2:0] ahead;
  logic [4:0] waited;
  logic [32:0] limit;
  logic last_word, take, beat_out, word_out;

  choose #(.N(4), .WIDTH(33)) u_limit (.words(limits), .index(region), .word(limit));
  assign in_pop = in_valid && !running;
  assign bad_word = sram >= 29'(ACT_DEPTH);
  assign fault = running && reading && (bad_word || addr + 37'(ACT_BEATS) > {4'b0, limit});
  assign fault_code = bad_word ? isa_pkg::FAULT_ADDRESS : isa_pkg::FAULT_MEMORY;
  assign fault_insn = insn;
  assign last_word = word == count;
  assign act_want = running && reading && !fault && ahead != 3'(AHEAD);
  assign act_press = act_want && waited == 5'(PATIENCE);
  assign act_addr = sram[15:0];
  assign take = act_want && act_grant;
  assign out_valid = !none;
  assign out_region = region;
  assign out_addr = this_addr + {24'b0, beat};
  choose #(.N(ACT_BEATS), .WIDTH(BUS * 8)) u_beat (
      .words(this_data), .index(beat[(ACT_BEATS > 1 ? $clog2(ACT_BEATS) : 1)-1:0]), .word(out_data));
  assign beat_out = out_valid && out_ready;
  assign word_out = beat_out && beat + 1'b1 == 8'(ACT_BEATS);
  assign done_valid = running && !reading && ahead == 1 && word_out;
  assign done_push = push;
  assign done_insn = insn;
  assign busy = running;
  fifo #(
      .WIDTH(32 + ACT_BEATS * BUS * 8),
      .DEPTH(AHEAD)
  ) words (
      .clk, .rst,
      .push(arriving),
      .in({arriving_addr, act_data}),
      .full(),
      .pop(word_out),
      .out({this_addr, this_data}),
      .empty(none)
  );
  always_ff @(posedge clk) begin
    arriving_addr <= addr[31:0];
    if (rst) begin
      running <= 1'b0;
      reading <= 1'b0;
      arriving <= 1'b0;
      ahead <= '0;
      beat <= '0;
      waited <= '0;
    end else begin
      arriving <= take;
      ahead <= ahead + {2'b0, take} - {2'b0, word_out};
      if (beat_out) beat <= word_out ? '0 : beat + 1'b1;
      waited <= act_want && !act_grant ? waited + {4'b0, waited != 5'(PATIENCE)} : '0;
      if (in_pop) begin
        running <= 1'b1;
        reading <= 1'b1;
        {push, region, count, left, stride, insn} <= {i.push_prev, i.region, i.count, i.rows, i.stride, in_insn};
        sram <= {13'b0, i.sram};
        addr <= {5'b0, i.dram};
        row_addr <= {5'b0, i.dram};
        word <= 16'd1;
      end else if (done_valid) running <= 1'b0;
      else if (take) begin
        sram <= sram + 1'b1;
        word <= last_word ? 16'd1 : word + 1'b1;
        addr <= last_word ? row_addr + {13'b0, stride} : addr + 37'(ACT_BEATS);
        if (last_word) begin
          row_addr <= row_addr + {13'b0, stride};
          left <= left - 1'b1;
          if (left == 1) reading <= 1'b0;
        end
      end
    end
  end
endmodule
