// Functional simulator: what every instruction means, of any geometry, without time. Queues and tokens are
// kept, so a program whose tokens never come is stuck here as well.
#include <algorithm>
#include <deque>
#include <memory>
#include <optional>

#include "isa.h"
#include "memory.h"

namespace {

struct Geometry {
  uint32_t version, pes, lanes, banks, tokens, width, bus, slot_bits, act_depth, wgt_depth, par_depth, tile_depth;
};
static_assert(sizeof(Geometry) == ESPALIER_GEOMETRY * sizeof(uint32_t));
static_assert(int{isa::COUNTERS} == int{ESPALIER_COUNTERS});

struct Stop {
  isa::Fault fault;
};
void need(bool ok, isa::Fault fault) {
  if (!ok) throw Stop{fault};
}

struct Scale {
  uint32_t mul = 0, shift = 0;
};

unsigned bit_length(uint64_t x) { return x ? 64 - __builtin_clzll(x) : 0; }

Scale reciprocal(uint64_t x) {
  if (!x) return {};
  unsigned b = bit_length(x);
  return {static_cast<uint32_t>(std::min<uint64_t>((uint64_t{1} << (15 + b)) / x, 65535)), 15 + b};
}

uint64_t isqrt(uint64_t x) {
  uint64_t root = 0;
  for (int bit = 28; bit >= 0; bit--) {
    uint64_t next = root | uint64_t{1} << bit;
    if (next * next <= x) root = next;
  }
  return root;
}

int64_t round_shift(int64_t x, uint32_t shift) { return (x + ((int64_t{1} << shift) >> 1)) >> shift; }
int8_t clamp8(int64_t x) { return static_cast<int8_t>(std::clamp<int64_t>(x, -128, 127)); }
int32_t clamp16(int64_t x) { return static_cast<int32_t>(std::clamp<int64_t>(x, -32768, 32767)); }

// int32 wraps as the hardware does.
int8_t requantise(int32_t acc, int32_t bias, Scale scale) {
  int32_t b = static_cast<int32_t>(static_cast<uint32_t>(acc) + static_cast<uint32_t>(bias));
  return clamp8(round_shift(static_cast<int64_t>(b) * scale.mul, scale.shift));
}

}  // namespace

struct EspalierDevice {
  Geometry g;
  Memory memory;
  std::vector<int8_t> act;     // [act_depth][banks][tokens]
  std::vector<uint8_t> wgt;    // [wgt_depth][sparse bytes]
  std::vector<uint64_t> par;   // [par_depth][entries]
  std::vector<int8_t> tab;     // [TABLES][256]
  std::vector<Scale> scales;   // [tile_depth][tokens]
  uint64_t* counters = nullptr;
  uint32_t dense_bytes, sparse_bytes, entries;

  EspalierDevice(const Geometry& geometry, uint64_t size) : g(geometry), memory(size) {
    dense_bytes = g.pes * g.lanes;
    sparse_bytes = dense_bytes + (g.pes * g.banks + g.banks * g.slot_bits) / 8;
    entries = std::max(8 * g.width, g.bus) / 8;
  }

  void reset() {
    act.assign(uint64_t{g.act_depth} * g.banks * g.tokens, 0);
    wgt.assign(uint64_t{g.wgt_depth} * sparse_bytes, 0);
    par.assign(uint64_t{g.par_depth} * entries, 0);
    tab.assign(isa::TABLES * isa::TABLE_ENTRIES, 0);
    scales.assign(uint64_t{g.tile_depth} * g.tokens, Scale{});
  }

  int8_t* act_word(uint64_t word) {
    need(word < g.act_depth, isa::FAULT_ADDRESS);
    return &act[word * g.banks * g.tokens];
  }
  uint8_t* wgt_word(uint64_t word) {
    need(word < g.wgt_depth, isa::FAULT_ADDRESS);
    return &wgt[word * sparse_bytes];
  }
  uint64_t entry(uint64_t word, uint64_t index) {
    word += index / entries;
    need(word < g.par_depth, isa::FAULT_ADDRESS);
    return par[word * entries + index % entries];
  }

