// normals, f32.   out[n, i] = N(0, 1) number i of stream n.   out: (N, Len), state: (N, 4) words.
// Work: about 30 flop and 25 integer operations an element.  Bytes: 4*N*Len written.
// SDXL latent, N=1, Len=65536: 256 KB -> 0.1 us at 4.3 TB/s, below a launch: launch-bound.
// Tile: 256 threads, one Philox block (4 normals) a thread.   Measured: see NOTES.md.
// Determinism: bitwise, equal to src/tensor/philox.rs.   Requires: nothing; ragged tail masked.
#include "common/philox.cuh"

namespace noise {

struct Args {
  const philox::State* state;  // (N)
  float* out;                  // (N, Len)
  unsigned long long len;
};

__device__ inline void fill(const Args& a) {
  const unsigned long long quad = blockIdx.x * 256ull + threadIdx.x;
  const unsigned long long first = quad * 4;
  if (first >= a.len) return;
  const float4 x = philox::normals(a.state[blockIdx.y], quad);
  const float v[4] = {x.x, x.y, x.z, x.w};
  float* out = a.out + blockIdx.y * a.len + first;
  for (int i = 0; i < 4; ++i)
    if (first + i < a.len) out[i] = v[i];
}

using Tile = FlatTile<4>;
static_assert(Tile::Threads == 256, "fill() counts blocks of 256 threads");

}  // namespace noise

EXPORT(noise_normal, noise::Tile, noise::Args, noise::fill)
