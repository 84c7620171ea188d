//! From a resolved instruction to an executable one: operands become rows, qualifiers are taken one by one and none is
//! left over.

use std::collections::{HashMap, HashSet};

use crate::machine::calls::{Formal, Region, RegionCode, Slot};
use crate::machine::inline::Site;
use crate::machine::inst::{Exec, Inst, PRED_SINK, PRED_TRUE, PredId, RowId, RowInit, Special};
use crate::machine::program::Aux;
use crate::ptx::ast::{
    self, AddrBase, Function, Operand, PtxError, RegId, Space, Span, Type, VarRef,
};

/// `Err` names the instruction's place.
pub type Result<T> = std::result::Result<T, PtxError>;

/// Where the address operand of a load or store points before its register is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Row of the base: 32 or 64 bits.
    pub row: RowId,
    /// True when the base has 64 bits.
    pub wide: bool,
    /// Constant added to it.
    pub offset: i64,
    /// The space of the variable it names, if it names one; parameters only when `Some(Space::Param)`.
    pub space: Option<Space>,
}

/// Where a qualifier of a memory access stands in the order that the PTX ISA writes: ordering, scope, space, operation, how to
/// treat subnormals, hints, vector, type. ptxas takes them in any order, and compilers make use of that.
fn place(part: &str) -> u32 {
    match part {
        "mmio" => 0,
        "weak" | "volatile" | "relaxed" | "acquire" | "release" | "acq_rel" | "sc" => 1,
        "cta" | "cluster" | "gpu" | "sys" => 2,
        "global" | "shared" | "shared::cta" | "shared::cluster" | "local" | "const" | "param"
        | "param::entry" | "param::func" => 3,
        "add" | "min" | "max" | "inc" | "dec" | "and" | "or" | "xor" | "exch" | "cas" => 4,
        "noftz" => 5,
        "v2" | "v4" | "v8" => 7,
        p if Type::parse(p).is_some() => 8,
        _ => 6,
    }
}

/// The qualifiers of an opcode, taken from left to right.
pub struct Mods<'a> {
    parts: Vec<&'a str>,
    at: usize,
    span: Span,
    mnemonic: &'a str,
}

impl<'a> Mods<'a> {
    /// The qualifiers after the mnemonic.
    pub fn new(inst: &'a ast::Inst) -> Self {
        let mut parts: Vec<&str> = inst.opcode.iter().map(String::as_str).collect();
        if matches!(parts[0], "ld" | "st" | "atom" | "red") {
            parts[1..].sort_by_key(|p| place(p));
        }
        Self {
            parts,
            at: 1,
            span: inst.span,
            mnemonic: &inst.opcode[0],
        }
    }

    /// The next qualifier, not taken.
    pub fn peek(&self) -> Option<&'a str> {
        self.parts.get(self.at).copied()
    }

    /// Takes the next qualifier.
    #[allow(clippy::should_implement_trait)] // callers write it out one by one
    pub fn next(&mut self) -> Option<&'a str> {
        let p = self.peek()?;
        self.at += 1;
        Some(p)
    }

    /// Takes the next qualifier if it is `name`.
    pub fn take(&mut self, name: &str) -> bool {
        let hit = self.peek() == Some(name);
        self.at += usize::from(hit);
        hit
    }

    /// Takes the next qualifier if it is one of `names`, and says which.
    pub fn one_of<'n>(&mut self, names: &[&'n str]) -> Option<&'n str> {
        let p = self.peek()?;
        let hit = names.iter().find(|n| **n == p)?;
        self.at += 1;
        Some(hit)
    }

    /// Takes a type, which must come next.
    pub fn ty(&mut self) -> Result<Type> {
        match self.peek().and_then(Type::parse) {
            Some(t) => {
                self.at += 1;
                Ok(t)
            }
            None => Err(self.error(format!("expected a type, found {}", self.found()))),
        }
    }

    /// Takes `name`, which must come next.
    pub fn expect(&mut self, name: &str) -> Result<()> {
        if self.take(name) {
            Ok(())
        } else {
            Err(self.error(format!("expected `.{name}`, found {}", self.found())))
        }
    }

    /// Refuses what is left.
    pub fn finish(&self) -> Result<()> {
        if self.at == self.parts.len() {
            Ok(())
        } else {
            Err(self.error(format!(
                "qualifier {} is not legal here or not supported",
                self.found()
            )))
        }
    }

    /// An error at this instruction that shows the whole opcode.
    pub fn error(&self, message: impl std::fmt::Display) -> PtxError {
        PtxError::new(self.span, format!("`{}`: {message}", self.parts.join(".")))
    }

    /// The mnemonic.
    pub fn mnemonic(&self) -> &'a str {
        self.mnemonic
    }

    fn found(&self) -> String {
        self.peek()
            .map_or("the end of the opcode".into(), |p| format!("`.{p}`"))
    }
}

