//! A kernel made of a body, run on bytes of global memory.

use cudarc::driver::{DevicePtr, sys::CUresult as Code};
use hadal_emulator::client::{AsyncMode, Knobs, Report};

use super::{Arg, device};

/// Blocks, threads, memory and settings of a run.
#[derive(Clone)]
pub struct Bench {
    pub target: &'static str,
    pub blocks: u32,
    /// Blocks of a cluster; 1: none is asked for.
    pub cluster: u32,
    pub threads: u32,
    pub knobs: Knobs,
    /// What global memory holds before; `%rd0` points to it.
    pub memory: Vec<u8>,
}

/// What came of a run.
pub struct Outcome {
    pub code: Result<(), Code>,
    pub reports: Vec<Report>,
    pub memory: Vec<u8>,
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            target: "sm_90a",
            blocks: 1,
            cluster: 1,
            threads: 64,
            knobs: Knobs {
                step_limit: 1_000_000,
                ..Knobs::default()
            },
            memory: (0..4096).map(|i| (i * 7 + i / 256) as u8).collect(),
        }
    }
}

impl Bench {
    /// The kernel: `buf` (16 KiB) and `bars` (64 bytes) are shared; `%rd0` global memory, `%r0` the thread, `%r1` the warp,
    /// `%r2` the address of `buf`, `%r3` of `bars`, `%p0` thread 0, `%p1` warp 0, `%p2` thread 32, `%r4` = buf + 4 tid.
    pub fn text(&self, body: &str) -> String {
        let cluster = match self.cluster {
            1 => String::new(),
            n => format!(".explicitcluster .reqnctapercluster {n}, 1, 1"),
        };
        format!(
            ".version 8.8\n.target {}\n.address_size 64\n.visible .entry k(.param .u64 p) {cluster}\n{{\n\
             .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<80>;\n.reg .f32 %f<80>;\n.reg .b64 %rd<40>;\n\
             .shared .align 1024 .b8 buf[16384];\n.shared .align 8 .b8 bars[64];\n\
             ld.param.u64 %rd0, [p];\nmov.u32 %r0, %tid.x;\nshr.u32 %r1, %r0, 5;\nmov.u32 %r2, buf;\nmov.u32 %r3, bars;\n\
             shl.b32 %r4, %r0, 2;\nadd.u32 %r4, %r4, %r2;\nsetp.eq.u32 %p0, %r0, 0;\nsetp.eq.u32 %p1, %r1, 0;\n\
             setp.eq.u32 %p2, %r0, 32;\n{body}\nret;\n}}\n",
            self.target
        )
    }

    pub fn run(&self, body: &str) -> Outcome {
        let d = device(&self.knobs);
        let m = d.load(&self.text(body)).expect("a module");
        let memory = d.stream.clone_htod(&self.memory).expect("memory");
        let p = memory.device_ptr(&d.stream).0;
        let (grid, block) = ([self.blocks, 1, 1], [self.threads, 1, 1]);
        let code = d.launch(m, "k", grid, block, 0, &[Arg::U64(p)]);
        let reports = d.universe.reports();
        let memory = match code {
            Ok(()) => d.stream.clone_dtoh(&memory).expect("memory"),
            Err(_) => Vec::new(),
        };
        Outcome {
            code,
            reports,
            memory,
        }
    }

    /// The run fails and its first finding is of `check`.
    #[track_caller]
    pub fn trips(&self, body: &str, check: &str) -> Report {
        let o = self.run(body);
        let first = o.reports.into_iter().next().expect("a finding");
        assert_eq!(first.check, check, "{first}");
        assert!(o.code.is_err(), "{first}");
        first
    }

    /// The run has no finding, whenever copies take effect; what memory holds then.
    #[track_caller]
    pub fn passes(&self, body: &str) -> Vec<u8> {
        let mut last = None;
        for async_mode in [AsyncMode::Eager, AsyncMode::Random, AsyncMode::Lazy] {
            let mut bench = self.clone();
            bench.knobs.async_mode = async_mode;
            let o = bench.run(body);
            let text: String = o.reports.iter().map(ToString::to_string).collect();
            assert!(
                o.code.is_ok() && text.is_empty(),
                "{async_mode:?} {:?} {text}",
                o.code
            );
            if let Some(last) = &last {
                assert!(*last == o.memory, "{async_mode:?} gives another result");
            }
            last = Some(o.memory);
        }
        last.expect("a run")
    }
}

/// The word at byte `at`.
pub fn word(memory: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(memory[at..at + 4].try_into().expect("four bytes"))
}
