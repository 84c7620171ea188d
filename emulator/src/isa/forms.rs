//! Which instruction forms exist, and from which `.target` and `.version` on.
//!
//! `data/forms.txt` lists the opcodes that ptxas takes for sm_80 to sm_90a, found by asking it about whole products of
//! qualifiers (`tests/corpus/forms.py`). A mnemonic in the list has no other forms. Mnemonics that are not in it answer for
//! themselves, with [`Need`].
//!
//! ptxas takes qualifiers in any order, and compilers make use of it (`atom.global.gpu.acq_rel.add`). Here they are put in
//! one order before an instruction is decoded.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use super::decode::{Decoder, Result};
use crate::ptx::ast;

/// The least `.target` and `.version` of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// 80, 89, 90.
    pub target: u32,
    /// `.version`.
    pub version: (u32, u32),
}

impl Need {
    /// From `sm_<target>` and `.version <major>.<minor>` on.
    pub const fn new(target: u32, major: u32, minor: u32) -> Self {
        Self {
            target,
            version: (major, minor),
        }
    }

    /// Both this and another.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            target: self.target.max(other.target),
            version: self.version.max(other.version),
        }
    }
}

/// What every module may use that is looked at here: nothing older than sm_80 and version 7.0 is told apart.
pub const ALWAYS: Need = Need::new(0, 0, 0);

/// An opcode of the list in its order, and what it needs: one of these.
struct Form {
    opcode: Vec<&'static str>,
    needs: &'static [Need],
}

struct Table {
    forms: HashMap<String, Form>,
    mnemonics: HashSet<&'static str>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut t = Table {
        forms: HashMap::new(),
        mnemonics: HashSet::new(),
    };
    let text = include_str!("../../data/forms.txt");
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split(' ');
        let needs: Vec<Need> = words
            .next()
            .unwrap_or_default()
            .split(',')
            .filter_map(need)
            .collect();
        let needs: &'static [Need] = needs.leak();
        for op in words {
            let opcode: Vec<_> = op.split('.').collect();
            t.mnemonics.insert(opcode[0]);
            t.forms.insert(key(&opcode), Form { opcode, needs });
        }
    }
    t
});

/// `sm_89:8.1`.
fn need(text: &str) -> Option<Need> {
    let (target, version) = text.trim_start_matches("sm_").split_once(':')?;
    let (major, minor) = version.split_once('.')?;
    let target = target.trim_end_matches('a').parse().ok()?;
    let n = Need::new(target, major.parse().ok()?, minor.parse().ok()?);
    Some(if n == Need::new(80, 7, 0) { ALWAYS } else { n })
}

/// Words that belong to their mnemonic: they stand first and nowhere else.
const FIRST: [&str; 9] = ["lo", "hi", "wide", "full", "l", "r", "to", "cta", "cluster"];

fn is_type(part: &str) -> bool {
    ast::Type::parse(part).is_some()
        || matches!(
            part,
            "tf32" | "e4m3x2" | "e5m2x2" | "u16x2" | "s16x2" | "u4" | "s4" | "u2" | "s2"
        )
}

/// The same for all orders of an opcode's qualifiers; types keep theirs.
fn key<S: AsRef<str>>(opcode: &[S]) -> String {
    let mut parts = opcode.iter().map(AsRef::as_ref);
    let mut out = parts.next().unwrap_or_default().to_string();
    let mut parts = parts.peekable();
    if let Some(p) = parts.next_if(|p| FIRST.contains(p)) {
        out.push('-');
        out.push_str(p);
    }
    let (types, mut rest): (Vec<&str>, Vec<&str>) = parts.partition(|p| is_type(p));
    rest.sort_unstable();
    for p in rest.into_iter().chain(types) {
        out.push('.');
        out.push_str(p);
    }
    out
}

/// Where a qualifier of a memory instruction stands among the others.
fn rank(part: &str) -> u32 {
    match part {
        "mmio" => 0,
        "weak" | "volatile" | "relaxed" | "acquire" | "release" | "acq_rel" | "sc" => 1,
        "cta" | "cluster" | "gpu" | "sys" | "gl" => 2,
        "global" | "local" | "const" | "param" => 3,
        p if p.starts_with("shared") || p.starts_with("param::") => 3,
        "add" | "min" | "max" | "inc" | "dec" | "and" | "or" | "xor" | "exch" | "cas" => 4,
        "noftz" => 5,
        "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" => 6,
        "nc" => 7,
        p if p.starts_with("L1::") => 8,
        "L2::cache_hint" => 10,
        p if p.starts_with("L2::") => 9,
        "v2" | "v4" | "v8" => 11,
        p if is_type(p) => 12,
        // What is not known stays where it shows.
        _ => 13,
    }
}

