//! Pairs of 16-bit integers: `add`, `min`, `max` of `.u16x2`, `.s16x2`.

use super::lane32;
use crate::isa::decode::{Decoder, Mods, Result};
use crate::machine::inst::Inst;
use crate::ptx::ast::{self, Type};

#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(i32, i32) -> i32, signed: bool) -> u32 {
    let one = |k: u32| {
        let [x, y] = [a, b].map(|v| {
            let v = v >> k;
            if signed {
                i32::from(v as i16)
            } else {
                i32::from(v as u16)
            }
        });
        (f(x, y) as u32 & 0xFFFF) << k
    };
    one(0) | one(16)
}

/// Decodes these.
///
/// # Errors
/// Operands that are not legal.
pub(super) fn decode(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Inst> {
    let relu = m.take("relu");
    let signed = m.next() == Some("s16x2");
    m.finish()?;
    d.arity(i, 3)?;
    let exec = match (m.mnemonic(), signed, relu) {
        ("add", _, _) => lane32!(d, |a, b, c| halves(a, b, |x, y| x + y, false)),
        ("min", true, true) => lane32!(d, |a, b, c| halves(a, b, |x, y| x.min(y).max(0), true)),
        ("max", true, true) => lane32!(d, |a, b, c| halves(a, b, |x, y| x.max(y).max(0), true)),
        ("min", true, false) => lane32!(d, |a, b, c| halves(a, b, i32::min, true)),
        ("max", true, false) => lane32!(d, |a, b, c| halves(a, b, i32::max, true)),
        ("min", ..) => lane32!(d, |a, b, c| halves(a, b, i32::min, false)),
        _ => lane32!(d, |a, b, c| halves(a, b, i32::max, false)),
    };
    let (a, b) = (d.src(i, 1, Type::B32)?, d.src(i, 2, Type::B32)?);
    Ok(Inst {
        d: d.dst(i, 0, Type::B32)?,
        a,
        b,
        c: b,
        ..d.inst(exec)
    })
}
