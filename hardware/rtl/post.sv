// The way out: WIDTH rows a cycle are requantised, activated and written to the activation memory.
// The vector unit enters before the last stage, with int8 that only need a table or nothing.
module post #(
    parameter int WIDTH = 4,
    parameter int TOKENS = 8,
    parameter int BANKS = 8,
    parameter int BUS = 16,
    parameter int TAB_AW = 5
) (
    input logic clk,
    input logic rst,

    // S0: accumulators of WIDTH rows, their parameters and token scales, where they go
    input logic                         in_valid,
    input logic [WIDTH*TOKENS*32-1:0]   in_acc,
    input logic [         WIDTH*64-1:0] in_params,
    input logic [        TOKENS*22-1:0] in_scales,
    input logic                         in_token_scale,
    input logic [                  1:0] in_activation,
    input logic                         in_table,
    input logic [                 15:0] in_addr,
    input logic [            BANKS-1:0] in_we,

    // last stage: from the vector unit
    input logic                       vec_valid,
    input logic [WIDTH*TOKENS*8-1:0]  vec_data,
    input logic [WIDTH*TOKENS-1:0]    vec_absent,
    input logic                       vec_use_table,
    input logic                       vec_table,
    input logic [               15:0] vec_addr,
    input logic [          BANKS-1:0] vec_we,

    // tables, a beat at a time
    input logic              tab_we,
    input logic [TAB_AW-1:0] tab_wa,
    input logic [ BUS*8-1:0] tab_wd,

    output logic                      out_valid,
    output logic [WIDTH*TOKENS*8-1:0] out_data,
    output logic [              15:0] out_addr,
    output logic [         BANKS-1:0] out_we,
    output logic                      busy
);
  logic v1, v2, v3;
  logic [1:0] act1, act2, act3;
  logic tab1, tab2, tab3;
  logic [15:0] addr1, addr2, addr3;
  logic [BANKS-1:0] we1, we2, we3;
  always_ff @(posedge clk) begin
    v1 <= in_valid & ~rst;
    v2 <= v1 & ~rst;
    v3 <= v2 & ~rst;
    {act1, tab1, addr1, we1} <= {in_activation, in_table, in_addr, in_we};
    {act2, tab2, addr2, we2} <= {act1, tab1, addr1, we1};
    {act3, tab3, addr3, we3} <= {act2, tab2, addr2, we2};
    out_valid <= (v3 | vec_valid) & ~rst;
    out_addr <= vec_valid ? vec_addr : addr3;
    out_we <= vec_valid ? vec_we : we3;
  end
  assign busy = in_valid | v1 | v2 | v3 | out_valid;

  for (genvar r = 0; r < WIDTH; r++) begin : g_row
    for (genvar t = 0; t < TOKENS; t++) begin : g_token
      localparam int I = r * TOKENS + t;
      post_lane #(
          .BUS(BUS), .TAB_AW(TAB_AW)
      ) u_lane (
          .clk, .acc(in_acc[I*32+:32]), .bias(in_params[r*64+:32]),
          .mul(in_token_scale ? in_scales[t*22+:16] : in_params[r*64+32+:16]),
          .shift(in_token_scale ? in_scales[t*22+16+:6] : in_params[r*64+48+:6]), .activation(act3), .table_(tab3),
          .vec_valid, .vec_data(vec_data[I*8+:8]), .vec_absent(vec_absent[I]), .vec_use_table, .vec_table, .tab_we,
          .tab_wa, .tab_wd, .out(out_data[I*8+:8]));
    end
  end
endmodule
