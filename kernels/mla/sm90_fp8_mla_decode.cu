// Paged multi-head latent attention, decoding, on Hopper: bf16 queries, E4M3 cache rows, dequantised to bf16 on the way into
// shared memory. As sm90_16bit_mla_decode.cu; `_scaled`: rows of 656 bytes, `_tensor`: of 576.
#include "decode.cuh"

HADAL_MLA_ENTRY(sm90_fp8_mla_decode_scaled, Bf16, Scaled)
HADAL_MLA_ENTRY(sm90_fp8_mla_decode_tensor, Bf16, Tensor)
