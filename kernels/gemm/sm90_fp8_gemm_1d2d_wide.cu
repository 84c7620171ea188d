// Large tiles: 192 registers of sums a thread.
#include "fp8/kernel.cuh"
#include "fp8/store.cuh"

namespace hadal {
namespace gemm {
using Tile128x160 = Tile<160, 1, 1, 2, 1>;
using Tile128x192 = Tile<192, 1, 1, 2, 1>;
using Tile256x128 = Tile<128, 2, 1, 2, 1>;
}  // namespace gemm
}  // namespace hadal

HADAL_GEMM_ENTRY(sm90_fp8_gemm_1d2d_128x160, hadal::gemm::Tile128x160, hadal::gemm::Store<hadal::gemm::Tile128x160>)
HADAL_GEMM_ENTRY(sm90_fp8_gemm_1d2d_128x192, hadal::gemm::Tile128x192, hadal::gemm::Store<hadal::gemm::Tile128x192>)
HADAL_GEMM_ENTRY(sm90_fp8_gemm_1d2d_256x128, hadal::gemm::Tile256x128, hadal::gemm::Store<hadal::gemm::Tile256x128>)
