//! The mutant that `HADAL_EMU_MUTATE` asks for, and the lists that `hadal-emu mutate` works from.

use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{code, control};
use crate::machine::tensor_map::{Swizzle, TensorMap};
use crate::mutate::{self, MAP, MAP_SWIZZLE, Site, Spec};
use crate::ptx::ast::Module;

/// File to which each loaded module's sites are appended.
pub const LIST: &str = "HADAL_EMU_MUTATE_LIST";
/// File to which each application of the mutant is appended.
const APPLIED: &str = "HADAL_EMU_MUTATE_APPLIED";

static WANTED: LazyLock<Result<Option<Spec>, String>> = LazyLock::new(|| {
    let text = std::env::var("HADAL_EMU_MUTATE").ok();
    text.map(|t| Spec::parse(&t)).transpose()
});

/// Tensor maps with a swizzle, so far.
static MAPS: AtomicU32 = AtomicU32::new(0);

/// Appends a line to the file that variable `name` names, if it is set.
fn append(name: &str, line: impl FnOnce() -> String) {
    let Some(path) = std::env::var_os(name) else {
        return;
    };
    let mut options = std::fs::OpenOptions::new();
    let file = options.append(true).create(true).open(&path);
    if let Err(e) = file.and_then(|mut f| f.write_all((line() + "\n").as_bytes())) {
        control::note(format!("{name}={}: {e}", path.display()));
    }
}

fn list(sites: &[Site]) {
    append(LIST, || serde_json::to_string(sites).unwrap_or_default());
}

fn wanted() -> Result<Option<&'static Spec>, u32> {
    match &*WANTED {
        Ok(s) => Ok(s.as_ref()),
        Err(e) => {
            control::note(format!("HADAL_EMU_MUTATE: {e}"));
            Err(code::INVALID_VALUE)
        }
    }
}

/// A module is being loaded from `text`. Answers whether it was changed.
///
/// # Errors
/// `HADAL_EMU_MUTATE` names no mutant.
pub fn on_load(module: &mut Module, text: &str) -> Result<bool, u32> {
    if std::env::var_os(LIST).is_some() {
        list(&mutate::sites(module, text));
    }
    let applied = wanted()?.is_some_and(|s| mutate::apply(module, text, s));
    if applied {
        append(APPLIED, || "module".into());
    }
    Ok(applied)
}

/// A module that was changed cannot be decoded.
pub fn refused() {
    append(APPLIED, || "refused".into());
}

/// A tensor map is being encoded.
///
/// # Errors
/// As [`on_load`].
pub fn on_map(map: &mut TensorMap) -> Result<(), u32> {
    let (to, change) = match map.swizzle {
        Swizzle::None => return Ok(()),
        Swizzle::B32 => (Swizzle::None, "32 bytes become none"),
        Swizzle::B64 => (Swizzle::B32, "64 bytes become 32"),
        Swizzle::B128 => (Swizzle::B64, "128 bytes become 64"),
    };
    let ordinal = MAPS.fetch_add(1, Ordering::Relaxed);
    list(&[Site {
        module: String::new(),
        kernel: MAP.into(),
        operator: MAP_SWIZZLE.into(),
        ordinal,
        line: 0,
        change: change.into(),
    }]);
    if wanted()?.is_some_and(|s| s.is_map(ordinal)) {
        map.swizzle = to;
        append(APPLIED, || "map".into());
    }
    Ok(())
}
