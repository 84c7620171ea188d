//! Calls of device functions: the callee's body is put where the call stands, with registers, labels and variables of its
//! own. `.param` variables of calls become local memory, which they are to a program (PTX ISA, "Parameter State Space").
//! Recursion and calls through registers are refused.

use std::collections::HashMap;

use crate::isa::decode::Result;
use crate::ptx::ast::{
    AddrBase, Function, Guard, Inst, Label, Linkage, Module, Operand, Param, PtxError, RegId,
    Space, VarRef, Variable,
};

/// Instructions of a kernel with all its calls at most.
const LIMIT: usize = 1 << 21;

/// Where a formal parameter or return value of the function being copied lives.
#[derive(Clone, Copy)]
enum Place {
    /// It is the kernel's own.
    Kernel,
    /// `Function::variables[i]` of the result.
    Variable(u32),
    /// A register, known by its number.
    Register,
}

/// One copy of a function: how its numbers become the result's.
struct Copy {
    registers: u32,
    labels: u32,
    variables: Vec<u32>,
    call_params: Vec<u32>,
    params: Vec<Place>,
    returns: Vec<Place>,
    /// Where `ret` goes; `None` in the kernel itself.
    end: Option<u32>,
}

struct Inliner<'a> {
    module: &'a Module,
    out: Function,
    /// Functions being copied, outermost first.
    open: Vec<String>,
    /// `.shared` variables of functions exist once, however often they are called.
    shared: HashMap<(String, usize), u32>,
}

/// `f` without calls. Of a device function, what a kernel would be that had its body.
pub fn inline(module: &Module, f: &Function) -> Result<Function> {
    let mut out = f.clone();
    out.registers.clear();
    out.variables.clear();
    out.call_params.clear();
    out.body.clear();
    out.labels.clear();
    let mut i = Inliner {
        module,
        out,
        open: Vec::new(),
        shared: HashMap::new(),
    };
    let place = |i: &mut Inliner, p: &Param| match p.reg {
        Some(_) => Place::Register,
        None if f.entry => Place::Kernel,
        None => Place::Variable(i.local(p)),
    };
    let params = f.params.iter().map(|p| place(&mut i, p)).collect();
    let returns = f.returns.iter().map(|p| place(&mut i, p)).collect();
    i.copy(f, params, returns)?;
    Ok(i.out)
}

fn plain(like: &Inst, opcode: &[&str], operands: Vec<Operand>, guard: Option<Guard>) -> Inst {
    Inst {
        guard,
        opcode: opcode.iter().map(ToString::to_string).collect(),
        operands,
        span: like.span,
        loc: like.loc,
    }
}

