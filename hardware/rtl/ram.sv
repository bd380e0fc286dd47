// One write port, one read port; the read word stays until the next read.
module ram #(
    parameter int WIDTH = 8,
    parameter int DEPTH = 16,
    parameter STYLE = "block",
    parameter int AW = DEPTH > 1 ? $clog2(DEPTH) : 1
) (
    input  logic             clk,
    input  logic             we,
    input  logic [   AW-1:0] wa,
    input  logic [WIDTH-1:0] wd,
    input  logic             re,
    input  logic [   AW-1:0] ra,
    output logic [WIDTH-1:0] rd
);
  (* ram_style = STYLE *) logic [WIDTH-1:0] mem[0:DEPTH-1];
  always_ff @(posedge clk) begin
    if (we) mem[wa] <= wd;
    if (re) rd <= mem[ra];
  end
endmodule

// First in, first out; the head is visible while `empty` is low.
module fifo #(
    parameter int WIDTH = 8,
    parameter int DEPTH = 16,
    parameter int AW = $clog2(DEPTH)
) (
    input  logic             clk,
    input  logic             rst,
    input  logic             push,
    input  logic [WIDTH-1:0] in,
    output logic             full,
    input  logic             pop,
    output logic [WIDTH-1:0] out,
    output logic             empty
);
  (* ram_style = "distributed" *) logic [WIDTH-1:0] mem[0:DEPTH-1];
  logic [AW:0] head, tail;
  assign empty = head == tail;
  assign full  = head[AW-1:0] == tail[AW-1:0] && head[AW] != tail[AW];
  assign out   = mem[head[AW-1:0]];
  always_ff @(posedge clk) begin
    if (push) mem[tail[AW-1:0]] <= in;
    if (rst) begin
      head <= '0;
      tail <= '0;
    end else begin
      if (push) tail <= tail + 1'b1;
      if (pop) head <= head + 1'b1;
    end
  end
endmodule
