//! What the tests share: a device, seeded data, and a GEMM run in hostile memory.
#![allow(dead_code)] // each test uses a part

#[path = "../../examples/support/device.rs"]
pub mod device;
pub mod gemm;
pub mod grouped;
pub mod mla;
pub mod moe;

pub use device::*;
use hadal::fp8::E4M3;
use rand::{Rng, RngExt, SeedableRng};
pub use rand_chacha::ChaCha8Rng;

/// A stream of random numbers that is the same everywhere.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Any finite code.
pub fn code(rng: &mut impl Rng) -> E4M3 {
    loop {
        let c = E4M3::from_bits(rng.random());
        if !c.is_nan() {
            return c;
        }
    }
}

/// Leases a device; a missing one ends the test. The lease has a time limit: a hang must not hang the suite.
pub fn lease(knobs: &Knobs) -> Limited {
    Limited {
        limit: Limit::new(if full() { 3600 } else { 300 }),
        lease: Lease::new(knobs).expect("a device"),
    }
}

/// A [`Lease`] with a time limit.
pub struct Limited {
    pub lease: Lease,
    #[allow(dead_code)] // held for its drop
    limit: Limit,
}

impl std::ops::Deref for Limited {
    type Target = Lease;
    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl std::ops::DerefMut for Limited {
    fn deref_mut(&mut self) -> &mut Lease {
        &mut self.lease
    }
}

/// Ends the process when it lives longer than it may: nothing else ends a test that waits for a driver.
struct Limit(std::sync::mpsc::Sender<()>);

impl Limit {
    fn new(seconds: u64) -> Self {
        let (tx, rx) = std::sync::mpsc::channel::<()>();
        let test = std::thread::current()
            .name()
            .unwrap_or("a test")
            .to_string();
        std::thread::spawn(move || {
            let waited = rx.recv_timeout(std::time::Duration::from_secs(seconds));
            if waited == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test}: not done within {seconds} s");
                std::process::abort();
            }
        });
        Self(tx)
    }
}

/// Whether the long tests are wanted too.
pub fn full() -> bool {
    std::env::var("HADAL_TESTS").is_ok_and(|v| v == "full")
}

/// The emulator settings that a result must survive: late, early and shuffled completion, orderly and random schedules.
pub fn adversaries() -> Vec<Knobs> {
    let base = Knobs::default();
    vec![
        Knobs {
            async_mode: AsyncMode::Lazy,
            ..base.clone()
        },
        Knobs {
            async_mode: AsyncMode::Eager,
            ..base.clone()
        },
        Knobs {
            async_mode: AsyncMode::Random,
            schedule: Schedule::Random,
            seed: 7,
            ..base.clone()
        },
        Knobs {
            async_mode: AsyncMode::Lazy,
            schedule: Schedule::Random,
            seed: 8,
            ..base
        },
    ]
}

/// Rows of values below `levels` such that every pair of values of two columns is in some row (greedy, seeded: the same everywhere).
pub fn pairwise(levels: &[usize]) -> Vec<Vec<usize>> {
    let mut missing = std::collections::BTreeSet::new();
    for (i, a) in levels.iter().enumerate() {
        for (j, b) in levels.iter().enumerate().skip(i + 1) {
            missing.extend((0..*a).flat_map(|x| (0..*b).map(move |y| (i, x, j, y))));
        }
    }
    let mut r = rng(1);
    let mut rows = Vec::new();
    let met = |row: &[usize],
               missing: &std::collections::BTreeSet<(usize, usize, usize, usize)>| {
        missing
            .iter()
            .filter(|(i, x, j, y)| row[*i] == *x && row[*j] == *y)
            .count()
    };
    while let Some(&(i, x, j, y)) = missing.iter().next() {
        // The best of some rows that meet the first pair still missing.
        let best = (0..50)
            .map(|_| {
                let mut row: Vec<usize> = levels.iter().map(|n| r.random_range(0..*n)).collect();
                (row[i], row[j]) = (x, y);
                row
            })
            .max_by_key(|row| met(row, &missing))
            .unwrap_or_default();
        missing.retain(|(i, x, j, y)| !(best[*i] == *x && best[*j] == *y));
        rows.push(best);
    }
    rows
}
