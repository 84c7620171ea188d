//! Video instructions: scalar ones (`vadd`, `vset`, `vmad`, …) on selected bytes and halves, and those on two halves or four
//! bytes at a time. Lane by lane and without haste: compilers keep them for a handful of intrinsics.

use crate::isa::decode::{Decoder, Mods, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::ptx::ast::{self, Operand, Type};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Sub,
    AbsDiff,
    Min,
    Max,
    Avrg,
    Shl,
    Shr,
    Mad,
    Set(Relation),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What the second step does with the third operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    Nothing,
    /// Put the result into the selected part of it.
    Merge,
    Add,
    Min,
    Max,
}

/// A part of a register: which byte or half, or all of it.
#[derive(Clone, Copy)]
struct Select {
    shift: u32,
    bits: u32,
}

const WHOLE: Select = Select { shift: 0, bits: 32 };

/// A selected operand.
struct Source {
    row: RowId,
    select: Select,
    /// For SIMD forms: which of the eight bytes (four halves) of a and b each lane takes.
    lanes: [u8; 4],
    signed: bool,
    negated: bool,
}

struct Video {
    op: Op,
    /// Lanes of a SIMD form: 2 or 4; 1 for a scalar one.
    n: u32,
    a: Source,
    b: Source,
    c: Option<RowId>,
    dst: RowId,
    dst_select: Select,
    /// SIMD: lanes of the destination that are written.
    mask: [bool; 4],
    dst_signed: bool,
    sat: bool,
    clamp: bool,
    second: Second,
    /// vmad: plus one, and how far the result is shifted.
    po: bool,
    shift: u32,
}

fn scalar_select(text: Option<&str>) -> Option<Select> {
    Some(match text {
        None => WHOLE,
        Some("b0") => Select { shift: 0, bits: 8 },
        Some("b1") => Select { shift: 8, bits: 8 },
        Some("b2") => Select { shift: 16, bits: 8 },
        Some("b3") => Select { shift: 24, bits: 8 },
        Some("h0") => Select { shift: 0, bits: 16 },
        Some("h1") => Select {
            shift: 16,
            bits: 16,
        },
        _ => return None,
    })
}

/// Digits of `h10`, `b3210`: most significant lane first.
fn simd_select(text: Option<&str>, n: usize, most: u8, default: [u8; 4]) -> Option<[u8; 4]> {
    let Some(t) = text else {
        return Some(default);
    };
    let digits = t.strip_prefix(if n == 2 { 'h' } else { 'b' })?.as_bytes();
    if digits.len() != n || digits.iter().any(|d| !(b'0'..=b'0' + most).contains(d)) {
        return None;
    }
    let mut out = [0; 4];
    for (k, d) in digits.iter().rev().enumerate() {
        out[k] = d - b'0';
    }
    Some(out)
}