  // A word on chip and the bytes of it that external memory has.
  uint8_t* word_of(uint32_t mem, uint64_t word, uint32_t& size) {
    switch (mem) {
      case isa::MEM_ACT:
        size = g.banks * g.tokens;
        return reinterpret_cast<uint8_t*>(act_word(word));
      case isa::MEM_WGT:
      case isa::MEM_WGT_DENSE:
        size = mem == isa::MEM_WGT ? sparse_bytes : dense_bytes;
        return wgt_word(word);
      case isa::MEM_PAR:
        need(word < g.par_depth, isa::FAULT_ADDRESS);
        size = entries * 8;
        return reinterpret_cast<uint8_t*>(&par[word * entries]);
      default:
        need(word < isa::TABLES, isa::FAULT_ADDRESS);
        size = isa::TABLE_ENTRIES;
        return reinterpret_cast<uint8_t*>(&tab[word * isa::TABLE_ENTRIES]);
    }
  }

  // LOAD and STORE have the same fields.
  void copy(const isa::Load& i, bool store) {
    const Memory::Region& region = memory.regions[i.region];
    uint64_t sram = i.sram;
    for (uint64_t row = 0; row < i.rows; row++) {
      uint64_t beat = i.dram + row * i.stride;
      for (uint64_t word = 0; word < i.count; word++, sram++) {
        uint32_t size = 0;
        uint8_t* chip = word_of(i.mem, sram, size);
        uint64_t beats = (size + g.bus - 1) / g.bus;
        need((beat + beats) * g.bus <= region.bytes, isa::FAULT_MEMORY);
        uint8_t* outside = &memory.bytes[region.base + beat * g.bus];
        if (store)
          std::memcpy(outside, chip, size);
        else
          std::memcpy(chip, outside, size);
        counters[store ? isa::COUNT_WRITE_BEATS : isa::COUNT_READ_BEATS] += beats;
        beat += beats;
      }
    }
  }

  void linear(const isa::Linear& i) {
    const uint32_t T = g.tokens;
    const uint32_t passes = g.banks / g.lanes;
    std::vector<int32_t> acc(uint64_t{g.pes} * T);
    for (uint32_t tile = 0; tile < i.tiles; tile++) {
      std::fill(acc.begin(), acc.end(), 0);
      const uint64_t base = i.input + uint64_t{tile} * i.input_stride;
      for (uint32_t w = 0; w < i.windows; w++) {
        const uint8_t* word = wgt_word(uint64_t{i.weights} + w);
        const uint8_t* masks = word + dense_bytes;
        const uint8_t* slots = masks + g.pes * g.banks / 8;
        const int8_t* window[32];
        for (uint32_t b = 0; b < g.banks; b++) {
          uint32_t slot = w / passes;
          if (i.sparse) {
            slot = slots[b * g.slot_bits / 8];
            if (g.slot_bits == 16) slot |= uint32_t{slots[b * 2 + 1]} << 8;
            need(slot < i.input_stride, isa::FAULT_SLOT);
          }
          window[b] = act_word(base + slot) + uint64_t{b} * T;
        }
        for (uint32_t row = 0; row < g.pes; row++) {
          const int8_t* weight = reinterpret_cast<const int8_t*>(word) + row * g.lanes;
          int32_t* a = &acc[row * T];
          uint32_t bank = i.sparse ? 0 : (w % passes) * g.lanes;
          for (uint32_t lane = 0; lane < g.lanes; lane++, bank++) {
            if (i.sparse) {
              uint32_t bit = row * g.banks + bank;
              while (bank < g.banks && !(masks[bit >> 3] >> (bit & 7) & 1)) bank++, bit++;
              if (bank >= g.banks) break;
            }
            const int32_t value = weight[lane];
            if (value)
              for (uint32_t t = 0; t < T; t++) a[t] += value * window[bank][t];
          }
        }
      }
      counters[isa::COUNT_WINDOWS] += i.windows;
      for (uint32_t row = i.row_first; row < i.row_end; row++) {
        const uint64_t p = entry(i.params, row);
        const Scale own{static_cast<uint32_t>(p >> 32 & 0xffff), static_cast<uint32_t>(p >> 48 & 63)};
        int8_t* out = act_word(i.output + uint64_t{tile} * i.output_stride + row / g.banks) + row % g.banks * T;
        for (uint32_t t = 0; t < T; t++) {
          const Scale scale = i.token_scale ? scales[uint64_t{tile} * T + t] : own;
          int8_t y = requantise(acc[row * T + t], static_cast<int32_t>(p), scale);
          if (i.activation == isa::ACTIVATION_RELU) y = std::max<int8_t>(y, 0);
          if (i.activation == isa::ACTIVATION_TABLE) y = tab[i.table * isa::TABLE_ENTRIES + static_cast<uint8_t>(y)];
          out[t] = y;
        }
      }
    }
  }

