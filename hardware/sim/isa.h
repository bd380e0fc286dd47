// Generated from targets/fpga/isa.toml by espalier.targets.fpga.generate; do not edit.
#pragma once
#include <cstdint>
#include <cstring>
namespace isa {
constexpr unsigned VERSION = 1, TOKEN_LIMIT = 31, TABLES = 2, TABLE_ENTRIES = 256;
enum Op : unsigned { OP_LOAD = 0, OP_STORE = 1, OP_LINEAR = 2, OP_TURN = 3, OP_NORM = 4, OP_SOFTMAX = 5, OP_FINISH = 6, OP_START = 7 };
enum Memory : unsigned { MEM_ACT = 0, MEM_WGT = 1, MEM_WGT_DENSE = 2, MEM_PAR = 3, MEM_TAB = 4 };
enum Activation : unsigned { ACTIVATION_NONE = 0, ACTIVATION_RELU = 1, ACTIVATION_TABLE = 2 };
enum Fault : unsigned { FAULT_NONE = 0, FAULT_STREAM = 1, FAULT_GEOMETRY = 2, FAULT_FIELD = 3, FAULT_ADDRESS = 4, FAULT_MEMORY = 5, FAULT_TOKEN = 6, FAULT_SLOT = 7, FAULT_TRUNCATED = 8, FAULT_STUCK = 9 };
enum Counter : unsigned { COUNT_CYCLES, COUNT_LOAD_BUSY, COUNT_STORE_BUSY, COUNT_LINEAR, COUNT_TURN, COUNT_NORM, COUNT_SOFTMAX, COUNT_WINDOWS, COUNT_CONFLICTS, COUNT_YIELDS, COUNT_READ_BEATS, COUNT_WRITE_BEATS, COUNTERS };
inline uint32_t bits(const uint8_t* word, unsigned low, unsigned count) {
  unsigned __int128 w;
  std::memcpy(&w, word, 16);
  return static_cast<uint32_t>(w >> low) & (count < 32 ? (1u << count) - 1 : 0xffffffffu);
}
struct Load {
  uint32_t op, pop_prev, pop_next, push_prev, push_next, mem, region, sram, dram, count, rows, stride;
  explicit Load(const uint8_t* w)
      : op(bits(w, 0, 3)),
        pop_prev(bits(w, 3, 1)),
        pop_next(bits(w, 4, 1)),
        push_prev(bits(w, 5, 1)),
        push_next(bits(w, 6, 1)),
        mem(bits(w, 7, 3)),
        region(bits(w, 10, 2)),
        sram(bits(w, 12, 16)),
        dram(bits(w, 28, 32)),
        count(bits(w, 60, 16)),
        rows(bits(w, 76, 12)),
        stride(bits(w, 88, 24)) {}
};
struct Store {
  uint32_t op, pop_prev, pop_next, push_prev, push_next, mem, region, sram, dram, count, rows, stride;
  explicit Store(const uint8_t* w)
      : op(bits(w, 0, 3)),
        pop_prev(bits(w, 3, 1)),
        pop_next(bits(w, 4, 1)),
        push_prev(bits(w, 5, 1)),
        push_next(bits(w, 6, 1)),
        mem(bits(w, 7, 3)),
        region(bits(w, 10, 2)),
        sram(bits(w, 12, 16)),
        dram(bits(w, 28, 32)),
        count(bits(w, 60, 16)),
        rows(bits(w, 76, 12)),
        stride(bits(w, 88, 24)) {}
};
struct Linear {
  uint32_t op, pop_prev, pop_next, push_prev, push_next, sparse, activation, table, token_scale, windows, tiles, weights, input, input_stride, output, output_stride, params, row_first, row_end;
  explicit Linear(const uint8_t* w)
      : op(bits(w, 0, 3)),
        pop_prev(bits(w, 3, 1)),
        pop_next(bits(w, 4, 1)),
        push_prev(bits(w, 5, 1)),
        push_next(bits(w, 6, 1)),
        sparse(bits(w, 7, 1)),
        activation(bits(w, 8, 2)),
        table(bits(w, 10, 1)),
        token_scale(bits(w, 11, 1)),
        windows(bits(w, 12, 12)),
        tiles(bits(w, 24, 10)),
        weights(bits(w, 34, 12)),
        input(bits(w, 46, 16)),
        input_stride(bits(w, 62, 11)),
        output(bits(w, 73, 16)),
        output_stride(bits(w, 89, 11)),
        params(bits(w, 100, 12)),
        row_first(bits(w, 112, 7)),
        row_end(bits(w, 119, 8)) {}
};
struct Turn {
  uint32_t op, pop_prev, pop_next, push_prev, push_next, kind, slots, tiles, weights, input, input_stride, first, end;
  explicit Turn(const uint8_t* w)
      : op(bits(w, 0, 3)),
        pop_prev(bits(w, 3, 1)),
        pop_next(bits(w, 4, 1)),
        push_prev(bits(w, 5, 1)),
        push_next(bits(w, 6, 1)),
        kind(bits(w, 7, 1)),
        slots(bits(w, 8, 11)),
        tiles(bits(w, 19, 10)),
        weights(bits(w, 29, 12)),
        input(bits(w, 41, 16)),
        input_stride(bits(w, 57, 11)),
        first(bits(w, 68, 14)),
        end(bits(w, 82, 14)) {}
};
struct Norm {
  uint32_t op, pop_prev, pop_next, push_prev, push_next, stats, shift, tiles, count, input, input_stride, residual, residual_stride, output, output_stride, params;
  explicit Norm(const uint8_t* w)
      : op(bits(w, 0, 3)),
        pop_prev(bits(w, 3, 1)),
        pop_next(bits(w, 4, 1)),
        push_prev(bits(w, 5, 1)),
        push_next(bits(w, 6, 1)),
        stats(bits(w, 7, 1)),
        shift(bits(w, 8, 5)),
        tiles(bits(w, 13, 10)),
        count(bits(w, 23, 13)),
        input(bits(w, 36, 16)),
        input_stride(bits(w, 52, 10)),
        residual(bits(w, 62, 16)),
        residual_stride(bits(w, 78, 10)),
        output(bits(w, 88, 16)),
        output_stride(bits(w, 104, 10)),
        params(bits(w, 114, 12)) {}
};
struct Softmax {
  uint32_t op, pop_prev, pop_next, push_prev, push_next, table, tiles, count, input, input_stride, output, output_stride;
  explicit Softmax(const uint8_t* w)
      : op(bits(w, 0, 3)),
        pop_prev(bits(w, 3, 1)),
        pop_next(bits(w, 4, 1)),
        push_prev(bits(w, 5, 1)),
        push_next(bits(w, 6, 1)),
        table(bits(w, 7, 1)),
        tiles(bits(w, 8, 10)),
        count(bits(w, 18, 14)),
        input(bits(w, 32, 16)),
        input_stride(bits(w, 48, 11)),
        output(bits(w, 59, 16)),
        output_stride(bits(w, 75, 11)) {}
};
struct Finish {
  uint32_t op, pop_prev, pop_next, push_prev, push_next;
  explicit Finish(const uint8_t* w)
      : op(bits(w, 0, 3)),
        pop_prev(bits(w, 3, 1)),
        pop_next(bits(w, 4, 1)),
        push_prev(bits(w, 5, 1)),
        push_next(bits(w, 6, 1)) {}
};
struct Start {
  uint32_t op, pop_prev, pop_next, push_prev, push_next, version, pes, lanes, banks, tokens, width, bus, slot_bits, act_depth, wgt_depth, par_depth, tile_depth;
  explicit Start(const uint8_t* w)
      : op(bits(w, 0, 3)),
        pop_prev(bits(w, 3, 1)),
        pop_next(bits(w, 4, 1)),
        push_prev(bits(w, 5, 1)),
        push_next(bits(w, 6, 1)),
        version(bits(w, 7, 8)),
        pes(bits(w, 15, 8)),
        lanes(bits(w, 23, 5)),
        banks(bits(w, 28, 6)),
        tokens(bits(w, 34, 7)),
        width(bits(w, 41, 6)),
        bus(bits(w, 47, 8)),
        slot_bits(bits(w, 55, 5)),
        act_depth(bits(w, 60, 17)),
        wgt_depth(bits(w, 77, 13)),
        par_depth(bits(w, 90, 13)),
        tile_depth(bits(w, 103, 11)) {}
};
}  // namespace isa
