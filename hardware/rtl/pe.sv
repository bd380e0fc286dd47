// One output row: LANES products a token and cycle, picked from the window by the row's mask, summed, accumulated.
// Two tokens that share a weight share a multiplier: (x1 * 2^16 + x0) * w holds both products.
// Stages: window -> x (S3) -> products (S4) -> lane sum (S5) -> accumulator (S6).
module pe #(
    parameter int LANES = 4,
    parameter int BANKS = 8,
    parameter int TOKENS = 8,
    parameter int PASSES = BANKS / LANES,
    parameter int IB = BANKS > 1 ? $clog2(BANKS) : 1
) (
    input  logic                      clk,
    input  logic [BANKS*TOKENS*8-1:0] window,
    input  logic [       LANES*8-1:0] weights,
    input  logic [         BANKS-1:0] mask,
    input  logic                      sparse,
    input  logic [              IB:0] first_bank,  // dense: bank of lane 0
    input  logic                      sum_valid,   // with the lane sums in S5
    input  logic                      sum_first,
    output logic [     TOKENS*32-1:0] acc
);
  localparam int SB = 16 + $clog2(LANES) + 1;

  // bank of each lane: the lane-th set bit of the mask, ascending
  logic [LANES-1:0] used;
  logic [LANES*IB-1:0] bank;
  always_comb begin
    for (int l = 0; l < LANES; l++) begin
      logic [IB:0] seen;
      seen = '0;
      used[l] = ~sparse;
      bank[l*IB+:IB] = first_bank[IB-1:0] + IB'(l);
      for (int b = 0; b < BANKS; b++) begin
        if (sparse && mask[b] && seen == (IB + 1)'(l)) begin
          bank[l*IB+:IB] = IB'(b);
          used[l] = 1'b1;
        end
        seen = seen + {{IB{1'b0}}, mask[b]};
      end
    end
  end

  logic [LANES*8-1:0] w3;
  logic [LANES*TOKENS*16-1:0] prod;
  always_ff @(posedge clk)
    for (int l = 0; l < LANES; l++) w3[l*8+:8] <= used[l] ? weights[l*8+:8] : 8'd0;

  for (genvar l = 0; l < LANES; l++) begin : g_lane
    logic [TOKENS*8-1:0] x, x3;
    logic signed [7:0] w;
    assign w = w3[l*8+:8];
    choose #(.N(BANKS), .WIDTH(TOKENS * 8)) u_x (.words(window), .index(bank[l*IB+:IB]), .word(x));
    always_ff @(posedge clk) x3 <= x;
    for (genvar t = 0; t < TOKENS; t += 2) begin : g_pair
      logic signed [24:0] both;
      logic signed [32:0] p;
      assign both = $signed({x3[(t+1)*8+7], x3[(t+1)*8+:8], 16'b0}) + $signed({{17{x3[t*8+7]}}, x3[t*8+:8]});
      always_ff @(posedge clk) p <= both * w;
      assign prod[(t*LANES+l)*16+:16] = p[15:0];
      assign prod[((t+1)*LANES+l)*16+:16] = p[31:16] + {15'b0, p[15]};
    end
  end

  for (genvar t = 0; t < TOKENS; t++) begin : g_token
    logic signed [SB-1:0] sum, total;
    logic signed [31:0] a;
    // a tree of adders: node n has the children 2n and 2n + 1. Kept, or synthesis makes compressors of it
    (* keep *) logic signed [SB-1:0] nodes[1:2*LANES-1];
    for (genvar l = 0; l < LANES; l++)
      assign nodes[LANES+l] = {{(SB - 16) {prod[(t*LANES+l)*16+15]}}, prod[(t*LANES+l)*16+:16]};
    for (genvar n = 1; n < LANES; n++) assign nodes[n] = nodes[2*n] + nodes[2*n+1];
    assign total = nodes[1];
    always_ff @(posedge clk) begin
      sum <= total;
      if (sum_valid) a <= (sum_first ? 32'sd0 : a) + {{(32 - SB) {sum[SB-1]}}, sum};
    end
    assign acc[t*32+:32] = a;
  end
endmodule
