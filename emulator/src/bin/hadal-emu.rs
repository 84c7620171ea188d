//! Runs a program that knows nothing of the emulator on it.
//!
//! A private folder with links named `libcuda.so` and `libcuda.so.1` goes to the front of `LD_LIBRARY_PATH`; settings go
//! into `HADAL_EMU_KNOBS` and `HADAL_EMU_DEVICES`. The program's exit status becomes ours (128 + signal when one ended it).

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use hadal_emulator::client::{AsyncMode, ComputeCapability, FILE, Knobs, Numerics, Schedule};

/// A CUDA driver for the CPU.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs COMMAND with the emulator as its CUDA driver.
    Run(Run),
    /// Prints the shared library's path.
    Path,
}

#[derive(clap::Args)]
struct Run {
    /// Devices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    devices: u32,
    /// What the devices are: A100, L40S, H100.
    #[arg(long, value_enum, default_value = "sm_90")]
    device: Device,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// When asynchronous copies and matrix operations take effect.
    #[arg(long = "async", value_enum, default_value = "lazy")]
    async_mode: Async,
    /// Who runs next.
    #[arg(long, value_enum, default_value = "round-robin")]
    schedule: Order,
    /// Arithmetic of the tensor cores.
    #[arg(long, value_enum, default_value = "exact")]
    numerics: Arithmetic,
    /// Print findings to standard error as they are made.
    #[arg(long)]
    print: bool,
    /// The program and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    #[value(name = "sm_80")]
    Sm80,
    #[value(name = "sm_89")]
    Sm89,
    #[value(name = "sm_90")]
    Sm90,
}

#[derive(Clone, Copy, ValueEnum)]
enum Async {
    Eager,
    Lazy,
    Random,
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    RoundRobin,
    Random,
}

#[derive(Clone, Copy, ValueEnum)]
enum Arithmetic {
    Exact,
    Fast,
}

/// A folder of our own that goes away at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("hadal-emu-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn library() -> Result<PathBuf, String> {
    let all = hadal_emulator::client::candidates();
    let found = all.iter().find(|p| p.exists());
    let found = found.ok_or_else(|| {
        format!("{FILE} is in none of {all:?}; `cargo build -p hadal-emulator` makes it")
    })?;
    found
        .canonicalize()
        .map_err(|e| format!("{}: {e}", found.display()))
}

fn run(r: &Run, library: &Path) -> Result<u8, String> {
    let folder = Folder::new().map_err(|e| format!("a private folder: {e}"))?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        symlink(library, folder.0.join(name)).map_err(|e| format!("{name}: {e}"))?;
    }
    let knobs = Knobs {
        devices: r.devices,
        compute_capability: match r.device {
            Device::Sm80 => ComputeCapability::Cc80,
            Device::Sm89 => ComputeCapability::Cc89,
            Device::Sm90 => ComputeCapability::Cc90,
        },
        seed: r.seed,
        async_mode: match r.async_mode {
            Async::Eager => AsyncMode::Eager,
            Async::Lazy => AsyncMode::Lazy,
            Async::Random => AsyncMode::Random,
        },
        schedule: match r.schedule {
            Order::RoundRobin => Schedule::RoundRobin,
            Order::Random => Schedule::Random,
        },
        numerics: match r.numerics {
            Arithmetic::Exact => Numerics::Exact,
            Arithmetic::Fast => Numerics::Fast,
        },
        ..Knobs::default()
    };
    let mut path = folder.0.clone().into_os_string();
    if let Some(old) = std::env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
        path.push(":");
        path.push(old);
    }
    let (program, arguments) = r.command.split_first().ok_or("no command")?;
    let mut c = Command::new(program);
    c.args(arguments)
        .env("LD_LIBRARY_PATH", path)
        .env("HADAL_EMU_DEVICES", r.devices.to_string())
        .env(
            "HADAL_EMU_KNOBS",
            serde_json::to_string(&knobs).map_err(|e| e.to_string())?,
        );
    if r.print {
        c.env("HADAL_EMU_PRINT", "1");
    }
    let status = c
        .status()
        .map_err(|e| format!("{}: {e}", program.to_string_lossy()))?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(code.clamp(0, 255) as u8)
}

fn main() -> ExitCode {
    let done = library().and_then(|l| match Arguments::parse().what {
        What::Path => {
            println!("{}", l.display());
            Ok(0)
        }
        What::Run(r) => run(&r, &l),
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("hadal-emu: {e}");
            ExitCode::from(125)
        }
    }
}