/// Which versions of a lane loop this CPU can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cpu {
    /// What the target guarantees.
    Base,
    /// AVX2, FMA, BMI (x86-64-v3).
    V3,
    /// AVX-512 F, BW, DQ, VL on top (x86-64-v4).
    V4,
}

impl Cpu {
    /// Of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi2");
            let v4 = v3
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if v4 {
                return Self::V4;
            }
            if v3 {
                return Self::V3;
            }
        }
        Self::Base
    }
}

/// State of decoding one kernel.
pub struct Decoder<'a> {
    /// The function.
    pub function: &'a Function,
    /// The module it stands in.
    pub module: &'a ast::Module,
    /// Which lane loops to choose.
    pub cpu: Cpu,
    /// Offset of each `.shared` variable of the module (`None`: it is the dynamic one), then of the function.
    pub shared_module: &'a [Option<u32>],
    /// The same for the function's variables; for `.local` variables the offset in the local depot.
    pub offsets_function: &'a [Option<u32>],
    /// Side tables of complex instructions.
    pub aux: Vec<Aux>,
    reg_row: Vec<u32>,
    rows: u32,
    preds: u32,
    init: Vec<(RowId, RowInit)>,
    known: HashMap<RowInit, RowId>,
    watched: HashSet<RowId>,
    carry: Option<PredId>,
    /// Calls of regions.
    pub sites: &'a [Site],
    /// An instruction moves the stack pointer.
    pub stack: bool,
}

/// Rows that a register of this type takes; 0 for predicates.
pub fn rows_of(ty: Type) -> u32 {
    match ty {
        Type::Pred => 0,
        t if t.bytes() <= 4 => 1,
        t => (t.bytes() / 4) as u32,
    }
}

impl<'a> Decoder<'a> {
    /// Lays out the registers of `function`.
    pub fn new(
        module: &'a ast::Module,
        function: &'a Function,
        cpu: Cpu,
        shared_module: &'a [Option<u32>],
        offsets_function: &'a [Option<u32>],
    ) -> Self {
        let (mut rows, mut preds) = (0, 2);
        let mut reg_row = Vec::with_capacity(function.registers.len());
        for r in &function.registers {
            let n = rows_of(r.ty);
            if n == 0 {
                reg_row.push(preds);
                preds += 1;
            } else {
                reg_row.push(rows);
                rows += n;
            }
        }
        Self {
            function,
            module,
            cpu,
            shared_module,
            offsets_function,
            aux: Vec::new(),
            reg_row,
            rows,
            preds,
            init: Vec::new(),
            known: HashMap::new(),
            watched: HashSet::new(),
            carry: None,
            sites: &[],
            stack: false,
        }
    }

    /// (rows, predicates, what rows hold at the start), when all is decoded.
    pub fn finish(self) -> (u32, u32, Vec<(RowId, RowInit)>, Vec<Aux>) {
        (self.rows, self.preds, self.init, self.aux)
    }

