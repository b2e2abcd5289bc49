#include "crc32.h"

#include <array>
#include <cstring>

namespace fastimae {
namespace {

constexpr int kSlices = 16;  // bytes per step; their lookups are independent

using Tables = std::array<std::array<uint32_t, 256>, kSlices>;

// tables[k][b]: the remainder of byte b followed by k zero bytes.
constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = (rest >> 1) ^ (rest & 1 ? 0xEDB88320u : 0);
    tables[0][byte] = rest;
  }
  for (int k = 1; k < kSlices; ++k)
    for (int byte = 0; byte < 256; ++byte) {
      const uint32_t rest = tables[k - 1][byte];
      tables[k][byte] = (rest >> 8) ^ tables[0][rest & 255];
    }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

uint32_t crc32(const uint8_t* data, size_t size) {
  uint32_t crc = ~0u;
  for (; size >= kSlices; data += kSlices, size -= kSlices) {
    uint8_t block[kSlices];
    std::memcpy(block, data, kSlices);
    for (int i = 0; i < 4; ++i) block[i] ^= static_cast<uint8_t>(crc >> (8 * i));
    crc = 0;
    for (int i = 0; i < kSlices; ++i) crc ^= kTables[kSlices - 1 - i][block[i]];
  }
  for (; size; ++data, --size) crc = (crc >> 8) ^ kTables[0][(crc ^ *data) & 255];
  return ~crc;
}

}  // namespace fastimae