/// Decodes these.
///
/// # Errors
/// Operands that are not legal.
pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    let name = m.mnemonic();
    let n: u32 = match name.as_bytes() {
        [b'v', .., b'2'] => 2,
        [b'v', .., b'4'] => 4,
        [b'v', ..] => 1,
        _ => return Ok(None),
    };
    let mut op = match name.trim_end_matches(['2', '4']) {
        "vadd" => Op::Add,
        "vsub" => Op::Sub,
        "vabsdiff" => Op::AbsDiff,
        "vmin" => Op::Min,
        "vmax" => Op::Max,
        "vavrg" => Op::Avrg,
        "vshl" => Op::Shl,
        "vshr" => Op::Shr,
        "vmad" => Op::Mad,
        "vset" => Op::Set(Relation::Eq),
        _ => return Ok(None),
    };
    let set = matches!(op, Op::Set(_));
    // Of vset only the sources have types.
    let to = if set { Type::U32 } else { m.ty()? };
    let (ta, tb) = (m.ty()?, m.ty()?);
    let po = m.take("po");
    let sat = m.take("sat");
    if let Some(c) = m.one_of(&["eq", "ne", "lt", "le", "gt", "ge"]) {
        op = Op::Set(match c {
            "eq" => Relation::Eq,
            "ne" => Relation::Ne,
            "lt" => Relation::Lt,
            "le" => Relation::Le,
            "gt" => Relation::Gt,
            _ => Relation::Ge,
        });
    }
    let clamp = m.one_of(&["clamp", "wrap"]) != Some("wrap");
    let shift = match m.one_of(&["shr7", "shr15"]) {
        Some("shr7") => 7,
        Some(_) => 15,
        None => 0,
    };
    let mut second = match m.one_of(&["add", "min", "max"]) {
        Some("add") => Second::Add,
        Some("min") => Second::Min,
        Some(_) => Second::Max,
        None => Second::Nothing,
    };
    m.finish()?;
    let third = i.operands.len() == 4;
    if i.operands.len() != 3 && !third {
        return Err(d.error(i, "takes two or three sources"));
    }
    let bad = |d: &Decoder| d.error(i, "this part of a register cannot be selected here");
    let split = |o: &Operand| match o {
        Operand::Part {
            reg,
            select,
            negated,
        } => (Operand::Reg(*reg), select.clone(), *negated),
        o => (o.clone(), None, false),
    };
    let source = |d: &mut Decoder, k: usize, ty: Type, default: [u8; 4]| -> Result<Source> {
        let (o, text, negated) = split(d.operand(i, k)?);
        let row = d.src_operand(i, &o, Type::B32, false)?;
        let most = if n == 2 { 3 } else { 7 };
        let (select, lanes) = if n == 1 {
            (scalar_select(text.as_deref()), Some(default))
        } else {
            (
                Some(WHOLE),
                simd_select(text.as_deref(), n as usize, most, default),
            )
        };
        Ok(Source {
            row,
            select: select.ok_or_else(|| bad(d))?,
            lanes: lanes.ok_or_else(|| bad(d))?,
            signed: ty == Type::S32,
            negated,
        })
    };
    // By default lane k takes part k of a, and of b.
    let b_default = if n == 2 { [2, 3, 0, 0] } else { [4, 5, 6, 7] };
    let a = source(d, 1, ta, [0, 1, 2, 3])?;
    let b = source(d, 2, tb, b_default)?;
    let c = if third {
        Some(d.src(i, 3, Type::B32)?)
    } else {
        None
    };
    let (dst, text, _) = split(d.operand(i, 0)?);
    let Operand::Reg(r) = dst else {
        return Err(d.error(i, "the destination is a register"));
    };
    let dst = d.reg_row_checked(i, r, Type::B32, false)?;
    let mut mask = [true; 4];
    let mut dst_select = WHOLE;
    if n == 1 {
        dst_select = scalar_select(text.as_deref()).ok_or_else(|| bad(d))?;
        if text.is_some() {
            second = Second::Merge;
        }
    } else if let Some(t) = text {
        let digits = t
            .strip_prefix(if n == 2 { 'h' } else { 'b' })
            .ok_or_else(|| bad(d))?;
        mask = [false; 4];
        for c in digits.bytes() {
            let k = usize::from(c.wrapping_sub(b'0'));
            *mask
                .get_mut(k)
                .filter(|_| k < n as usize)
                .ok_or_else(|| bad(d))? = true;
        }
    }
    let x = d.push_aux(Box::new(Video {
        op,
        n,
        a,
        b,
        c,
        dst,
        dst_select,
        mask,
        dst_signed: to == Type::S32,
        sat,
        clamp,
        second,
        po,
        shift,
    }));
    Ok(Some(Inst { x, ..d.inst(exec) }))
}

fn extend(v: u32, bits: u32, signed: bool) -> i64 {
    let v = u64::from(v) << (64 - bits);
    if signed {
        v as i64 >> (64 - bits)
    } else {
        (v >> (64 - bits)) as i64
    }
}

