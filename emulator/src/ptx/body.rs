//! Function bodies: scopes, registers, labels, instructions.

use std::collections::HashMap;

use super::ast::*;
use super::lexer::Token;
use super::parser::{Parser, Result};

/// Names of one `{ }`.
#[derive(Default)]
struct Scope {
    registers: HashMap<String, RegId>,
    /// `%r<12>`: prefix, first register, count.
    ranges: Vec<(String, u32, u32)>,
    variables: HashMap<String, VarRef>,
    labels: HashMap<String, u32>,
}

pub(super) struct Body<'f> {
    f: &'f mut Function,
    scopes: Vec<Scope>,
    call_param_end: u64,
    pub(super) depth: usize,
}

/// Parses `{ … }` of `f`.
pub(super) fn body(p: &mut Parser, f: &mut Function) -> Result<()> {
    let mut top = Scope::default();
    for (i, x) in f.params.iter().enumerate() {
        match x.reg {
            Some(r) => {
                top.registers.insert(x.name.clone(), r);
            }
            None => {
                top.variables
                    .insert(x.name.clone(), VarRef::Param(i as u32));
            }
        }
    }
    for (i, x) in f.returns.iter().enumerate() {
        match x.reg {
            Some(r) => {
                top.registers.insert(x.name.clone(), r);
            }
            None => {
                top.variables
                    .insert(x.name.clone(), VarRef::Return(i as u32));
            }
        }
    }
    let mut b = Body {
        f,
        scopes: vec![top],
        call_param_end: 0,
        depth: 0,
    };
    p.expect("{")?;
    b.block(p)
}

