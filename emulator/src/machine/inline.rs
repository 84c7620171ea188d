//! Calls of device functions: the callee's body is put where the call stands, with registers, labels and variables of its
//! own. `.param` variables of calls become local memory, which they are to a program (PTX ISA, "Parameter State Space").
//! Functions that call themselves or are called through a register become regions ([`super::calls`]).

use std::collections::HashMap;

use super::calls::{self, Base, Formal, Region};
use crate::isa::decode::Result;
use crate::ptx::ast::{
    AddrBase, Callable, Function, Guard, Inst, Label, Linkage, Module, Operand, Param, PtxError,
    RegId, Space, Type, VarRef, Variable,
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

/// How the functions of a module call each other.
pub struct Calls<'a> {
    module: &'a Module,
    recursive: Vec<bool>,
    taken: Vec<bool>,
}

impl<'a> Calls<'a> {
    /// Looks at every call of `module`.
    pub fn new(module: &'a Module) -> Self {
        Self {
            module,
            recursive: calls::recursive(module),
            taken: calls::taken(module),
        }
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.module
            .functions
            .iter()
            .position(|f| f.name == name && f.defined && !f.entry)
    }
}

/// A call of a region: operand 3 of its instruction is its index.
pub struct Site {
    /// The function, if it is named.
    pub target: Option<u32>,
    /// Else those that may be meant, if they are listed.
    pub allowed: Option<Vec<u32>>,
    /// Size of each parameter, and its type where it is a register.
    pub params: Vec<(u64, Option<Type>)>,
    /// The same of return values.
    pub returns: Vec<(u64, Option<Type>)>,
}

/// A function without calls of other functions.
pub struct Inlined {
    /// Its code, then that of the regions.
    pub function: Function,
    /// Regions.
    pub regions: Vec<Region>,
    /// Calls of regions.
    pub sites: Vec<Site>,
}

struct Inliner<'a> {
    calls: &'a Calls<'a>,
    out: Function,
    regions: Vec<Region>,
    sites: Vec<Site>,
    /// Functions that need a region, in the order they were met.
    wanted: Vec<u32>,
    /// Functions being copied, outermost first.
    open: Vec<String>,
    /// `.shared` variables of functions exist once, however often they are called.
    shared: HashMap<(String, usize), u32>,
}