/// The first step, exactly.
fn first(t: &Video, a: i64, b: i64, bits: u32) -> i64 {
    match t.op {
        Op::Add => a + b,
        Op::Sub => a - b,
        Op::AbsDiff => (a - b).abs(),
        Op::Min => a.min(b),
        Op::Max => a.max(b),
        // Rounded away from zero at halves (PTX ISA, vavrg).
        Op::Avrg => {
            let s = a + b;
            (s + i64::from(s >= 0)) >> 1
        }
        Op::Shl | Op::Shr => {
            let n = if t.clamp {
                (b & 0xFFFF_FFFF).min(i64::from(bits))
            } else {
                b & 31
            };
            if t.op == Op::Shl { a << n } else { a >> n }
        }
        Op::Mad => a * b,
        Op::Set(r) => i64::from(match r {
            Relation::Eq => a == b,
            Relation::Ne => a != b,
            Relation::Lt => a < b,
            Relation::Le => a <= b,
            Relation::Gt => a > b,
            Relation::Ge => a >= b,
        }),
    }
}

fn saturate(v: i64, bits: u32, signed: bool) -> i64 {
    if signed {
        v.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        v.clamp(0, (1 << bits) - 1)
    }
}

fn scalar(t: &Video, a: u32, b: u32, c: u32) -> u32 {
    let pick = |s: &Source, v: u32| {
        let x = extend(v >> s.select.shift, s.select.bits, s.signed);
        if s.negated { -x } else { x }
    };
    let (x, y) = (pick(&t.a, a), pick(&t.b, b));
    if t.op == Op::Mad {
        // The sum is signed where a factor is (PTX ISA, vmad).
        let signed = t.a.signed || t.b.signed || t.a.negated || t.b.negated;
        let v = x * y + extend(c, 32, t.dst_signed || signed) + i64::from(t.po);
        let v = v >> t.shift;
        let v = if t.sat {
            saturate(v, 32, t.dst_signed)
        } else {
            v
        };
        return v as u32;
    }
    let v = first(t, x, y, 32);
    let bits = t.dst_select.bits;
    let v = if t.sat {
        saturate(v, bits, t.dst_signed)
    } else {
        v
    };
    let whole = extend(v as u32, 32, t.dst_signed);
    let third = extend(c, 32, t.dst_signed);
    match t.second {
        Second::Nothing => v as u32,
        Second::Merge => {
            let keep = (u32::MAX >> (32 - bits)) << t.dst_select.shift;
            c & !keep | (v as u32) << t.dst_select.shift & keep
        }
        Second::Add => (whole + third) as u32,
        Second::Min => whole.min(third) as u32,
        Second::Max => whole.max(third) as u32,
    }
}

fn simd(t: &Video, a: u32, b: u32, c: u32) -> u32 {
    let bits = 32 / t.n;
    let both = u64::from(b) << 32 | u64::from(a);
    let lane = |s: &Source, k: usize| {
        let v = (both >> (u32::from(s.lanes[k]) * bits)) as u32;
        let v = extend(v, bits, s.signed);
        if s.negated { -v } else { v }
    };
    let keep = u32::MAX >> (32 - bits);
    let mut out = if t.second == Second::Add { c } else { 0 };
    for k in 0..t.n as usize {
        let v = first(t, lane(&t.a, k), lane(&t.b, k), bits);
        let v = if t.sat {
            saturate(v, bits, t.dst_signed)
        } else {
            v
        };
        let at = k as u32 * bits;
        match (t.second, t.mask[k]) {
            (Second::Add, true) => {
                // The lanes are summed, each as a value of the destination's type.
                out = out.wrapping_add(extend(v as u32, bits, t.dst_signed) as u32);
            }
            (Second::Add, false) => {}
            (_, true) => out |= (v as u32 & keep) << at,
            (_, false) => out |= c & keep << at,
        }
    }
    out
}

