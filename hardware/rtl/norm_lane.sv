// NORM of one feature and token a cycle: z (V4), z squared (V5), d (V5), d*r (V6), n (V7), n*gamma (V8), out (V9).
module norm_lane (
    input  logic               clk,
    input  logic signed [ 7:0] x,            // V2
    input  logic signed [ 7:0] r,
    input  logic signed [15:0] a,
    input  logic signed [15:0] b,
    input  logic               valid,        // V3
    input  logic        [13:0] count,
    input  logic signed [28:0] sum,
    input  logic        [15:0] recip,
    input  logic        [ 5:0] recip_shift,
    input  logic               stats,
    input  logic signed [15:0] gamma,        // V7
    input  logic signed [15:0] beta,         // V8
    input  logic        [ 4:0] shift,
    output logic signed [15:0] z,            // V4
    output logic        [31:0] zz,           // V5
    output logic        [ 7:0] out           // V9
);
  logic signed [23:0] pa3, pb3;
  logic signed [24:0] s3;
  logic signed [15:0] z5, z6, z7;
  logic signed [31:0] d5, g8;
  logic signed [47:0] dr6;
  logic signed [48:0] n6;
  logic signed [32:0] y8;
  logic [5:0] down;
  function automatic logic signed [15:0] sat16(input logic signed [48:0] v);
    sat16 = v > 49'sd32767 ? 16'sd32767 : v < -49'sd32768 ? -16'sd32768 : v[15:0];
  endfunction
  assign s3 = pa3 + pb3 + 25'sd128;
  assign down = recip_shift - 6'd10;
  assign n6 = (($signed({dr6, 1'b0}) >>> down) + 49'sd1) >>> 1;  // halves up
  // (g + beta * 2^(shift-7) + 2^(shift-1)) >> shift, with less to shift
  assign y8 = (33'(g8 >>> (shift - 5'd7)) + 33'(beta) + 33'sd64) >>> 7;
  always_ff @(posedge clk) begin
    pa3 <= x * a;
    pb3 <= r * b;
    z   <= valid ? sat16(49'(s3 >>> 8)) : 16'd0;
    zz  <= z * z;
    z5  <= z;
    z6  <= z5;
    d5  <= z * $signed({1'b0, count}) - 32'(sum);
    dr6 <= d5 * $signed({1'b0, recip});
    z7  <= !stats ? z6 : recip == 0 ? 16'sd0 : sat16(n6);
    g8  <= z7 * gamma;
    out <= y8 > 33'sd127 ? 8'd127 : y8 < -33'sd128 ? 8'h80 : y8[7:0];
  end
endmodule
