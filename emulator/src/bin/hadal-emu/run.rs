//! `hadal-emu run`: a program that knows nothing of the emulator, on it.
//!
//! A private folder with links named `libcuda.so` and `libcuda.so.1` goes to the front of `LD_LIBRARY_PATH`; settings go
//! into `HADAL_EMU_KNOBS` and `HADAL_EMU_DEVICES`. The program's exit status becomes ours (128 + signal when one ended it).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use hadal_emulator::client::{
    AsyncMode, ComputeCapability, FILE, Knobs, Launched, Numerics, OnDeadlock, Schedule,
};
use serde_json::Value;

/// Options of `run`.
#[derive(clap::Args)]
pub struct Run {
    /// Devices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    devices: u32,
    /// What the devices are: A100, L40S, H100.
    #[arg(long, value_enum, default_value = "sm_90")]
    device: Device,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// When asynchronous copies and matrix operations take effect: at once, as late as allowed, at random.
    #[arg(long = "async", value_enum, default_value = "lazy")]
    async_mode: Async,
    /// Who runs next.
    #[arg(long, value_enum, default_value = "round-robin")]
    schedule: Order,
    /// Arithmetic of the tensor cores: bit for bit as the hardware, or plain sums.
    #[arg(long, value_enum, default_value = "exact")]
    numerics: Arithmetic,
    /// When nothing can run: report a dead-lock, or let virtual time pass so that waits with a deadline end.
    #[arg(long, value_enum, default_value = "report")]
    on_deadlock: Deadlock,
    /// Warp instructions of a grid after which it counts as live-locked.
    #[arg(long)]
    step_limit: Option<u64>,
    /// Turns a check off (`all`: every one that can be). Can be given several times.
    #[arg(long, value_name = "CHECK")]
    no_check: Vec<String>,
    /// Any other knob, by the name that `hadal-emu info` shows: `--set checks.race_shared=false`.
    #[arg(long, value_name = "KNOB=VALUE")]
    set: Vec<String>,
    /// Count what each launch does, and show it as tables when the program has ended, launches of one shape together.
    #[arg(long)]
    counters: bool,
    /// Count, and write each launch to FILE as a line of JSON.
    #[arg(long, value_name = "FILE")]
    counters_json: Option<PathBuf>,
    /// Count which sectors of each allocation are touched as well.
    #[arg(long)]
    unique_bytes: bool,
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

#[derive(Clone, Copy, ValueEnum)]
enum Deadlock {
    Report,
    AdvanceTime,
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

/// The shared library.
///
/// # Errors
/// Where it was looked for.
pub fn library() -> Result<PathBuf, String> {
    let all = hadal_emulator::client::candidates();
    let found = all.iter().find(|p| p.exists());
    let found = found.ok_or_else(|| {
        format!("{FILE} is in none of {all:?}; `cargo build -p hadal-emulator` makes it")
    })?;
    found
        .canonicalize()
        .map_err(|e| format!("{}: {e}", found.display()))
}

impl Run {
    fn knobs(&self) -> Result<Knobs, String> {
        let default = Knobs::default();
        let knobs = Knobs {
            devices: self.devices,
            compute_capability: match self.device {
                Device::Sm80 => ComputeCapability::Cc80,
                Device::Sm89 => ComputeCapability::Cc89,
                Device::Sm90 => ComputeCapability::Cc90,
            },
            seed: self.seed,
            async_mode: match self.async_mode {
                Async::Eager => AsyncMode::Eager,
                Async::Lazy => AsyncMode::Lazy,
                Async::Random => AsyncMode::Random,
            },
            schedule: match self.schedule {
                Order::RoundRobin => Schedule::RoundRobin,
                Order::Random => Schedule::Random,
            },
            numerics: match self.numerics {
                Arithmetic::Exact => Numerics::Exact,
                Arithmetic::Fast => Numerics::Fast,
            },
            on_deadlock: match self.on_deadlock {
                Deadlock::Report => OnDeadlock::Report,
                Deadlock::AdvanceTime => OnDeadlock::AdvanceTime,
            },
            step_limit: self.step_limit.unwrap_or(default.step_limit),
            counters: self.counters || self.counters_json.is_some(),
            unique_bytes: self.unique_bytes,
            ..default
        };
        let mut all = serde_json::to_value(knobs).map_err(|e| e.to_string())?;
        for name in &self.no_check {
            let checks = all["checks"].as_object_mut().ok_or("no checks")?;
            if name == "all" {
                checks.values_mut().for_each(|v| *v = Value::Bool(false));
            } else {
                let names: Vec<_> = checks.keys().cloned().collect();
                *checks.get_mut(name).ok_or_else(|| {
                    format!("--no-check {name}: the checks are {}", names.join(", "))
                })? = Value::Bool(false);
            }
        }
        for text in &self.set {
            set(&mut all, text)?;
        }
        serde_json::from_value(all).map_err(|e| format!("--set: {e}"))
    }

