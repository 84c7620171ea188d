//! Functions that cannot be put where they are called, because they call themselves or are called through a register: each
//! is a region of its own in the kernel's code, entered through [`crate::isa::call`].
//!
//! A region owns a run of registers. A call saves, lane by lane, what the region's registers hold, and its `ret` puts it
//! back; so a function may be in use any number of times in a lane. What lies in local memory moves: variables and `.param`
//! space of a region are reached through registers of its own that the call sets from the lane's stack pointer. `.param`
//! variables of the caller are passed by address.

use std::collections::HashMap;

use super::inst::{PredId, RowId};
use crate::isa::memory::LOCAL_WINDOW;
use crate::ptx::ast::{AddrBase, Function, Inst, Operand, RegId, Register, Space, Type, VarRef};

/// Where the address of something in local memory comes from when a region is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// The lane's stack pointer at the call.
    Frame,
    /// The address that the call gives for parameter `.0`.
    Param(u32),
    /// The address that the call gives for return value `.0`.
    Return(u32),
}

/// A parameter or return value of a region.
#[derive(Clone, Copy, Debug)]
pub struct Formal<R> {
    /// Bytes.
    pub size: u64,
    /// The register, for one that has one; else it is reached by address.
    pub reg: Option<R>,
}

/// A region before its registers are rows.
#[derive(Clone, Debug)]
pub struct Region {
    /// Index of the function in the module.
    pub function: u32,
    /// First instruction.
    pub entry: u32,
    /// Registers, from and up to.
    pub registers: (u32, u32),
    /// Parameters.
    pub params: Vec<Formal<RegId>>,
    /// Return values.
    pub returns: Vec<Formal<RegId>>,
    /// Registers that hold addresses: base and what is added.
    pub addresses: Vec<(RegId, Base, i64)>,
    /// Bytes of local memory of one activation.
    pub frame: u32,
    /// Variables of the whole that belong to it, from and up to.
    pub variables: (u32, u32),
}

/// A register of a region as the machine knows it.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// First row.
    pub row: RowId,
    /// Rows.
    pub rows: u32,
}

/// A region ready to run.
#[derive(Clone, Debug)]
pub struct RegionCode {
    /// Index of the function in the module.
    pub function: u32,
    /// First instruction.
    pub entry: u32,
    /// Its registers, those of 128 bits in halves.
    pub slots: Vec<Slot>,
    /// Predicates, from and up to.
    pub preds: (PredId, PredId),
    /// Parameters.
    pub params: Vec<Formal<Slot>>,
    /// Return values.
    pub returns: Vec<Formal<Slot>>,
    /// Rows of 64 bits (32 where the flag is not set) that hold addresses.
    pub addresses: Vec<(RowId, bool, Base, i64)>,
    /// Bytes of local memory of one activation.
    pub frame: u32,
}

/// What a lane keeps of a call under way.
#[derive(Clone, Debug)]
pub struct Activation {
    /// The call instruction.
    pub site: u32,
    /// Index of the region.
    pub region: u32,
    /// The stack pointer at the call.
    pub sp: u32,
    /// What the region's registers held.
    pub slots: Box<[u64]>,
    /// What its predicates held.
    pub preds: Box<[bool]>,
}

/// How an address is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// 64 bits, in `.local`.
    Local,
    /// 32 bits, in `.local`.
    Short,
    /// 64 bits, generic.
    Generic,
}

