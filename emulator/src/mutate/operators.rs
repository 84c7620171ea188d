//! The operators of `docs/mutants.md`.

use std::collections::{HashMap, HashSet};

use super::edit::{Edit, words};
use crate::ptx::ast::{Function, Inst, Operand, RegId};

/// Operators on instructions.
pub(super) const NAMES: [&str; 17] = [
    "fence-delete",
    "fence-scope",
    "wait-delete",
    "wait-count",
    "wait-read",
    "arrive-delete",
    "arrive-count",
    "expect-tx",
    "barrier-delete",
    "barrier-count",
    "commit-delete",
    "access-scope",
    "access-order",
    "access-weak",
    "descriptor-swizzle",
    "phase-flip",
    "phase-stuck",
];

/// A possible change.
pub(super) struct Candidate {
    pub operator: &'static str,
    pub ordinal: u32,
    pub edit: Edit,
}

/// All changes of a function, in the order of its text.
pub(super) fn candidates(f: &Function) -> Vec<Candidate> {
    let parity = parity_registers(f);
    let mut next: HashMap<&'static str, u32> = HashMap::new();
    let mut out = Vec::new();
    for (at, i) in f.body.iter().enumerate() {
        let mut put = |operator: &'static str, edit: Edit| {
            let n = next.entry(operator).or_default();
            out.push(Candidate {
                operator,
                ordinal: *n,
                edit,
            });
            *n += 1;
        };
        let op = Op { at, i };
        op.fences(&mut put);
        op.waits(&mut put);
        op.mbarriers(&mut put);
        op.barriers(&mut put);
        op.accesses(&mut put);
        op.descriptors(&mut put);
        if op.is("xor") && matches!(i.operands.first(), Some(Operand::Reg(r)) if parity.contains(r))
        {
            put("phase-stuck", Edit::Move { at });
        }
    }
    out
}

/// Registers whose values reach the parity of a wait.
fn parity_registers(f: &Function) -> HashSet<RegId> {
    let waits = f
        .body
        .iter()
        .filter(|i| is_wait(i) && i.opcode.iter().any(|w| w == "parity"));
    let mut reach: HashSet<RegId> = waits.filter_map(|i| register(i.operands.get(2))).collect();
    loop {
        let before = reach.len();
        for i in &f.body {
            let through = [
                "mov", "xor", "and", "or", "selp", "cvt", "shr", "shl", "add", "sub",
            ];
            let hit = through.contains(&i.opcode[0].as_str())
                && register(i.operands.first()).is_some_and(|d| reach.contains(&d));
            if hit {
                reach.extend(i.operands[1..].iter().filter_map(|o| register(Some(o))));
            }
        }
        if reach.len() == before {
            return reach;
        }
    }
}

fn register(o: Option<&Operand>) -> Option<RegId> {
    match o {
        Some(Operand::Reg(r)) => Some(*r),
        _ => None,
    }
}

fn is_wait(i: &Inst) -> bool {
    i.opcode[0] == "mbarrier"
        && matches!(
            i.opcode.get(1).map(String::as_str),
            Some("try_wait" | "test_wait")
        )
}

fn narrower(scope: &str) -> Option<&'static str> {
    match scope {
        "sys" => Some("gpu"),
        "gpu" | "cluster" => Some("cta"),
        _ => None,
    }
}

/// An instruction under examination.
struct Op<'a> {
    at: usize,
    i: &'a Inst,
}