/// `f` without calls. Of a device function, what a kernel would be that had its body.
pub fn inline(calls: &Calls, f: &Function) -> Result<Inlined> {
    let mut out = f.clone();
    out.registers.clear();
    out.variables.clear();
    out.call_params.clear();
    out.body.clear();
    out.labels.clear();
    let mut i = Inliner {
        calls,
        out,
        regions: Vec::new(),
        sites: Vec::new(),
        wanted: Vec::new(),
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
    let mut done = 0;
    while let Some(&g) = i.wanted.get(done) {
        // The kernel's own code ends here, and each region where it returns.
        let end = plain_at(
            &i.out,
            f,
            if done == 0 {
                &["ret"]
            } else {
                &["ret", "func"]
            },
        );
        i.out.body.push(end);
        i.region(g)?;
        done += 1;
    }
    if done > 0 {
        let end = plain_at(&i.out, f, &["ret", "func"]);
        i.out.body.push(end);
    }
    Ok(Inlined {
        function: i.out,
        regions: i.regions,
        sites: i.sites,
    })
}

/// An instruction without operands at the place of the last one.
fn plain_at(out: &Function, f: &Function, opcode: &[&str]) -> Inst {
    Inst {
        guard: None,
        opcode: opcode.iter().map(ToString::to_string).collect(),
        operands: Vec::new(),
        span: out.body.last().map_or(f.span, |i| i.span),
        loc: None,
    }
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
            calls: None,
        });
        self.out.labels.len() as u32 - 1
    }

    fn here(&mut self, label: u32) {
        self.out.labels[label as usize].target = self.out.body.len() as u32;
    }

    /// Appends a copy of `f`. Answers the number of its first register.
    fn copy(&mut self, f: &Function, params: Vec<Place>, returns: Vec<Place>) -> Result<u32> {
        if self.open.contains(&f.name) {
            let text = format!("`{}` stands in its own body", f.name);
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
                ("call", _) => self.call(&c, f, inst)?,
                // Words of our own, which no program may write.
                ("builtin", _) => {
                    return Err(PtxError::new(inst.span, "`builtin`: unknown instruction"));
                }
                ("ret", _) if inst.opcode.get(1).is_some_and(|q| q != "uni") => {
                    let text = format!("`{}`: unknown instruction", inst.opcode.join("."));
                    return Err(PtxError::new(inst.span, text));
                }
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

    /// The region of function `g`.
    fn region(&mut self, g: u32) -> Result<()> {
        let f = &self.calls.module.functions[g as usize];
        let entry = self.out.body.len() as u32;
        let (register, first) = (
            self.out.registers.len() as u32,
            self.out.variables.len() as u32,
        );
        let mut places = HashMap::new();
        let mut place = |i: &mut Self, p: &Param, base: Base| match p.reg {
            Some(_) => Place::Register,
            None => {
                let v = i.local(p);
                places.insert(v, base);
                Place::Variable(v)
            }
        };
        let params = (0u32..).zip(&f.params);
        let params = params
            .map(|(k, p)| place(self, p, Base::Param(k)))
            .collect();
        let returns = (0u32..).zip(&f.returns);
        let returns = returns
            .map(|(k, p)| place(self, p, Base::Return(k)))
            .collect();
        let base = self.copy(f, params, returns)?;
        let formal = |p: &Param| Formal {
            size: p.size,
            reg: p.reg.map(|r| RegId(r.0 + base)),
        };
        let mut r = Region {
            function: g,
            entry,
            registers: (register, register),
            params: f.params.iter().map(formal).collect(),
            returns: f.returns.iter().map(formal).collect(),
            addresses: Vec::new(),
            frame: 0,
            variables: (first, first),
        };
        calls::bind(&mut self.out, &mut r, first, &places);
        self.regions.push(r);
        Ok(())
    }

    /// Asks for a region of function `g`.
    fn want(&mut self, g: usize) -> u32 {
        let g = g as u32;
        if !self.wanted.contains(&g) {
            self.wanted.push(g);
        }
        g
    }

    /// An argument as an operand: the variable that holds it, or for a register parameter the register or constant.
    fn actual(
        &mut self,
        c: &Copy,
        inst: &Inst,
        formal: &Param,
        actual: &Operand,
        into: bool,
        name: &str,
    ) -> Result<Operand> {
        let ty = format!("b{}", formal.ty.bytes() * 8);
        Ok(match (formal.reg, c.operand(actual)?) {
            (None, x @ Operand::Var(VarRef::Function(_), 0)) => x,
            (Some(_), x @ Operand::Reg(_)) => x,
            (Some(_), x @ Operand::Int { .. }) if into => x,
            (None, x @ (Operand::Reg(_) | Operand::Int { .. })) if into => {
                let v = self.local(formal);
                let to = Operand::Addr {
                    base: AddrBase::Var(VarRef::Function(v)),
                    offset: 0,
                };
                self.out
                    .body
                    .push(plain(inst, &["st", "local", &ty], vec![to, x], None));
                Operand::Var(VarRef::Function(v), 0)
            }
            (_, x) => {
                let text = format!("`call`: {x:?} does not fit `{}` of `{name}`", formal.name);
                return Err(PtxError::new(inst.span, text));
            }
        })
    }

    /// Jumps over what follows where the guard of `inst` does not hold.
    fn skip(&mut self, c: &Copy, inst: &Inst) -> Option<u32> {
        let g = c.guard(inst)?;
        let l = self.label("(after call)");
        let other = Guard {
            negated: !g.negated,
            ..g
        };
        let bra = plain(inst, &["bra"], vec![Operand::Label(l)], Some(other));
        self.out.body.push(bra);
        Some(l)
    }

    fn call(&mut self, c: &Copy, f: &Function, inst: &Inst) -> Result<()> {
        let refuse = |text: String| Err(PtxError::new(inst.span, format!("`call`: {text}")));
        if inst.opcode.len() > 2 || inst.opcode.get(1).is_some_and(|q| q != "uni") {
            return refuse(format!("qualifiers {:?} are not known", &inst.opcode[1..]));
        }
        // One constant in parentheses reads as an expression.
        fn one(a: &Operand) -> &[Operand] {
            match a {
                Operand::List(l) => l,
                a => std::slice::from_ref(a),
            }
        }
        let argument = |o: &Operand| matches!(o, Operand::List(_) | Operand::Int { .. });
        let (results, rest): (&[Operand], _) = match &inst.operands[..] {
            [Operand::List(r), rest @ ..] => (r, rest),
            rest => (&[], rest),
        };
        let (target, arguments, list): (_, &[Operand], _) =
            match rest {
                [t @ Operand::Func(_)] => (t, &[], None),
                [t @ Operand::Func(_), a] if argument(a) => (t, one(a), None),
                [t @ Operand::Reg(_), Operand::Label(l)] => (t, &[], Some(*l)),
                [t @ Operand::Reg(_), a, Operand::Label(l)] if argument(a) => (t, one(a), Some(*l)),
                _ => return refuse(
                    "takes a function, or a register and a label of .callprototype or .calltargets"
                        .into(),
                ),
            };
        let Operand::Func(name) = target else {
            return self.indirect(c, f, inst, target, results, arguments, list.unwrap_or(0));
        };
        let Some(at) = self.calls.index(name) else {
            return self.builtin(c, inst, name, results, arguments);
        };
        let calls = self.calls;
        let callee = &calls.module.functions[at];
        let (np, nr) = (callee.params.len(), callee.returns.len());
        if (arguments.len(), results.len()) != (np, nr) {
            return refuse(format!(
                "`{name}` takes {np} arguments and returns {nr}, found {} and {}",
                arguments.len(),
                results.len()
            ));
        }
        let skip = self.skip(c, inst);
        if calls.recursive[at] {
            let g = self.want(at);
            let site = (Some(g), None);
            let target = Operand::Func(name.clone());
            self.site(
                c,
                inst,
                target,
                site,
                (&callee.returns, results),
                (&callee.params, arguments),
            )?;
        } else {
            self.expand(c, inst, callee, results, arguments)?;
        }
        if let Some(l) = skip {
            self.here(l);
        }
        Ok(())
    }

    /// A call that enters a region.
    fn site(
        &mut self,
        c: &Copy,
        inst: &Inst,
        target: Operand,
        (named, allowed): (Option<u32>, Option<Vec<u32>>),
        (returns, results): (&[Param], &[Operand]),
        (params, arguments): (&[Param], &[Operand]),
    ) -> Result<()> {
        let mut a = Vec::new();
        for (p, o) in params.iter().zip(arguments) {
            a.push(self.actual(c, inst, p, o, true, "the callee")?);
        }
        let mut r = Vec::new();
        for (p, o) in returns.iter().zip(results) {
            r.push(self.actual(c, inst, p, o, false, "the callee")?);
        }
        let kind = |p: &Param| (p.size, p.reg.map(|_| p.ty));
        self.sites.push(Site {
            target: named,
            allowed,
            params: params.iter().map(kind).collect(),
            returns: returns.iter().map(kind).collect(),
        });
        let index = Operand::Int {
            bits: self.sites.len() as u64 - 1,
            negative: false,
        };
        let operands = vec![target, Operand::List(r), Operand::List(a), index];
        self.out.body.push(plain(inst, &["call"], operands, None));
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn indirect(
        &mut self,
        c: &Copy,
        f: &Function,
        inst: &Inst,
        target: &Operand,
        results: &[Operand],
        arguments: &[Operand],
        list: u32,
    ) -> Result<()> {
        let refuse = |text: String| Err(PtxError::new(inst.span, format!("`call`: {text}")));
        let calls = self.calls;
        let (returns, params, allowed): (&[Param], &[Param], _) = match f
            .labels
            .get(list as usize)
            .and_then(|l| l.calls.as_deref())
        {
            Some(Callable::Prototype(r, p)) => (r, p, None),
            Some(Callable::Targets(names)) => {
                let mut all = Vec::new();
                for n in names {
                    let Some(at) = calls.index(n) else {
                        return refuse(format!("`{n}` is no function with a body in this module"));
                    };
                    all.push(self.want(at));
                }
                let Some(&first) = all.first() else {
                    return refuse("the list of targets is empty".into());
                };
                let g = &calls.module.functions[first as usize];
                (&g.returns, &g.params, Some(all))
            }
            None => return refuse("the label is none of .callprototype or .calltargets".into()),
        };
        if (arguments.len(), results.len()) != (params.len(), returns.len()) {
            return refuse(format!(
                "the prototype takes {} arguments and returns {}, found {} and {}",
                params.len(),
                returns.len(),
                arguments.len(),
                results.len()
            ));
        }
        if allowed.is_none() {
            for at in 0..calls.taken.len() {
                if calls.taken[at] {
                    self.want(at);
                }
            }
        }
        let skip = self.skip(c, inst);
        let target = c.operand(target)?;
        self.site(
            c,
            inst,
            target,
            (None, allowed),
            (returns, results),
            (params, arguments),
        )?;
        if let Some(l) = skip {
            self.here(l);
        }
        Ok(())
    }

    /// A call of a function without a body.
    fn builtin(
        &mut self,
        c: &Copy,
        inst: &Inst,
        name: &str,
        results: &[Operand],
        arguments: &[Operand],
    ) -> Result<()> {
        let refuse = |text: String| Err(PtxError::new(inst.span, format!("`call`: {text}")));
        if matches!(name, "malloc" | "free") {
            return refuse(format!("`{name}`: a heap on the device is not supported"));
        }
        let functions = &self.calls.module.functions;
        let Some(f) = functions.iter().find(|f| f.name == name && !f.entry) else {
            return refuse(format!("`{name}` is no function of this module"));
        };
        let sizes: Vec<u64> = f.params.iter().map(|p| p.size).collect();
        let want: &[u64] = match name {
            "vprintf" => &[8, 8],
            "__assertfail" => &[8, 8, 4, 8, 8],
            _ => {
                return refuse(format!(
                    "`{name}` is no function with a body in this module"
                ));
            }
        };
        if sizes != want || arguments.len() != want.len() || results.len() != f.returns.len() {
            return refuse(format!("`{name}` takes arguments of {want:?} bytes"));
        }
        let skip = self.skip(c, inst);
        let mut lists = [Vec::new(), Vec::new()];
        for (p, o) in f.returns.iter().zip(results) {
            lists[0].push(self.actual(c, inst, p, o, false, name)?);
        }
        for (p, o) in f.params.iter().zip(arguments) {
            lists[1].push(self.actual(c, inst, p, o, true, name)?);
        }
        let operands = lists.map(Operand::List).into();
        let new = plain(inst, &["builtin", name], operands, None);
        self.out.body.push(new);
        if let Some(l) = skip {
            self.here(l);
        }
        Ok(())
    }

    /// Puts the body of `callee` here.
    fn expand(
        &mut self,
        c: &Copy,
        inst: &Inst,
        callee: &Function,
        results: &[Operand],
        arguments: &[Operand],
    ) -> Result<()> {
        let name = &callee.name;
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
            Operand::Part {
                reg,
                select,
                negated,
            } => Operand::Part {
                reg: self.reg(*reg),
                select: select.clone(),
                negated: *negated,
            },
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
