//! Finds nvcc and ptxas, or installs the pinned ones.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest compiler that knows all instructions that the kernels use.
const OLDEST: (u32, u32) = (12, 8);
const REQUIREMENTS: &str = "cuda-requirements.txt";
const INSTALLED: &str = ".cuda";

pub struct Toolkit {
    pub nvcc: PathBuf,
    pub ptxas: PathBuf,
    /// `13.0.88`
    pub version: String,
    /// Host compiler for nvcc's preprocessor.
    pub host: PathBuf,
}

pub fn find() -> Result<Toolkit, String> {
    let nvcc = match existing()? {
        Some(nvcc) => nvcc,
        None if std::env::var("HADAL_FETCH_CUDA").is_ok_and(|v| v == "1") => fetch()?,
        None => {
            return Err(format!(
                "hadal needs nvcc {}.{} or newer to compile its kernels, and none was found (HADAL_NVCC, CUDA_HOME, CUDA_PATH, PATH).\n\
                 Install the CUDA toolkit, or let this build install the pinned compiler (104 MB) with pip:\n    HADAL_FETCH_CUDA=1 cargo build",
                OLDEST.0, OLDEST.1
            ));
        }
    };
    let version = version(&nvcc)?;
    let mut parts = version.split('.').map(|p| p.parse().unwrap_or(0));
    let got: (u32, u32) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if got < OLDEST {
        return Err(format!(
            "{} is nvcc {version}; hadal needs {}.{} or newer",
            nvcc.display(),
            OLDEST.0,
            OLDEST.1
        ));
    }
    let ptxas = nvcc.with_file_name("ptxas");
    if !ptxas.exists() {
        return Err(format!("{} has no ptxas beside it", nvcc.display()));
    }
    let host = cc::Build::new().cpp(true).opt_level(2).try_get_compiler();
    let host = host
        .map(|c| c.path().to_path_buf())
        .map_err(|e| e.to_string());
    let host =
        host.and_then(|h| super::compile::output(Command::new(&h).arg("--version")).map(|_| h));
    let host = host.map_err(|e| {
        format!(
            "hadal needs a C++ compiler (c++): nvcc preprocesses with it, and its headers need the C++ standard library.\n{e}\n\
             Install one (Debian: apt install g++), or name it with CXX"
        )
    })?;
    Ok(Toolkit {
        nvcc,
        ptxas,
        version,
        host,
    })
}

/// `HADAL_NVCC`, `CUDA_HOME`, `CUDA_PATH`, PATH, `.cuda/` of this checkout. A variable that names no compiler is an error.
fn existing() -> Result<Option<PathBuf>, String> {
    for (variable, below) in [
        ("HADAL_NVCC", ""),
        ("CUDA_HOME", "bin/nvcc"),
        ("CUDA_PATH", "bin/nvcc"),
    ] {
        if let Some(v) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
            let nvcc = if below.is_empty() {
                PathBuf::from(&v)
            } else {
                Path::new(&v).join(below)
            };
            return if nvcc.exists() {
                Ok(Some(nvcc))
            } else {
                Err(format!(
                    "{variable} names {}, which is not there",
                    nvcc.display()
                ))
            };
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path) {
        let nvcc = folder.join("nvcc");
        if nvcc.is_file() {
            // Through a link: ptxas and the headers lie beside the real file.
            return Ok(Some(nvcc.canonicalize().unwrap_or(nvcc)));
        }
    }
    Ok(below(Path::new(INSTALLED)))
}

/// nvcc in a folder that pip installed the wheels into.
fn below(folder: &Path) -> Option<PathBuf> {
    let packages = std::fs::read_dir(folder.join("nvidia")).ok()?;
    let mut found: Vec<_> = packages
        .flatten()
        .map(|p| p.path().join("bin/nvcc"))
        .filter(|p| p.exists())
        .collect();
    found.sort();
    found.pop().and_then(|p| std::path::absolute(p).ok())
}

fn version(nvcc: &Path) -> Result<String, String> {
    let text = super::compile::output(Command::new(nvcc).arg("--version"))?;
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let v = text
        .rsplit(", V")
        .next()
        .and_then(|t| t.split_whitespace().next())
        .filter(|v| v.starts_with(|c: char| c.is_ascii_digit()));
    v.map(String::from).ok_or_else(|| {
        format!(
            "{} --version says nothing of a version:\n{text}",
            nvcc.display()
        )
    })
}

/// Installs the pinned wheels into `.cuda/`: under a lock, into a folder of its own first, so that it is there whole or not.
fn fetch() -> Result<PathBuf, String> {
    let lock = std::fs::File::create(".cuda.lock");
    let mut lock = fd_lock::RwLock::new(
        lock.map_err(|e| format!("no lock file for installing the CUDA compiler: {e}"))?,
    );
    let _held = lock
        .write()
        .map_err(|e| format!("the lock for installing the CUDA compiler: {e}"))?;
    if let Some(nvcc) = below(Path::new(INSTALLED)) {
        return Ok(nvcc);
    }
    let temporary = format!("{INSTALLED}.{}", std::process::id());
    println!("cargo::warning=installing the pinned CUDA compiler (104 MB) into {INSTALLED}/");
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--require-hashes",
    ]);
    pip.args([
        "--only-binary",
        ":all:",
        "--no-compile",
        "--target",
        &temporary,
        "-r",
        REQUIREMENTS,
    ]);
    let done = super::compile::output(&mut pip).and_then(|_| {
        if below(Path::new(&temporary)).is_none() {
            return Err("the wheels hold no nvcc".into());
        }
        let _ = std::fs::remove_dir_all(INSTALLED);
        std::fs::rename(&temporary, INSTALLED)
            .map_err(|e| format!("{temporary} could not become {INSTALLED}: {e}"))
    });
    if let Err(e) = done {
        let _ = std::fs::remove_dir_all(&temporary);
        return Err(format!(
            "the pinned CUDA compiler could not be installed:\n{e}\n\
             Install it by hand (network and pip are needed), or name an nvcc with HADAL_NVCC:\n    \
             python3 -m pip install --no-deps --require-hashes --target {INSTALLED} -r {REQUIREMENTS}"
        ));
    }
    below(Path::new(INSTALLED))
        .ok_or_else(|| format!("{INSTALLED} vanished while it was installed"))
}
