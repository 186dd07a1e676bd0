// a linear layer an expert, bf16 and f16, Hopper.   y[r] = w_e rows[r] + b_e for the rows of expert e; drows = dy w_e,
// dw_e = sum_r dy[r] rows[r]^T.   rows: (R, K), w: (E, N, K), b: (E, N), y: (R, N).
// Work: 2 R N K flop each.  Bytes: 2 (R K + E N K + R N).  Feature fusion R=1232, E=4, N=K=1024: 2.6 GFLOP, 13 MB -> 7 us.
// Tile: 128x128 ping-pong; clusters of 2 along the columns share the rows by multicast; 384 threads, 40 / 232 registers, 6 slabs of 64,
//   209 KiB shared, 1 block/SM, persistent; a block finds its experts from the offsets.   Measured: see NOTES.md.
// Determinism: bitwise, no atomics: a tile adds up all its rows.   Requires: N, K % 8 == 0, 16-byte aligned operands, none empty.
#include "moe/experts_sm90.cuh"

namespace moe {

template <gemm::Pass P>
using TensorTile = gemm::Tile<128, 128, 6, layout_of(P), gemm::Order::PingPong, 2, 1>;

using ForwardTile = TensorTile<gemm::Pass::Forward>;
using RowsTile = TensorTile<gemm::Pass::Input>;
using WeightTile = TensorTile<gemm::Pass::Weight>;

}  // namespace moe

EXPORT(moe_forward_sm90_bf16, moe::ForwardTile, moe::TensorExpertArgs<bf16>,
       (moe::tensor_product<bf16, gemm::Pass::Forward, moe::ForwardTile>))
EXPORT(moe_forward_sm90_f16, moe::ForwardTile, moe::TensorExpertArgs<f16>,
       (moe::tensor_product<f16, gemm::Pass::Forward, moe::ForwardTile>))
EXPORT(moe_rows_sm90_bf16, moe::RowsTile, moe::TensorExpertArgs<bf16>,
       (moe::tensor_product<bf16, gemm::Pass::Input, moe::RowsTile>))
EXPORT(moe_rows_sm90_f16, moe::RowsTile, moe::TensorExpertArgs<f16>,
       (moe::tensor_product<f16, gemm::Pass::Input, moe::RowsTile>))
EXPORT(moe_weight_sm90_bf16, moe::WeightTile, moe::TensorExpertArgs<bf16>,
       (moe::tensor_product<bf16, gemm::Pass::Weight, moe::WeightTile>))
EXPORT(moe_weight_sm90_f16, moe::WeightTile, moe::TensorExpertArgs<f16>,
       (moe::tensor_product<f16, gemm::Pass::Weight, moe::WeightTile>))