impl Inliner<'_> {
    fn local(&mut self, p: &Param) -> u32 {
        self.out.variables.push(Variable {
            name: p.name.clone(),
            space: Space::Local,
            ty: p.ty,
            align: p.align,
            size: p.size,
            unsized_array: false,
            init: None,
            relocations: Vec::new(),
            linkage: Linkage::None,
            span: self.out.span,
        });
        self.out.variables.len() as u32 - 1
    }

    fn label(&mut self, name: &str) -> u32 {
        self.out.labels.push(Label {
            name: name.into(),
            target: u32::MAX,
            targets: Vec::new(),
        });
        self.out.labels.len() as u32 - 1
    }

    fn here(&mut self, label: u32) {
        self.out.labels[label as usize].target = self.out.body.len() as u32;
    }

    /// Appends a copy of `f`. Answers the number of its first register.
    fn copy(&mut self, f: &Function, params: Vec<Place>, returns: Vec<Place>) -> Result<u32> {
        if self.open.contains(&f.name) {
            let text = format!("`{}` calls itself: recursion is not supported", f.name);
            return Err(PtxError::new(f.span, text));
        }
        self.open.push(f.name.clone());
        let mut variables = Vec::new();
        for (i, v) in f.variables.iter().enumerate() {
            let new = self.out.variables.len() as u32;
            let at = if v.space == Space::Shared {
                *self.shared.entry((f.name.clone(), i)).or_insert(new)
            } else {
                new
            };
            if at == new {
                self.out.variables.push(v.clone());
            }
            variables.push(at);
        }
        let call_params = f.call_params.iter().map(|p| self.local(p)).collect();
        let labels = self.out.labels.len() as u32;
        for l in &f.labels {
            let mut l = l.clone();
            l.targets.iter_mut().for_each(|t| *t += labels);
            self.out.labels.push(l);
        }
        let end = (!f.entry).then(|| self.label("(end of function)"));
        let c = Copy {
            registers: self.out.registers.len() as u32,
            labels,
            variables,
            call_params,
            params,
            returns,
            end,
        };
        self.out.registers.extend(f.registers.iter().cloned());
        let mut starts = Vec::with_capacity(f.body.len() + 1);
        for inst in &f.body {
            starts.push(self.out.body.len() as u32);
            match (inst.opcode[0].as_str(), c.end) {
                ("call", _) => self.call(&c, inst)?,
                ("ret", Some(end)) => {
                    let guard = c.guard(inst);
                    let bra = plain(inst, &["bra"], vec![Operand::Label(end)], guard);
                    self.out.body.push(bra);
                }
                _ => {
                    let new = c.inst(inst)?;
                    self.out.body.push(new);
                }
            }
            if self.out.body.len() > LIMIT {
                return Err(PtxError::new(
                    inst.span,
                    format!("more than {LIMIT} instructions after calls were resolved"),
                ));
            }
        }
        starts.push(self.out.body.len() as u32);
        for (i, l) in f.labels.iter().enumerate() {
            // A label that no statement defines stays undefined, for the decoder to refuse.
            if let Some(s) = starts.get(l.target as usize) {
                self.out.labels[labels as usize + i].target = *s;
            }
        }
        if let Some(end) = end {
            self.here(end);
        }
        self.open.pop();
        Ok(c.registers)
    }

    fn call(&mut self, c: &Copy, inst: &Inst) -> Result<()> {
        let refuse = |text: String| Err(PtxError::new(inst.span, format!("`call`: {text}")));
        if inst.opcode.len() > 2 || inst.opcode.get(1).is_some_and(|q| q != "uni") {
            return refuse(format!("qualifiers {:?} are not known", &inst.opcode[1..]));
        }
        let (results, name, arguments): (&[Operand], _, &[Operand]) = match &inst.operands[..] {
            [Operand::Func(n)] => (&[], n, &[]),
            [Operand::Func(n), Operand::List(a)] => (&[], n, a),
            [Operand::List(r), Operand::Func(n)] => (r, n, &[]),
            [Operand::List(r), Operand::Func(n), Operand::List(a)] => (r, n, a),
            // One constant in parentheses reads as an expression.
            [Operand::Func(n), a @ Operand::Int { .. }] => (&[], n, std::slice::from_ref(a)),
            [Operand::List(r), Operand::Func(n), a @ Operand::Int { .. }] => {
                (r, n, std::slice::from_ref(a))
            }
            _ => return refuse("calls through registers are not supported".into()),
        };
        let callee = self
            .module
            .functions
            .iter()
            .find(|f| f.name == *name && f.defined);
        let Some(callee) = callee.filter(|f| !f.entry) else {
            return refuse(format!(
                "`{name}` is no function with a body in this module"
            ));
        };
        let (np, nr) = (callee.params.len(), callee.returns.len());
        if (arguments.len(), results.len()) != (np, nr) {
            return refuse(format!(
                "`{name}` takes {np} arguments and returns {nr}, found {} and {}",
                arguments.len(),
                results.len()
            ));
        }
        let skip = inst.guard.map(|_| self.label("(after call)"));
        if let (Some(l), Some(g)) = (skip, c.guard(inst)) {
            let other = Guard {
                negated: !g.negated,
                ..g
            };
            let bra = plain(inst, &["bra"], vec![Operand::Label(l)], Some(other));
            self.out.body.push(bra);
        }
        // Registers of the callee follow those of the result so far.
        let base = self.out.registers.len() as u32;
        let place = |i: &mut Self, formal: &Param, actual: &Operand, into: bool| -> Result<Place> {
            let ty = format!("b{}", formal.ty.bytes() * 8);
            Ok(match (formal.reg, c.operand(actual)?) {
                (None, Operand::Var(VarRef::Function(v), 0)) => Place::Variable(v),
                (Some(r), x @ (Operand::Reg(_) | Operand::Int { .. })) => {
                    if into {
                        let to = Operand::Reg(RegId(base + r.0));
                        i.out
                            .body
                            .push(plain(inst, &["mov", &ty], vec![to, x], None));
                    }
                    Place::Register
                }
                (None, x @ (Operand::Reg(_) | Operand::Int { .. })) if into => {
                    let v = i.local(formal);
                    let to = Operand::Addr {
                        base: AddrBase::Var(VarRef::Function(v)),
                        offset: 0,
                    };
                    i.out
                        .body
                        .push(plain(inst, &["st", "local", &ty], vec![to, x], None));
                    Place::Variable(v)
                }
                (_, x) => {
                    let text = format!("`call`: {x:?} does not fit `{}` of `{name}`", formal.name);
                    return Err(PtxError::new(inst.span, text));
                }
            })
        };
        let mut params = Vec::new();
        for (f, a) in callee.params.iter().zip(arguments) {
            params.push(place(self, f, a, true)?);
        }
        let mut returns = Vec::new();
        for (f, a) in callee.returns.iter().zip(results) {
            returns.push(place(self, f, a, false)?);
        }
        let first = self.copy(callee, params, returns)?;
        for (f, a) in callee.returns.iter().zip(results) {
            if let Some(r) = f.reg {
                let ty = format!("b{}", f.ty.bytes() * 8);
                let from = Operand::Reg(RegId(first + r.0));
                let mov = plain(inst, &["mov", &ty], vec![c.operand(a)?, from], None);
                self.out.body.push(mov);
            }
        }
        if let Some(l) = skip {
            self.here(l);
        }
        Ok(())
    }
}

