// What lies in the 128 bytes of a tensor map here: written by the emulated driver, read by the
// model of TMA. The hardware's own layout is not public.
#pragma once
#include <cstdint>
#include <cstring>

namespace emulator {

struct TensorMap {
  static constexpr uint32_t kMagic = 0x7E4502A9;
  uint32_t magic;
  uint8_t rank, element_bytes;
  uint16_t swizzle;     // span in bytes: 0, 32, 64, 128
  uint64_t address;
  uint64_t dim[5];      // elements, innermost first; 1 beyond the rank
  uint64_t stride[5];   // bytes; of dim 0 the element size
  uint16_t box[5];      // elements
};
static_assert(sizeof(TensorMap) <= 128, "a CUtensorMap");

// Where a 16-byte piece at `address` lies under a swizzle: address bits 4.. xor bits 7..
inline uint32_t swizzled(uint32_t address, uint32_t span) {
  return address ^ ((address >> 7 & (span / 16 - (span != 0))) << 4);
}

// Encodes with the driver's own refusals; the reason, or null.
inline const char* encode_tensor_map(void* to, unsigned rank, unsigned element_bytes,
                                     uint64_t address, const uint64_t* dim, const uint64_t* stride,
                                     const uint32_t* box, const uint32_t* element_stride,
                                     unsigned swizzle) {
  if (uintptr_t(to) % 64) return "the map is not 64-byte aligned";
  if (rank < 1 || rank > 5) return "rank outside 1..5";
  if (address == 0 || address % 16) return "the address is not a multiple of 16";
  TensorMap m{};
  m.magic = TensorMap::kMagic, m.rank = uint8_t(rank), m.element_bytes = uint8_t(element_bytes);
  m.swizzle = uint16_t(swizzle), m.address = address;
  for (unsigned i = 0; i < 5; ++i) {
    m.dim[i] = i < rank ? dim[i] : 1;
    m.box[i] = uint16_t(i < rank ? box[i] : 1);
    m.stride[i] = i == 0 ? element_bytes : i < rank ? stride[i - 1] : 0;
    if (m.dim[i] == 0 || m.dim[i] > uint64_t(1) << 32) return "a dimension outside 1..2^32";
    if (i < rank && (box[i] == 0 || box[i] > 256)) return "a box side outside 1..256";
    if (i < rank && element_stride[i] != 1) return "an element stride other than 1";
    if (i && i < rank && (m.stride[i] % 16 || m.stride[i] >= uint64_t(1) << 40))
      return "a stride that is no multiple of 16 below 2^40";
  }
  const unsigned row = m.box[0] * element_bytes;
  if (row % 16) return "the inner box is not a multiple of 16 bytes";
  if (swizzle && row > swizzle) return "the inner box is wider than the swizzle";
  std::memset(to, 0, 128);
  std::memcpy(to, &m, sizeof m);
  return nullptr;
}

}  // namespace emulator