  void turn(const isa::Turn& i) {
    const uint32_t T = g.tokens;
    for (uint32_t tile = 0; tile < i.tiles; tile++)
      for (uint32_t slot = 0; slot < i.slots; slot++) {
        const int8_t* in = act_word(i.input + uint64_t{tile} * i.input_stride + slot);
        const uint32_t rows = i.kind ? g.banks : T, elements = i.kind ? T : g.banks;
        const uint32_t row0 = i.kind ? slot * g.banks : tile * T;
        const uint64_t element0 = uint64_t{i.kind ? tile : slot} * elements;
        for (uint32_t e = 0; e < elements; e++) {
          uint8_t* word = wgt_word(i.weights + (element0 + e) / g.lanes);
          const bool counts = i.first <= element0 + e && element0 + e < i.end;
          for (uint32_t r = 0; r < rows; r++) {
            const int8_t value = i.kind ? in[r * T + e] : in[e * T + r];
            word[(row0 + r) * g.lanes + (element0 + e) % g.lanes] = counts ? static_cast<uint8_t>(value) : 0;
          }
        }
      }
  }

  void norm(const isa::Norm& i) {
    const uint32_t T = g.tokens, slots = (i.count + g.banks - 1) / g.banks;
    const uint64_t eps = entry(i.params, 0) & ((uint64_t{1} << 56) - 1);
    const int64_t count = i.count;
    std::vector<int32_t> z(uint64_t{slots} * g.banks * T);
    for (uint32_t tile = 0; tile < i.tiles; tile++) {
      for (uint32_t f = 0; f < slots * g.banks; f++) {
        const uint64_t p = entry(i.params + 1, f);
        const int32_t a = static_cast<int16_t>(p), b = static_cast<int16_t>(p >> 16);
        const int8_t* x = act_word(i.input + uint64_t{tile} * i.input_stride + f / g.banks) + f % g.banks * T;
        const int8_t* r = act_word(i.residual + uint64_t{tile} * i.residual_stride + f / g.banks) + f % g.banks * T;
        for (uint32_t t = 0; t < T; t++)
          z[f * T + t] = f < i.count ? clamp16((x[t] * a + r[t] * b + 128) >> 8) : 0;
      }
      std::vector<int64_t> sum(T);
      std::vector<Scale> scale(T);
      if (i.stats)
        for (uint32_t t = 0; t < T; t++) {
          int64_t squares = 0;
          for (uint32_t f = 0; f < i.count; f++) {
            const int64_t v = z[f * T + t];
            sum[t] += v;
            squares += v * v;
          }
          scale[t] = reciprocal(isqrt(static_cast<uint64_t>(count * squares - sum[t] * sum[t]) + eps));
        }
      for (uint32_t f = 0; f < slots * g.banks; f++) {
        const uint64_t p = entry(i.params + 1, f);
        const int64_t gamma = static_cast<int16_t>(p >> 32), beta = static_cast<int16_t>(p >> 48);
        int8_t* out = act_word(i.output + uint64_t{tile} * i.output_stride + f / g.banks) + f % g.banks * T;
        for (uint32_t t = 0; t < T; t++) {
          int64_t n = z[f * T + t];
          if (i.stats)
            n = scale[t].mul ? clamp16(round_shift((n * count - sum[t]) * scale[t].mul, scale[t].shift - 10)) : 0;
          const int64_t y = n * gamma + beta * (int64_t{1} << (i.shift - 7));
          out[t] = f < i.count ? clamp8(round_shift(y, i.shift)) : 0;
        }
      }
    }
  }

