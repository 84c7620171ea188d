//! Activations as language models have them: most channels small, a few large in every token.

use half::bf16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A normal number (Box-Muller).
pub fn normal(r: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f32, f32) = (r.random::<f32>().max(1e-12), r.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// `m` tokens of `k` channels. One channel in 256 is about fifty times larger than the rest.
pub fn heavy_tailed(m: usize, k: usize, seed: u64) -> Vec<bf16> {
    let mut r = ChaCha8Rng::seed_from_u64(seed ^ 0xAC71);
    let channel: Vec<f32> = (0..k)
        .map(|_| {
            let s = normal(&mut r).exp();
            if r.random_range(0..256) == 0 {
                50.0 * s
            } else {
                s
            }
        })
        .collect();
    (0..m * k)
        .map(|i| bf16::from_f32(channel[i % k] * normal(&mut r)))
        .collect()
}
