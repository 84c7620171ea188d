//! `hadal-emu check` and `hadal-emu list`: PTX files without running them.

use std::path::PathBuf;

use hadal_emulator::machine::program::Program;
use hadal_emulator::ptx::ast::PtxError;
use hadal_emulator::ptx::parse;

/// Options of `check`.
#[derive(clap::Args)]
pub struct Check {
    /// PTX files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Options of `list`.
#[derive(clap::Args)]
pub struct List {
    /// A PTX file.
    file: PathBuf,
    /// This kernel alone.
    kernel: Option<String>,
}

fn read(file: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))
}

fn show(file: &std::path::Path, text: &str, e: &PtxError) {
    println!("{}:{}: {}", file.display(), e.span, e.message);
    let at = (e.span.line as usize).checked_sub(1);
    if let Some(line) = at.and_then(|l| text.lines().nth(l)) {
        println!("    {}", line.trim());
    }
}

impl Check {
    /// Prints what the emulator refuses. Answers 1 when there is something.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn run(&self) -> Result<u8, String> {
        let mut refused = 0;
        for file in &self.files {
            let text = read(file)?;
            let errors = match parse(&text) {
                Err(e) => vec![e],
                Ok(m) => match Program::load_all(&m) {
                    Ok(p) => {
                        let n: usize = p.kernels().iter().map(|k| k.code.len()).sum();
                        let k = p.kernels().len();
                        println!(
                            "{}: {k} kernels, {n} instructions, {}",
                            file.display(),
                            m.target
                        );
                        Vec::new()
                    }
                    Err(all) => all,
                },
            };
            refused += errors.len();
            errors.iter().for_each(|e| show(file, &text, e));
        }
        Ok(u8::from(refused > 0))
    }
}

impl List {
    /// Prints each instruction with its number, as findings name it.
    ///
    /// # Errors
    /// A file that cannot be read or is refused, a kernel that is not in it.
    pub fn run(&self) -> Result<u8, String> {
        let text = read(&self.file)?;
        let refused = |e: PtxError| format!("{}:{}: {}", self.file.display(), e.span, e.message);
        let program = Program::load(&parse(&text).map_err(refused)?).map_err(refused)?;
        let lines: Vec<&str> = text.lines().collect();
        let wanted = |name: &str| self.kernel.as_deref().is_none_or(|k| k == name);
        let mut any = false;
        for k in program.kernels().iter().filter(|k| wanted(&k.info.name)) {
            any = true;
            let i = &k.info;
            println!(
                "{}: {} registers, {} bytes of shared, {} of local memory, {} of parameters",
                i.name, i.regs, i.static_smem, i.local_bytes, i.param_bytes
            );
            for (n, (span, op)) in k.spans.iter().zip(&k.opcodes).enumerate() {
                let line = lines.get((span.line as usize).wrapping_sub(1));
                let line = line.map_or("", |l| l.trim());
                println!("{n:>6}  {:>6}  {op:<50}  {line}", span.line);
            }
        }
        if any {
            Ok(0)
        } else {
            let names: Vec<_> = program
                .kernels()
                .iter()
                .map(|k| k.info.name.as_str())
                .collect();
            Err(format!("no such kernel; there are {}", names.join(", ")))
        }
    }
}
