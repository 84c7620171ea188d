//! Changes of a function's body that keep it well-formed.

use crate::ptx::ast::{Function, Inst, Operand, RegId, Register, Type};

/// One change, at instruction `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// The instruction goes.
    Delete { at: usize },
    /// Another opcode, the same operands.
    Opcode { at: usize, to: Vec<String> },
    /// Another opcode, and this constant as the only operand.
    Constant {
        at: usize,
        to: Vec<String>,
        value: u64,
    },
    /// A wait whose answer is always true.
    True { at: usize, pred: RegId },
    /// A constant is added to operand `operand`.
    Add {
        at: usize,
        operand: usize,
        delta: i64,
    },
    /// Bits of operand `operand` are flipped.
    Flip {
        at: usize,
        operand: usize,
        bits: u64,
        wide: bool,
    },
    /// `mov` of the first source.
    Move { at: usize },
}

pub(super) fn words(text: &str) -> Vec<String> {
    text.split('.').map(String::from).collect()
}

fn int(v: i64) -> Operand {
    Operand::Int {
        bits: v as u64,
        negative: v < 0,
    }
}

impl Edit {
    /// The instruction that is changed.
    pub fn at(&self) -> usize {
        match *self {
            Self::Delete { at }
            | Self::Opcode { at, .. }
            | Self::Constant { at, .. }
            | Self::True { at, .. }
            | Self::Add { at, .. }
            | Self::Flip { at, .. }
            | Self::Move { at } => at,
        }
    }

    /// What is changed into what, for people.
    pub fn describe(&self, f: &Function) -> String {
        let was = f.body[self.at()].opcode.join(".");
        match self {
            Self::Delete { .. } => format!("{was} removed"),
            Self::Opcode { to, .. } => format!("{was} becomes {}", to.join(".")),
            Self::Constant { to, value, .. } => format!("{was} becomes {} {value}", to.join(".")),
            Self::True { .. } => format!("{was} answers true"),
            Self::Add { operand, delta, .. } => format!("{was}: operand {} {delta:+}", operand + 1),
            Self::Flip { operand, bits, .. } => {
                format!("{was}: operand {} ^ {bits:#x}", operand + 1)
            }
            Self::Move { .. } => format!("{was} becomes mov"),
        }
    }

    /// Does it.
    pub fn perform(self, f: &mut Function) {
        match self {
            Self::Delete { at } => {
                f.body.remove(at);
                for l in &mut f.labels {
                    l.target -= u32::from(l.target as usize > at);
                }
            }
            Self::Opcode { at, to } => f.body[at].opcode = to,
            Self::Constant { at, to, value } => {
                f.body[at].opcode = to;
                f.body[at].operands = vec![int(value as i64)];
            }
            Self::True { at, pred } => {
                f.body[at].opcode = words("setp.eq.u32");
                f.body[at].operands = vec![Operand::Reg(pred), int(0), int(0)];
            }
            Self::Add { at, operand, delta } => match &mut f.body[at].operands[operand] {
                Operand::Int { bits, negative } => {
                    *bits = bits.wrapping_add_signed(delta);
                    *negative = (*bits as i64) < 0;
                }
                _ => before(f, at, operand, "add.s32", int(delta), Type::B32),
            },
            Self::Flip {
                at,
                operand,
                bits,
                wide,
            } => match &mut f.body[at].operands[operand] {
                Operand::Int { bits: b, .. } => *b ^= bits,
                _ if wide => before(f, at, operand, "xor.b64", int(bits as i64), Type::B64),
                _ => before(f, at, operand, "xor.b32", int(bits as i64), Type::B32),
            },
            Self::Move { at } => {
                let i = &mut f.body[at];
                let ty = i.opcode[1].clone();
                i.opcode = vec!["mov".into(), ty];
                i.operands.truncate(2);
            }
        }
    }
}

/// Puts `fresh = opcode(operand, value)` before instruction `at`, under its guard, and `fresh` into it.
fn before(f: &mut Function, at: usize, operand: usize, opcode: &str, value: Operand, ty: Type) {
    let fresh = RegId(f.registers.len() as u32);
    f.registers.push(Register {
        name: "%mutant".into(),
        ty,
    });
    let slot = &mut f.body[at].operands[operand];
    let old = std::mem::replace(slot, Operand::Reg(fresh));
    let new = Inst {
        opcode: words(opcode),
        operands: vec![Operand::Reg(fresh), old, value],
        ..f.body[at].clone()
    };
    f.body.insert(at, new);
    for l in &mut f.labels {
        l.target += u32::from(l.target as usize > at);
    }
}
