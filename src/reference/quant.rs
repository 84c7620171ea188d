//! The quantisers on the CPU, bit for bit.

use super::long_enough;
use crate::error::ArgumentError;
use crate::fp8::E4M3;
use crate::tensor::{Element, ScaleLayout, groups};

/// Codes and scales, packed.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Row-major, k codes a row.
    pub codes: Vec<E4M3>,
    /// As the layout says; unused slots are 0.
    pub scales: Vec<f32>,
    /// Scales from line to line.
    pub scale_stride: usize,
}

/// The scale of a group whose largest finite magnitude is `amax`: RN(max(amax, 1e-4) / 448).
pub fn scale(amax: f32) -> f32 {
    amax.max(1e-4) / E4M3::MAX
}

/// The largest finite magnitude.
fn amax<T: Element>(values: impl Iterator<Item = T>) -> f32 {
    values
        .map(|v| v.to_f32().abs())
        .filter(|v| v.is_finite())
        .fold(0.0, f32::max)
}

/// Activations `x` [m, k], packed: a scale per row and 128 columns. Column-major scales have a stride of m rounded up to 4.
///
/// # Errors
/// `x` is too short.
pub fn rows<T: Element>(
    x: &[T],
    m: usize,
    k: usize,
    layout: ScaleLayout,
) -> Result<Quantized, ArgumentError> {
    long_enough("x", x.len(), m, k, k)?;
    let g = groups(k);
    let (scale_stride, lines) = match layout {
        ScaleLayout::ColumnMajor => (m.next_multiple_of(4), g),
        ScaleLayout::RowMajor => (g, m),
    };
    let mut out = Quantized {
        codes: vec![E4M3::default(); m * k],
        scales: vec![0.0; scale_stride * lines],
        scale_stride,
    };
    for row in 0..m {
        for group in 0..g {
            let span = row * k + group * 128..row * k + (group * 128 + 128).min(k);
            let sf = scale(amax(x[span.clone()].iter().copied()));
            for (y, v) in out.codes[span.clone()].iter_mut().zip(&x[span]) {
                *y = E4M3::from_f32(v.to_f32() / sf);
            }
            let at = match layout {
                ScaleLayout::ColumnMajor => group * scale_stride + row,
                ScaleLayout::RowMajor => row * scale_stride + group,
            };
            out.scales[at] = sf;
        }
    }
    Ok(out)
}

/// Weights `x` [n, k], packed: a scale per block of 128 x 128, [⌈n/128⌉, ⌈k/128⌉].
///
/// # Errors
/// `x` is too short.
pub fn blocks<T: Element>(x: &[T], n: usize, k: usize) -> Result<Quantized, ArgumentError> {
    long_enough("x", x.len(), n, k, k)?;
    let g = groups(k);
    let mut out = Quantized {
        codes: vec![E4M3::default(); n * k],
        scales: vec![0.0; groups(n) * g],
        scale_stride: g,
    };
    for bn in 0..groups(n) {
        for bk in 0..g {
            let spans = (bn * 128..(bn * 128 + 128).min(n))
                .map(|row| row * k + bk * 128..row * k + (bk * 128 + 128).min(k));
            let sf = scale(amax(spans.clone().flatten().map(|i| x[i])));
            for i in spans.flatten() {
                out.codes[i] = E4M3::from_f32(x[i].to_f32() / sf);
            }
            out.scales[bn * g + bk] = sf;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn a_row_by_hand() {
        let mut x = vec![0.0f32; 144];
        x[3] = -896.0;
        x[5] = f32::NAN;
        x[6] = f32::NEG_INFINITY;
        x[7] = 2.0;
        x[130] = 4.48;
        let q = rows(&x, 1, 144, ScaleLayout::ColumnMajor).unwrap();
        assert_eq!(q.scale_stride, 4);
        assert_eq!((q.scales[0], q.scales[4]), (2.0, 4.48 / 448.0));
        let bits: Vec<u8> = [3, 5, 6, 7, 0, 130]
            .iter()
            .map(|&i| q.codes[i].to_bits())
            .collect();
        assert_eq!(bits, [0xFE, 0x7F, 0xFE, 0x38, 0x00, 0x7E]);
        let r = rows(&x, 1, 144, ScaleLayout::RowMajor).unwrap();
        assert_eq!(r.scales, [q.scales[0], q.scales[4]]);
    }

    #[test]
    fn blocks_at_the_edge() {
        let (n, k) = (130, 144);
        let mut x = vec![bf16::ZERO; n * k];
        x[127 * k + 127] = bf16::from_f32(448.0);
        x[129 * k + 143] = bf16::from_f32(-44.75);
        let q = blocks(&x, n, k).unwrap();
        assert_eq!(q.scales, [1.0, scale(0.0), scale(0.0), 44.75 / 448.0]);
        assert_eq!(q.codes[129 * k + 143].to_bits(), 0xFE);
    }

    #[test]
    fn short_input_is_an_error() {
        assert!(matches!(
            rows(&[0f32; 31], 2, 16, ScaleLayout::RowMajor),
            Err(ArgumentError::Length {
                expected: 32,
                got: 31,
                ..
            })
        ));
    }
}
