// SwiGLU and requantisation behind the product: tiles of 256 columns, 128 of the result.
#include "fp8/kernel.cuh"
#include "fp8/swiglu.cuh"

namespace hadal {
namespace gemm {
using Tile128x256 = Tile<128, 1, 2, 2, 1>;
using Tile64x256 = Tile<128, 1, 1, 1, 2>;
}  // namespace gemm
}  // namespace hadal

HADAL_GEMM_ENTRY(sm90_fp8_gemm_swiglu_128x256, hadal::gemm::Tile128x256, hadal::gemm::SwiGlu<hadal::gemm::Tile128x256>)
HADAL_GEMM_ENTRY(sm90_fp8_gemm_swiglu_64x256, hadal::gemm::Tile64x256, hadal::gemm::SwiGlu<hadal::gemm::Tile64x256>)