/// Turns what `region`, the last of `out`, has in local memory into registers. `places`: for variables of `out` from
/// `first` on that are parameters or return values, which.
pub fn bind(out: &mut Function, region: &mut Region, first: u32, places: &HashMap<u32, Base>) {
    let mut at = 0u32;
    let mut offsets = HashMap::new();
    for (i, v) in out.variables.iter().enumerate().skip(first as usize) {
        if v.space == Space::Local && !places.contains_key(&(i as u32)) {
            at = at.next_multiple_of(v.align.max(1));
            offsets.insert(i as u32, at);
            at = at.saturating_add(v.size as u32);
        }
    }
    region.frame = at.next_multiple_of(16);
    region.variables = (first, out.variables.len() as u32);
    let mut known = HashMap::new();
    let mut body = std::mem::take(&mut out.body);
    for inst in &mut body[region.entry as usize..] {
        let generic = !inst.opcode.iter().any(|p| p == "local");
        let short = inst
            .opcode
            .last()
            .is_some_and(|t| matches!(t.as_str(), "u32" | "b32" | "s32"));
        let mut operands = std::mem::take(&mut inst.operands);
        for o in &mut operands {
            replace(o, inst, generic, short, &mut |v, add, kind| {
                let (base, add) = match (places.get(&v), offsets.get(&v)) {
                    (Some(b), _) => (*b, add),
                    (None, Some(o)) => (Base::Frame, add + i64::from(*o)),
                    (None, None) => return None,
                };
                let r = *known.entry((base, add, kind)).or_insert_with(|| {
                    out.registers.push(Register {
                        name: "(address)".into(),
                        ty: if kind == Kind::Short {
                            Type::B32
                        } else {
                            Type::B64
                        },
                    });
                    let r = RegId(out.registers.len() as u32 - 1);
                    let window = if kind == Kind::Generic {
                        LOCAL_WINDOW as i64
                    } else {
                        0
                    };
                    region.addresses.push((r, base, add + window));
                    r
                });
                Some(r)
            });
        }
        inst.operands = operands;
    }
    out.body = body;
    region.registers.1 = out.registers.len() as u32;
}

fn replace(
    o: &mut Operand,
    inst: &Inst,
    generic: bool,
    short: bool,
    reg: &mut dyn FnMut(u32, i64, Kind) -> Option<RegId>,
) {
    match o {
        Operand::Var(VarRef::Function(v), add) => {
            let list = matches!(inst.opcode[0].as_str(), "call" | "builtin");
            let kind = if short && !list {
                Kind::Short
            } else {
                Kind::Local
            };
            if let Some(r) = reg(*v, *add, kind) {
                *o = Operand::Reg(r);
            }
        }
        Operand::Addr {
            base: base @ AddrBase::Var(VarRef::Function(_)),
            ..
        } => {
            let AddrBase::Var(VarRef::Function(v)) = *base else {
                return;
            };
            let kind = if generic { Kind::Generic } else { Kind::Local };
            if let Some(r) = reg(v, 0, kind) {
                *base = AddrBase::Reg(r);
            }
        }
        Operand::Vector(list) | Operand::List(list) => {
            for o in list {
                replace(o, inst, generic, short, reg);
            }
        }
        _ => {}
    }
}

/// Which functions of a module call themselves, perhaps through others.
pub fn recursive(module: &crate::ptx::ast::Module) -> Vec<bool> {
    let index: HashMap<&str, usize> = module
        .functions
        .iter()
        .enumerate()
        .map(|(i, f)| (f.name.as_str(), i))
        .collect();
    let edges: Vec<Vec<usize>> = module
        .functions
        .iter()
        .map(|f| {
            let calls = f.body.iter().filter(|i| i.opcode[0] == "call");
            let names = calls.flat_map(|i| &i.operands).filter_map(|o| match o {
                Operand::Func(n) => index.get(n.as_str()).copied(),
                _ => None,
            });
            names.collect()
        })
        .collect();
    (0..edges.len())
        .map(|start| {
            let mut seen = vec![false; edges.len()];
            let mut todo = edges[start].clone();
            while let Some(f) = todo.pop() {
                if f == start {
                    return true;
                }
                if !std::mem::replace(&mut seen[f], true) {
                    todo.extend(&edges[f]);
                }
            }
            false
        })
        .collect()
}

/// Functions whose address somebody takes: they may be called through a register.
pub fn taken(module: &crate::ptx::ast::Module) -> Vec<bool> {
    let mut names = std::collections::HashSet::new();
    for v in &module.variables {
        names.extend(v.relocations.iter().map(|r| r.symbol.as_str()));
    }
    for f in &module.functions {
        for i in f.body.iter().filter(|i| i.opcode[0] != "call") {
            for o in &i.operands {
                if let Operand::Func(n) = o {
                    names.insert(n);
                }
            }
        }
        for l in &f.labels {
            if let Some(crate::ptx::ast::Callable::Targets(t)) = l.calls.as_deref() {
                names.extend(t.iter().map(String::as_str));
            }
        }
    }
    module
        .functions
        .iter()
        .map(|f| f.defined && !f.entry && names.contains(f.name.as_str()))
        .collect()
}
