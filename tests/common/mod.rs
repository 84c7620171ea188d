//! What the tests share: a device, seeded data, and a GEMM run in hostile memory.
#![allow(dead_code)] // each test uses a part

#[path = "../../examples/support/device.rs"]
pub mod device;
pub mod gemm;

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

/// Leases a device; a missing one ends the test.
pub fn lease(knobs: &Knobs) -> Lease {
    Lease::new(knobs).expect("a device")
}

/// Runs `f` in a thread and fails when it takes longer: a hang must not hang the suite.
pub fn within<T: Send + 'static>(seconds: u64, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (tx, rx) = std::sync::mpsc::channel();
    let t = std::thread::spawn(move || {
        let _ = tx.send(f());
    });
    match rx.recv_timeout(std::time::Duration::from_secs(seconds)) {
        Ok(v) => v,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("not done within {seconds} s"),
        Err(_) => match t.join() {
            Err(e) => std::panic::resume_unwind(e),
            Ok(()) => unreachable!("the sender was dropped without a panic"),
        },
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
