//! D = (A * sfa) (B * sfb)^T on the CPU: in f64 with a bound, and as the kernel computes it.
//!
//! What the kernel does, for an element: for each 128 of K, four tensor-core steps of 32 build a partial sum from zero;
//! then `final = fma(rn(sfa * sfb), partial, final)` in f32, from +0, K ascending.
//!
//! A tensor-core step on FP8 (MMA-Sim, arXiv 2511.10909): the 32 products and the old partial are aligned to the largest
//! exponent among them, each is cut toward zero to 13 fraction bits there, the cut terms are added exactly, and the sum is
//! cut toward zero to 13 mantissa bits.

use super::long_enough;
use crate::error::ArgumentError;
use crate::fp8::E4M3;
use crate::tensor::groups;

/// A [m, k] in host memory with a scale per row and 128 columns: `scales[g * scale_stride + row]`. Rows are packed.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Codes, row-major.
    pub codes: &'a [E4M3],
    /// Scales.
    pub scales: &'a [f32],
    /// Scales from group to group.
    pub scale_stride: usize,
    /// Rows.
    pub m: usize,
}

/// B [n, k] in host memory with a scale per 128 x 128: `scales[row / 128 * ⌈k/128⌉ + g]`. Rows are packed.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// Codes, row-major.
    pub codes: &'a [E4M3],
    /// Scales.
    pub scales: &'a [f32],
    /// Rows.
    pub n: usize,
}

/// An element of D in f64, and how far the kernel's f32 result, before it is rounded to D's type, may be from it.
///
/// The bound follows the kernel's arithmetic step by step (running error analysis); nothing in it is measured. Per step of
/// 32, with T at least the largest exponent's power of two among products and old partial, P the exact new partial and E
/// the error so far:
///
/// ```text
/// E  +=  (products that may lose bits + 1 for the old partial) * T * 2^-13       each cut loses less than T * 2^-13
/// E  +=  (|P| + E) * 2^-13                                                       the sum is cut to 13 bits
/// ```
/// A product has 6 fraction bits and 13 are kept, so it loses something only when its exponent is 8 or more below. Per 128
/// of K, with s = sfa * sfb and F the exact sum:
///
/// ```text
/// G  +=  |s| (1 + 2^-24) E  +  (|s| 2^-24 + 2^-150) |P|                          the scale's rounding
/// G  +=  (|F| + G) 2^-24 + 2^-150                                                the fused multiply-add's rounding
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expected {
    /// The value in f64.
    pub value: f64,
    /// The bound. Not finite where a scale or a product of scales is not.
    pub bound: f64,
}

impl Expected {
    /// The bound for a result that was rounded to a type with `digits` significant bits (bf16: 8, f32: 24 adds nothing) and
    /// subnormals of `least`.
    pub fn rounded(&self, digits: i32, least: f64) -> f64 {
        if digits >= 24 {
            self.bound
        } else {
            self.bound + (self.value.abs() + self.bound) * 2f64.powi(-digits) + least / 2.0
        }
    }

    /// The bound for a bf16 result.
    pub fn bf16(&self) -> f64 {
        self.rounded(8, 2f64.powi(-133))
    }
}

/// Checked and decoded operands.
#[derive(Debug)]
pub struct Product<'a> {
    a: Rows<'a>,
    b: Blocks<'a>,
    k: usize,
    /// Values of B; powers of two at or above their exponents' (0 for zero).
    b_value: Vec<f32>,
    b_weight: Vec<f32>,
}

/// The power of two that the tensor core takes for a code's exponent; 0 for zero.
fn weight(c: E4M3) -> f32 {
    let field = i32::from(c.to_bits() >> 3 & 15).max(1);
    if c.to_bits() & 0x7F == 0 {
        0.0
    } else {
        f32::from_bits(((field - 7 + 127) as u32) << 23)
    }
}

