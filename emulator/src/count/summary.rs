//! From counts of instructions to what a launch did.

use std::collections::BTreeMap;

use super::counters::{Counters, Line};
use super::raw::{PcCount, Raw};
use crate::machine::program::Kernel;

/// Lines shown for each kind of cost.
const LINES: usize = 8;

/// The counters of a launch of `k`.
pub(crate) fn summary(k: &Kernel, raw: &Raw) -> Counters {
    let mut c = Counters {
        allocations: raw.allocations(),
        ..raw.sums.clone()
    };
    c.transfers.sort_by_key(|t| (t.from, t.to));
    let mut lines: BTreeMap<(u32, &str), Line> = BTreeMap::new();
    for (pc, n) in raw.pcs.iter().enumerate() {
        c.predicated_off += n.skipped;
        if n.runs == 0 && n.parked == 0 {
            continue;
        }
        let op = k.opcodes[pc].as_str();
        add(&mut c, op, n);
        if n.extra + n.excess > 0 {
            let line = k.spans[pc].line;
            let l = lines.entry((line, op)).or_default();
            (l.line, l.opcode) = (line, op.into());
            l.executed += n.runs;
            l.extra_wavefronts += n.extra;
            l.sectors += n.sectors;
            l.excess_sectors += n.excess;
        }
    }
    c.lines = worst(lines.into_values().collect());
    c
}

/// Lines of the text that a launch of `k` executed, for at least one lane.
pub(crate) fn executed(k: &Kernel, raw: &Raw) -> Vec<u32> {
    let ran = raw.pcs.iter().zip(&k.spans).filter(|(n, _)| n.runs > 0);
    let mut lines: Vec<u32> = ran.map(|(_, s)| s.line).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

fn add(c: &mut Counters, op: &str, n: &PcCount) {
    c.instructions += n.runs;
    c.thread_instructions += n.lanes;
    *c.opcodes.entry(op.into()).or_default() += n.runs;
    let class = class(op);
    *c.classes.entry(class.into()).or_default() += n.runs;
    if let Some((name, macs)) = macs(op) {
        *c.tensor_macs.entry(name).or_default() += macs * n.runs;
    }
    let words = || op.split('.');
    let has = |w: &str| words().any(|x| x == w);
    match class {
        "fence" => *c.fences.entry(op.into()).or_default() += n.runs,
        "barrier" => {
            let s = c.sync.entry(op.into()).or_default();
            s.executed += n.runs;
            s.parked += n.parked;
        }
        "load" if has("volatile") || has("relaxed") || has("acquire") => c.strong_loads += n.runs,
        _ => {}
    }
    let releases = has("release") || has("acq_rel") || has("sc");
    let fence = class == "fence" && !has("proxy");
    if has("sys")
        && (op == "membar.sys" || (releases && (fence || matches!(class, "store" | "atomic"))))
    {
        c.system_releases += n.runs;
    }
}

pub(super) fn worst(all: Vec<Line>) -> Vec<Line> {
    let top = |key: fn(&Line) -> u64| {
        let mut some: Vec<&Line> = all.iter().filter(|l| key(l) > 0).collect();
        some.sort_by_key(|l| (std::cmp::Reverse(key(l)), l.line));
        some.truncate(LINES);
        some
    };
    let mut out = top(|l| l.extra_wavefronts);
    for l in top(|l| l.excess_sectors) {
        if !out.iter().any(|o| std::ptr::eq(*o, l)) {
            out.push(l);
        }
    }
    out.into_iter().cloned().collect()
}

/// The class of an opcode (see [`Counters::classes`]).
fn class(op: &str) -> &'static str {
    let words: Vec<&str> = op.split('.').collect();
    let last = *words.last().unwrap_or(&"");
    let second = *words.get(1).unwrap_or(&"");
    match words[0] {
        "ld" | "ldu" => "load",
        "st" if second == "bulk" => "async-copy",
        "st" => "store",
        "atom" | "red" => "atomic",
        "ldmatrix" | "stmatrix" | "movmatrix" => "matrix-move",
        "fence" | "membar" => "fence",
        "wgmma" => match second {
            "mma_async" => "tensor",
            "fence" => "fence",
            _ => "barrier",
        },
        "mma" | "wmma" => "tensor",
        "cp" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "createpolicy" => {
            let waits =
                op.contains("wait") || op.contains("commit") || op.contains("mbarrier.arrive");
            if waits { "barrier" } else { "async-copy" }
        }
        "bar" | "barrier" | "mbarrier" | "griddepcontrol" => "barrier",
        "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep"
        | "(end of kernel)" => "control",
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => "warp",
        "cvt" => "convert",
        "mov" | "cvta" | "mapa" | "getctarank" | "isspacep" | "prmt" => "move",
        "setp" | "selp" | "set" | "slct" | "testp" => "compare",
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => "special",
        "add" | "sub" | "mul" | "mad" | "fma" | "neg" | "abs" | "min" | "max" | "div"
        | "copysign" | "addc" | "subc" | "madc" | "and" | "or" | "xor" | "not" | "cnot" | "shl"
        | "shr" | "shf" | "lop3" | "bfe" | "bfi" | "bfind" | "brev" | "clz" | "popc" | "sad"
        | "rem" | "mul24" | "mad24" | "dp4a" | "dp2a" | "szext" | "bmsk" | "fns" => match last {
            "f32" | "f32x2" => "float",
            "f64" => "double",
            "f16" | "f16x2" | "bf16" | "bf16x2" => "half",
            _ => "integer",
        },
        _ => "other",
    }
}

