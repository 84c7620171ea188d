// Tiles of 64 rows: one math warpgroup.
#include "fp8/kernel.cuh"
#include "fp8/store.cuh"

namespace hadal {
namespace gemm {
using Tile64x128 = Tile<128, 1, 1, 1, 1>;
}  // namespace gemm
}  // namespace hadal

HADAL_GEMM_ENTRY(sm90_fp8_gemm_1d2d_64x128, hadal::gemm::Tile64x128, hadal::gemm::Store<hadal::gemm::Tile64x128>)
