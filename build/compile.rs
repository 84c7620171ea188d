//! One unit: source to PTX to machine code, through a cache that is keyed by content, and the gates on what ptxas reports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::Unit;
use super::toolkit::Toolkit;

/// Bumped when the way of compiling changes without a flag changing.
const RECIPE: &str = "2";

pub struct Built {
    pub name: String,
    pub arch: String,
    pub ptx: PathBuf,
    pub cubin: PathBuf,
    pub entries: Vec<Entry>,
}

#[derive(Default)]
pub struct Entry {
    pub name: String,
    pub registers: u32,
    pub static_shared: u32,
    pub stack: u32,
    pub spill_stores: u32,
    pub spill_loads: u32,
}

/// Every `.cu` and `.ptx` file below `kernels/` is in the table, and every row of the table is a file.
pub fn all_listed<'a>(listed: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let listed: Vec<_> = listed.collect();
    for l in &listed {
        if !Path::new(l).is_file() {
            return Err(format!("build.rs lists {l}, which is not there"));
        }
    }
    let mut folders = vec![PathBuf::from("kernels")];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for path in entries.flatten().map(|e| e.path()) {
            let text = path.to_string_lossy();
            if path.is_dir() {
                folders.push(path);
            } else if (text.ends_with(".cu") || text.ends_with(".ptx")) && !listed.contains(&&*text)
            {
                return Err(format!("{text} is not in the table of units in build.rs"));
            }
        }
    }
    Ok(())
}

/// Runs a command; its output, or what it said when it failed.
pub fn output(c: &mut Command) -> Result<String, String> {
    let o = c.output().map_err(|e| format!("{c:?}: {e}"))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&o.stdout),
        String::from_utf8_lossy(&o.stderr)
    );
    if o.status.success() {
        Ok(text)
    } else {
        Err(format!("{c:?}: {}\n{text}", o.status))
    }
}

/// Compiles a unit, or takes it from the cache, and holds it against its row.
pub fn unit(toolkit: &Toolkit, u: &Unit, out: &Path) -> Result<Built, String> {
    let source = Path::new(u.path);
    let stem = source
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let flags = |c: &mut Command| {
        c.args([
            "-ptx",
            "-std=c++17",
            "-O3",
            "-Werror",
            "all-warnings",
            "-allow-unsupported-compiler",
        ]);
        c.arg(format!(
            "-gencode=arch=compute_{0},code=compute_{0}",
            u.arch
        ));
    };
    let key = {
        let mut files = BTreeMap::new();
        read(source, &mut files)?;
        let mut h = Sha256::new();
        let mut c = Command::new("nvcc");
        flags(&mut c);
        h.update(format!(
            "{RECIPE} {} {} {c:?} {}",
            toolkit.version,
            u.arch,
            toolkit.host.display()
        ));
        for (path, text) in &files {
            h.update(format!("\n{} {}\n", path.display(), text.len()));
            h.update(text);
        }
        h.finalize()
            .iter()
            .take(10)
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let cache = cache(out);
    let entry = cache.join(format!("{stem}-{key}"));
    if !entry.join("ptxas.log").exists() {
        std::fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
        let temporary = cache.join(format!("{stem}-{key}.{}", std::process::id()));
        std::fs::create_dir_all(&temporary).map_err(|e| format!("{}: {e}", temporary.display()))?;
        let ptx = temporary.join("unit.ptx");
        if u.path.ends_with(".cu") {
            let mut nvcc = Command::new(&toolkit.nvcc);
            flags(&mut nvcc);
            output(
                nvcc.arg("-ccbin")
                    .arg(&toolkit.host)
                    .arg(source)
                    .arg("-o")
                    .arg(&ptx),
            )?;
        } else {
            std::fs::copy(source, &ptx).map_err(|e| format!("{}: {e}", u.path))?;
        }
        let mut ptxas = Command::new(&toolkit.ptxas);
        ptxas
            .args(["-v", "-O3", &format!("-arch=sm_{}", u.arch)])
            .arg(&ptx)
            .arg("-o")
            .arg(temporary.join("unit.cubin"));
        let log = output(&mut ptxas)?;
        std::fs::write(temporary.join("ptxas.log"), log).map_err(|e| format!("ptxas.log: {e}"))?;
        // Another build may have been first with the same content.
        if std::fs::rename(&temporary, &entry).is_err() {
            let _ = std::fs::remove_dir_all(&temporary);
        }
    }
    let log = std::fs::read_to_string(entry.join("ptxas.log"))
        .map_err(|e| format!("{}: {e}", entry.display()))?;
    let entries = gate(u, &log)?;
    Ok(Built {
        name: stem,
        arch: format!("sm_{}", u.arch),
        ptx: entry.join("unit.ptx"),
        cubin: entry.join("unit.cubin"),
        entries,
    })
}

/// `target/hadal-kernels`: outside OUT_DIR, of which cargo has one for each profile, check, trybuild.
fn cache(out: &Path) -> PathBuf {
    // Cargo marks target folders with this file. The outermost one: trybuild's lies inside the project's.
    let target = out
        .ancestors()
        .filter(|a| a.join("CACHEDIR.TAG").exists())
        .last();
    target.unwrap_or(out).join("hadal-kernels")
}

/// A source and what it includes by relative path.
fn read(path: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<(), String> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            p => clean.push(p),
        }
    }
    if files.contains_key(&clean) {
        return Ok(());
    }
    let bytes = std::fs::read(&clean).map_err(|e| format!("{}: {e}", clean.display()))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let folder = clean.parent().unwrap_or(Path::new("")).to_path_buf();
    files.insert(clean, bytes);
    for line in text.lines() {
        if let Some(name) = line
            .trim()
            .strip_prefix("#include \"")
            .and_then(|l| l.split('"').next())
        {
            read(&folder.join(name), files)?;
        }
    }
    Ok(())
}