/// What one warp's part of a matrix operation multiplies: name and multiply-adds. A warpgroup's operation is four parts.
fn macs(op: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = op.split('.').collect();
    let parts = match words[0] {
        "wgmma" if words.get(1) == Some(&"mma_async") => 4,
        "mma" => 1,
        _ => return None,
    };
    let shape = words.iter().find_map(|w| {
        let (m, nk) = w.strip_prefix('m')?.split_once('n')?;
        let (n, k) = nk.split_once('k')?;
        Some([m, n, k].map(|x| x.parse::<u64>().ok()))
    })?;
    let [Some(m), Some(n), Some(k)] = shape else {
        return None;
    };
    // Types stand in the order D, A, B (and C): the second is A's.
    let types = words.iter().filter(|w| {
        matches!(
            **w,
            "f16"
                | "bf16"
                | "tf32"
                | "f32"
                | "f64"
                | "e4m3"
                | "e5m2"
                | "s8"
                | "u8"
                | "s4"
                | "u4"
                | "b1"
                | "s32"
        )
    });
    let a = types.copied().nth(1)?;
    Some((format!("{}.{a}", words[0]), m * n * k / parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_operations() {
        let wgmma = macs("wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e5m2");
        assert_eq!(wgmma, Some(("wgmma.e4m3".into(), 16 * 128 * 32)));
        let mma = macs("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
        assert_eq!(mma, Some(("mma.bf16".into(), 2048)));
        assert_eq!(
            macs("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64"),
            Some(("mma.f64".into(), 256))
        );
        assert_eq!(macs("wgmma.wait_group.sync.aligned"), None);
    }

    #[test]
    fn classes() {
        for (op, c) in [
            ("add.s64", "integer"),
            ("fma.rn.bf16x2", "half"),
            ("add.rn.ftz.f32", "float"),
            ("lop3.b32", "integer"),
            ("cp.async.cg.shared.global", "async-copy"),
            ("cp.async.wait_group", "barrier"),
            ("cp.async.bulk.commit_group", "barrier"),
            ("cp.async.mbarrier.arrive.noinc.shared.b64", "barrier"),
            ("wgmma.fence.sync.aligned", "fence"),
            ("mbarrier.try_wait.parity.shared.b64", "barrier"),
            (
                "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32",
                "store",
            ),
            ("vprintf", "other"),
        ] {
            assert_eq!(class(op), c, "{op}");
        }
    }
}
