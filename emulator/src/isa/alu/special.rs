//! Bit fields, permutes, funnel shifts, dot products, carries.

use super::{lane32, lane64};
use crate::isa::decode::{Decoder, Mods, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::ptx::ast::{self, Operand, Type};

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    use Type::*;
    let mut m = Mods::new(i);
    Ok(Some(match m.mnemonic() {
        "lop3" => {
            let bool_op = m.one_of(&["or", "and"]);
            m.expect("b32")?;
            m.finish()?;
            d.arity(i, if bool_op.is_some() { 6 } else { 5 })?;
            let Operand::Int {
                bits,
                negative: false,
            } = *d.operand(i, 4)?
            else {
                return Err(d.error(i, "the table is a constant"));
            };
            if bits > 255 {
                return Err(d.error(i, "the table has 8 bits"));
            }
            let (a, b, c) = (d.src(i, 1, B32)?, d.src(i, 2, B32)?, d.src(i, 3, B32)?);
            if let Some(op) = bool_op {
                let Operand::Pair(dst, p) = d.operand(i, 0)?.clone() else {
                    return Err(d.error(i, "the destination is d|p"));
                };
                let dst = match dst {
                    Some(r) => d.reg_row_checked(i, r, B32, false)?,
                    None => d.scratch(1),
                };
                let p = p.map_or(Ok(crate::machine::inst::PRED_SINK), |p| d.pred_reg(i, p))?;
                let (q, neg) = d.pred(i, d.operand(i, 5)?)?;
                let x = d.push_aux(Box::new(Lop3 {
                    table: bits as u32,
                    or: op == "or",
                    p,
                    q,
                    neg,
                }));
                return Ok(Some(Inst {
                    d: dst,
                    a,
                    b,
                    c,
                    x,
                    ..d.inst(lop3_pred)
                }));
            }
            Inst {
                d: d.dst(i, 0, B32)?,
                a,
                b,
                c,
                x: bits as u32,
                ..d.inst(crate::isa::lanes::versions!(d.cpu, lop3))
            }
        }
        "shf" => {
            let left = match m.next() {
                Some("l") => true,
                Some("r") => false,
                _ => return Err(m.error("expected .l or .r")),
            };
            let wrap = match m.next() {
                Some("wrap") => true,
                Some("clamp") => false,
                _ => return Err(m.error("expected .wrap or .clamp")),
            };
            m.expect("b32")?;
            m.finish()?;
            d.arity(i, 4)?;
            let (a, b, c) = (d.src(i, 1, B32)?, d.src(i, 2, B32)?, d.src(i, 3, U32)?);
            let exec = match (left, wrap) {
                (true, true) => lane32!(d, |a, b, c| ((u64::from(b) << 32 | u64::from(a))
                    << (c & 31)
                    >> 32) as u32),
                (true, false) => lane32!(d, |a, b, c| ((u64::from(b) << 32 | u64::from(a))
                    << c.min(32)
                    >> 32) as u32),
                (false, true) => lane32!(d, |a, b, c| ((u64::from(b) << 32 | u64::from(a))
                    >> (c & 31)) as u32),
                (false, false) => lane32!(d, |a, b, c| ((u64::from(b) << 32 | u64::from(a))
                    >> c.min(32)) as u32),
            };
            Inst {
                d: d.dst(i, 0, B32)?,
                a,
                b,
                c,
                ..d.inst(exec)
            }
        }
        "bfe" => {
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 4)?;
            let (a, b, c) = (d.src(i, 1, ty)?, d.src(i, 2, U32)?, d.src(i, 3, U32)?);
            let dst = d.dst(i, 0, ty)?;
            match ty {
                U32 => Inst {
                    d: dst,
                    a,
                    b,
                    c,
                    ..d.inst(lane32!(
                        d,
                        |a, b, c| bfe(u64::from(a), b & 255, c & 255, 32, false) as u32
                    ))
                },
                S32 => Inst {
                    d: dst,
                    a,
                    b,
                    c,
                    ..d.inst(lane32!(
                        d,
                        |a, b, c| bfe(u64::from(a), b & 255, c & 255, 32, true) as u32
                    ))
                },
                U64 | S64 => Inst {
                    d: dst,
                    a,
                    b,
                    c,
                    x: u32::from(ty == S64),
                    ..d.inst(bfe64)
                },
                _ => return Err(m.error("takes .u32, .s32, .u64 or .s64")),
            }
        }
        "bfi" => {
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 5)?;
            let (a, b) = (d.src(i, 1, ty)?, d.src(i, 2, ty)?);
            let (c, len) = (d.src(i, 3, U32)?, d.src(i, 4, U32)?);
            if !matches!(ty, B32 | B64) {
                return Err(m.error("takes .b32 or .b64"));
            }
            let x = d.push_aux(Box::new((len, ty == B64)));
            Inst {
                d: d.dst(i, 0, ty)?,
                a,
                b,
                c,
                x,
                ..d.inst(bfi)
            }
        }
        name @ ("brev" | "clz" | "popc" | "bfind") => {
            let amount = name == "bfind" && m.take("shiftamt");
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 2)?;
            let wide = ty.bytes() == 8;
            if !matches!(ty, B32 | B64 | U32 | S32 | U64 | S64)
                || (name != "bfind" && !matches!(ty, B32 | B64))
            {
                return Err(m.error("type is not legal here"));
            }
            let a = d.src(i, 1, ty)?;
            let dst = d.dst(i, 0, if name == "brev" { ty } else { U32 })?;
            if name == "brev" {
                let exec = if wide {
                    lane64!(d, |a, b, c| a.reverse_bits())
                } else {
                    lane32!(d, |a, b, c| a.reverse_bits())
                };
                return Ok(Some(Inst {
                    d: dst,
                    a,
                    b: a,
                    c: a,
                    ..d.inst(exec)
                }));
            }
            let signed = matches!(ty, S32 | S64);
            let kind = match name {
                "clz" => 0,
                "popc" => 1,
                _ => 2,
            };
            Inst {
                d: dst,
                a,
                x: kind | u32::from(wide) << 2 | u32::from(signed) << 3 | u32::from(amount) << 4,
                ..d.inst(count)
            }
        }
        "prmt" => {
            m.expect("b32")?;
            let mode = m.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
            m.finish()?;
            d.arity(i, 4)?;
            let (a, b, c) = (d.src(i, 1, B32)?, d.src(i, 2, B32)?, d.src(i, 3, B32)?);
            let exec = match mode {
                None => lane32!(d, |a, b, c| prmt(a, b, c)),
                Some("f4e") => lane32!(d, |a, b, c| ((u64::from(b) << 32 | u64::from(a))
                    >> (8 * (c & 3))) as u32),
                Some("b4e") => lane32!(d, |a, b, c| prmt(
                    a,
                    b,
                    [0x5670, 0x6701, 0x7012, 0x0123][(c & 3) as usize]
                )),
                Some("rc8") => lane32!(d, |a, b, c| (a >> (8 * (c & 3)) & 255) * 0x0101_0101),
                Some("ecl") => lane32!(d, |a, b, c| prmt(
                    a,
                    b,
                    [0x3210, 0x3211, 0x3222, 0x3333][(c & 3) as usize]
                )),
                Some("ecr") => lane32!(d, |a, b, c| prmt(
                    a,
                    b,
                    [0x0000, 0x1110, 0x2210, 0x3210][(c & 3) as usize]
                )),
                Some(_) => lane32!(d, |a, b, c| (a >> (16 * (c & 1)) & 0xFFFF) * 0x0001_0001),
            };
            Inst {
                d: d.dst(i, 0, B32)?,
                a,
                b,
                c,
                ..d.inst(exec)
            }
        }
        "sad" => {
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 4)?;
            let (a, b, c) = (d.src(i, 1, ty)?, d.src(i, 2, ty)?, d.src(i, 3, ty)?);
            let exec = match ty {
                U32 => lane32!(d, |a, b, c| c.wrapping_add(a.abs_diff(b))),
                S32 => lane32!(d, |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32))),
                U16 => lane32!(d, |a, b, c| c.wrapping_add(a.abs_diff(b)) & 0xFFFF),
                S16 => lane32!(d, |a, b, c| c
                    .wrapping_add((a as i16).abs_diff(b as i16).into())
                    & 0xFFFF),
                U64 => lane64!(d, |a, b, c| c.wrapping_add(a.abs_diff(b))),
                S64 => lane64!(d, |a, b, c| c.wrapping_add((a as i64).abs_diff(b as i64))),
                _ => return Err(m.error("type is not legal here")),
            };
            Inst {
                d: d.dst(i, 0, ty)?,
                a,
                b,
                c,
                ..d.inst(exec)
            }
        }
        "dp2a" => {
            let hi = m.one_of(&["lo", "hi"]) == Some("hi");
            let (ta, tb) = (m.ty()?, m.ty()?);
            m.finish()?;
            d.arity(i, 4)?;
            let (a, b, c) = (d.src(i, 1, B32)?, d.src(i, 2, B32)?, d.src(i, 3, B32)?);
            Inst {
                d: d.dst(i, 0, B32)?,
                a,
                b,
                c,
                x: u32::from(ta == S32) | u32::from(tb == S32) << 1 | u32::from(hi) << 2,
                ..d.inst(dp2a)
            }
        }
        name @ ("bmsk" | "szext") => {
            let clamp = m.one_of(&["clamp", "wrap"]) == Some("clamp");
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 3)?;
            let exec = match (name, clamp, ty) {
                ("bmsk", true, _) => lane32!(d, |a, b, c| bmsk(a, b, true)),
                ("bmsk", false, _) => lane32!(d, |a, b, c| bmsk(a, b, false)),
                (_, true, S32) => lane32!(d, |a, b, c| szext(a, b, true, true)),
                (_, false, S32) => lane32!(d, |a, b, c| szext(a, b, false, true)),
                (_, true, _) => lane32!(d, |a, b, c| szext(a, b, true, false)),
                (_, false, _) => lane32!(d, |a, b, c| szext(a, b, false, false)),
            };
            let (a, b) = (d.src(i, 1, B32)?, d.src(i, 2, B32)?);
            Inst {
                d: d.dst(i, 0, B32)?,
                a,
                b,
                c: b,
                ..d.inst(exec)
            }
        }
        "fns" => {
            m.ty()?;
            m.finish()?;
            d.arity(i, 4)?;
            let (a, b, c) = (d.src(i, 1, B32)?, d.src(i, 2, B32)?, d.src(i, 3, S32)?);
            Inst {
                d: d.dst(i, 0, B32)?,
                a,
                b,
                c,
                ..d.inst(lane32!(d, |a, b, c| fns(a, b, c as i32)))
            }
        }
        "dp4a" => {
            let (ta, tb) = (m.ty()?, m.ty()?);
            m.finish()?;
            d.arity(i, 4)?;
            let (a, b, c) = (d.src(i, 1, B32)?, d.src(i, 2, B32)?, d.src(i, 3, B32)?);
            let exec = match (ta, tb) {
                (U32, U32) => lane32!(d, |a, b, c| dp4a(a, b, c, false, false)),
                (U32, S32) => lane32!(d, |a, b, c| dp4a(a, b, c, false, true)),
                (S32, U32) => lane32!(d, |a, b, c| dp4a(a, b, c, true, false)),
                (S32, S32) => lane32!(d, |a, b, c| dp4a(a, b, c, true, true)),
                _ => return Err(m.error("takes .u32 or .s32")),
            };
            Inst {
                d: d.dst(i, 0, B32)?,
                a,
                b,
                c,
                ..d.inst(exec)
            }
        }
        "addc" | "subc" | "madc" => return carry(d, i, m),
        "mad" if i.opcode.iter().any(|x| x == "cc") => return carry(d, i, m),
        _ => return Ok(None),
    }))
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc`: 32 or 64 bits, the carry is a hidden predicate.
pub(super) fn carry(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Option<Inst>> {
    let name = m.mnemonic();
    let mul = name.starts_with("mad");
    let part = if mul { m.one_of(&["lo", "hi"]) } else { None };
    if mul && part.is_none() {
        return Err(m.error("expected .lo or .hi"));
    }
    let out = m.take("cc");
    let ty = m.ty()?;
    m.finish()?;
    d.arity(i, if mul { 4 } else { 3 })?;
    let (a, b) = (d.src(i, 1, ty)?, d.src(i, 2, ty)?);
    let c = if mul { d.src(i, 3, ty)? } else { b };
    let flags = u32::from(out)
        | u32::from(name.ends_with('c')) << 1
        | u32::from(name.starts_with("sub")) << 2
        | u32::from(mul) << 3
        | u32::from(part == Some("hi")) << 4
        | u32::from(ty.bytes() == 8) << 5
        | u32::from(matches!(ty, Type::S16 | Type::S32 | Type::S64)) << 6
        | u32::from(ty.bytes() == 2) << 7;
    let p = d.carry_pred();
    let x = d.push_aux(Box::new((flags, p)));
    Ok(Some(Inst {
        d: d.dst(i, 0, ty)?,
        a,
        b,
        c,
        x,
        ..d.inst(carry_op)
    }))
}

unsafe fn carry_op(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let &(flags, p) = cx.aux::<(u32, u32)>(i.x);
        let on = |k: u32| flags >> k & 1 != 0;
        let wide = on(5);
        let get = |cx: &Cx, r: u32| {
            if wide {
                cx.get64(r)
            } else {
                cx.get(r).map(u64::from)
            }
        };
        let (a, b, c) = (get(cx, i.a), get(cx, i.b), get(cx, i.c));
        let cf = cx.pred(p);
        let bits = match (wide, on(7)) {
            (true, _) => 64,
            (_, true) => 16,
            _ => 32,
        };
        let top = u64::MAX >> (64 - bits);
        let (mut r, mut out) = ([0u64; 32], 0u32);
        for l in 0..32 {
            let cin = u128::from(on(1) && cf >> l & 1 != 0);
            let (x, y) = if on(3) {
                let prod = if on(6) {
                    let s = 64 - bits;
                    let [x, y] = [a[l], b[l]].map(|v| i128::from((v << s) as i64 >> s));
                    (x * y) as u128
                } else {
                    u128::from(a[l]) * u128::from(b[l])
                };
                ((if on(4) { prod >> bits } else { prod }) as u64 & top, c[l])
            } else {
                (a[l], b[l])
            };
            // Subtraction adds the complement; its borrow is the inverse of the carry and is kept as the hardware does.
            let v = if on(2) {
                let borrow = cin;
                let v = u128::from(x)
                    .wrapping_sub(u128::from(y))
                    .wrapping_sub(borrow);
                out |= u32::from(u128::from(x) < u128::from(y) + borrow) << l;
                v
            } else {
                let v = u128::from(x) + u128::from(y) + cin;
                out |= u32::from(v >> bits & 1 != 0) << l;
                v
            };
            r[l] = v as u64 & top;
        }
        if wide {
            cx.set64(i.d, &r, mask)
        } else {
            cx.set(i.d, &r.map(|v| v as u32), mask)
        }
        if on(0) {
            cx.set_pred(p, out, mask);
        }
    }
    Flow::Next
}

#[inline(always)]
unsafe fn lop3(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b, c, t) = (cx.get(i.a), cx.get(i.b), cx.get(i.c), i.x);
        let mut r = [0; 32];
        for l in 0..32 {
            let (a, b, c) = (a[l], b[l], c[l]);
            let mut v = 0;
            for k in 0..8 {
                let on = (t >> k & 1).wrapping_neg();
                let x = if k & 4 != 0 { a } else { !a };
                let y = if k & 2 != 0 { b } else { !b };
                let z = if k & 1 != 0 { c } else { !c };
                v |= x & y & z & on;
            }
            r[l] = v;
        }
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

struct Lop3 {
    table: u32,
    or: bool,
    p: u32,
    q: u32,
    neg: bool,
}

/// `lop3` whose predicate says whether the result is not 0, combined with another.
unsafe fn lop3_pred(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let t = cx.aux::<Lop3>(i.x);
        let q = cx.pred(t.q) ^ if t.neg { u32::MAX } else { 0 };
        lop3(cx, &Inst { x: t.table, ..*i }, mask);
        let r = cx.get(i.d);
        let v = (0..32).fold(0, |v, l| v | u32::from(r[l] != 0) << l);
        cx.set_pred(t.p, if t.or { v | q } else { v & q }, mask);
    }
    Flow::Next
}

/// A mask of `len` bits from `pos` on (PTX ISA, bmsk).
#[inline(always)]
fn bmsk(pos: u32, len: u32, clamp: bool) -> u32 {
    let from = if clamp && pos >= 32 {
        0
    } else {
        u32::MAX << (pos & 31)
    };
    let end = (pos & 31) + (len & 31);
    let beyond = end >= 32 || (clamp && (pos >= 32 || len >= 32));
    let rest = if beyond { 0 } else { u32::MAX << (end & 31) };
    from & !rest
}

/// The low `len` bits, extended (PTX ISA, szext).
#[inline(always)]
fn szext(a: u32, len: u32, clamp: bool, signed: bool) -> u32 {
    let n = len & 31;
    let whole = clamp && len >= 32;
    let above = if whole { 0 } else { u32::MAX << n };
    let sign = signed && !whole && n != 0 && a >> (n.wrapping_sub(1) & 31) & 1 != 0;
    a & !above | if sign { above } else { 0 }
}

/// The position of the `offset`th set bit from `base` on, upward or downward; all ones where there is none (PTX ISA, fns).
#[inline(always)]
fn fns(bits: u32, base: u32, offset: i32) -> u32 {
    let set = |p: i64| (0..32).contains(&p) && bits >> p & 1 != 0;
    let mut pos = i64::from(base);
    if offset == 0 {
        return if set(pos) { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    while (0..32).contains(&pos) {
        if set(pos) {
            left -= 1;
            if left == 0 {
                return pos as u32;
            }
        }
        pos += i64::from(offset.signum());
    }
    u32::MAX
}

unsafe fn dp2a(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    let (sa, sb, hi) = (i.x & 1 != 0, i.x & 2 != 0, i.x & 4 != 0);
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b, c) = (cx.get(i.a), cx.get(i.b), cx.get(i.c));
        let r = std::array::from_fn(|l| {
            (0..2u32).fold(c[l], |r, k| {
                let x = a[l] >> (16 * k);
                let y = b[l] >> (8 * (k + if hi { 2 } else { 0 }));
                let x = if sa {
                    i32::from(x as i16)
                } else {
                    i32::from(x as u16)
                };
                let y = if sb {
                    i32::from(y as i8)
                } else {
                    i32::from(y as u8)
                };
                r.wrapping_add((x * y) as u32)
            })
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

/// Bit field extraction (PTX ISA, bfe): `pos` and `len` are 0 to 255; what lies beyond the top repeats the sign or is 0.
fn bfe(a: u64, pos: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let msb = bits - 1;
    let sign = if !signed || len == 0 {
        0
    } else {
        a >> (pos + len - 1).min(msb) & 1
    };
    let mut v = if pos >= bits { 0 } else { a >> pos };
    let have = len.min(bits.saturating_sub(pos));
    let keep = if have >= 64 {
        u64::MAX
    } else {
        (1u64 << have) - 1
    };
    v &= keep;
    if sign != 0 { v | !keep } else { v }
}

unsafe fn bfe64(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b, c) = (cx.get64(i.a), cx.get(i.b), cx.get(i.c));
        let r = std::array::from_fn(|l| bfe(a[l], b[l] & 255, c[l] & 255, 64, i.x != 0));
        cx.set64(i.d, &r, mask);
    }
    Flow::Next
}

unsafe fn bfi(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let &(len, wide) = cx.aux::<(u32, bool)>(i.x);
        let (pos, len) = (cx.get(i.c), cx.get(len));
        let get = |cx: &Cx, r: u32| {
            if wide {
                cx.get64(r)
            } else {
                cx.get(r).map(u64::from)
            }
        };
        let (a, b) = (get(cx, i.a), get(cx, i.b));
        let bits = if wide { 64u32 } else { 32 };
        let r: [u64; 32] = std::array::from_fn(|l| {
            let (p, n) = (pos[l] & 255, len[l] & 255);
            let n = n.min(bits - bits.min(p));
            if n == 0 {
                return b[l];
            }
            let field = (if n >= 64 { u64::MAX } else { (1 << n) - 1 }) << p;
            (b[l] & !field) | (a[l] << p & field)
        });
        if wide {
            cx.set64(i.d, &r, mask)
        } else {
            cx.set(i.d, &r.map(|v| v as u32), mask)
        }
    }
    Flow::Next
}

unsafe fn count(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (wide, signed, amount) = (i.x >> 2 & 1 != 0, i.x >> 3 & 1 != 0, i.x >> 4 & 1 != 0);
        let a = if wide {
            cx.get64(i.a)
        } else {
            cx.get(i.a).map(u64::from)
        };
        let bits = if wide { 64 } else { 32 };
        let r = a.map(|v| match i.x & 3 {
            0 => v.leading_zeros() - (64 - bits),
            1 => v.count_ones(),
            _ => {
                let negative = signed && v >> (bits - 1) & 1 != 0;
                let v = if negative {
                    !v & (u64::MAX >> (64 - bits))
                } else {
                    v
                };
                match v {
                    0 => u32::MAX,
                    _ if amount => bits - 1 - (63 - v.leading_zeros()),
                    _ => 63 - v.leading_zeros(),
                }
            }
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

#[inline(always)]
fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut r = 0;
    for k in 0..4 {
        let s = c >> (4 * k);
        let v = (bytes >> (8 * (s & 7))) as u32 & 255;
        let v = if s & 8 != 0 { (v >> 7) * 255 } else { v };
        r |= v << (8 * k);
    }
    r
}

#[inline(always)]
fn dp4a(a: u32, b: u32, c: u32, sa: bool, sb: bool) -> u32 {
    let byte = |v: u32, k: u32, s: bool| {
        let x = v >> (8 * k);
        if s {
            i32::from(x as u8 as i8)
        } else {
            i32::from(x as u8)
        }
    };
    (0..4).fold(c, |r, k| {
        r.wrapping_add((byte(a, k, sa) * byte(b, k, sb)) as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_permutes() {
        assert_eq!(bfe(0xABCD_1234, 8, 8, 32, false), 0x12);
        assert_eq!(bfe(0xABCD_1234, 24, 8, 32, true) as u32, 0xFFFF_FFAB);
        assert_eq!(bfe(0xABCD_1234, 28, 200, 32, true) as u32, 0xFFFF_FFFA);
        assert_eq!(bfe(0x8000_0000, 40, 4, 32, true) as u32, u32::MAX);
        assert_eq!(bfe(0xFF, 0, 0, 32, true), 0);
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 0x7531), 0x7755_3311);
        assert_eq!(prmt(0x0000_8000, 0, 0x0009), 0x0000_00FF);
        assert_eq!(
            dp4a(0xFF02_0304, 0x0102_0304, 1, true, false),
            1u32.wrapping_add(16 + 9 + 4).wrapping_sub(1)
        );
    }
}
