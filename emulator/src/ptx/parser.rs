//! Tokens to a module: directives, variables, function headers.

use std::collections::HashMap;

use super::ast::*;
use super::lexer::Token;

pub(super) type Result<T> = std::result::Result<T, PtxError>;

/// The newest version whose text is understood.
pub const NEWEST: (u32, u32) = (9, 5);

/// Position in the tokens.
pub(super) struct Parser<'a> {
    pub(super) toks: Vec<(Token<'a>, Span)>,
    pub(super) at: usize,
    pub(super) module: Module,
    pub(super) globals: HashMap<String, u32>,
    pub(super) functions: HashMap<String, usize>,
    pub(super) loc: Option<(u32, u32)>,
    pub(super) depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn span(&self) -> Span {
        self.toks
            .get(self.at.min(self.toks.len().saturating_sub(1)))
            .map_or(Span::default(), |t| t.1)
    }

    pub(super) fn error<T>(&self, text: impl Into<String>) -> Result<T> {
        Err(PtxError::new(self.span(), text))
    }

    pub(super) fn peek(&self) -> Option<&Token<'a>> {
        self.toks.get(self.at).map(|t| &t.0)
    }

    pub(super) fn peek_at(&self, n: usize) -> Option<&Token<'a>> {
        self.toks.get(self.at + n).map(|t| &t.0)
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let t = self.toks.get(self.at).map(|t| t.0.clone());
        self.at += 1;
        t
    }

    pub(super) fn found(&self) -> String {
        match self.peek() {
            None => "the end of the text".into(),
            Some(Token::Word(w) | Token::Punct(w)) => format!("`{w}`"),
            Some(Token::Str(s)) => format!("{s:?}"),
            Some(Token::Int(v)) => format!("{v}"),
            Some(t) => format!("{t:?}"),
        }
    }

    pub(super) fn eat(&mut self, p: &str) -> bool {
        let hit = matches!(self.peek(), Some(Token::Punct(x)) if *x == p);
        self.at += usize::from(hit);
        hit
    }

    pub(super) fn expect(&mut self, p: &str) -> Result<()> {
        if self.eat(p) {
            Ok(())
        } else {
            self.error(format!("expected `{p}`, found {}", self.found()))
        }
    }

    pub(super) fn word(&mut self) -> Option<&'a str> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let w = *w;
                self.at += 1;
                Some(w)
            }
            _ => None,
        }
    }

    /// A name: a word that is no directive.
    pub(super) fn name(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Token::Word(w)) if !w.starts_with('.') => {
                let w = *w;
                self.at += 1;
                Ok(w)
            }
            _ => self.error(format!("expected a name, found {}", self.found())),
        }
    }

    pub(super) fn directive(&self) -> Option<&'a str> {
        match self.peek() {
            Some(Token::Word(w)) => w.strip_prefix('.'),
            _ => None,
        }
    }

    pub(super) fn take(&mut self, d: &str) -> bool {
        let hit = self.directive() == Some(d);
        self.at += usize::from(hit);
        hit
    }

    pub(super) fn int(&mut self) -> Result<u64> {
        match self.peek() {
            Some(Token::Int(v)) => {
                let v = *v;
                self.at += 1;
                Ok(v)
            }
            _ => self.error(format!("expected an integer, found {}", self.found())),
        }
    }

    fn small(&mut self) -> Result<u32> {
        let v = self.int()?;
        u32::try_from(v).or_else(|_| self.error(format!("{v} is too large")))
    }

    /// `.version`, `.target`, `.address_size`, then all else.
    pub(super) fn module(mut self) -> Result<Module> {
        if !self.take("version") {
            return self.error(format!(
                "a module starts with .version, found {}",
                self.found()
            ));
        }
        let version = match self.next() {
            Some(Token::F64(b)) => {
                let v = f64::from_bits(b);
                (v.trunc() as u32, ((v - v.trunc()) * 10.0).round() as u32)
            }
            _ => return self.error("expected a version such as 8.0"),
        };
        self.module.version = version;
        if version > NEWEST {
            return self.error(format!(
                "PTX version {}.{} is newer than {}.{}, the newest understood",
                version.0, version.1, NEWEST.0, NEWEST.1
            ));
        }
        if !self.take("target") {
            return self.error(format!("expected .target, found {}", self.found()));
        }
        self.module.target = self.name()?.to_string();
        while self.eat(",") {
            let w = self.name()?.to_string();
            self.module.target_options.push(w);
        }
        while self.peek().is_some() {
            self.item()?;
        }
        Ok(self.module)
    }

    fn item(&mut self) -> Result<()> {
        let Some(d) = self.directive() else {
            return self.error(format!("expected a directive, found {}", self.found()));
        };
        match d {
            "address_size" => {
                self.at += 1;
                if self.int()? != 64 {
                    return self.error("addresses have 64 bits here");
                }
                Ok(())
            }
            "file" => {
                self.at += 1;
                let n = self.small()?;
                let Some(Token::Str(path)) = self.next() else {
                    return self.error("expected a file name");
                };
                self.module.files.push((n, path.to_string()));
                while self.eat(",") {
                    self.int()?;
                }
                Ok(())
            }
            "section" => self.section(),
            "pragma" => {
                while !self.eat(";") {
                    if self.next().is_none() {
                        return self.error("expected `;`");
                    }
                }
                Ok(())
            }
            _ => self.linked(),
        }
    }

    /// Debugging sections say nothing about what runs.
    fn section(&mut self) -> Result<()> {
        self.at += 1;
        self.word();
        self.expect("{")?;
        let mut depth = 1;
        while depth > 0 {
            match self.next() {
                Some(Token::Punct("{")) => depth += 1,
                Some(Token::Punct("}")) => depth -= 1,
                Some(_) => {}
                None => return self.error("this section does not end"),
            }
        }
        Ok(())
    }

    fn linked(&mut self) -> Result<()> {
        let mut linkage = Linkage::None;
        loop {
            let l = match self.directive() {
                Some("visible") => Linkage::Visible,
                Some("extern") => Linkage::Extern,
                Some("weak") => Linkage::Weak,
                Some("common") => Linkage::Common,
                _ => break,
            };
            linkage = l;
            self.at += 1;
        }
        match self.directive() {
            Some(k @ ("entry" | "func")) => {
                self.at += 1;
                self.function(k == "entry", linkage)
            }
            Some("global" | "const" | "shared") => {
                for v in self.variables(linkage)? {
                    self.globals
                        .insert(v.name.clone(), self.module.variables.len() as u32);
                    self.module.variables.push(v);
                }
                Ok(())
            }
            _ => self.error(format!("unknown directive {}", self.found())),
        }
    }

    /// `.space [.align n] [.vN] .type name[dims] [= init], …;`
    pub(super) fn variables(&mut self, linkage: Linkage) -> Result<Vec<Variable>> {
        let span = self.span();
        let space = match self.directive() {
            Some("global") => Space::Global,
            Some("const") => Space::Const,
            Some("shared" | "shared::cta") => Space::Shared,
            Some("local") => Space::Local,
            _ => return self.error("expected a state space"),
        };
        self.at += 1;
        let mut align = None;
        let mut vector = 1u64;
        let ty = loop {
            match self.directive() {
                Some("align") => {
                    self.at += 1;
                    align = Some(self.small()?);
                }
                Some("v2") => {
                    self.at += 1;
                    vector = 2;
                }
                Some("v4") => {
                    self.at += 1;
                    vector = 4;
                }
                Some("attribute") => return self.error(".attribute is not supported"),
                Some(t) => match Type::parse(t) {
                    Some(t) => {
                        self.at += 1;
                        break t;
                    }
                    None => return self.error(format!("expected a type, found {}", self.found())),
                },
                None => return self.error(format!("expected a type, found {}", self.found())),
            }
        };
        let natural = (ty.bytes() as u64 * vector) as u32;
        let align = align.unwrap_or(natural);
        if !align.is_power_of_two() {
            return self.error(format!("alignment {align} is no power of two"));
        }
        let mut out = Vec::new();
        loop {
            let name = self.name()?.to_string();
            let (mut count, mut unsized_array) = (vector, false);
            while self.eat("[") {
                if self.eat("]") {
                    unsized_array = true;
                    continue;
                }
                let n = self.int()?;
                count = match count.checked_mul(n) {
                    Some(c) => c,
                    None => return self.error("the array is too large"),
                };
                self.expect("]")?;
            }
            let mut v = Variable {
                name,
                space,
                ty,
                align,
                size: count.saturating_mul(ty.bytes() as u64),
                unsized_array,
                init: None,
                relocations: Vec::new(),
                linkage,
                span,
            };
            if v.size > 1 << 40 {
                return self.error("the variable is too large");
            }
            if self.eat("=") {
                self.initialiser(&mut v)?;
            } else if unsized_array {
                v.size = 0;
            }
            out.push(v);
            if !self.eat(",") {
                break;
            }
        }
        self.expect(";")?;
        Ok(out)
    }

    fn initialiser(&mut self, v: &mut Variable) -> Result<()> {
        if !matches!(v.space, Space::Global | Space::Const) {
            return self.error("only .global and .const variables have initial values");
        }
        let mut bytes = Vec::new();
        let braces = matches!(self.peek(), Some(Token::Punct("{")));
        if braces {
            self.init_list(v, &mut bytes)?;
        } else {
            self.init_value(v, &mut bytes)?;
        }
        if v.unsized_array {
            v.size = bytes.len() as u64;
            v.unsized_array = false;
        }
        if bytes.len() as u64 > v.size {
            return self.error(format!(
                "{} bytes of initial values for `{}` of {}",
                bytes.len(),
                v.name,
                v.size
            ));
        }
        bytes.resize(v.size as usize, 0);
        v.init = Some(bytes);
        Ok(())
    }

    fn init_list(&mut self, v: &mut Variable, bytes: &mut Vec<u8>) -> Result<()> {
        self.expect("{")?;
        while !self.eat("}") {
            if matches!(self.peek(), Some(Token::Punct("{"))) {
                self.init_list(v, bytes)?;
            } else {
                self.init_value(v, bytes)?;
            }
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(())
    }

    fn init_value(&mut self, v: &mut Variable, bytes: &mut Vec<u8>) -> Result<()> {
        let n = v.ty.bytes();
        if let Some(Token::Word(_)) = self.peek()
            && !matches!(self.peek(), Some(Token::Word("WARP_SZ")))
        {
            if n < 4 {
                return self.error(format!("an address does not fit .{:?}", v.ty));
            }
            let r = self.address_of(bytes.len() as u64)?;
            v.relocations.push(r);
            bytes.extend(vec![0; n]);
            return Ok(());
        }
        // `0xFF00(name)`: one byte of an address.
        if let (Some(Token::Int(mask)), Some(Token::Punct("("))) = (self.peek(), self.peek_at(1)) {
            let mask = *mask;
            let byte = (0..8).find(|k| mask == 0xFF << (8 * k));
            let Some(byte) = byte.filter(|_| v.ty == Type::U8) else {
                return self.error("a mask names one byte of an address, for an element of .u8");
            };
            self.at += 2;
            let r = self.address_of(bytes.len() as u64)?;
            self.expect(")")?;
            v.relocations.push(Relocation {
                byte: Some(byte),
                ..r
            });
            bytes.push(0);
            return Ok(());
        }
        let bits = match (self.constant()?, v.ty) {
            (Token::Int(_), Type::F16 | Type::F32 | Type::F64) => {
                return self.error("an integer cannot be the initial value of a float");
            }
            (Token::Int(x), _) => x,
            (Token::F32(x), Type::F32) => u64::from(x),
            (Token::F32(x), Type::F64) => f64::from(f32::from_bits(x)).to_bits(),
            (Token::F64(x), Type::F32) => u64::from((f64::from_bits(x) as f32).to_bits()),
            (Token::F64(x), Type::F64) => x,
            _ => return self.error(format!("this constant does not fit .{:?}", v.ty)),
        };
        bytes.extend(&bits.to_le_bytes()[..n.min(8)]);
        Ok(())
    }

    /// `name`, `name + n`, `generic(name) + n` in an initial value at `offset`.
    fn address_of(&mut self, offset: u64) -> Result<Relocation> {
        let mut symbol = self.name()?.to_string();
        let generic = symbol == "generic";
        if generic {
            self.expect("(")?;
            symbol = self.name()?.to_string();
            self.expect(")")?;
        }
        let addend = if self.eat("+") {
            self.expression(8)? as i64
        } else if self.eat("-") {
            (self.expression(8)? as i64).wrapping_neg()
        } else {
            0
        };
        Ok(Relocation {
            offset,
            symbol,
            addend,
            generic,
            byte: None,
        })
    }

    /// After `.callprototype`: `[(returns)] _ [(params)] [.noreturn]`.
    pub(super) fn prototype(&mut self) -> Result<(Vec<Param>, Vec<Param>)> {
        let mut registers = Vec::new();
        let returns = if self.eat("(") {
            self.params(&mut registers)?
        } else {
            Vec::new()
        };
        self.name()?;
        let params = if self.eat("(") {
            self.params(&mut registers)?
        } else {
            Vec::new()
        };
        while self.take("noreturn") {}
        Ok((returns, params))
    }

    /// `.param` declarations in parentheses, up to the closing one.
    fn params(&mut self, registers: &mut Vec<Register>) -> Result<Vec<Param>> {
        let mut out: Vec<Param> = Vec::new();
        let mut end = 0u64;
        while !self.eat(")") {
            if self.take("reg") {
                let Some(ty) = self.directive().and_then(Type::parse) else {
                    return self.error("expected a type");
                };
                self.at += 1;
                let name = self.name()?.to_string();
                registers.push(Register {
                    name: name.clone(),
                    ty,
                });
                let reg = Some(RegId(registers.len() as u32 - 1));
                out.push(Param {
                    name,
                    ty,
                    align: ty.bytes() as u32,
                    size: ty.bytes() as u64,
                    offset: 0,
                    reg,
                });
            } else {
                let p = self.param(&mut end)?;
                out.push(p);
            }
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(out)
    }

    /// `.param [.align n] .type [.ptr …] name[n]`.
    pub(super) fn param(&mut self, end: &mut u64) -> Result<Param> {
        if !self.take("param") {
            return self.error(format!("expected .param, found {}", self.found()));
        }
        let mut align = None;
        if self.take("align") {
            align = Some(self.small()?);
        }
        let Some(ty) = self.directive().and_then(Type::parse) else {
            return self.error(format!("expected a type, found {}", self.found()));
        };
        self.at += 1;
        if self.take("ptr") {
            while let Some("global" | "shared" | "local" | "const" | "align") = self.directive() {
                if self.take("align") {
                    self.small()?;
                } else {
                    self.at += 1;
                }
            }
        }
        if self.take("align") {
            align = Some(self.small()?);
        }
        let name = self.name()?.to_string();
        let mut size = ty.bytes() as u64;
        if self.eat("[") {
            let n = if self.eat("]") { 0 } else { self.int()? };
            if n > 0 {
                self.expect("]")?;
            }
            size = size.saturating_mul(n);
        }
        if size > 32764 {
            return self.error(format!(
                "parameter `{name}` has {size} bytes, the most is 32764"
            ));
        }
        let align = align.unwrap_or(ty.bytes() as u32);
        if !align.is_power_of_two() {
            return self.error(format!("alignment {align} is no power of two"));
        }
        let offset = end.next_multiple_of(align.into());
        *end = offset + size;
        Ok(Param {
            name,
            ty,
            align,
            size,
            offset,
            reg: None,
        })
    }

    fn function(&mut self, entry: bool, linkage: Linkage) -> Result<()> {
        let span = self.span();
        let mut registers = Vec::new();
        let returns = if !entry && self.eat("(") {
            self.params(&mut registers)?
        } else {
            Vec::new()
        };
        let name = self.name()?.to_string();
        let params = if self.eat("(") {
            self.params(&mut registers)?
        } else {
            Vec::new()
        };
        let mut f = Function {
            name: name.clone(),
            entry,
            linkage,
            defined: false,
            returns,
            params,
            registers,
            variables: Vec::new(),
            call_params: Vec::new(),
            body: Vec::new(),
            labels: Vec::new(),
            directives: self.directives()?,
            span,
        };
        if !self.eat(";") {
            f.defined = true;
            // The name is known inside its own body.
            self.functions.entry(name.clone()).or_insert(usize::MAX);
            super::body::body(self, &mut f)?;
        }
        match self
            .functions
            .get(&name)
            .copied()
            .filter(|&i| i != usize::MAX)
        {
            Some(i) if f.defined => self.module.functions[i] = f,
            Some(_) => {}
            None => {
                self.functions.insert(name, self.module.functions.len());
                self.module.functions.push(f);
            }
        }
        Ok(())
    }

    fn directives(&mut self) -> Result<Directives> {
        let mut d = Directives::default();
        while let Some(w) = self.directive() {
            self.at += 1;
            match w {
                "maxntid" => d.maxntid = Some(self.triple()?),
                "reqntid" => d.reqntid = Some(self.triple()?),
                "reqnctapercluster" => d.reqnctapercluster = Some(self.triple()?),
                "minnctapersm" | "maxnctapersm" => d.minnctapersm = Some(self.small()?),
                "maxnreg" => d.maxnreg = Some(self.small()?),
                "maxclusterrank" => d.maxclusterrank = Some(self.small()?),
                "explicitcluster" => d.explicitcluster = true,
                "noreturn" => d.noreturn = true,
                "pragma" => while !self.eat(";") && self.next().is_some() {},
                _ => {
                    self.at -= 1;
                    return self.error(format!("unknown directive {}", self.found()));
                }
            }
        }
        Ok(d)
    }

    fn triple(&mut self) -> Result<[u32; 3]> {
        let mut t = [1; 3];
        t[0] = self.small()?;
        for x in &mut t[1..] {
            if !self.eat(",") {
                break;
            }
            *x = self.small()?;
        }
        Ok(t)
    }
}
