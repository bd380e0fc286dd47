// One of N words. Written as and-or: synthesis makes several times more of an indexed part-select.
module choose #(
    parameter int N = 4,
    parameter int WIDTH = 8,
    parameter int IB = N > 1 ? $clog2(N) : 1
) (
    input  logic [N*WIDTH-1:0] words,
    input  logic [     IB-1:0] index,
    output logic [  WIDTH-1:0] word
);
  always_comb begin
    word = '0;
    for (int n = 0; n < N; n++) word = word | (words[n*WIDTH+:WIDTH] & {WIDTH{index == IB'(n)}});
  end
endmodule
