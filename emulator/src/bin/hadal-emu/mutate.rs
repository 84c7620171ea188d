//! `hadal-emu mutate`: runs a command once for each mutant of the kernels it launches (`docs/mutants.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hadal_emulator::client::Launched;
use hadal_emulator::mutate::{MAP, Site, sites};
use serde::Serialize;

/// Options of `mutate`.
#[derive(clap::Args)]
pub struct Mutate {
    /// List the sites of these PTX files, and run nothing.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "command")]
    list: Vec<PathBuf>,
    /// Every site instead of at most eight of each operator in each kernel.
    #[arg(long)]
    all: bool,
    /// Only kernels whose name contains this.
    #[arg(long, value_name = "TEXT")]
    kernel: Option<String>,
    /// Only this operator. Can be given several times.
    #[arg(long, value_name = "OPERATOR")]
    operator: Vec<String>,
    /// Mutants at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Proofs of equivalence: a markdown file with table rows that start with | `KERNEL:OPERATOR:ORDINAL` |, where KERNEL may end
    /// with *.
    #[arg(long, value_name = "FILE")]
    proofs: Option<PathBuf>,
    /// Write everything to FILE as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The command that tests the kernels, and its arguments.
    #[arg(required_unless_present = "list", last = true)]
    command: Vec<OsString>,
}

/// What came of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Caught,
    Equivalent,
    Survivor,
    /// No module took it, or the loader refused it.
    Error,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    site: Site,
    verdict: Verdict,
    /// By what: a check, the time limit, the test.
    by: String,
    /// What it said.
    says: String,
}

/// How a run of the command ended.
struct Run {
    passed: bool,
    timed_out: bool,
    output: String,
    /// Whether a module took the mutant, and whether the loader then refused it.
    applied: bool,
    refused: bool,
    took: Duration,
}