/// The instruction with its qualifiers in the order in which the decoders ask for them.
///
/// # Errors
/// A form that does not exist, or not for this module.
pub fn canonical<'i>(d: &Decoder, i: &'i ast::Inst) -> Result<Cow<'i, ast::Inst>> {
    let reordered = |opcode: Vec<String>| {
        if opcode == i.opcode {
            Cow::Borrowed(i)
        } else {
            Cow::Owned(ast::Inst {
                opcode,
                ..i.clone()
            })
        }
    };
    let name = i.opcode[0].as_str();
    if matches!(name, "ld" | "ldu" | "st" | "atom" | "red") {
        let elsewhere = i.opcode.iter().any(|p| p == "async" || p == "bulk");
        if elsewhere {
            return Ok(Cow::Borrowed(i));
        }
        let mut opcode = i.opcode.clone();
        opcode[1..].sort_by_key(|p| rank(p));
        return Ok(reordered(opcode));
    }
    // `ret.func` is how the inliner writes the end of a function.
    let own = name == "ret" && i.opcode.get(1).is_some_and(|q| q == "func");
    if own || !TABLE.mnemonics.contains(name) {
        return Ok(Cow::Borrowed(i));
    }
    let Some(form) = TABLE.forms.get(&key(&i.opcode)) else {
        return Err(d.error(
            i,
            "no such form for sm_80 to sm_90a (a qualifier or type is not legal here or not supported)",
        ));
    };
    if let Some(first) = form.needs.first()
        && !form.needs.iter().any(|n| require(d, i, *n).is_ok())
    {
        require(d, i, *first)?;
    }
    Ok(reordered(
        form.opcode.iter().map(ToString::to_string).collect(),
    ))
}

/// Refuses what this module may not use.
///
/// # Errors
/// What is needed and what the module says.
pub fn require(d: &Decoder, i: &ast::Inst, need: Need) -> Result<()> {
    let module = d.module;
    if module.version < need.version {
        let ((a, b), (x, y)) = (need.version, module.version);
        return Err(d.error(
            i,
            format!("needs .version {a}.{b} or later, the module has {x}.{y}"),
        ));
    }
    let digits = module.target.trim_start_matches("sm_");
    let number: u32 = digits
        .trim_end_matches(|c: char| c.is_ascii_lowercase())
        .parse()
        .unwrap_or(0);
    if number < need.target {
        return Err(d.error(
            i,
            format!(
                "needs .target sm_{} or higher, the module has {}",
                need.target, module.target
            ),
        ));
    }
    Ok(())
}

/// What a special register needs.
pub fn special(name: &str) -> Need {
    let stem = name.trim_start_matches('%');
    match stem.split('.').next().unwrap_or_default() {
        "aggr_smem_size" => Need::new(90, 8, 1),
        "current_graph_exec" => Need::new(0, 8, 0),
        s if s.starts_with("cluster")
            || s.starts_with("ncluster")
            || s == "is_explicit_cluster" =>
        {
            Need::new(90, 7, 8)
        }
        s if s.starts_with("reserved_smem_offset") => Need::new(80, 7, 6),
        _ => ALWAYS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_reads() {
        let get = |op: &str| {
            let parts: Vec<_> = op.split('.').collect();
            TABLE.forms.get(&key(&parts))
        };
        assert!(TABLE.forms.len() > 3500);
        assert_eq!(get("add.u32").unwrap().needs, [ALWAYS]);
        assert_eq!(
            get("add.sat.s32").unwrap().opcode,
            get("add.s32.sat").unwrap().opcode
        );
        assert_eq!(get("add.bf16x2").unwrap().needs, [Need::new(90, 7, 8)]);
        let fp8 = get("cvt.rn.satfinite.e4m3x2.f32").unwrap();
        assert_eq!(fp8.needs, [Need::new(89, 8, 1), Need::new(90, 7, 8)]);
        assert!(get("cvt.rn.s32.f32").is_none() && get("cvt.f32.s32.rn").is_some());
        assert!(get("add.f32x2").is_none() && get("mul.u32.lo").is_none());
    }
}
