// Tiles of 128 rows: two math warpgroups, each 64 rows and all columns.
#include "fp8/kernel.cuh"
#include "fp8/store.cuh"

namespace hadal {
namespace gemm {
using Tile128x128 = Tile<128, 1, 1, 2, 1>;
using Tile128x112 = Tile<112, 1, 1, 2, 1>;
}  // namespace gemm
}  // namespace hadal

HADAL_GEMM_ENTRY(sm90_fp8_gemm_1d2d_128x128, hadal::gemm::Tile128x128, hadal::gemm::Store<hadal::gemm::Tile128x128>)
HADAL_GEMM_ENTRY(sm90_fp8_gemm_1d2d_128x112, hadal::gemm::Tile128x112, hadal::gemm::Store<hadal::gemm::Tile128x112>)