/// A folder of our own that goes away at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Mutate {
    /// Does it. Answers 1 when something survived.
    ///
    /// # Errors
    /// A command that cannot run or does not pass unchanged.
    pub fn run(&self) -> Result<u8, String> {
        if !self.list.is_empty() {
            return self.list();
        }
        let path = std::env::temp_dir().join(format!("hadal-emu-mutate-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let folder = Folder(path);
        let (sites, counters) = (folder.0.join("sites"), folder.0.join("counters"));
        let mut first = self.command();
        first
            .env("HADAL_EMU_MUTATE_LIST", &sites)
            .env("HADAL_EMU_COUNTERS", &counters);
        let whole = execute(first, Duration::from_secs(3600), &folder.0.join("none"))?;
        if !whole.passed {
            return Err(format!("the command fails unchanged:\n{}", whole.output));
        }
        // Counting costs time: the limit goes by a run without it.
        let plain = execute(
            self.command(),
            Duration::from_secs(3600),
            &folder.0.join("none"),
        )?;
        let limit = (plain.took * 10).max(Duration::from_secs(20));
        let (wanted, unreached) = self.wanted(&sites, &counters)?;
        eprintln!(
            "hadal-emu: {} mutants, {unreached} sites are never reached; unchanged the command takes {:.1} s",
            wanted.len(),
            plain.took.as_secs_f64()
        );
        let proofs = self.proofs()?;
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|s| {
            for worker in 0..self.jobs.max(1) {
                let (next, done, wanted, proofs) = (&next, &done, &wanted, &proofs);
                let applied = folder.0.join(format!("applied{worker}"));
                s.spawn(move || {
                    while let Some(site) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.judge(site, limit, &applied, proofs);
                        eprintln!(
                            "hadal-emu: {:?} {} ({})",
                            outcome.verdict,
                            site.spec(),
                            outcome.by
                        );
                        if let Ok(mut d) = done.lock() {
                            d.push(outcome);
                        }
                    }
                });
            }
        });
        let mut all = done.into_inner().map_err(|e| e.to_string())?;
        all.sort_by_key(|a| key(&a.site));
        self.report(&all, unreached)
    }

    fn list(&self) -> Result<u8, String> {
        for file in &self.list {
            let text =
                std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
            let module = hadal_emulator::ptx::parse(&text)
                .map_err(|e| format!("{}: {e}", file.display()))?;
            for s in sites(&module, &text) {
                println!("{:<60} ptx:{:<6} {}", s.spec(), s.line, s.change);
            }
        }
        Ok(0)
    }

    fn command(&self) -> Command {
        let mut c = Command::new(&self.command[0]);
        c.args(&self.command[1..]).env("RUST_TEST_THREADS", "1");
        c
    }

    /// The sites to try, and how many were never reached.
    fn wanted(&self, sites: &Path, counters: &Path) -> Result<(Vec<Site>, usize), String> {
        let text = std::fs::read_to_string(sites)
            .map_err(|_| "the command loads no module into the emulator".to_string())?;
        let mut all: BTreeMap<(String, String, String, u32), Site> = BTreeMap::new();
        for line in text.lines() {
            let some: Vec<Site> = serde_json::from_str(line).map_err(|e| e.to_string())?;
            all.extend(some.into_iter().map(|s| (key(&s), s)));
        }
        let mut lines: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for line in std::fs::read_to_string(counters)
            .unwrap_or_default()
            .lines()
        {
            let l: Launched = serde_json::from_str(line).map_err(|e| e.to_string())?;
            lines.entry(l.module).or_default().extend(l.executed_lines);
        }
        let asked = |s: &Site| {
            self.kernel
                .as_ref()
                .is_none_or(|k| s.kernel.contains(k.as_str()))
                && (self.operator.is_empty() || self.operator.contains(&s.operator))
        };
        let reached =
            |s: &Site| s.kernel == MAP || lines.get(&s.module).is_some_and(|l| l.contains(&s.line));
        let (hit, missed): (Vec<Site>, Vec<Site>) =
            all.into_values().filter(asked).partition(reached);
        let mut groups: BTreeMap<(String, String, String), Vec<Site>> = BTreeMap::new();
        for s in hit {
            let k = (s.module.clone(), s.kernel.clone(), s.operator.clone());
            groups.entry(k).or_default().push(s);
        }
        let mut out = Vec::new();
        for g in groups.into_values() {
            let n = if self.all { g.len() } else { g.len().min(8) };
            // Evenly spaced, the first and the last among them.
            out.extend((0..n).map(|k| {
                g[if n == 1 {
                    0
                } else {
                    k * (g.len() - 1) / (n - 1)
                }]
                .clone()
            }));
        }
        Ok((out, missed.len()))
    }

    /// Keys of the file of proofs.
    fn proofs(&self) -> Result<Vec<String>, String> {
        let Some(file) = &self.proofs else {
            return Ok(Vec::new());
        };
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let rows = text
            .lines()
            .filter_map(|l| l.strip_prefix("| `")?.split_once("` |"));
        Ok(rows.map(|(key, _)| key.to_string()).collect())
    }

    fn judge(&self, site: &Site, limit: Duration, applied: &Path, proofs: &[String]) -> Outcome {
        let mut c = self.command();
        c.env("HADAL_EMU_MUTATE", site.spec());
        let outcome = |verdict, by: &str, says: String| Outcome {
            site: site.clone(),
            verdict,
            by: by.into(),
            says,
        };
        let run = match execute(c, limit, applied) {
            Ok(r) => r,
            Err(e) => return outcome(Verdict::Error, "the command", e),
        };
        let (by, says) = noticed(&run.output);
        match run {
            Run { applied: false, .. } => outcome(Verdict::Error, "no module took it", says),
            Run {
                timed_out: true, ..
            } => outcome(Verdict::Caught, "time limit", says),
            Run { refused: true, .. } => outcome(Verdict::Error, "the loader refused it", says),
            Run { passed: false, .. } => outcome(Verdict::Caught, &by, says),
            _ if proofs.iter().any(|p| proves(p, site)) => {
                outcome(Verdict::Equivalent, "proof", String::new())
            }
            _ => outcome(Verdict::Survivor, "nothing", String::new()),
        }
    }

    fn report(&self, all: &[Outcome], unreached: usize) -> Result<u8, String> {
        let count = |v: Verdict| all.iter().filter(|o| o.verdict == v).count();
        println!("| operator | mutants | caught | equivalent | survivors |\n|---|---|---|---|---|");
        let mut operators: Vec<&str> = all.iter().map(|o| o.site.operator.as_str()).collect();
        operators.sort_unstable();
        operators.dedup();
        for op in operators {
            let of = |v: Verdict| {
                all.iter()
                    .filter(|o| o.site.operator == op && o.verdict == v)
                    .count()
            };
            let [c, e, s] = [Verdict::Caught, Verdict::Equivalent, Verdict::Survivor].map(of);
            println!("| `{op}` | {} | {c} | {e} | {s} |", c + e + s);
        }
        let [c, e, s, bad] = [
            Verdict::Caught,
            Verdict::Equivalent,
            Verdict::Survivor,
            Verdict::Error,
        ]
        .map(count);
        println!("| all | {} | {c} | {e} | {s} |\n", c + e + s);
        let rate = 100.0 * c as f64 / (c + s).max(1) as f64;
        println!(
            "caught {c} of {} ({rate:.1} %), {e} equivalent by proof, {unreached} sites not reached\n",
            c + s
        );
        let mut by: BTreeMap<&str, usize> = BTreeMap::new();
        for o in all.iter().filter(|o| o.verdict == Verdict::Caught) {
            *by.entry(&o.by).or_default() += 1;
        }
        println!("| noticed by | mutants |\n|---|---|");
        by.iter().for_each(|(k, n)| println!("| {k} | {n} |"));
        for (title, v) in [("survivors", Verdict::Survivor), ("errors", Verdict::Error)] {
            if count(v) > 0 {
                println!("\n| {title} | line | change | |\n|---|---|---|---|");
            }
            for o in all.iter().filter(|o| o.verdict == v) {
                let Site {
                    kernel,
                    operator,
                    ordinal,
                    line,
                    change,
                    ..
                } = &o.site;
                println!(
                    "| `{kernel}:{operator}:{ordinal}` | {line} | {change} | {} |",
                    o.by
                );
            }
        }
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(all).map_err(|e| e.to_string())?;
            std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        Ok(u8::from(s + bad > 0))
    }
}

