// External memory and its regions, common to the simulators.
#pragma once
#include <cstring>
#include <vector>

#include "device.h"

struct Memory {
  struct Region {
    uint64_t base = 0, bytes = 0;
  };
  std::vector<uint8_t> bytes;
  Region regions[ESPALIER_REGIONS];

  explicit Memory(uint64_t size) : bytes(size) {}

  bool holds(uint64_t address, uint64_t count) const {
    return address <= bytes.size() && count <= bytes.size() - address;
  }
  int write(uint64_t address, const void* from, uint64_t count) {
    if (!holds(address, count)) return -1;
    if (count) std::memcpy(&bytes[address], from, count);
    return 0;
  }
  int read(uint64_t address, void* to, uint64_t count) const {
    if (!holds(address, count)) return -1;
    if (count) std::memcpy(to, &bytes[address], count);
    return 0;
  }
  int region(uint32_t index, uint64_t address, uint64_t count, uint32_t beat) {
    if (index >= ESPALIER_REGIONS || !holds(address, count) || address % beat || count % beat) return -1;
    regions[index] = {address, count};
    return 0;
  }
};