/// Reads ptxas' report and refuses spills beyond the row's and serialised wgmma.
fn gate(u: &Unit, log: &str) -> Result<Vec<Entry>, String> {
    if log.contains("wgmma") && log.contains("serialized") {
        return Err(format!("{}: ptxas serialised wgmma:\n{log}", u.path));
    }
    let number = |text: &str, before: &str| -> u32 {
        let at = text.find(before).unwrap_or(0);
        text[..at]
            .trim_end()
            .rsplit([' ', ','])
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    let mut entries: Vec<Entry> = Vec::new();
    for line in log.lines() {
        if let Some(name) = line
            .split("Compiling entry function '")
            .nth(1)
            .and_then(|l| l.split('\'').next())
        {
            entries.push(Entry {
                name: name.into(),
                ..Entry::default()
            });
        }
        let Some(e) = entries.last_mut() else {
            continue;
        };
        if line.contains("bytes stack frame") {
            // Once for the entry and once for each function that it calls and that was not inlined: all of it is the entry's.
            e.stack += number(line, " bytes stack frame");
            e.spill_stores += number(line, " bytes spill stores");
            e.spill_loads += number(line, " bytes spill loads");
        }
        if line.contains("Used ") && line.contains(" registers") {
            e.registers = number(line, " registers");
            e.static_shared = number(line, " bytes smem");
        }
    }
    if entries.is_empty() || entries.iter().any(|e| e.registers == 0) {
        return Err(format!(
            "{}: ptxas' report is not understood:\n{log}",
            u.path
        ));
    }
    for e in &entries {
        if e.spill_stores > u.spills || e.spill_loads > u.spills {
            return Err(format!(
                "{}: {} spills {} bytes of stores and {} of loads; its row in build.rs allows {}",
                u.path, e.name, e.spill_stores, e.spill_loads, u.spills
            ));
        }
    }
    Ok(entries)
}
