// One row and token on the way out: requantised (3 cycles), activated. See post.sv.
module post_lane #(
    parameter int BUS = 16,
    parameter int TAB_AW = 5
) (
    input  logic               clk,
    input  logic signed [31:0] acc,
    input  logic signed [31:0] bias,
    input  logic        [15:0] mul,
    input  logic        [ 5:0] shift,
    // last stage
    input  logic        [ 1:0] activation,
    input  logic               table_,
    input  logic               vec_valid,
    input  logic        [ 7:0] vec_data,
    input  logic               vec_absent,
    input  logic               vec_use_table,
    input  logic               vec_table,
    input  logic               tab_we,
    input  logic [ TAB_AW-1:0] tab_wa,
    input  logic [  BUS*8-1:0] tab_wd,
    output logic        [ 7:0] out
);
  localparam int BB = $clog2(BUS);
  logic signed [31:0] b1;
  logic [15:0] mul1;
  logic [5:0] shift1, shift2;
  logic signed [48:0] p2;
  logic signed [49:0] q;
  logic signed [7:0] y3, value;
  assign q = (($signed({p2, 1'b0}) >>> shift2) + 50'sd1) >>> 1;  // halves up
  always_ff @(posedge clk) begin
    b1 <= acc + bias;
    mul1 <= mul;
    shift1 <= shift;
    p2 <= b1 * $signed({1'b0, mul1});
    shift2 <= shift1;
    y3 <= q > 50'sd127 ? 8'sd127 : q < -50'sd128 ? -8'sd128 : q[7:0];
  end

  (* ram_style = "distributed" *)logic [BUS*8-1:0] table_mem[0:(1<<TAB_AW)-1];
  logic [BUS*8-1:0] line;
  logic [7:0] found;
  always_ff @(posedge clk) if (tab_we) table_mem[tab_wa] <= tab_wd;
  assign value = vec_valid ? vec_data : y3;
  assign line  = table_mem[{vec_valid ? vec_table : table_, value[7:BB]}];
  choose #(.N(BUS), .WIDTH(8)) u_byte (.words(line), .index(value[BB-1:0]), .word(found));
  always_ff @(posedge clk)
    if (vec_valid ? vec_use_table : activation == isa_pkg::ACTIVATION_TABLE)
      out <= vec_valid & vec_absent ? 8'd0 : found;
    else if (vec_valid) out <= vec_absent ? 8'd0 : value;
    else out <= activation == isa_pkg::ACTIVATION_RELU && value[7] ? 8'd0 : value;
endmodule
