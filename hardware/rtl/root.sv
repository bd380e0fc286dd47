// The scale of one token, a bit a cycle: the square root of a radicand, then the reciprocal of that or of a sum.
module root (
    input  logic        clk,
    input  logic        set,          // take the radicand
    input  logic [57:0] radicand,
    input  logic        clear,        // before `rooting`
    input  logic        rooting,      // 29 cycles
    input  logic        dividing,     // 19 cycles, `first` in the first
    input  logic        first,
    input  logic        of_root,
    input  logic [20:0] total,        // else of this
    output logic [15:0] recip,
    output logic [ 5:0] recip_shift
);
  logic [57:0] left;
  logic [28:0] found, x;
  logic [31:0] rest, with_pair;
  logic [30:0] trial;
  logic [29:0] over;
  logic [5:0] bits;
  logic [16:0] quotient;
  assign trial = {found, 2'b01};
  assign with_pair = {rest[29:0], left[57:56]};
  assign x = of_root ? found : {8'b0, total};
  always_comb begin
    bits = '0;
    for (int b = 0; b < 29; b++) if (x[b]) bits = 6'(b + 1);
  end
  always_ff @(posedge clk) begin
    if (set) left <= radicand;
    if (clear) begin
      found <= '0;
      rest  <= '0;
    end else if (rooting) begin
      left <= left << 2;
      if (with_pair >= {1'b0, trial}) begin
        rest  <= with_pair - {1'b0, trial};
        found <= {found[27:0], 1'b1};
      end else begin
        rest  <= with_pair;
        found <= {found[27:0], 1'b0};
      end
    end
    if (dividing) begin
      if (first) begin
        over <= bits == 0 ? '0 : 30'd1 << (bits - 6'd1);
        quotient <= '0;
      end else begin
        // over stays below 2x
        over <= over >= {1'b0, x} ? {over[28:0] - x, 1'b0} : {over[28:0], 1'b0};
        quotient <= {quotient[15:0], over >= {1'b0, x}};
      end
      recip <= x == 0 ? 16'd0 : quotient[16] ? 16'd65535 : quotient[15:0];
      recip_shift <= x == 0 ? 6'd0 : 6'd15 + bits;
    end
  end
endmodule
