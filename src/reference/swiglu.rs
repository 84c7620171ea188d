//! SwiGLU behind a GEMM on the CPU: in f64, with a bound on what the kernel's f32 arithmetic may differ.
//!
//! The kernel's exponential and reciprocal are approximations, so its codes are not given bit for bit: a code is right when it is that
//! of some value within the bound ([`Group::codes`]), which is the f64 value's own code unless that lies within the bound of a tie.

use crate::fp8::E4M3;

/// silu(gate) * up in f64, and how far the kernel's f32 value may be from it.
///
/// ```text
/// x = rn(-gate * log2 e)    relative error of e^-gate: |gate| log2 e 2^-24 ln 2 for the product's rounding, as much for the constant's
/// ex2.approx                2^-22                        (PTX ISA)
/// rn(1 + e)                 2^-24
/// rcp.approx                1 ulp, 2^-23                 (PTX ISA)
/// two products              2^-24 each
/// ```
/// Together (4 + 1 + 2 + 2 + 2 |gate|) 2^-24, rounded up to (10 + 2 |gate|) 2^-24. Where e^-gate overflows or is flushed the value is below
/// |gate up| 2^-120.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activation {
    /// The value.
    pub value: f64,
    /// The bound; NaN where the value is.
    pub bound: f64,
}

/// The activation of a sum of gate and one of up. `clamp`: infinity for none.
pub fn activation(gate: f32, up: f32, clamp: f32) -> Activation {
    let nan = gate.is_nan() || up.is_nan();
    let (g, u) = (
        f64::from(gate.min(clamp)),
        f64::from(up.min(clamp).max(-clamp)),
    );
    if nan {
        return Activation {
            value: f64::NAN,
            bound: f64::NAN,
        };
    }
    let value = g / (1.0 + (-g).exp()) * u;
    let bound = value.abs() * (10.0 + 2.0 * g.abs()) * 2f64.powi(-24)
        + (g * u).abs() * 2f64.powi(-120)
        + 2f64.powi(-149);
    Activation { value, bound }
}

/// The activations of a row that share a scale.
#[derive(Clone, Debug)]
pub struct Group(Vec<Activation>);

impl Group {
    /// Of sums of gate and of up, at most 128.
    pub fn new(gate: &[f32], up: &[f32], clamp: f32) -> Self {
        Self(
            gate.iter()
                .zip(up)
                .map(|(g, u)| activation(*g, *u, clamp))
                .collect(),
        )
    }

    /// The least and the largest scale that are right: rn(max(amax, 1e-4) / 448) for an amax within the bounds.
    pub fn scale(&self) -> (f64, f64) {
        let (mut low, mut high) = (0.0f64, 0.0f64);
        for a in self.0.iter().filter(|a| a.value.is_finite()) {
            low = low.max(a.value.abs() - a.bound);
            high = high.max(a.value.abs() + a.bound);
        }
        let least = f64::from(1e-4f32);
        let u = 1.0 + 2f64.powi(-24);
        (low.max(least) / 448.0 / u, high.max(least) / 448.0 * u)
    }

    /// The least and the largest code of element `i` that are right beside `scale`: rounding 1 / scale and the product is 2^-24 each. NaN
    /// for NaN.
    pub fn codes(&self, i: usize, scale: f32) -> (E4M3, E4M3) {
        let a = self.0[i];
        let s = f64::from(scale);
        let e = (a.bound + a.value.abs() * 2f64.powi(-23)) / s;
        let code = |v: f64| E4M3::from_f32(v as f32);
        (code(a.value / s - e), code(a.value / s + e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_ranges() {
        let a = activation(2.0, 3.0, f32::INFINITY);
        assert!((a.value - 6.0 / (1.0 + (-2f64).exp())).abs() < 1e-12);
        assert_eq!(activation(0.0, 5.0, f32::INFINITY).value, 0.0);
        assert_eq!(
            activation(9.0, -9.0, 7.0).value,
            activation(7.0, -7.0, 7.0).value
        );
        assert!(activation(f32::NAN, 1.0, 7.0).value.is_nan());
        let g = Group::new(&[2.0, -1.0], &[3.0, 0.5], f32::INFINITY);
        let (low, high) = g.scale();
        assert!(low < a.value / 448.0 && a.value / 448.0 < high && high / low < 1.0 + 1e-5);
        let (c, d) = g.codes(0, (a.value / 448.0) as f32);
        assert_eq!((c.to_f32(), d.to_f32()), (448.0, 448.0));
    }
}