  void softmax(const isa::Softmax& i) {
    const uint32_t T = g.tokens, slots = (i.count + g.banks - 1) / g.banks;
    const int8_t* table = &tab[i.table * isa::TABLE_ENTRIES];
    for (uint32_t tile = 0; tile < i.tiles; tile++) {
      std::vector<int32_t> most(T, -128);
      std::vector<uint64_t> sum(T);
      for (uint32_t f = 0; f < i.count; f++) {
        const int8_t* in = act_word(i.input + uint64_t{tile} * i.input_stride + f / g.banks) + f % g.banks * T;
        for (uint32_t t = 0; t < T; t++) most[t] = std::max<int32_t>(most[t], in[t]);
      }
      for (uint32_t f = 0; f < slots * g.banks; f++) {
        const int8_t* in = act_word(i.input + uint64_t{tile} * i.input_stride + f / g.banks) + f % g.banks * T;
        int8_t* out = act_word(i.output + uint64_t{tile} * i.output_stride + f / g.banks) + f % g.banks * T;
        for (uint32_t t = 0; t < T; t++) {
          const bool absent = f >= i.count || in[t] == -128;
          const int8_t e = absent ? 0 : table[static_cast<uint8_t>(most[t] - in[t])];
          out[t] = e;
          sum[t] += static_cast<uint8_t>(e);
        }
      }
      for (uint32_t t = 0; t < T; t++) scales[uint64_t{tile} * T + t] = reciprocal(sum[t]);
    }
  }

  // What is seen to be wrong before anything runs.
  void check(const uint8_t* program, uint64_t count, EspalierResult& result) const {
    auto fail = [&](isa::Fault fault, uint64_t at) {
      result.fault = fault;
      result.instruction = static_cast<uint32_t>(at);
    };
    bool finished = false;
    for (uint64_t n = 0; n < count; n++) {
      const uint8_t* w = program + 16 * n;
      const uint32_t op = w[0] & 7;
      if (finished || (n == 0) != (op == isa::OP_START)) return fail(isa::FAULT_STREAM, n);
      if (op == isa::OP_START) {
        const isa::Start s(w);
        const Geometry own{s.version, s.pes, s.lanes, s.banks, s.tokens, s.width, s.bus, s.slot_bits,
                           s.act_depth, s.wgt_depth, s.par_depth, s.tile_depth};
        if (std::memcmp(&own, &g, sizeof g)) return fail(isa::FAULT_GEOMETRY, n);
      }
      finished = op == isa::OP_FINISH;
      if (!fields_hold(w, op)) return fail(isa::FAULT_FIELD, n);
    }
    if (!finished) fail(isa::FAULT_TRUNCATED, count);
  }

  bool fields_hold(const uint8_t* w, uint32_t op) const {
    const isa::Finish header(w);
    switch (op) {
      case isa::OP_LOAD: {
        const isa::Load i(w);
        return !i.pop_prev && !i.push_prev && i.mem <= isa::MEM_TAB && i.count && i.rows;
      }
      case isa::OP_STORE: {
        const isa::Store i(w);
        return !i.pop_next && !i.push_next && i.mem == isa::MEM_ACT && i.count && i.rows;
      }
      case isa::OP_LINEAR: {
        const isa::Linear i(w);
        return i.activation <= isa::ACTIVATION_TABLE && i.windows && i.tiles && i.row_first < i.row_end &&
               i.row_end <= g.pes && (!i.token_scale || i.tiles <= g.tile_depth);
      }
      case isa::OP_TURN: {
        const isa::Turn i(w);
        return i.slots && i.tiles && (i.kind ? i.slots * g.banks : i.tiles * g.tokens) <= g.pes;
      }
      case isa::OP_NORM: {
        const isa::Norm i(w);
        return i.tiles && i.count && i.shift >= 7;
      }
      case isa::OP_SOFTMAX: {
        const isa::Softmax i(w);
        return i.tiles && i.count && i.tiles <= g.tile_depth;
      }
      default:
        return op != isa::OP_START || !(header.pop_prev | header.pop_next | header.push_prev | header.push_next);
    }
  }