unsafe fn exec(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    unsafe {
        let t = cx.aux::<Video>(i.x);
        let (a, b) = (cx.get(t.a.row), cx.get(t.b.row));
        let c = t.c.map_or([0; 32], |r| cx.get(r));
        let f = if t.n == 1 { scalar } else { simd };
        let r = std::array::from_fn(|l| f(t, a[l], b[l], c[l]));
        cx.set(t.dst, &r, mask);
    }
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(signed: bool, lanes: [u8; 4], select: Select) -> Source {
        Source {
            row: 0,
            select,
            lanes,
            signed,
            negated: false,
        }
    }

    fn video(op: Op, n: u32, signed: bool, sat: bool, second: Second) -> Video {
        let b = if n == 2 { [2, 3, 0, 0] } else { [4, 5, 6, 7] };
        Video {
            op,
            n,
            a: source(signed, [0, 1, 2, 3], WHOLE),
            b: source(signed, b, WHOLE),
            c: None,
            dst: 0,
            dst_select: WHOLE,
            mask: [true; 4],
            dst_signed: signed,
            sat,
            clamp: true,
            second,
            po: false,
            shift: 0,
        }
    }

    #[test]
    fn lanes_of_bytes_and_halves() {
        let f =
            |op, n, signed, sat, second, a, b, c| simd(&video(op, n, signed, sat, second), a, b, c);
        use Second::{Add as Sum, Nothing};
        assert_eq!(
            f(
                Op::Add,
                4,
                false,
                false,
                Nothing,
                0x01FF_8070,
                0x0101_8010,
                0
            ),
            0x0200_0080
        );
        assert_eq!(
            f(
                Op::Add,
                4,
                false,
                true,
                Nothing,
                0x01FF_8070,
                0x0101_8010,
                0
            ),
            0x02FF_FF80
        );
        assert_eq!(
            f(Op::Sub, 4, true, true, Nothing, 0x0180_7F00, 0x017F_FF01, 0),
            0x0080_7FFF
        );
        assert_eq!(
            f(
                Op::AbsDiff,
                4,
                false,
                false,
                Sum,
                0x0102_0304,
                0x0403_0201,
                10
            ),
            10 + 3 + 1 + 1 + 3
        );
        assert_eq!(
            f(
                Op::Min,
                2,
                true,
                false,
                Nothing,
                0xFFFF_0005,
                0x0001_0007,
                0
            ),
            0xFFFF_0005
        );
        assert_eq!(
            f(
                Op::Avrg,
                4,
                false,
                false,
                Nothing,
                0x0102_0304,
                0x0202_0205,
                0
            ),
            0x0202_0305
        );
        let set = Op::Set(Relation::Gt);
        assert_eq!(
            f(set, 2, false, false, Nothing, 0x0005_0001, 0x0004_0002, 0),
            0x0001_0000
        );
    }

    #[test]
    fn scalars_of_selected_parts() {
        let mut t = video(Op::Add, 1, true, false, Second::Nothing);
        t.a.select = Select { shift: 8, bits: 8 };
        t.b.select = Select {
            shift: 16,
            bits: 16,
        };
        assert_eq!(scalar(&t, 0x0000_FE00, 0x0005_0000, 0), 3);
        t.second = Second::Merge;
        t.dst_select = Select { shift: 24, bits: 8 };
        assert_eq!(
            scalar(&t, 0x0000_FE00, 0x0005_0000, 0x1122_3344),
            0x0322_3344
        );
        let mut t = video(Op::Mad, 1, true, false, Second::Nothing);
        t.shift = 7;
        assert_eq!(scalar(&t, (-5i32) as u32, 256, 128), (-9i32) as u32);
        let t = video(Op::Shr, 1, true, false, Second::Nothing);
        assert_eq!(scalar(&t, (-64i32) as u32, 100, 0), u32::MAX);
    }
}
