//! Rotary position embedding with YaRN's stretched frequencies (Su et al., arXiv 2104.09864; Peng et al., arXiv 2309.00071).
//!
//! A pair (x, y) of the 64 rotary values at position p turns by the angle p f_i:
//!
//! ```text
//! x' = x cos - y sin      y' = x sin + y cos      cos, sin of p f_i, times the amplitude
//! Pairing::Interleaved    pair i is values 2i, 2i + 1          (DeepSeek's checkpoints)
//! Pairing::Halves         pair i is values i, i + 32           (GPT-NeoX, "rotate half")
//! ```
//! Angles of long contexts do not fit f32: tables of cosines and sines are made on the host in f64 and given to the kernels.

use super::format::ROPE;

/// Pairs of rotary values.
pub const PAIRS: usize = ROPE / 2;

/// Which values turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// 2i and 2i + 1.
    Interleaved,
    /// i and i + 32.
    Halves,
}

impl Pairing {
    /// Where the two values of pair `i` stand.
    pub const fn places(self, i: usize) -> (usize, usize) {
        match self {
            Self::Interleaved => (2 * i, 2 * i + 1),
            Self::Halves => (i, i + PAIRS),
        }
    }
}

/// YaRN's stretching of a model trained on `original` positions to `factor` times as many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// Stretch.
    pub factor: f64,
    /// Positions of the training.
    pub original: f64,
    /// Turns over the training's positions above which a frequency is kept (32 in DeepSeek-V3).
    pub beta_fast: f64,
    /// Turns below which it is divided by `factor` (1 in DeepSeek-V3).
    pub beta_slow: f64,
    /// Weight of the amplitude of cosine and sine (`mscale` of DeepSeek-V3's configuration: 1).
    pub mscale: f64,
    /// Weight of the amplitude that the softmax scale takes over (`mscale_all_dim`: 1).
    pub mscale_all_dim: f64,
}

/// `0.1 m ln(factor) + 1`, 1 for factors up to 1 (YaRN, equation 22, with DeepSeek's weight).
fn amplitude(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * m * factor.ln() + 1.0
    }
}

impl Yarn {
    /// DeepSeek-V3's: factor 40 over 4096 positions.
    pub const DEEPSEEK_V3: Self = Self {
        factor: 40.0,
        original: 4096.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: 1.0,
        mscale_all_dim: 1.0,
    };
}

/// The embedding of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies (10000 in DeepSeek-V3).
    pub theta: f64,
    /// Which values turn together.
    pub pairing: Pairing,
    /// YaRN, if any.
    pub yarn: Option<Yarn>,
}

impl Rope {
    /// Frequency of pair `i`: theta^(-i / 32), under YaRN blended with itself divided by the factor (its section 3.2).
    pub fn frequency(&self, i: usize) -> f64 {
        let f = self.theta.powf(-(i as f64) / PAIRS as f64);
        let Some(y) = self.yarn else { return f };
        // The pair whose frequency makes `turns` turns over the original positions.
        let pair = |turns: f64| {
            PAIRS as f64 * (y.original / (turns * std::f64::consts::TAU)).ln() / self.theta.ln()
        };
        let low = pair(y.beta_fast).floor().max(0.0);
        let high = pair(y.beta_slow).ceil().min(ROPE as f64 - 1.0);
        let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        f * (1.0 - ramp) + f / y.factor * ramp
    }

    /// Factor of cosine and sine: 1 where `mscale` and `mscale_all_dim` are equal, as in DeepSeek-V3.
    pub fn amplitude(&self) -> f64 {
        self.yarn.map_or(1.0, |y| {
            amplitude(y.factor, y.mscale) / amplitude(y.factor, y.mscale_all_dim)
        })
    }

    /// The model's softmax scale: (nope + rope values of an unabsorbed head)^-1/2, times YaRN's amplitude squared. For
    /// DeepSeek-V3 with its 128 + 64 values: `softmax_scale(192)`.
    pub fn softmax_scale(&self, head_dims: usize) -> f32 {
        let m = self
            .yarn
            .map_or(1.0, |y| amplitude(y.factor, y.mscale_all_dim));
        (m * m / (head_dims as f64).sqrt()) as f32
    }

