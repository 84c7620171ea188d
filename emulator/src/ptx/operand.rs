//! Operands and constant expressions.

use super::ast::*;
use super::body::Body;
use super::lexer::Token;
use super::parser::{Parser, Result};

impl<'a> Parser<'a> {
    /// A constant: literal, or an integer expression.
    pub(super) fn constant(&mut self) -> Result<Token<'a>> {
        if matches!(self.peek(), Some(Token::F32(_) | Token::F64(_)))
            && let Some(t) = self.next()
        {
            return Ok(t);
        }
        if matches!(self.peek(), Some(Token::Punct("-")))
            && let Some(Token::F64(b)) = self.peek_at(1)
        {
            let v = -f64::from_bits(*b);
            self.at += 2;
            return Ok(Token::F64(v.to_bits()));
        }
        Ok(Token::Int(self.expression(0)?))
    }

    /// Integer constant expressions by precedence (PTX ISA, "Constant Expressions"), in 64-bit arithmetic.
    pub(super) fn expression(&mut self, level: usize) -> Result<u64> {
        const LEVELS: [&[&str]; 10] = [
            &["||"],
            &["&&"],
            &["|"],
            &["^"],
            &["&"],
            &["==", "!="],
            &["<=", ">=", "<", ">"],
            &["<<", ">>"],
            &["+", "-"],
            &["*", "/", "%"],
        ];
        if level == LEVELS.len() {
            return self.unary();
        }
        let mut a = self.expression(level + 1)?;
        while let Some(Token::Punct(op)) = self.peek() {
            let op = *op;
            if !LEVELS[level].contains(&op) {
                break;
            }
            self.at += 1;
            let b = self.expression(level + 1)?;
            let t = u64::from;
            a = match op {
                "||" => t(a != 0 || b != 0),
                "&&" => t(a != 0 && b != 0),
                "|" => a | b,
                "^" => a ^ b,
                "&" => a & b,
                "==" => t(a == b),
                "!=" => t(a != b),
                "<=" => t((a as i64) <= b as i64),
                ">=" => t((a as i64) >= b as i64),
                "<" => t((a as i64) < b as i64),
                ">" => t(a as i64 > b as i64),
                "<<" => a.checked_shl(b as u32).unwrap_or(0),
                ">>" => ((a as i64) >> b.min(63)) as u64,
                "+" => a.wrapping_add(b),
                "-" => a.wrapping_sub(b),
                "*" => a.wrapping_mul(b),
                _ if b == 0 => return self.error("division by zero"),
                "/" => (a as i64).wrapping_div(b as i64) as u64,
                _ => (a as i64).wrapping_rem(b as i64) as u64,
            };
        }
        if level == 0 && self.eat("?") {
            let x = self.expression(0)?;
            self.expect(":")?;
            let y = self.expression(0)?;
            return Ok(if a != 0 { x } else { y });
        }
        Ok(a)
    }

    fn unary(&mut self) -> Result<u64> {
        // Long runs of signs must not use up the stack.
        let mut ops = Vec::new();
        while let Some(Token::Punct(op @ ("-" | "+" | "!" | "~"))) = self.peek() {
            ops.push(*op);
            self.at += 1;
        }
        let mut v = match self.peek() {
            Some(Token::Int(v)) => {
                let v = *v;
                self.at += 1;
                v
            }
            Some(Token::Word("WARP_SZ")) => {
                self.at += 1;
                32
            }
            Some(Token::Punct("(")) => {
                self.at += 1;
                if matches!(self.directive(), Some("s64" | "u64")) {
                    self.at += 1;
                    self.expect(")")?;
                    return self.unary();
                }
                self.depth += 1;
                if self.depth > 64 {
                    return self.error("the expression is nested too deeply");
                }
                let v = self.expression(0)?;
                self.depth -= 1;
                self.expect(")")?;
                v
            }
            _ => return self.error(format!("expected a constant, found {}", self.found())),
        };
        for op in ops.into_iter().rev() {
            v = match op {
                "-" => v.wrapping_neg(),
                "!" => u64::from(v == 0),
                "~" => !v,
                _ => v,
            };
        }
        Ok(v)
    }
}

