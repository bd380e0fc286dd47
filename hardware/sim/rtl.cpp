// Cycle-accurate simulator: the RTL itself, made C++ by Verilator, with external memory around it.
#include <deque>
#include <memory>

#include "Vcore.h"
#include "isa.h"
#include "memory.h"
#include "verilated.h"

struct EspalierDevice {
  uint32_t geometry[ESPALIER_GEOMETRY];
  Memory memory;
  uint32_t bus;
  uint32_t latency = 40, beats = 1, cycles = 1;

  EspalierDevice(const uint32_t* g, uint64_t size) : memory(size), bus(g[6]) { std::memcpy(geometry, g, sizeof geometry); }

  void run(const uint8_t* program, uint64_t count, uint64_t limit, EspalierResult& result) {
    // a new model is the reset: nothing of the run before is left on chip
    VerilatedContext context;
    const auto core = std::make_unique<Vcore>(&context);
    struct Beat {
      uint64_t ready;
      const uint8_t* bytes;
    };
    std::deque<Beat> coming;
    uint64_t* c = result.counters;
    uint64_t next = 0, credit = 0;
    core->clk = 0;
    core->rst = 1;
    core->i_valid = core->i_end = core->data_valid = core->req_ready = core->out_ready = 0;
    set_limits(*core);
    for (int n = 0; n < 4; n++) tick(*core);
    core->rst = 0;
    for (uint64_t now = 0; now < limit; now++) {
      credit = std::min<uint64_t>(credit + beats, 4ull * std::max(beats, cycles));
      core->i_valid = next < count && now >= latency;
      core->i_end = next >= count;
      if (core->i_valid) std::memcpy(&core->i_word, program + 16 * next, 16);
      core->req_ready = coming.size() < 512;
      core->data_valid = !coming.empty() && coming.front().ready <= now && credit >= cycles;
      if (core->data_valid) std::memcpy(&core->data, coming.front().bytes, bus);
      core->eval();
      const bool in = core->data_valid && core->data_ready;
      if (in) credit -= cycles;
      core->out_ready = credit >= cycles;
      core->eval();
      const bool out = core->out_valid && core->out_ready;
      if (core->i_valid && core->i_ready) next++;
      if (core->req_valid && core->req_ready) {
        const uint8_t* from = &memory.bytes[memory.regions[core->req_region].base + uint64_t{core->req_addr} * bus];
        for (uint32_t b = 0; b < core->req_beats; b++) coming.push_back({now + latency, from + uint64_t{b} * bus});
      }
      if (out) {
        credit -= cycles;
        std::memcpy(&memory.bytes[memory.regions[core->out_region].base + uint64_t{core->out_addr} * bus],
                    &core->out_data, bus);
      }
      c[isa::COUNT_CYCLES]++;
      c[isa::COUNT_LOAD_BUSY] += core->load_busy;
      c[isa::COUNT_STORE_BUSY] += core->store_busy;
      c[isa::COUNT_LINEAR] += core->in_linear;
      c[isa::COUNT_TURN] += core->in_turn;
      c[isa::COUNT_NORM] += core->in_norm;
      c[isa::COUNT_SOFTMAX] += core->in_softmax;
      c[isa::COUNT_WINDOWS] += core->window;
      c[isa::COUNT_CONFLICTS] += core->conflict;
      c[isa::COUNT_YIELDS] += core->yielded;
      c[isa::COUNT_READ_BEATS] += in;
      c[isa::COUNT_WRITE_BEATS] += out;
      const bool done = core->done;
      tick(*core);
      if (in) coming.pop_front();
      if (core->fault) {
        result.fault = core->fault;
        result.instruction = core->fault_insn;
        return;
      }
      if (done) return;
    }
    result.fault = isa::FAULT_STUCK;
    result.instruction = core->oldest;
  }

  static void tick(Vcore& core) {
    core.clk = 1;
    core.eval();
    core.clk = 0;
    core.eval();
  }

  // 33 bits of beats a region, side by side
  void set_limits(Vcore& core) const {
    unsigned __int128 low = 0;
    uint64_t high = 0;
    for (int r = ESPALIER_REGIONS - 1; r >= 0; r--) {
      high = high << 33 | static_cast<uint64_t>(low >> 95);
      low = low << 33 | memory.regions[r].bytes / bus;
    }
    uint8_t bytes[20] = {};
    std::memcpy(bytes, &low, 16);
    std::memcpy(bytes + 16, &high, 4);
    std::memcpy(&core.limits, bytes, sizeof bytes);
  }
};

extern "C" {

EspalierDevice* espalier_open(const uint32_t geometry[ESPALIER_GEOMETRY], uint64_t size) try {
  if (geometry[0] != isa::VERSION) return nullptr;
  return new EspalierDevice(geometry, size);
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
  return d->memory.region(region, address, bytes, d->bus);
}
void espalier_timing(EspalierDevice* d, uint32_t latency, uint32_t beats, uint32_t cycles) {
  d->latency = latency;
  d->beats = beats;
  d->cycles = cycles;
}

void espalier_run(EspalierDevice* d, const uint8_t* program, uint64_t count, uint64_t cycles, EspalierResult* result) {
  *result = EspalierResult{};
  d->run(program, count, cycles, *result);
}

}  // extern "C"
double sc_time_stamp() { return 0; }