    /// Row `p` of the kernels' table: 32 cosines, then 32 sines.
    pub fn row(&self, position: u64) -> [f32; ROPE] {
        let a = self.amplitude();
        let mut out = [0.0; ROPE];
        for i in 0..PAIRS {
            let (sin, cos) = (position as f64 * self.frequency(i)).sin_cos();
            out[i] = (cos * a) as f32;
            out[PAIRS + i] = (sin * a) as f32;
        }
        out
    }

    /// The kernels' table for positions 0..n: [n, 64] f32.
    pub fn table(&self, positions: usize) -> Vec<f32> {
        (0..positions as u64).flat_map(|p| self.row(p)).collect()
    }

    /// Turns 64 values by a row of the table as the kernels do: `fma(-y, sin, x cos)` and `fma(x, sin, y cos)` in f32.
    pub fn turn(pairing: Pairing, row: &[f32; ROPE], values: &mut [f32; ROPE]) {
        for i in 0..PAIRS {
            let (a, b) = pairing.places(i);
            let (x, y, c, s) = (values[a], values[b], row[i], row[PAIRS + i]);
            values[a] = fused(-y, s, x * c);
            values[b] = fused(x, s, y * c);
        }
    }
}

/// One rounding, as the kernels have it.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3: Rope = Rope {
        theta: 10000.0,
        pairing: Pairing::Interleaved,
        yarn: Some(Yarn::DEEPSEEK_V3),
    };

    #[test]
    fn plain_frequencies_and_lengths() {
        let r = Rope { yarn: None, ..V3 };
        assert_eq!(r.frequency(0), 1.0);
        assert!((r.frequency(16) - 0.01).abs() < 1e-15);
        assert_eq!((r.amplitude(), r.softmax_scale(64)), (1.0, 0.125));
        for pairing in [Pairing::Interleaved, Pairing::Halves] {
            let mut v: [f32; ROPE] = std::array::from_fn(|i| i as f32 - 20.0);
            let before: f32 = v.iter().map(|x| x * x).sum();
            Rope::turn(pairing, &r.row(12345), &mut v);
            let after: f32 = v.iter().map(|x| x * x).sum();
            assert!((before - after).abs() < before * 1e-5);
        }
    }

    /// Scores depend on the distance alone.
    #[test]
    fn dot_products_depend_on_the_distance() {
        let turned = |p: u64| {
            let mut v: [f32; ROPE] = std::array::from_fn(|i| ((i * 7 % 13) as f32 - 6.0) * 0.1);
            Rope::turn(V3.pairing, &V3.row(p), &mut v);
            v
        };
        let dot =
            |a: [f32; ROPE], b: [f32; ROPE]| -> f32 { a.iter().zip(&b).map(|(x, y)| x * y).sum() };
        let (near, far) = (
            dot(turned(3), turned(10)),
            dot(turned(100_003), turned(100_010)),
        );
        assert!((near - far).abs() < 1e-4, "{near} {far}");
    }

    /// YaRN keeps fast pairs, divides slow ones by the factor, and DeepSeek-V3's softmax scale is 192^-1/2 (0.1 ln 40 + 1)^2.
    #[test]
    fn yarn() {
        let plain = Rope { yarn: None, ..V3 };
        assert_eq!(V3.frequency(0), plain.frequency(0));
        assert_eq!(V3.frequency(31), plain.frequency(31) / 40.0);
        let middle = V3.frequency(16);
        assert!(middle < plain.frequency(16) && middle > plain.frequency(16) / 40.0);
        assert_eq!(V3.amplitude(), 1.0);
        let m = 0.1 * 40f64.ln() + 1.0;
        assert!((f64::from(V3.softmax_scale(192)) - m * m / 192f64.sqrt()).abs() < 1e-8);
    }
}