    /// Runs the command. Answers its exit status.
    ///
    /// # Errors
    /// Settings that are none, a command that cannot be started.
    pub fn run(&self, library: &Path) -> Result<u8, String> {
        let knobs = self.knobs()?;
        let folder = Folder::new().map_err(|e| format!("a private folder: {e}"))?;
        for name in ["libcuda.so", "libcuda.so.1"] {
            symlink(library, folder.0.join(name)).map_err(|e| format!("{name}: {e}"))?;
        }
        let mut path = folder.0.clone().into_os_string();
        if let Some(old) = std::env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
            path.push(":");
            path.push(old);
        }
        let (program, arguments) = self.command.split_first().ok_or("no command")?;
        let text = serde_json::to_string(&knobs).map_err(|e| e.to_string())?;
        let mut c = Command::new(program);
        c.args(arguments)
            .env("LD_LIBRARY_PATH", path)
            .env("HADAL_EMU_DEVICES", knobs.devices.to_string())
            .env("HADAL_EMU_KNOBS", text);
        if self.print {
            c.env("HADAL_EMU_PRINT", "1");
        }
        let counted = match &self.counters_json {
            Some(f) => std::path::absolute(f).map_err(|e| format!("{}: {e}", f.display()))?,
            None => folder.0.join("counters"),
        };
        if knobs.counters {
            std::fs::write(&counted, "").map_err(|e| format!("{}: {e}", counted.display()))?;
            c.env("HADAL_EMU_COUNTERS", &counted);
        }
        let status = c
            .status()
            .map_err(|e| format!("{}: {e}", program.to_string_lossy()))?;
        if self.counters {
            tables(&counted)?;
        }
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(code.clamp(0, 255) as u8)
    }
}

/// `name.of.knob=value`: JSON, or else a text.
fn set(all: &mut Value, text: &str) -> Result<(), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("--set {text}: expected KNOB=VALUE"))?;
    let at = all
        .pointer_mut(&format!("/{}", name.replace('.', "/")))
        .ok_or_else(|| format!("--set {name}: no such knob; `hadal-emu info` lists them"))?;
    let plain = || Value::String(value.into());
    *at = if at.is_string() {
        plain()
    } else {
        serde_json::from_str(value).unwrap_or_else(|_| plain())
    };
    Ok(())
}

/// Prints the launches of `file`, those of one kernel and shape as one.
fn tables(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut all: BTreeMap<String, (u64, Launched)> = BTreeMap::new();
    for line in text.lines() {
        let l: Launched = serde_json::from_str(line).map_err(|e| e.to_string())?;
        let key = format!(
            "{} {} {:?} {:?} {:?} {} {}",
            l.kernel, l.device, l.grid, l.block, l.cluster, l.dynamic_smem, l.completed
        );
        match all.get_mut(&key) {
            Some((n, sum)) => {
                *n += 1;
                sum.counters.merge(&l.counters);
            }
            None => {
                all.insert(key, (1, l));
            }
        }
    }
    if all.is_empty() {
        eprintln!("hadal-emu: no launch ended");
    }
    for (n, l) in all.values() {
        eprint!("hadal-emu: {n} x {l}");
    }
    Ok(())
}
