//! Plain CPU references of the kernels, for whoever wants to check results: no GPU, no driver.
//!
//! * [`quant`]: the same bits as the quantisers.
//! * [`moe`]: the router's bits, and the all-to-all as plain loops.
//! * [`swiglu`]: gate, up and SwiGLU in f64 with a bound, and the codes and scales that are right.
//! * [`gemm`]: the product in f64 with an error bound for each element, and a model of the kernel that has its very bits.
//! * [`mla`]: attention in f64 with an error bound for each element, and the merge of partial results.

pub mod gemm;
pub mod mla;
pub mod moe;
pub mod quant;
pub mod swiglu;

use crate::error::ArgumentError;

/// A slice has at least `rows` rows of `cols`, `stride` apart.
fn long_enough(
    argument: &'static str,
    len: usize,
    rows: usize,
    cols: usize,
    stride: usize,
) -> Result<(), ArgumentError> {
    let need = if rows == 0 || cols == 0 {
        0
    } else {
        (rows as u128 - 1) * stride as u128 + cols as u128
    };
    if stride < cols && rows > 1 {
        return Err(ArgumentError::TooSmall {
            argument,
            limit: cols as u64,
            got: stride as u64,
        });
    }
    if (len as u128) < need {
        return Err(ArgumentError::Length {
            argument,
            expected: need.min(u64::MAX.into()) as u64,
            got: len as u64,
        });
    }
    Ok(())
}
