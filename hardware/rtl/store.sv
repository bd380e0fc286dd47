// Store queue: reads activations in the gaps that the compute unit leaves. After PATIENCE cycles without one it
// asks the compute unit to leave a gap.
module store #(
    parameter int BUS = 16,
    parameter int ACT_BEATS = 4,
    parameter int ACT_DEPTH = 4096,
    parameter int INSN = 24,
    parameter int PATIENCE = 16
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
  logic running, reading, arriving, next_valid, this_valid, bad_word;
  logic push;
  logic [1:0] region;
  logic [28:0] sram;
  logic [36:0] addr, row_addr;
  logic [15:0] word, count;
  logic [11:0] left;
  logic [23:0] stride;
  logic [INSN-1:0] insn;
  logic [36:0] next_addr, arriving_addr, this_addr;
  logic [ACT_BEATS*BUS*8-1:0] next_data, this_data;
  logic [7:0] beat;
  logic [4:0] waited;
  logic [32:0] limit;
  logic last_word, take, beat_out, word_out;

  assign limit = limits[region*33+:33];
  assign in_pop = in_valid && !running;
  assign bad_word = sram >= 29'(ACT_DEPTH);
  assign fault = running && reading && (bad_word || addr + 37'(ACT_BEATS) > {4'b0, limit});
  assign fault_code = bad_word ? isa_pkg::FAULT_ADDRESS : isa_pkg::FAULT_MEMORY;
  assign fault_insn = insn;
  assign last_word = word == count;
  assign act_want = running && reading && !fault && !arriving && !next_valid;
  assign act_press = act_want && waited == 5'(PATIENCE);
  assign act_addr = sram[15:0];
  assign take = act_want && act_grant;
  assign out_valid = this_valid;
  assign out_region = region;
  assign out_addr = this_addr[31:0] + {24'b0, beat};
  assign out_data = this_data[BUS*8-1:0];
  assign beat_out = out_valid && out_ready;
  assign word_out = beat_out && beat + 1'b1 == 8'(ACT_BEATS);
  assign done_valid = running && !reading && !arriving && !next_valid && word_out;
  assign done_push = push;
  assign done_insn = insn;
  assign busy = running;
  always_ff @(posedge clk) begin
    if (rst) begin
      running <= 1'b0;
      reading <= 1'b0;
      arriving <= 1'b0;
      next_valid <= 1'b0;
      this_valid <= 1'b0;
      waited <= '0;
    end else begin
      arriving <= take;
      if (in_pop) begin
        running <= 1'b1;
        reading <= 1'b1;
        {push, region, count, left, stride, insn} <= {i.push_prev, i.region, i.count, i.rows, i.stride, in_insn};
        sram <= {13'b0, i.sram};
        addr <= {5'b0, i.dram};
        row_addr <= {5'b0, i.dram};
        word <= 16'd1;
      end else if (done_valid) running <= 1'b0;
      waited <= act_want && !act_grant ? waited + {4'b0, waited != 5'(PATIENCE)} : '0;
      if (take) begin
        sram <= sram + 1'b1;
        word <= last_word ? 16'd1 : word + 1'b1;
        addr <= last_word ? row_addr + {13'b0, stride} : addr + 37'(ACT_BEATS);
        arriving_addr <= addr;
        if (last_word) begin
          row_addr <= row_addr + {13'b0, stride};
          left <= left - 1'b1;
          if (left == 1) reading <= 1'b0;
        end
      end
      if (arriving) begin
        next_valid <= 1'b1;
        next_data  <= act_data;
        next_addr  <= arriving_addr;
      end
      if (next_valid && (!this_valid || word_out)) begin
        next_valid <= 1'b0;
        this_valid <= 1'b1;
        this_data <= next_data;
        this_addr <= next_addr;
        beat <= '0;
      end else if (beat_out) begin
        this_data <= this_data >> (BUS * 8);
        beat <= beat + 1'b1;
        if (word_out) this_valid <= 1'b0;
      end
    end
  end
endmodule
