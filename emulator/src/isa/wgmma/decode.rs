//! Decoding.

use super::{ASource, WgmmaInst, commit, fence, mma_async, wait};
use crate::isa::decode::{Decoder, Mods, Result};
use crate::isa::mma_arith::{AccType, InType, MmaKind};
use crate::machine::inst::Inst;
use crate::ptx::ast::{self, Operand, Type};

/// Decodes `wgmma.*`.
///
/// # Errors
/// Shapes, types or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    if m.mnemonic() != "wgmma" {
        return Ok(None);
    }
    if d.module.target != "sm_90a" {
        return Err(m.error(format!(
            "needs .target sm_90a, the module has {}",
            d.module.target
        )));
    }
    let what = m.next().unwrap_or_default();
    m.expect("sync")?;
    m.expect("aligned")?;
    match what {
        "fence" => {
            m.finish()?;
            Ok(Some(d.inst(fence)))
        }
        "commit_group" => {
            m.finish()?;
            Ok(Some(d.inst(commit)))
        }
        "wait_group" => {
            m.finish()?;
            let Operand::Int {
                bits,
                negative: false,
            } = *d.operand(i, 0)?
            else {
                return Err(d.error(i, "takes a constant"));
            };
            Ok(Some(Inst {
                a: bits as u32,
                ..d.inst(wait)
            }))
        }
        "mma_async" => mma(d, i, m).map(Some),
        _ => Err(m.error("unknown operation")),
    }
}

fn shape(text: &str) -> Option<(u32, u32)> {
    let (n, k) = text.strip_prefix("m64n")?.split_once('k')?;
    Some((n.parse().ok()?, k.parse().ok()?))
}

fn input(text: &str) -> Option<(InType, u32)> {
    Some(match text {
        "e4m3" => (InType::E4M3, 1),
        "e5m2" => (InType::E5M2, 1),
        "f16" => (InType::F16, 2),
        "bf16" => (InType::Bf16, 2),
        "tf32" => (InType::Tf32, 4),
        "s8" => (InType::S8, 1),
        "u8" => (InType::U8, 1),
        _ => return None,
    })
}

fn mma(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Inst> {
    let Some((n, k)) = m.peek().and_then(shape) else {
        return Err(m.error("expected a shape m64nNkK"));
    };
    m.next();
    let satfinite_first = m.take("satfinite");
    let acc = match m.next() {
        Some("f32") => AccType::F32,
        Some("f16") => AccType::F16,
        Some("s32") => AccType::S32,
        _ => return Err(m.error("expected the type of D: .f32, .f16 or .s32")),
    };
    let (Some((ta, elem)), Some((tb, eb))) = (m.next().and_then(input), m.next().and_then(input))
    else {
        return Err(m.error("expected the types of A and B"));
    };
    let saturate = satfinite_first || m.take("satfinite");
    m.finish()?;
    let int = matches!(ta, InType::S8 | InType::U8);
    let fp8 = matches!(ta, InType::E4M3 | InType::E5M2);
    let same = ta == tb
        || (fp8 && matches!(tb, InType::E4M3 | InType::E5M2))
        || (int && matches!(tb, InType::S8 | InType::U8));
    let acc_ok = match acc {
        AccType::S32 => int,
        AccType::F16 => fp8 || ta == InType::F16,
        AccType::F32 => !int,
    };
    if !same || elem != eb || !acc_ok || (saturate && !int) {
        return Err(m.error("these types do not go together"));
    }
    if k != 32 / elem {
        return Err(m.error(format!("K of these types is {}, found {k}", 32 / elem)));
    }
    let n_ok = (8..=256).contains(&n)
        && if int {
            [8, 16, 24, 32].contains(&n) || n % 16 == 0
        } else {
            n % 8 == 0
        };
    if !n_ok {
        return Err(m.error(format!("N = {n} is not legal for these types")));
    }
    let Operand::Vector(dv) = d.operand(i, 0)?.clone() else {
        return Err(m.error("D is a vector of registers"));
    };
    let half = acc == AccType::F16;
    let want = if half { n / 4 } else { n / 2 } as usize;
    if dv.len() != want {
        return Err(m.error(format!("D has {want} registers, found {}", dv.len())));
    }
    let dty = match acc {
        AccType::F32 => Type::F32,
        AccType::F16 => Type::F16x2,
        AccType::S32 => Type::S32,
    };
    let mut rows = Vec::new();
    for o in &dv {
        let Operand::Reg(r) = o else {
            return Err(m.error("D is a vector of registers"));
        };
        rows.push(d.reg_row_checked(i, *r, dty, false)?);
    }
    let a = match d.operand(i, 1)?.clone() {
        Operand::Vector(v) => {
            if v.len() != 4 {
                return Err(m.error(format!("A in registers has 4 of them, found {}", v.len())));
            }
            let mut r = Vec::new();
            for o in &v {
                let ty = if int { Type::B32 } else { Type::F16x2 };
                r.push(d.src_operand(i, o, ty, false)?);
            }
            ASource::Registers(r)
        }
        o => ASource::Shared(d.src_operand(i, &o, Type::B64, false)?),
    };
    let b = d.src(i, 2, Type::B64)?;
    let scale_d = d.pred(i, d.operand(i, 3)?)?;
    let constant = |d: &Decoder, at: usize| -> Result<i64> {
        match d.operand(i, at)? {
            Operand::Int { bits, .. } => Ok(*bits as i64),
            _ => Err(d.error(i, format!("operand {} is a constant", at + 1))),
        }
    };
    let (mut neg_a, mut neg_b, mut a_mn, mut b_mn) = (false, false, false, false);
    let mut at = 4;
    if !int {
        for neg in [&mut neg_a, &mut neg_b] {
            *neg = match constant(d, at)? {
                1 => false,
                -1 => true,
                x => return Err(d.error(i, format!("imm-scale is 1 or -1, found {x}"))),
            };
            at += 1;
        }
        if elem == 2 {
            if let ASource::Shared(_) = a {
                a_mn = trans(d, i, constant(d, at)?)?;
                at += 1;
            }
            b_mn = trans(d, i, constant(d, at)?)?;
            at += 1;
        }
    }
    d.arity(i, at)?;
    if let ASource::Registers(r) = &a {
        d.watch(r);
    }
    d.watch(&rows);
    let kind = MmaKind {
        a: ta,
        b: tb,
        acc,
        saturate,
    };
    let x = d.push_aux(Box::new(WgmmaInst {
        kind,
        n,
        d: rows,
        d_half: half,
        a,
        b,
        scale_d,
        neg_a,
        neg_b,
        a_mn,
        b_mn,
        elem,
    }));
    Ok(Inst {
        x,
        ..d.inst(mma_async)
    })
}

fn trans(d: &Decoder, i: &ast::Inst, v: i64) -> Result<bool> {
    match v {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(d.error(i, format!("imm-trans is 0 or 1, found {v}"))),
    }
}