impl<'a> Product<'a> {
    /// Checks lengths and decodes B.
    ///
    /// # Errors
    /// A slice is too short.
    pub fn new(a: Rows<'a>, b: Blocks<'a>, k: usize) -> Result<Self, ArgumentError> {
        long_enough("a", a.codes.len(), a.m, k, k)?;
        long_enough("a.scales", a.scales.len(), groups(k), a.m, a.scale_stride)?;
        long_enough("b", b.codes.len(), b.n, k, k)?;
        long_enough(
            "b.scales",
            b.scales.len(),
            groups(b.n),
            groups(k),
            groups(k),
        )?;
        let codes = &b.codes[..b.n * k];
        Ok(Self {
            a,
            b,
            k,
            b_value: codes.iter().map(|c| c.to_f32()).collect(),
            b_weight: codes.iter().map(|c| weight(*c)).collect(),
        })
    }

    /// Rows and columns of D.
    pub fn shape(&self) -> (usize, usize) {
        (self.a.m, self.b.n)
    }

    fn check(&self, row: usize, out: usize) -> Result<(), ArgumentError> {
        if row >= self.a.m {
            return Err(ArgumentError::TooLarge {
                argument: "row",
                limit: (self.a.m as u64).saturating_sub(1),
                got: row as u64,
            });
        }
        if out != self.b.n {
            return Err(ArgumentError::Length {
                argument: "out",
                expected: self.b.n as u64,
                got: out as u64,
            });
        }
        Ok(())
    }

    fn scales(&self, row: usize, col: usize, g: usize) -> (f32, f32) {
        (
            self.a.scales[g * self.a.scale_stride + row],
            self.b.scales[col / 128 * groups(self.k) + g],
        )
    }

    /// A row of D in f64, with bounds. `out` has n elements.
    ///
    /// # Errors
    /// No such row, or `out` has another length.
    pub fn expected(&self, row: usize, out: &mut [Expected]) -> Result<(), ArgumentError> {
        self.check(row, out.len())?;
        let k = self.k;
        let codes = &self.a.codes[row * k..][..k];
        let value: Vec<f32> = codes.iter().map(|c| c.to_f32()).collect();
        let weights: Vec<f32> = codes.iter().map(|c| weight(*c)).collect();
        for (col, o) in out.iter_mut().enumerate() {
            let (bv, bw) = (
                &self.b_value[col * k..][..k],
                &self.b_weight[col * k..][..k],
            );
            let (mut sum, mut bound, mut magnitude) = (0.0f64, 0.0f64, 0.0f64);
            for g in 0..groups(k) {
                let span = g * 128..(g * 128 + 128).min(k);
                let (p, e) = partial(
                    &value[span.clone()],
                    &bv[span.clone()],
                    &weights[span.clone()],
                    &bw[span],
                );
                let (sfa, sfb) = self.scales(row, col, g);
                let s = f64::from(sfa) * f64::from(sfb);
                let u = 2f64.powi(-24);
                sum += s * p;
                magnitude += (s * p).abs();
                bound += s.abs() * (1.0 + u) * e + (s.abs() * u + 2f64.powi(-150)) * p.abs();
                bound += (sum.abs() + bound) * u + 2f64.powi(-150);
            }
            // This function's own roundings: the partial sums are exact, the scaled ones are not.
            *o = Expected {
                value: sum,
                bound: bound * (1.0 + 2f64.powi(-40))
                    + magnitude * 2f64.powi(-50) * groups(k) as f64,
            };
        }
        Ok(())
    }

