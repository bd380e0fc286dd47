// One of N words. Bit by bit: synthesis makes several times more of an indexed part-select.
module choose #(
    parameter int N = 4,
    parameter int WIDTH = 8,
    parameter int IB = N > 1 ? $clog2(N) : 1
) (
    input  logic [N*WIDTH-1:0] words,
    input  logic [     IB-1:0] index,
    output logic [  WIDTH-1:0] word
);
  for (genvar w = 0; w < WIDTH; w++) begin : g_bit
    logic [(1<<IB)-1:0] all;
    for (genvar n = 0; n < 1 << IB; n++) assign all[n] = words[n%N*WIDTH+w];
    assign word[w] = all[index];
  end
endmodule
