//! Decoding.

use super::{Int, MmaInst, Operation, mma};
use crate::isa::decode::{Decoder, Mods, Result};
use crate::isa::mma_arith::{AccType, InType, MmaKind, Rounding};
use crate::machine::inst::{Inst, RowId};
use crate::ptx::ast::{self, Operand, Type};

/// Element types of A and B.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Float(InType),
    Int(Int),
    Bit,
    Double,
}

impl Input {
    fn parse(text: &str) -> Option<Self> {
        let int = |bits, signed| Self::Int(Int { bits, signed });
        Some(match text {
            "f16" => Self::Float(InType::F16),
            "bf16" => Self::Float(InType::Bf16),
            "tf32" => Self::Float(InType::Tf32),
            "e4m3" => Self::Float(InType::E4M3),
            "e5m2" => Self::Float(InType::E5M2),
            "s8" => int(8, true),
            "u8" => int(8, false),
            "s4" => int(4, true),
            "u4" => int(4, false),
            "b1" => Self::Bit,
            "f64" => Self::Double,
            _ => return None,
        })
    }

    /// Bits of an element.
    fn bits(self) -> usize {
        match self {
            Self::Float(t) => 8 * t.bytes(),
            Self::Int(t) => t.bits as usize,
            Self::Bit => 1,
            Self::Double => 64,
        }
    }

    /// Whether A and B may have these types.
    fn mixes(self, b: Self) -> bool {
        use InType::{E4M3, E5M2};
        match (self, b) {
            (Self::Float(E4M3 | E5M2), Self::Float(E4M3 | E5M2)) => true,
            (Self::Int(a), Self::Int(b)) => a.bits == b.bits,
            _ => self == b,
        }
    }

    /// Whether there is such a shape, and the first target that has it.
    fn target_of(self, m: usize, k: usize) -> Option<u32> {
        use InType::{Bf16, E4M3, E5M2, F16, Tf32};
        Some(match (self, m, k) {
            (Self::Float(F16), 8, 4) => 70,
            (Self::Float(F16), 16, 8) => 75,
            (Self::Float(F16), 16, 16) => 80,
            (Self::Float(Bf16), 16, 8 | 16) => 80,
            (Self::Float(Tf32), 16, 4 | 8) => 80,
            (Self::Float(E4M3 | E5M2), 16, 16 | 32) => 89,
            (Self::Int(Int { bits: 8, .. }), 8, 16) => 75,
            (Self::Int(Int { bits: 8, .. }), 16, 16 | 32) => 80,
            (Self::Int(Int { bits: 4, .. }), 8, 32) => 75,
            (Self::Int(Int { bits: 4, .. }), 16, 32 | 64) => 80,
            (Self::Bit, 8, 128) => 75,
            (Self::Bit, 16, 128 | 256) => 80,
            (Self::Double, 8, 4) => 80,
            (Self::Double, 16, 4 | 8 | 16) => 90,
            _ => return None,
        })
    }
}

/// The number of a target, `sm_90a` being 90.
fn number(target: &str) -> u32 {
    let digits = target.trim_start_matches("sm_");
    let digits = digits.trim_end_matches(|c: char| c.is_ascii_lowercase());
    digits.parse().unwrap_or(0)
}

fn accumulator(text: Option<&str>) -> Option<AccType> {
    Some(match text? {
        "f32" => AccType::F32,
        "f16" => AccType::F16,
        "s32" => AccType::S32,
        _ => return None,
    })
}

fn layout(m: &mut Mods, what: &str) -> Result<bool> {
    match m.one_of(&["row", "col"]) {
        Some(x) => Ok(x == "col"),
        None => Err(m.error(format!("expected .row or .col, the layout of {what}"))),
    }
}