    /// A row of D as the kernel computes it, bit for bit (a NaN is any NaN): f32, before it is rounded to D's type. `out`
    /// has n elements.
    ///
    /// # Errors
    /// As [`Product::expected`].
    pub fn modelled(&self, row: usize, out: &mut [f32]) -> Result<(), ArgumentError> {
        self.check(row, out.len())?;
        let k = self.k;
        let a: Vec<Code> = self.a.codes[row * k..][..k]
            .iter()
            .map(|c| Code::new(*c))
            .collect();
        let mut b = vec![Code::ZERO; k];
        for (col, o) in out.iter_mut().enumerate() {
            for (x, c) in b.iter_mut().zip(&self.b.codes[col * k..][..k]) {
                *x = Code::new(*c);
            }
            let mut sum = 0.0f32;
            for g in 0..groups(k) {
                let span = g * 128..(g * 128 + 128).min(k);
                let mut part = 0.0f32;
                for (x, y) in a[span.clone()].chunks(32).zip(b[span].chunks(32)) {
                    part = step(x, y, part);
                }
                let (sfa, sfb) = self.scales(row, col, g);
                sum = (sfa * sfb).mul_add(part, sum);
            }
            *o = sum;
        }
        Ok(())
    }
}

/// Exact sum of up to 128 products (their bits lie between 2^-18 and 2^25), and the bound of the kernel's error in it.
fn partial(a: &[f32], b: &[f32], wa: &[f32], wb: &[f32]) -> (f64, f64) {
    let cut = 2f64.powi(-13);
    let (mut p, mut e) = (0.0f64, 0.0f64);
    for i in (0..a.len()).step_by(32) {
        let r = i..(i + 32).min(a.len());
        let mut products = [0.0f32; 32];
        let mut top = 0.0f32;
        let mut sum = 0.0f64;
        for (j, w) in r.clone().zip(&mut products) {
            *w = wa[j] * wb[j];
            top = top.max(*w);
            sum += f64::from(a[j]) * f64::from(b[j]);
        }
        let old = p.abs() + e;
        let top = f64::from(top).max(old);
        let losing = products
            .iter()
            .filter(|w| **w > 0.0 && f64::from(**w) * 128.0 < top)
            .count()
            + usize::from(old > 0.0);
        p += sum;
        e += losing as f64 * top * cut;
        e += (p.abs() + e) * cut;
    }
    (p, e)
}

/// A code as the tensor core sees it: significand (6 of a product's bits are fraction, 3 of a factor's), exponent.
#[derive(Clone, Copy)]
struct Code {
    sig: i16,
    exp: i16,
    nan: bool,
}

impl Code {
    const ZERO: Self = Self {
        sig: 0,
        exp: 0,
        nan: false,
    };

    fn new(c: E4M3) -> Self {
        let bits = c.to_bits();
        let (field, man) = (i16::from(bits >> 3 & 15), i16::from(bits & 7));
        let sig = if field == 0 { man } else { 8 + man };
        Self {
            sig: if bits & 0x80 != 0 { -sig } else { sig },
            exp: field.max(1) - 7,
            nan: c.is_nan(),
        }
    }
}

