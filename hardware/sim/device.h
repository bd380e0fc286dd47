// One C API for every simulator of the accelerator. Addresses and sizes in external memory are bytes.
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct EspalierDevice EspalierDevice;

// The sizes of targets/fpga/geometry.py in the order of the START instruction, version first.
enum { ESPALIER_GEOMETRY = 12, ESPALIER_REGIONS = 4, ESPALIER_COUNTERS = 12 };

typedef struct {
  uint32_t fault;        // isa::Fault, 0 when the program ran to its end
  uint32_t instruction;  // the one at fault
  uint64_t counters[ESPALIER_COUNTERS];
} EspalierResult;

// NULL when the simulator cannot have this version or geometry. `memory` is the size of external memory.
EspalierDevice* espalier_open(const uint32_t geometry[ESPALIER_GEOMETRY], uint64_t memory);
void espalier_close(EspalierDevice*);
// 0, or -1 when the range is outside external memory.
int espalier_write(EspalierDevice*, uint64_t address, const void* bytes, uint64_t count);
int espalier_read(EspalierDevice*, uint64_t address, void* bytes, uint64_t count);
// 0, or -1 for an unknown region, one outside external memory or not on whole beats.
int espalier_region(EspalierDevice*, uint32_t region, uint64_t address, uint64_t bytes);
// External memory of the cycle-accurate simulator: cycles from request to data, beats / cycles of bandwidth.
void espalier_timing(EspalierDevice*, uint32_t latency, uint32_t beats, uint32_t cycles);
// Runs `count` instructions. On-chip state begins as after reset. Always returns; at most `cycles` cycles.
void espalier_run(EspalierDevice*, const uint8_t* program, uint64_t count, uint64_t cycles, EspalierResult*);

#ifdef __cplusplus
}
#endif