/// Decodes `mma`.
///
/// # Errors
/// Shapes, types or operands that are not legal; sparse and block-scaled forms, by name.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    if m.mnemonic() != "mma" {
        return Ok(None);
    }
    if matches!(m.peek(), Some("sp" | "sp::ordered_metadata")) {
        return Err(m.error("sparse matrix operations are not supported"));
    }
    m.expect("sync")?;
    m.expect("aligned")?;
    let shape = m.next().unwrap_or_default();
    let Some((rows, k)) = parse_shape(shape) else {
        return Err(m.error("expected a shape m8n8kK or m16n8kK"));
    };
    if m.peek().is_some_and(|p| p.starts_with("kind::")) {
        return Err(m.error("kinds of operation are of sm_120 and not supported"));
    }
    let (a_col, b_row) = (layout(&mut m, "A")?, !layout(&mut m, "B")?);
    let saturate = m.take("satfinite");
    let rounding = match m.one_of(&["rn", "rz", "rm", "rp"]) {
        None => None,
        Some("rz") => Some(Rounding::Zero),
        Some("rm") => Some(Rounding::Down),
        Some("rp") => Some(Rounding::Up),
        _ => Some(Rounding::Near),
    };
    let (dt, at, bt, ct) = (m.next(), m.next(), m.next(), m.next());
    let (Some(a), Some(b)) = (at.and_then(Input::parse), bt.and_then(Input::parse)) else {
        return Err(m.error("expected the types of D, A, B and C"));
    };
    let needs = a.target_of(rows, k).filter(|_| a.mixes(b));
    let Some(needs) = needs else {
        return Err(m.error("there is no such operation of this shape and these types"));
    };
    if number(&d.module.target) < needs {
        return Err(m.error(format!(
            "needs .target sm_{needs} or later, the module has {}",
            d.module.target
        )));
    }
    let volta = (rows, k) == (8, 4) && a == Input::Float(InType::F16);
    if (a_col || b_row) && !volta {
        return Err(m.error("this shape is .row.col only"));
    }
    let int = matches!(a, Input::Int(_));
    if saturate && !int || rounding.is_some() && a != Input::Double {
        return Err(m.error(".satfinite goes with integers, a rounding with f64"));
    }
    let operation = match a {
        Input::Double => {
            if (dt, ct) != (Some("f64"), Some("f64")) {
                return Err(m.error("D and C are .f64"));
            }
            Operation::Double(rounding.unwrap_or(Rounding::Near))
        }
        _ => {
            let (Some(dt), Some(ct)) = (accumulator(dt), accumulator(ct)) else {
                return Err(m.error("D and C are .f32, .f16 or .s32"));
            };
            types(&m, volta, a, dt, ct)?;
            match (a, b) {
                (Input::Bit, _) => Operation::Bits {
                    xor: bit_operation(&mut m, d)?,
                },
                (Input::Int(a), Input::Int(b)) => Operation::Integer { a, b, saturate },
                (Input::Float(_), _) if volta => Operation::Volta {
                    a_col,
                    b_row,
                    c: ct,
                    d: dt,
                },
                (Input::Float(a), Input::Float(b)) => Operation::Float(MmaKind {
                    a,
                    b,
                    acc: dt,
                    saturate: false,
                }),
                _ => return Err(m.error("these types do not go together")),
            }
        }
    };
    m.finish()?;
    d.arity(i, 4)?;
    let half = |t: Option<&str>| t == Some("f16");
    let acc_regs = |t: Option<&str>| match (volta, half(t)) {
        (true, true) => 4,
        (true, false) => 8,
        (_, true) => rows * 8 / 64,
        (_, false) => rows * 8 / 32,
    };
    let bits = if a == Input::Double { 64 } else { 32 };
    let operand = |rows: usize| (rows * k * a.bits()).div_ceil(32 * bits).max(1);
    let (na, nb) = if volta {
        (2, 2)
    } else {
        (operand(rows), operand(8))
    };
    let acc = |t: Option<&str>| match t {
        Some("f64") => Type::F64,
        Some("f32") => Type::F32,
        Some("s32") => Type::S32,
        _ => Type::F16x2,
    };
    let input = match a {
        Input::Double => Type::F64,
        Input::Float(InType::F16) => Type::F16x2,
        _ => Type::B32,
    };
    // What ptxas wants: bf16 and tf32 in .b32 registers only, other types also in those of their own.
    let strict = matches!(a, Input::Float(InType::Bf16 | InType::Tf32));
    for at in [1, 2] {
        if strict && !only_bits(d, d.operand(i, at)?) {
            return Err(m.error("A and B are in .b32 registers"));
        }
    }
    let x = MmaInst {
        operation,
        m: rows,
        k,
        d: registers(d, i, 0, acc_regs(dt), acc(dt))?,
        a: registers(d, i, 1, na, input)?,
        b: registers(d, i, 2, nb, input)?,
        c: registers(d, i, 3, acc_regs(ct), acc(ct))?,
        half: half(dt),
    };
    let x = d.push_aux(Box::new(x));
    Ok(Some(Inst { x, ..d.inst(mma) }))
}

fn parse_shape(text: &str) -> Option<(usize, usize)> {
    let (m, k) = text.strip_prefix('m')?.split_once("n8k")?;
    Some((m.parse().ok()?, k.parse().ok()?))
}

/// Refuses accumulators that do not go with the operands.
fn types(m: &Mods, volta: bool, a: Input, d: AccType, c: AccType) -> Result<()> {
    use InType::{E4M3, E5M2, F16};
    let ok = match a {
        Input::Int(_) | Input::Bit => d == AccType::S32,
        Input::Float(F16 | E4M3 | E5M2) => d != AccType::S32,
        _ => d == AccType::F32,
    };
    // Only m8n8k4 tells D from C, and it does not narrow.
    let same = d == c || volta && (d, c) == (AccType::F32, AccType::F16);
    if ok && same {
        Ok(())
    } else {
        Err(m.error("these accumulators do not go with this shape and these operands"))
    }
}

/// True for xor.
fn bit_operation(m: &mut Mods, d: &Decoder) -> Result<bool> {
    let xor = match m.one_of(&["xor", "and"]) {
        Some(x) => x == "xor",
        None => return Err(m.error("expected .xor or .and")),
    };
    m.expect("popc")?;
    if !xor && number(&d.module.target) < 80 {
        return Err(m.error(".and needs .target sm_80 or later"));
    }
    Ok(xor)
}

fn only_bits(d: &Decoder, o: &Operand) -> bool {
    let Operand::Vector(v) = o else { return true };
    v.iter()
        .all(|o| !matches!(o, Operand::Reg(r) if d.reg_type(*r) != Type::B32))
}

/// The rows of a vector of `n` registers. D may have sinks, C constants unless they are f16.
fn registers(d: &mut Decoder, i: &ast::Inst, at: usize, n: usize, ty: Type) -> Result<Vec<RowId>> {
    let Operand::Vector(ops) = d.operand(i, at)?.clone() else {
        return Err(d.error(i, format!("operand {} is a vector of registers", at + 1)));
    };
    if ops.len() != n {
        return Err(d.error(
            i,
            format!("operand {} has {n} registers, found {}", at + 1, ops.len()),
        ));
    }
    let wide = u32::from(ty.bytes() == 8);
    ops.iter()
        .map(|o| match o {
            Operand::Reg(r) => d.reg_row_checked(i, *r, ty, false),
            Operand::Sink if at == 0 => Ok(d.scratch(1 + wide)),
            o if at == 3 && ty != Type::F16x2 => d.src_operand(i, o, ty, false),
            o => Err(d.error(i, format!("operand {} has registers, found {o:?}", at + 1))),
        })
        .collect()
}