/// One tensor-core step: old + sum of products.
fn step(a: &[Code], b: &[Code], old: f32) -> f32 {
    if old.is_nan() || a.iter().zip(b).any(|(x, y)| x.nan | y.nan) {
        return f32::NAN;
    }
    // The old partial is a normal number or zero: no product or kept bit is below 2^-31.
    let bits = old.to_bits();
    let old_exp = if old == 0.0 {
        i32::MIN
    } else {
        (bits >> 23 & 255) as i32 - 127
    };
    let mut top = old_exp;
    for (x, y) in a.iter().zip(b) {
        if x.sig != 0 && y.sig != 0 {
            top = top.max(i32::from(x.exp + y.exp));
        }
    }
    if top == i32::MIN {
        return 0.0;
    }
    // In units of 2^(top - 13). Shifts of magnitudes cut toward zero.
    let mut sum = 0i64;
    for (x, y) in a.iter().zip(b) {
        let sig = i64::from(x.sig) * i64::from(y.sig);
        if sig != 0 {
            let left = i32::from(x.exp + y.exp) - top + 7;
            let mag = if left >= 0 {
                sig.abs() << left
            } else {
                sig.abs() >> (-left).min(63)
            };
            sum += mag * sig.signum();
        }
    }
    if old != 0.0 {
        let mag = i64::from(bits & 0x7F_FFFF | 0x80_0000) >> (top - old_exp + 10).min(63);
        sum += if old < 0.0 { -mag } else { mag };
    }
    if sum == 0 {
        return 0.0;
    }
    // Keep 14 bits: the leading one and 13 of fraction.
    let mag = sum.unsigned_abs();
    let drop = (64 - mag.leading_zeros()).saturating_sub(14);
    let kept = (mag >> drop << drop) as f64 * 2f64.powi(top - 13);
    (if sum < 0 { -kept } else { kept }) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(v: &[f32]) -> Vec<Code> {
        v.iter().map(|v| Code::new(E4M3::from_f32(*v))).collect()
    }

    #[test]
    fn a_step_cuts_toward_zero() {
        let one = codes(&[1.0, 1.0, 1.0]);
        assert_eq!(step(&one, &codes(&[1.0, 2.0, -4.0]), 0.5), -0.5);
        // 2^8 + 1 - 2^-5: thirteen bits below 2^8 reach 2^-5, so all of it stays in the sum and in 14 bits.
        assert_eq!(step(&one, &codes(&[256.0, 1.0, -0.03125]), 0.0), 256.96875);
        // 2^-6 is below: lost, whatever its sign.
        assert_eq!(step(&one, &codes(&[256.0, 1.0, -0.015625]), 0.0), 257.0);
        assert_eq!(step(&one, &codes(&[-256.0, -1.0, 0.015625]), 0.0), -257.0);
        // 448 * 448 = 1.53 * 2^17 has exponent 16 before it is normalised: 28 becomes 24 in units of 2^3, and the sum is
        // cut to 14 bits, units of 2^4.
        assert_eq!(
            step(&codes(&[448.0, 1.0]), &codes(&[448.0, 28.0]), 0.0),
            200704.0 + 16.0
        );
    }

    #[test]
    fn the_bound_holds_and_is_not_loose() {
        // A fixed stream of codes; the model must lie within the bound everywhere and use a good part of it somewhere.
        let (m, n, k) = (5, 136, 416);
        let mut x = 12345u32;
        let mut next = || {
            x = x.wrapping_mul(1664525).wrapping_add(1013904223);
            x >> 8
        };
        let mut code = |_| E4M3::from_f32((next() % 2001) as f32 / 1000.0 - 1.0);
        let a: Vec<E4M3> = (0..m * k).map(&mut code).collect();
        let b: Vec<E4M3> = (0..n * k).map(&mut code).collect();
        let sfa: Vec<f32> = (0..groups(k) * 8).map(|i| 0.5 + i as f32 / 7.0).collect();
        let sfb: Vec<f32> = (0..groups(n) * groups(k))
            .map(|i| 1.0 + i as f32 / 3.0)
            .collect();
        let p = Product::new(
            Rows {
                codes: &a,
                scales: &sfa,
                scale_stride: 8,
                m,
            },
            Blocks {
                codes: &b,
                scales: &sfb,
                n,
            },
            k,
        )
        .unwrap();
        let (mut e, mut d) = (vec![Expected::default(); n], vec![0.0; n]);
        let mut most = 0.0f64;
        for row in 0..m {
            p.expected(row, &mut e).unwrap();
            p.modelled(row, &mut d).unwrap();
            for (e, d) in e.iter().zip(&d) {
                let error = (f64::from(*d) - e.value).abs();
                assert!(error <= e.bound, "{error} > {}", e.bound);
                most = most.max(error / e.bound);
            }
        }
        assert!(most > 0.05, "{most}");
    }

    #[test]
    fn bad_rows_are_errors() {
        let p = Product::new(
            Rows {
                codes: &[],
                scales: &[],
                scale_stride: 0,
                m: 0,
            },
            Blocks {
                codes: &[],
                scales: &[],
                n: 0,
            },
            16,
        )
        .unwrap();
        assert!(matches!(
            p.modelled(0, &mut []),
            Err(ArgumentError::TooLarge {
                argument: "row",
                ..
            })
        ));
    }
}
