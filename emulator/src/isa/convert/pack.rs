//! `cvt.pack`: two saturated integers, above what a third operand holds.

use crate::isa::decode::{Decoder, Mods, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::ptx::ast::{self, Type};

/// Decodes what follows `cvt.pack`.
///
/// # Errors
/// Types or operands that are not legal.
pub(super) fn decode(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Inst> {
    m.expect("sat")?;
    let to = m.next().unwrap_or_default();
    let bits: u32 = to.get(1..).and_then(|n| n.parse().ok()).unwrap_or(0);
    if ![2, 4, 8, 16].contains(&bits) {
        return Err(m.error("takes types of 2 to 16 bits"));
    }
    m.expect("s32")?;
    let third = m.take("b32");
    m.finish()?;
    d.arity(i, if third { 4 } else { 3 })?;
    let (a, b) = (d.src(i, 1, Type::S32)?, d.src(i, 2, Type::S32)?);
    let c = if third { d.src(i, 3, Type::B32)? } else { a };
    Ok(Inst {
        d: d.dst(i, 0, Type::B32)?,
        a,
        b,
        c,
        x: bits | u32::from(to.starts_with('s')) << 8 | u32::from(third) << 9,
        ..d.inst(pack)
    })
}

/// d = a and b saturated, b in the low bits; above them the low bits of c (PTX ISA, cvt.pack).
unsafe fn pack(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    let (bits, signed, third) = (i.x & 255, i.x >> 8 & 1 != 0, i.x >> 9 & 1 != 0);
    let (lo, hi) = if signed {
        (-(1i32 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    };
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b, c) = (cx.get(i.a), cx.get(i.b), cx.get(i.c));
        let keep = (1u32 << bits) - 1;
        let one = |v: u32| (v as i32).clamp(lo, hi) as u32 & keep;
        let r = std::array::from_fn(|l| {
            let low = one(a[l]) << bits | one(b[l]);
            if third { c[l] << (2 * bits) | low } else { low }
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}