fn key(s: &Site) -> (String, String, String, u32) {
    (
        s.module.clone(),
        s.kernel.clone(),
        s.operator.clone(),
        s.ordinal,
    )
}

/// Whether the key of a proof, whose kernel may end with `*`, is this site's.
fn proves(proof: &str, s: &Site) -> bool {
    let Some(kernel) = proof.strip_suffix(&format!(":{}:{}", s.operator, s.ordinal)) else {
        return false;
    };
    match kernel.strip_suffix('*') {
        Some(start) => s.kernel.starts_with(start),
        None => s.kernel == kernel,
    }
}

/// Runs a command with its output kept; ends it and what it started when it takes longer than `limit`.
fn execute(mut c: Command, limit: Duration, applied: &Path) -> Result<Run, String> {
    let name = c.get_program().to_string_lossy().into_owned();
    let _ = std::fs::remove_file(applied);
    let (mut reader, writer) = std::io::pipe().map_err(|e| e.to_string())?;
    let other = writer.try_clone().map_err(|e| e.to_string())?;
    c.env("HADAL_EMU_MUTATE_APPLIED", applied)
        .env("HADAL_EMU_PRINT", "1")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(other)
        .process_group(0);
    let start = Instant::now();
    let mut child = c.spawn().map_err(|e| format!("{name}: {e}"))?;
    // The command holds the write ends; with it they go.
    drop(c);
    let output = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let mut timed_out = false;
    let status = loop {
        if let Some(s) = child.try_wait().map_err(|e| e.to_string())? {
            break s;
        }
        if start.elapsed() > limit {
            timed_out = true;
            // SAFETY: the group was made for this child, which has not been waited for.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            break child.wait().map_err(|e| e.to_string())?;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Ok(Run {
        passed: status.success(),
        timed_out,
        output: output.join().unwrap_or_default(),
        applied: applied.exists(),
        refused: std::fs::read_to_string(applied).is_ok_and(|t| t.contains("refused")),
        took: start.elapsed(),
    })
}

/// What noticed, from the command's output: the emulator's first error, else its first warning, else the test.
fn noticed(output: &str) -> (String, String) {
    let find = |kind: &str| {
        output.lines().find_map(|l| {
            let rest = &l[l.find(kind)? + kind.len()..];
            let (check, says) = rest.split_once("]: ")?;
            Some((check.to_string(), says.to_string()))
        })
    };
    find("error[")
        .or_else(|| find("warning["))
        .unwrap_or_else(|| {
            let line = output
                .lines()
                .find(|l| l.contains("panicked") || l.contains("Error"));
            ("the test".into(), line.unwrap_or_default().to_string())
        })
}