impl Op<'_> {
    fn is(&self, mnemonic: &str) -> bool {
        self.i.opcode[0] == mnemonic
    }

    /// The opcode starts with these words.
    fn starts(&self, text: &str) -> bool {
        let mut own = self.i.opcode.iter();
        text.split('.').all(|w| own.next().is_some_and(|o| o == w))
    }

    fn has(&self, word: &str) -> bool {
        self.i.opcode.iter().any(|w| w == word)
    }

    fn delete(&self) -> Edit {
        Edit::Delete { at: self.at }
    }

    /// The opcode with the word at `k` replaced.
    fn replaced(&self, k: usize, word: &str) -> Edit {
        let mut to = self.i.opcode.clone();
        to[k] = word.into();
        Edit::Opcode { at: self.at, to }
    }

    fn add(&self, operand: usize, delta: i64) -> Edit {
        Edit::Add {
            at: self.at,
            operand,
            delta,
        }
    }

    fn constant(&self, operand: usize) -> Option<u64> {
        match self.i.operands.get(operand) {
            Some(Operand::Int { bits, .. }) => Some(*bits),
            _ => None,
        }
    }

    /// Replaces the scope by the next narrower one, if there is one.
    fn narrowed(&self) -> Option<Edit> {
        let found = self.i.opcode.iter().enumerate().skip(1);
        let (k, to) = found.filter_map(|(k, w)| Some((k, narrower(w)?))).next()?;
        Some(self.replaced(k, to))
    }

    fn fences(&self, put: &mut impl FnMut(&'static str, Edit)) {
        if !(self.is("fence") || self.is("membar") || self.starts("wgmma.fence")) {
            return;
        }
        put("fence-delete", self.delete());
        match self.i.opcode.get(1).map(String::as_str) {
            Some("sys") if self.is("membar") => put("fence-scope", self.replaced(1, "gl")),
            Some("gl") if self.is("membar") => put("fence-scope", self.replaced(1, "cta")),
            Some("mbarrier_init") => {}
            _ => {
                if let Some(e) = self.narrowed() {
                    put("fence-scope", e);
                }
            }
        }
    }

    fn waits(&self, put: &mut impl FnMut(&'static str, Edit)) {
        let at = self.at;
        if is_wait(self.i) {
            if let Some(pred) = register(self.i.operands.first()) {
                put("wait-delete", Edit::True { at, pred });
            }
            if self.has("parity") && self.i.operands.len() > 2 {
                let flip = Edit::Flip {
                    at,
                    operand: 2,
                    bits: 1,
                    wide: false,
                };
                put("phase-flip", flip);
            }
            return;
        }
        let group = self.starts("cp.async.wait_group")
            || self.starts("cp.async.bulk.wait_group")
            || self.starts("wgmma.wait_group");
        let all = self.starts("cp.async.wait_all");
        if group || all || self.starts("griddepcontrol.wait") {
            put("wait-delete", self.delete());
        }
        if group {
            put("wait-count", self.add(0, 1));
        }
        if all {
            let to = words("cp.async.wait_group");
            put("wait-count", Edit::Constant { at, to, value: 1 });
        }
        if self.starts("cp.async.bulk.wait_group") && !self.has("read") {
            let to = words("cp.async.bulk.wait_group.read");
            put("wait-read", Edit::Opcode { at, to });
        }
        if self.starts("cp.async.commit_group")
            || self.starts("cp.async.bulk.commit_group")
            || self.starts("wgmma.commit_group")
        {
            put("commit-delete", self.delete());
        }
    }

    fn mbarriers(&self, put: &mut impl FnMut(&'static str, Edit)) {
        let arrive = self.starts("mbarrier.arrive") || self.starts("mbarrier.arrive_drop");
        let expects = self.has("expect_tx");
        if arrive || self.starts("mbarrier.expect_tx") || self.starts("cp.async.mbarrier") {
            put("arrive-delete", self.delete());
        }
        let last = self.i.operands.len().saturating_sub(1);
        if (arrive || self.starts("mbarrier.expect_tx")) && expects {
            put("expect-tx", self.add(last, 16));
            put("expect-tx", self.add(last, -16));
        }
        // mbarrier.arrive state, [addr], count
        if self.starts("mbarrier.init") || (arrive && !expects && self.i.operands.len() == 3) {
            put("arrive-count", self.add(last, 1));
            if self.constant(last).is_some_and(|n| n > 1) {
                put("arrive-count", self.add(last, -1));
            }
        }
    }

    fn barriers(&self, put: &mut impl FnMut(&'static str, Edit)) {
        if self.starts("barrier.cluster") {
            put("barrier-delete", self.delete());
            if self.has("arrive") && !self.has("relaxed") {
                let mut to = self.i.opcode.clone();
                match to.iter().position(|w| w == "release") {
                    Some(k) => to[k] = "relaxed".into(),
                    None => to.insert(3, "relaxed".into()),
                }
                put("access-order", Edit::Opcode { at: self.at, to });
            }
            return;
        }
        if !(self.is("bar") || self.is("barrier")) {
            return;
        }
        if self.has("arrive") {
            put("arrive-delete", self.delete());
        } else {
            put("barrier-delete", self.delete());
        }
        if !self.has("warp") && !self.has("red") && self.i.operands.len() == 2 {
            put("barrier-count", self.add(1, 32));
            if self.constant(1).is_some_and(|n| n > 32) {
                put("barrier-count", self.add(1, -32));
            }
        }
    }

    fn accesses(&self, put: &mut impl FnMut(&'static str, Edit)) {
        let plain = ["ld", "st"].contains(&self.i.opcode[0].as_str());
        let atomic = ["atom", "red"].contains(&self.i.opcode[0].as_str());
        if self.has("async") || self.has("mmio") {
            return;
        }
        let find = |words: &[&str]| {
            self.i
                .opcode
                .iter()
                .position(|w| words.contains(&w.as_str()))
        };
        let order = find(&["acquire", "release", "acq_rel"]);
        if plain || atomic {
            if let Some(e) = self.narrowed() {
                put("access-scope", e);
            } else if atomic && self.has("global") && !self.has("cta") {
                let mut to = self.i.opcode.clone();
                match find(&["relaxed", "acquire", "release", "acq_rel"]) {
                    Some(k) => to.insert(k + 1, "cta".into()),
                    None => {
                        to.splice(1..1, words("relaxed.cta"));
                    }
                }
                put("access-scope", Edit::Opcode { at: self.at, to });
            }
        }
        if (plain || atomic || self.is("mbarrier")) && order.is_some() {
            put("access-order", self.replaced(order.unwrap_or(0), "relaxed"));
        }
        if plain && let Some(k) = find(&["relaxed", "volatile"]) {
            let mut to = self.i.opcode.clone();
            to.remove(k);
            if to
                .get(k)
                .is_some_and(|w| ["cta", "cluster", "gpu", "sys"].contains(&w.as_str()))
            {
                to.remove(k);
            }
            put("access-weak", Edit::Opcode { at: self.at, to });
        }
    }

    fn descriptors(&self, put: &mut impl FnMut(&'static str, Edit)) {
        if !self.starts("wgmma.mma_async") {
            return;
        }
        for operand in [1, 2] {
            if register(self.i.operands.get(operand)).is_some() {
                let flip = Edit::Flip {
                    at: self.at,
                    operand,
                    bits: 1 << 62,
                    wide: true,
                };
                put("descriptor-swizzle", flip);
            }
        }
    }
}