impl Body<'_> {
    /// The rest of a block, its `}` included.
    fn block(&mut self, p: &mut Parser) -> Result<()> {
        self.depth += 1;
        if self.depth > 64 {
            return p.error("blocks are nested too deeply");
        }
        let mut scope = Scope::default();
        // Labels first: branches may go forward.
        let (mut at, mut nest) = (p.at, 0);
        while let Some((t, _)) = p.toks.get(at) {
            match t {
                Token::Punct("{") => nest += 1,
                Token::Punct("}") if nest == 0 => break,
                Token::Punct("}") => nest -= 1,
                Token::Word(w)
                    if nest == 0 && matches!(p.toks.get(at + 1), Some((Token::Punct(":"), _))) =>
                {
                    let starts = at == p.at
                        || matches!(p.toks[at - 1].0, Token::Punct(";" | "{" | "}" | ":"))
                        || after_directive(&p.toks, at);
                    if starts && !w.starts_with('.') {
                        let id = self.f.labels.len() as u32;
                        self.f.labels.push(Label {
                            name: (*w).to_string(),
                            target: u32::MAX,
                            targets: Vec::new(),
                            calls: None,
                        });
                        if scope.labels.insert((*w).to_string(), id).is_some() {
                            return Err(PtxError::new(
                                p.toks[at].1,
                                format!("label `{w}` stands twice in one block"),
                            ));
                        }
                    }
                }
                _ => {}
            }
            at += 1;
        }
        self.scopes.push(scope);
        while !p.eat("}") {
            if p.peek().is_none() {
                return p.error("this body does not end");
            }
            self.statement(p)?;
        }
        self.scopes.pop();
        self.depth -= 1;
        Ok(())
    }

    fn statement(&mut self, p: &mut Parser) -> Result<()> {
        if p.eat("{") {
            return self.block(p);
        }
        if p.eat(";") {
            return Ok(());
        }
        if let (Some(Token::Word(w)), Some(Token::Punct(":"))) = (p.peek(), p.peek_at(1))
            && !w.starts_with('.')
        {
            let w = w.to_string();
            let id = self.scopes.last().and_then(|s| s.labels.get(&w)).copied();
            let Some(id) = id else {
                return p.error(format!("label `{w}` is not where one can stand"));
            };
            self.f.labels[id as usize].target = self.f.body.len() as u32;
            p.at += 2;
            if p.take("branchtargets") {
                loop {
                    let name = p.name()?.to_string();
                    let Some(t) = self.label(&name) else {
                        return p.error(format!("there is no label `{name}`"));
                    };
                    self.f.labels[id as usize].targets.push(t);
                    if !p.eat(",") {
                        break;
                    }
                }
                return p.expect(";");
            }
            if p.take("calltargets") {
                let mut names = Vec::new();
                loop {
                    names.push(p.name()?.to_string());
                    if !p.eat(",") {
                        break;
                    }
                }
                self.f.labels[id as usize].calls = Some(Box::new(Callable::Targets(names)));
                return p.expect(";");
            }
            if p.take("callprototype") {
                let (returns, params) = p.prototype()?;
                let c = Callable::Prototype(returns, params);
                self.f.labels[id as usize].calls = Some(Box::new(c));
                return p.expect(";");
            }
            return Ok(());
        }
        match p.directive() {
            Some("reg") => self.registers(p),
            Some("param") => {
                let x = p.param(&mut self.call_param_end)?;
                p.expect(";")?;
                let id = self.f.call_params.len() as u32;
                self.top()
                    .variables
                    .insert(x.name.clone(), VarRef::CallParam(id));
                self.f.call_params.push(x);
                Ok(())
            }
            Some("local" | "shared" | "shared::cta" | "const" | "global") => {
                for v in p.variables(Linkage::None)? {
                    if v.space == Space::Const || v.space == Space::Global {
                        return p
                            .error("variables of .global and .const stand outside of functions");
                    }
                    let id = self.f.variables.len() as u32;
                    self.top()
                        .variables
                        .insert(v.name.clone(), VarRef::Function(id));
                    self.f.variables.push(v);
                }
                Ok(())
            }
            Some("loc") => {
                p.at += 1;
                let (file, line) = (p.int()? as u32, p.int()? as u32);
                p.int()?;
                p.loc = Some((file, line));
                // `, function_name label, inlined_at file line col`
                while p.eat(",") {
                    match p.name()? {
                        "function_name" => {
                            p.name()?;
                            if p.eat("+") {
                                p.int()?;
                            }
                        }
                        "inlined_at" => {
                            p.int()?;
                            p.int()?;
                            p.int()?;
                        }
                        _ => return p.error("unknown attribute of .loc"),
                    }
                }
                Ok(())
            }
            Some("pragma") => {
                while !p.eat(";") {
                    if p.next().is_none() {
                        return p.error("expected `;`");
                    }
                }
                Ok(())
            }
            Some(_) => p.error(format!("unknown directive {}", p.found())),
            None => self.instruction(p),
        }
    }

    fn top(&mut self) -> &mut Scope {
        let n = self.scopes.len() - 1;
        &mut self.scopes[n]
    }

    fn registers(&mut self, p: &mut Parser) -> Result<()> {
        p.at += 1;
        let Some(ty) = p.directive().and_then(Type::parse) else {
            return p.error(format!("expected a register type, found {}", p.found()));
        };
        p.at += 1;
        loop {
            let name = p.name()?.to_string();
            let first = self.f.registers.len() as u32;
            if p.eat("<") {
                let n = p.int()?;
                p.expect(">")?;
                if n > 1 << 20 {
                    return p.error(format!("{n} registers are too many"));
                }
                for i in 0..n {
                    self.f.registers.push(Register {
                        name: format!("{name}{i}"),
                        ty,
                    });
                }
                self.top().ranges.push((name, first, n as u32));
            } else {
                self.f.registers.push(Register {
                    name: name.clone(),
                    ty,
                });
                self.top().registers.insert(name, RegId(first));
            }
            if !p.eat(",") {
                break;
            }
        }
        p.expect(";")
    }

    pub(super) fn register(&self, name: &str) -> Option<RegId> {
        for s in self.scopes.iter().rev() {
            if let Some(r) = s.registers.get(name) {
                return Some(*r);
            }
            for (prefix, first, n) in s.ranges.iter().rev() {
                if let Some(rest) = name.strip_prefix(prefix.as_str())
                    && (rest == "0" || !rest.starts_with('0'))
                    && let Ok(i) = rest.parse::<u32>()
                    && i < *n
                {
                    return Some(RegId(first + i));
                }
            }
        }
        None
    }

    pub(super) fn variable(&self, p: &Parser, name: &str) -> Option<VarRef> {
        let local = self
            .scopes
            .iter()
            .rev()
            .find_map(|s| s.variables.get(name).copied());
        local.or_else(|| p.globals.get(name).map(|&i| VarRef::Module(i)))
    }

    pub(super) fn label(&self, name: &str) -> Option<u32> {
        self.scopes
            .iter()
            .rev()
            .find_map(|s| s.labels.get(name).copied())
    }

    fn instruction(&mut self, p: &mut Parser) -> Result<()> {
        let mut guard = None;
        if p.eat("@") {
            let negated = p.eat("!");
            let name = p.name()?;
            let Some(reg) = self.register(name) else {
                return p.error(format!("`{name}` is not declared"));
            };
            guard = Some(Guard { reg, negated });
        }
        let span = p.span();
        let Some(op) = p.word() else {
            return p.error(format!("expected an instruction, found {}", p.found()));
        };
        let opcode: Vec<String> = op.split('.').map(String::from).collect();
        if opcode.iter().any(String::is_empty) {
            return Err(PtxError::new(span, format!("`{op}` is no opcode")));
        }
        let mut operands = Vec::new();
        if !p.eat(";") {
            loop {
                operands.push(self.operand(p)?);
                if !p.eat(",") {
                    break;
                }
            }
            p.expect(";")?;
        }
        self.f.body.push(Inst {
            guard,
            opcode,
            operands,
            span,
            loc: p.loc,
        });
        Ok(())
    }
}

/// A label may follow `.loc 1 2 3` without a separator.
fn after_directive(toks: &[(Token, Span)], at: usize) -> bool {
    let line = toks[at].1.line;
    toks[at - 1].1.line < line
}