impl Copy {
    fn reg(&self, r: RegId) -> RegId {
        RegId(r.0 + self.registers)
    }

    fn guard(&self, inst: &Inst) -> Option<Guard> {
        inst.guard.map(|g| Guard {
            reg: self.reg(g.reg),
            ..g
        })
    }

    fn var(&self, v: VarRef) -> VarRef {
        let bound = |p: Place| match p {
            Place::Variable(x) => VarRef::Function(x),
            Place::Kernel | Place::Register => v,
        };
        match v {
            VarRef::Module(_) => v,
            VarRef::Function(i) => VarRef::Function(self.variables[i as usize]),
            VarRef::CallParam(i) => VarRef::Function(self.call_params[i as usize]),
            VarRef::Param(i) => bound(self.params[i as usize]),
            VarRef::Return(i) => bound(self.returns[i as usize]),
        }
    }

    fn base(&self, b: AddrBase) -> AddrBase {
        match b {
            AddrBase::Reg(r) => AddrBase::Reg(self.reg(r)),
            AddrBase::Var(v) => AddrBase::Var(self.var(v)),
            AddrBase::Absolute => b,
        }
    }

    fn operand(&self, o: &Operand) -> Result<Operand> {
        let all = |v: &[Operand]| {
            v.iter()
                .map(|o| self.operand(o))
                .collect::<Result<Vec<_>>>()
        };
        Ok(match o {
            Operand::Reg(r) => Operand::Reg(self.reg(*r)),
            Operand::NotReg(r) => Operand::NotReg(self.reg(*r)),
            Operand::Pair(a, b) => Operand::Pair(a.map(|r| self.reg(r)), b.map(|r| self.reg(r))),
            Operand::Var(v, offset) => Operand::Var(self.var(*v), *offset),
            Operand::Label(l) => Operand::Label(l + self.labels),
            Operand::Vector(v) => Operand::Vector(all(v)?),
            Operand::List(v) => Operand::List(all(v)?),
            Operand::Addr { base, offset } => Operand::Addr {
                base: self.base(*base),
                offset: *offset,
            },
            Operand::TensorAddr {
                base,
                offset,
                lists,
            } => Operand::TensorAddr {
                base: self.base(*base),
                offset: *offset,
                lists: lists.iter().map(|l| all(l)).collect::<Result<_>>()?,
            },
            Operand::Special(_)
            | Operand::Int { .. }
            | Operand::F32(_)
            | Operand::F64(_)
            | Operand::Func(_)
            | Operand::Sink => o.clone(),
        })
    }

    /// The instruction with the result's numbers. Accesses to parameters of calls go to local memory.
    fn inst(&self, inst: &Inst) -> Result<Inst> {
        let mut new = inst.clone();
        new.guard = self.guard(inst);
        new.operands = inst
            .operands
            .iter()
            .map(|o| self.operand(o))
            .collect::<Result<_>>()?;
        let moved = inst.operands.iter().zip(&new.operands).any(|(old, new)| {
            let var = |o: &Operand| match o {
                Operand::Addr {
                    base: AddrBase::Var(v),
                    ..
                } => Some(*v),
                _ => None,
            };
            matches!(
                (var(old), var(new)),
                (
                    Some(VarRef::Param(_) | VarRef::Return(_) | VarRef::CallParam(_)),
                    Some(VarRef::Function(_))
                )
            )
        });
        if moved && matches!(inst.opcode[0].as_str(), "ld" | "st") {
            for part in &mut new.opcode[1..] {
                if part == "param" || part == "param::func" {
                    *part = "local".into();
                }
            }
        }
        Ok(new)
    }
}
