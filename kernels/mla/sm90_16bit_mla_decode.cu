// Paged multi-head latent attention, decoding, on Hopper: bf16 or f16 queries and cache rows.
//
//   q     [tokens, heads, 576]      key: all 576 of a cache row, value: its first 512
//   out   [tokens, heads, 512]      lse [tokens, heads] f32, natural log
//
// A persistent grid walks work items: 64 rows (query token, head) of a request against a range of its tokens, in blocks of 64.
// Of four warpgroups one brings Q and blocks, one makes scores and P, two own half of O's columns each.
// Entries: whole blocks by the copy engine (`_pages`), the same for a cluster of two CTAs with 64 rows each that share every
// copy (`_pages_x2`), rows one by one (`_rows`: indices, or pages of any size).
#include "decode.cuh"

HADAL_MLA_ENTRY(sm90_bf16_mla_decode_pages, Bf16, Pages)
HADAL_MLA_ENTRY(sm90_f16_mla_decode_pages, F16, Pages)
HADAL_MLA_ENTRY_PAIR(sm90_bf16_mla_decode_pages_x2, Bf16, Pages)
HADAL_MLA_ENTRY_PAIR(sm90_f16_mla_decode_pages_x2, F16, Pages)
HADAL_MLA_ENTRY(sm90_bf16_mla_decode_rows, Bf16, Rows)
HADAL_MLA_ENTRY(sm90_f16_mla_decode_rows, F16, Rows)