    /// A region with its registers as rows.
    pub fn region(&self, r: &Region) -> RegionCode {
        let own = r.registers.0 as usize..r.registers.1 as usize;
        let ty = |i: usize| self.function.registers[i].ty;
        let slot = |r: RegId| Slot {
            row: self.reg_row[r.0 as usize],
            rows: rows_of(self.reg_type(r)),
        };
        // Predicates lie in the order of their numbers.
        let preds = own.clone().filter(|i| ty(*i) == Type::Pred);
        let preds: Vec<u32> = preds.map(|i| self.reg_row[i]).collect();
        let preds = match (preds.first(), preds.last()) {
            (Some(a), Some(b)) => (*a, b + 1),
            _ => (0, 0),
        };
        let mut slots = Vec::new();
        for i in own.filter(|i| ty(*i) != Type::Pred) {
            let (row, rows) = (self.reg_row[i], rows_of(ty(i)));
            slots.push(Slot {
                row,
                rows: rows.min(2),
            });
            if rows == 4 {
                slots.push(Slot {
                    row: row + 2,
                    rows: 2,
                });
            }
        }
        let formals = |f: &[Formal<RegId>]| {
            f.iter()
                .map(|f| Formal {
                    size: f.size,
                    reg: f.reg.map(slot),
                })
                .collect()
        };
        RegionCode {
            function: r.function,
            entry: r.entry,
            slots,
            preds,
            params: formals(&r.params),
            returns: formals(&r.returns),
            addresses: r
                .addresses
                .iter()
                .map(|&(reg, base, add)| (slot(reg).row, slot(reg).rows == 2, base, add))
                .collect(),
            frame: r.frame,
        }
    }

    /// Declared type of a register.
    pub fn reg_type(&self, r: RegId) -> Type {
        self.function.registers[r.0 as usize].ty
    }

    /// A row (or two, four) that holds the same value through the warp's life.
    pub fn constant(&mut self, init: RowInit) -> RowId {
        if let Some(&row) = self.known.get(&init) {
            return row;
        }
        let row = self.rows;
        self.rows += match init {
            RowInit::Imm64(_)
            | RowInit::Shared64(_)
            | RowInit::DynShared64(_)
            | RowInit::Variable(..)
            | RowInit::Special64(_) => 2,
            _ => 1,
        };
        self.init.push((row, init));
        self.known.insert(init, row);
        row
    }

    /// A fresh row for an instruction's own use.
    pub fn scratch(&mut self, rows: u32) -> RowId {
        let r = self.rows;
        self.rows += rows;
        r
    }

    /// An error at `span` that shows the opcode.
    pub fn error(&self, inst: &ast::Inst, message: impl std::fmt::Display) -> PtxError {
        PtxError::new(inst.span, format!("`{}`: {message}", inst.opcode.join(".")))
    }