  void execute(const uint8_t* w) {
    switch (w[0] & 7) {
      case isa::OP_LOAD: return copy(isa::Load(w), false);
      case isa::OP_STORE: return copy(isa::Load(w), true);
      case isa::OP_LINEAR: return linear(isa::Linear(w));
      case isa::OP_TURN: return turn(isa::Turn(w));
      case isa::OP_NORM: return norm(isa::Norm(w));
      case isa::OP_SOFTMAX: return softmax(isa::Softmax(w));
      default: return;
    }
  }

  void run(const uint8_t* program, uint64_t count, EspalierResult& result) {
    counters = result.counters;
    reset();
    check(program, count, result);
    if (result.fault) return;
    std::deque<uint64_t> queues[3];
    for (uint64_t n = 1; n < count; n++) {
      const uint32_t op = program[16 * n] & 7;
      queues[op == isa::OP_LOAD ? 0 : op == isa::OP_STORE ? 2 : 1].push_back(n);
    }
    // tokens[q][0]: for q from its previous queue; tokens[q][1]: from its next one
    uint32_t tokens[3][2] = {};
    for (bool moved = true; moved;) {
      moved = false;
      for (int q = 0; q < 3; q++)
        while (!queues[q].empty()) {
          const uint64_t n = queues[q].front();
          const isa::Finish header(program + 16 * n);
          // FINISH waits for all that came before
          if (header.op == isa::OP_FINISH && !(queues[0].empty() && queues[2].empty())) break;
          if (tokens[q][0] < header.pop_prev || tokens[q][1] < header.pop_next) break;
          tokens[q][0] -= header.pop_prev;
          tokens[q][1] -= header.pop_next;
          queues[q].pop_front();
          moved = true;
          result.instruction = static_cast<uint32_t>(n);
          try {
            execute(program + 16 * n);
            if (header.push_prev) need(q > 0 && ++tokens[q - 1][1] <= isa::TOKEN_LIMIT, isa::FAULT_TOKEN);
            if (header.push_next) need(q < 2 && ++tokens[q + 1][0] <= isa::TOKEN_LIMIT, isa::FAULT_TOKEN);
          } catch (const Stop& stop) {
            result.fault = stop.fault;
            return;
          }
        }
    }
    uint64_t stuck = count;
    for (const auto& queue : queues)
      if (!queue.empty()) stuck = std::min(stuck, queue.front());
    if (stuck < count) {
      result.fault = isa::FAULT_STUCK;
      result.instruction = static_cast<uint32_t>(stuck);
    } else {
      result.instruction = 0;
    }
  }
};

extern "C" {

EspalierDevice* espalier_open(const uint32_t geometry[ESPALIER_GEOMETRY], uint64_t size) try {
  Geometry g;
  std::memcpy(&g, geometry, sizeof g);
  if (g.version != isa::VERSION || !g.lanes || g.lanes > g.banks || g.lanes > 16 || g.banks > 32 || g.pes > 128 || !g.bus) return nullptr;
  return new EspalierDevice(g, size);
} catch (const std::bad_alloc&) {
  return nullptr;
}

void espalier_close(EspalierDevice* d) { delete d; }

int espalier_write(EspalierDevice* d, uint64_t address, const void* bytes, uint64_t count) {
  return d->memory.write(address, bytes, count);
}
int espalier_read(EspalierDevice* d, uint64_t address, void* bytes, uint64_t count) {
  return d->memory.read(address, bytes, count);
}
int espalier_region(EspalierDevice* d, uint32_t region, uint64_t address, uint64_t bytes) {
  return d->memory.region(region, address, bytes, d->g.bus);
}
void espalier_timing(EspalierDevice*, uint32_t, uint32_t, uint32_t) {}

void espalier_run(EspalierDevice* d, const uint8_t* program, uint64_t count, uint64_t, EspalierResult* result) {
  *result = EspalierResult{};
  d->run(program, count, *result);
}

}  // extern "C"
