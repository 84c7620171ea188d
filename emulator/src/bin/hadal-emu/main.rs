//! The emulator's command: runs programs on it, looks at PTX.

mod mutate;
mod ptx;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hadal_emulator::client::Knobs;

/// A CUDA driver for the CPU.
///
/// Devices made of CPU time run the very PTX that a GPU would get, strictly: what is not known is refused by name, what would
/// fail or race on hardware is a finding with its place.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs COMMAND with the emulator as its CUDA driver.
    ///
    /// COMMAND is any program that opens libcuda.so: `hadal-emu run --print -- python3 program.py`. Its exit status is ours;
    /// 125 when it could not be started.
    Run(Box<run::Run>),
    /// Parses PTX files and says what the emulator refuses, all of it, with its lines.
    ///
    /// Exit status 1 when something is refused.
    Check(ptx::Check),
    /// Lists the instructions of a PTX file, numbered as findings name them.
    List(ptx::List),
    /// Breaks the kernels that COMMAND launches, one small thing at a time, and says what COMMAND does not notice.
    ///
    /// COMMAND is a test that ends with another status than 0 when something is wrong: `hadal-emu mutate -- cargo test --test gemm`,
    /// or `hadal-emu mutate -- hadal-emu run -- python3 test.py`. Operators and rules are in docs/mutants.md.
    Mutate(mutate::Mutate),
    /// Says what this is: version, library, lane loops, every knob with its default.
    Info,
    /// Prints the shared library's path.
    Path,
}

fn info() -> Result<u8, String> {
    let cpu = hadal_emulator::isa::decode::Cpu::detect();
    println!("hadal-emu {}", env!("CARGO_PKG_VERSION"));
    match run::library() {
        Ok(l) => println!("library: {}", l.display()),
        Err(e) => println!("library: {e}"),
    }
    println!("lane loops for this CPU: {cpu:?} (Base, V3: AVX2, V4: AVX-512)");
    let knobs = serde_json::to_string_pretty(&Knobs::default()).map_err(|e| e.to_string())?;
    println!(
        "knobs (HADAL_EMU_KNOBS as JSON, or `run --set NAME=VALUE`, nested names with dots):\n{knobs}"
    );
    Ok(0)
}

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Run(r) => run::library().and_then(|l| r.run(&l)),
        What::Check(c) => c.run(),
        What::List(l) => l.run(),
        What::Mutate(m) => m.run(),
        What::Info => info(),
        What::Path => run::library().map(|l| {
            println!("{}", l.display());
            0
        }),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("hadal-emu: {e}");
            ExitCode::from(125)
        }
    }
}