    /// Operand `i`, which must be there.
    pub fn operand<'i>(&self, inst: &'i ast::Inst, i: usize) -> Result<&'i Operand> {
        inst.operands
            .get(i)
            .ok_or_else(|| self.error(inst, format!("operand {} is missing", i + 1)))
    }

    /// Refuses any other number of operands.
    pub fn arity(&self, inst: &ast::Inst, n: usize) -> Result<()> {
        if inst.operands.len() == n {
            Ok(())
        } else {
            Err(self.error(
                inst,
                format!("takes {n} operands, found {}", inst.operands.len()),
            ))
        }
    }

    /// The row of a destination register whose declared size must be `bytes` (a wider one where `relaxed`: ld, cvt).
    pub fn dst(&mut self, inst: &ast::Inst, i: usize, ty: Type) -> Result<RowId> {
        match self.operand(inst, i)?.clone() {
            Operand::Reg(r) => self.reg_row_checked(inst, r, ty, false),
            Operand::Sink => Ok(self.scratch(rows_of(ty).max(1))),
            other => Err(self.error(
                inst,
                format!("operand {} must be a register, found {other:?}", i + 1),
            )),
        }
    }

    /// The row of register `r`, used as `ty`. PTX's operand rule: same size, and bits go with anything of their size;
    /// `relaxed` also lets a wider register through (ld, st, cvt).
    pub fn reg_row_checked(
        &self,
        inst: &ast::Inst,
        r: RegId,
        ty: Type,
        relaxed: bool,
    ) -> Result<RowId> {
        let declared = self.reg_type(r);
        let name = &self.function.registers[r.0 as usize].name;
        if declared == Type::Pred {
            return Err(self.error(inst, format!("`{name}` is a predicate, expected {ty:?}")));
        }
        let fits = if relaxed {
            declared.bytes() >= ty.bytes()
        } else {
            declared.bytes() == ty.bytes()
        };
        let (df, tf) = (float_class(declared), float_class(ty));
        // Integers go with any sign; floats only with their own format (.f32 is no .f16x2).
        let kind = relaxed
            || df == Class::Bits
            || tf == Class::Bits
            || df == tf && (df == Class::Int || declared == ty);
        if fits && kind {
            Ok(self.reg_row[r.0 as usize])
        } else {
            Err(self.error(
                inst,
                format!("`{name}` is declared .{declared:?}, the instruction wants .{ty:?}"),
            ))
        }
    }

    /// The row of a source operand used as `ty`: register, constant, special register or address of a variable.
    pub fn src(&mut self, inst: &ast::Inst, i: usize, ty: Type) -> Result<RowId> {
        let o = self.operand(inst, i)?.clone();
        self.src_operand(inst, &o, ty, false)
    }

    /// As [`Decoder::src`], for an operand at hand.
    pub fn src_operand(
        &mut self,
        inst: &ast::Inst,
        o: &Operand,
        ty: Type,
        relaxed: bool,
    ) -> Result<RowId> {
        let wide = ty.bytes() == 8;
        match o {
            Operand::Reg(r) => self.reg_row_checked(inst, *r, ty, relaxed),
            Operand::Int { bits, negative } => {
                let n = ty.bytes() as u32 * 8;
                let fits = n >= 64
                    || if *negative {
                        (*bits as i64) >= -(1i64 << (n - 1))
                    } else {
                        *bits >> n == 0
                    };
                if !fits || n > 64 {
                    return Err(
                        self.error(inst, format!("constant {:#x} does not fit .{ty:?}", bits))
                    );
                }
                Ok(if wide {
                    self.constant(RowInit::Imm64(*bits))
                } else {
                    self.constant(RowInit::Imm32(*bits as u32 & (u32::MAX >> (32 - n))))
                })
            }
            Operand::F32(bits) if ty == Type::F32 || ty == Type::B32 => {
                Ok(self.constant(RowInit::Imm32(*bits)))
            }
            Operand::F32(bits) if ty == Type::F64 => {
                Ok(self.constant(RowInit::Imm64(f64::from(f32::from_bits(*bits)).to_bits())))
            }
            Operand::F64(bits) if ty == Type::F64 || ty == Type::B64 => {
                Ok(self.constant(RowInit::Imm64(*bits)))
            }
            Operand::F64(bits) if ty == Type::F32 => {
                Ok(self.constant(RowInit::Imm32((f64::from_bits(*bits) as f32).to_bits())))
            }
            Operand::Special(name) => match self.special(inst, name)? {
                Some(s) if wide => Ok(self.constant(RowInit::Special64(s))),
                Some(s) => Ok(self.constant(RowInit::Special(s))),
                None => Err(self.error(
                    inst,
                    format!("special register `{name}` cannot be read here or is not supported"),
                )),
            },
            Operand::Var(v, offset) => self.variable(inst, *v, *offset, wide),
            Operand::Func(name) if wide => {
                let at = self.module.functions.iter().position(|f| f.name == *name);
                let at = super::call::address(at.unwrap_or(0) as u32);
                Ok(self.constant(RowInit::Imm64(at)))
            }
            other => Err(self.error(
                inst,
                format!("expected a value of type .{ty:?}, found {other:?}"),
            )),
        }
    }

    /// A special register that this module may read.
    fn special(&self, inst: &ast::Inst, name: &str) -> Result<Option<Special>> {
        super::forms::require(self, inst, super::forms::special(name))?;
        Ok(Special::parse(name))
    }

    /// The row that holds the address of a variable in its own space.
    pub fn variable(
        &mut self,
        inst: &ast::Inst,
        v: VarRef,
        offset: i64,
        wide: bool,
    ) -> Result<RowId> {
        let (var, place) = match v {
            VarRef::Module(i) => (
                &self.module.variables[i as usize],
                self.shared_module[i as usize],
            ),
            VarRef::Function(i) => (
                &self.function.variables[i as usize],
                self.offsets_function[i as usize],
            ),
            VarRef::Param(i) => {
                let at = (self.function.params[i as usize].offset as i64 + offset) as u64;
                return Ok(self.constant(if wide {
                    RowInit::Imm64(at)
                } else {
                    RowInit::Imm32(at as u32)
                }));
            }
            VarRef::CallParam(_) | VarRef::Return(_) => {
                return Err(self.error(inst, "a call parameter has no address here"));
            }
        };
        let init = match (var.space, place, v) {
            (Space::Shared, Some(at), _) => {
                let at = (i64::from(at) + offset) as u32;
                if wide {
                    RowInit::Shared64(at)
                } else {
                    RowInit::Shared32(at)
                }
            }
            (Space::Shared, None, _) => {
                if wide {
                    RowInit::DynShared64(offset as u32)
                } else {
                    RowInit::DynShared32(offset as u32)
                }
            }
            (Space::Local, Some(at), _) => {
                let at = (i64::from(at) + offset) as u64;
                if wide {
                    RowInit::Imm64(at)
                } else {
                    RowInit::Imm32(at as u32)
                }
            }
            (Space::Global | Space::Const, _, VarRef::Module(i)) => {
                if wide {
                    RowInit::Variable(i, offset)
                } else {
                    RowInit::Variable32(i, offset)
                }
            }
            _ => {
                return Err(
                    self.error(inst, format!("variable `{}` has no address here", var.name))
                );
            }
        };
        Ok(self.constant(init))
    }

    /// The space of a variable.
    pub fn space_of(&self, v: VarRef) -> Space {
        match v {
            VarRef::Module(i) => self.module.variables[i as usize].space,
            VarRef::Function(i) => self.function.variables[i as usize].space,
            VarRef::Param(_) | VarRef::Return(_) | VarRef::CallParam(_) => Space::Param,
        }
    }

    /// The address operand `i`.
    pub fn address(&mut self, inst: &ast::Inst, i: usize) -> Result<Address> {
        match self.operand(inst, i)?.clone() {
            Operand::Addr { base, offset } => self.address_of(inst, base, offset),
            other => Err(self.error(
                inst,
                format!("operand {} must be an address, found {other:?}", i + 1),
            )),
        }
    }

    /// The address `base + offset`.
    pub fn address_of(&mut self, inst: &ast::Inst, base: AddrBase, offset: i64) -> Result<Address> {
        Ok(match base {
            AddrBase::Reg(r) => {
                let ty = self.reg_type(r);
                if ty == Type::Pred || ty.bytes() < 4 || ty.bytes() > 8 {
                    return Err(self.error(inst, "an address register has 32 or 64 bits"));
                }
                Address {
                    row: self.reg_row[r.0 as usize],
                    wide: ty.bytes() == 8,
                    offset,
                    space: None,
                }
            }
            AddrBase::Var(v) => {
                let space = self.space_of(v);
                Address {
                    row: self.variable(inst, v, offset, true)?,
                    wide: true,
                    offset: 0,
                    space: Some(space),
                }
            }
            AddrBase::Absolute => Address {
                row: self.constant(RowInit::Imm64(offset as u64)),
                wide: true,
                offset: 0,
                space: None,
            },
        })
    }

    /// The slot of a predicate operand; `!p` gives `true`.
    pub fn pred(&self, inst: &ast::Inst, o: &Operand) -> Result<(PredId, bool)> {
        let (r, neg) = match o {
            Operand::Reg(r) => (*r, false),
            Operand::NotReg(r) => (*r, true),
            Operand::Int { bits, .. } => return Ok((PRED_TRUE, *bits == 0)),
            other => return Err(self.error(inst, format!("expected a predicate, found {other:?}"))),
        };
        Ok((self.pred_reg(inst, r)?, neg))
    }

    /// The slot of a predicate register.
    pub fn pred_reg(&self, inst: &ast::Inst, r: RegId) -> Result<PredId> {
        if self.reg_type(r) == Type::Pred {
            Ok(self.reg_row[r.0 as usize])
        } else {
            Err(self.error(
                inst,
                format!(
                    "`{}` is not a predicate",
                    self.function.registers[r.0 as usize].name
                ),
            ))
        }
    }

    /// The slot of a destination predicate; `_` is the sink.
    pub fn dst_pred(&self, inst: &ast::Inst, o: &Operand) -> Result<PredId> {
        match o {
            Operand::Reg(r) => self.pred_reg(inst, *r),
            Operand::Sink => Ok(PRED_SINK),
            other => Err(self.error(
                inst,
                format!("expected a predicate register, found {other:?}"),
            )),
        }
    }

    /// The guard of an instruction in the form of [`Inst::guard`].
    pub fn guard(&self, inst: &ast::Inst) -> Result<u32> {
        match inst.guard {
            None => Ok(PRED_TRUE << 1),
            Some(g) => Ok(self.pred_reg(inst, g.reg)? << 1 | u32::from(g.negated)),
        }
    }

    /// The hidden predicate that holds the carry.
    pub fn carry_pred(&mut self) -> PredId {
        *self.carry.get_or_insert_with(|| {
            self.preds += 1;
            self.preds - 1
        })
    }

    /// Marks rows whose every use by another instruction the machine has to see (registers of matrix operations).
    pub fn watch(&mut self, rows: &[RowId]) {
        self.watched.extend(rows);
    }

    /// The watched rows that an instruction names.
    pub fn watched_in(&self, inst: &ast::Inst) -> Vec<RowId> {
        fn regs(o: &Operand, out: &mut Vec<RegId>) {
            match o {
                Operand::Reg(r) | Operand::NotReg(r) | Operand::Part { reg: r, .. } => out.push(*r),
                Operand::Pair(a, b) => out.extend(a.iter().chain(b)),
                Operand::Vector(v) | Operand::List(v) => v.iter().for_each(|o| regs(o, out)),
                Operand::Addr {
                    base: AddrBase::Reg(r),
                    ..
                } => out.push(*r),
                _ => {}
            }
        }
        let mut out = Vec::new();
        inst.operands.iter().for_each(|o| regs(o, &mut out));
        let rows = out.iter().flat_map(|r| {
            let first = self.reg_row[r.0 as usize];
            first..first + rows_of(self.reg_type(*r))
        });
        rows.filter(|r| self.watched.contains(r)).collect()
    }

    /// Stores a side table entry.
    pub fn push_aux(&mut self, aux: Aux) -> u32 {
        self.aux.push(aux);
        (self.aux.len() - 1) as u32
    }

    /// An instruction without operands yet; the guard is set by the caller of the decoders.
    pub fn inst(&self, exec: Exec) -> Inst {
        Inst {
            exec,
            guard: PRED_TRUE << 1,
            d: 0,
            a: 0,
            b: 0,
            c: 0,
            x: 0,
        }
    }
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Class {
    Bits,
    Int,
    Float,
}

fn float_class(t: Type) -> Class {
    use Type::*;
    match t {
        B8 | B16 | B32 | B64 | B128 => Class::Bits,
        F16 | F16x2 | Bf16 | Bf16x2 | F32 | F32x2 | F64 => Class::Float,
        _ => Class::Int,
    }
}