/// Special registers (PTX ISA, "Special Registers").
fn special(name: &str) -> bool {
    let Some(n) = name.strip_prefix('%') else {
        return false;
    };
    let (stem, axis) = match n.rsplit_once('.') {
        Some((s, "x" | "y" | "z" | "w")) => (s, true),
        Some(_) => return false,
        None => (n, false),
    };
    if axis {
        return [
            "tid",
            "ntid",
            "ctaid",
            "nctaid",
            "clusterid",
            "nclusterid",
            "cluster_ctaid",
            "cluster_nctaid",
        ]
        .contains(&stem);
    }
    let indexed = |prefix: &str, n: u32| {
        stem.strip_prefix(prefix)
            .and_then(|r| r.parse::<u32>().ok())
            .is_some_and(|i| i < n)
    };
    [
        "laneid",
        "warpid",
        "nwarpid",
        "smid",
        "nsmid",
        "gridid",
        "is_explicit_cluster",
        "cluster_ctarank",
        "cluster_nctarank",
        "lanemask_eq",
        "lanemask_le",
        "lanemask_lt",
        "lanemask_ge",
        "lanemask_gt",
        "clock",
        "clock_hi",
        "clock64",
        "globaltimer",
        "globaltimer_lo",
        "globaltimer_hi",
        "total_smem_size",
        "aggr_smem_size",
        "dynamic_smem_size",
        "current_graph_exec",
    ]
    .contains(&stem)
        || indexed("envreg", 32)
        || indexed("pm", 8)
        || stem.strip_suffix("_64").is_some_and(|s| {
            s.strip_prefix("pm")
                .is_some_and(|n| matches!(n, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7"))
        })
        || indexed("reserved_smem_offset_", 2)
}

impl Body<'_> {
    pub(super) fn operand(&mut self, p: &mut Parser) -> Result<Operand> {
        if p.eat("!") {
            let name = p.name()?;
            return match self.register(name) {
                Some(r) => Ok(Operand::NotReg(r)),
                None => p.error(format!("`{name}` is not declared")),
            };
        }
        if p.eat("{") {
            return Ok(Operand::Vector(self.list(p, "}")?));
        }
        if p.eat("[") {
            return self.address(p);
        }
        if matches!(p.peek(), Some(Token::Punct("(")))
            && !matches!(p.peek_at(1), Some(Token::Int(_) | Token::Punct(_)))
        {
            p.at += 1;
            return Ok(Operand::List(self.list(p, ")")?));
        }
        if let (Some(Token::Punct("-")), Some(Token::Word(w))) = (p.peek(), p.peek_at(1))
            && let Some((reg, select)) = self.part(w)
        {
            p.at += 2;
            return Ok(Operand::Part {
                reg,
                select,
                negated: true,
            });
        }
        let Some(Token::Word(w)) = p.peek() else {
            let negative = matches!(p.peek(), Some(Token::Punct("-")));
            return Ok(match p.constant()? {
                Token::F32(b) => Operand::F32(b),
                Token::F64(b) => Operand::F64(b),
                Token::Int(bits) => Operand::Int {
                    bits,
                    negative: negative && (bits as i64) < 0,
                },
                _ => return p.error("expected a constant"),
            });
        };
        let w = *w;
        if w == "WARP_SZ" {
            return Ok(Operand::Int {
                bits: p.expression(0)?,
                negative: false,
            });
        }
        p.at += 1;
        if let Some(reg) = if w == "_" {
            Some(None)
        } else {
            self.register(w).map(Some)
        } {
            if p.eat("|") {
                let q = p.name()?;
                let other = if q == "_" {
                    None
                } else {
                    match self.register(q) {
                        Some(r) => Some(r),
                        None => return p.error(format!("`{q}` is not declared")),
                    }
                };
                return Ok(Operand::Pair(reg, other));
            }
            return Ok(reg.map_or(Operand::Sink, Operand::Reg));
        }
        if let Some(v) = self.variable(p, w) {
            let offset = if p.eat("+") {
                p.expression(8)? as i64
            } else if p.eat("-") {
                (p.expression(8)? as i64).wrapping_neg()
            } else {
                0
            };
            return Ok(Operand::Var(v, offset));
        }
        if let Some(l) = self.label(w) {
            return Ok(Operand::Label(l));
        }
        if p.functions.contains_key(w) {
            return Ok(Operand::Func(w.to_string()));
        }
        if let Some((reg, select @ Some(_))) = self.part(w) {
            return Ok(Operand::Part {
                reg,
                select,
                negated: false,
            });
        }
        if special(w) {
            return Ok(Operand::Special(w.to_string()));
        }
        p.at -= 1;
        p.error(format!("`{w}` is not declared"))
    }

    /// A register with the part of it that is meant: `h0`, `b3`, `h10`, `b3210`.
    fn part(&self, word: &str) -> Option<(RegId, Option<String>)> {
        if let Some(r) = self.register(word) {
            return Some((r, None));
        }
        let (name, part) = word.rsplit_once('.')?;
        let digits = part.strip_prefix(['b', 'h'])?;
        let good =
            !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|c| c.is_ascii_digit());
        let reg = self.register(name)?;
        good.then(|| (reg, Some(part.to_string())))
    }

    fn list(&mut self, p: &mut Parser, end: &str) -> Result<Vec<Operand>> {
        let mut v = Vec::new();
        self.depth += 1;
        if self.depth > 64 {
            return p.error("lists are nested too deeply");
        }
        while !p.eat(end) {
            v.push(self.operand(p)?);
            if !p.eat(",") {
                p.expect(end)?;
                break;
            }
        }
        self.depth -= 1;
        Ok(v)
    }

    /// After `[`.
    fn address(&mut self, p: &mut Parser) -> Result<Operand> {
        let (base, offset) = if let Some(Token::Word(w)) = p.peek() {
            let w = *w;
            p.at += 1;
            let base = if let Some(r) = self.register(w) {
                AddrBase::Reg(r)
            } else if let Some(v) = self.variable(p, w) {
                AddrBase::Var(v)
            } else {
                p.at -= 1;
                return p.error(format!("`{w}` is not declared"));
            };
            let offset = if p.eat("+") {
                p.expression(8)? as i64
            } else if p.eat("-") {
                (p.expression(8)? as i64).wrapping_neg()
            } else {
                0
            };
            (base, offset)
        } else {
            (AddrBase::Absolute, p.expression(0)? as i64)
        };
        let mut lists = Vec::new();
        while p.eat(",") {
            p.expect("{")?;
            lists.push(self.list(p, "}")?);
        }
        p.expect("]")?;
        Ok(if lists.is_empty() {
            Operand::Addr { base, offset }
        } else {
            Operand::TensorAddr {
                base,
                offset,
                lists,
            }
        })
    }
}
