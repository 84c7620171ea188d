//! Calls and returns of functions that are regions ([`crate::machine::calls`]), indirect branches, the stack.

use super::decode::{Decoder, Mods, Result, rows_of};
use crate::machine::calls::{Activation, Base};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::machine::report::{FaultCode, Finding};
use crate::ptx::ast::{self, Operand, Type};

/// Addresses that stand for functions: this and sixteen times the function's index in the module.
const FUNCTIONS: u64 = 0x13_0000_0000;
/// What a call takes of the stack beside its function's variables: at least the return address.
const LINK: u32 = 16;

/// The address that stands for function `index`.
pub fn address(index: u32) -> u64 {
    FUNCTIONS + 16 + 16 * u64::from(index)
}

fn function(address: u64) -> Option<u32> {
    let at = address.wrapping_sub(FUNCTIONS + 16);
    (at < 16 << 24 && at.is_multiple_of(16)).then_some((at / 16) as u32)
}

/// An argument or a result of a call.
#[derive(Clone, Copy)]
struct Actual {
    /// Its value, or for one in `.param` space its address.
    row: RowId,
    rows: u32,
    /// It is passed by address.
    by_address: bool,
    size: u64,
}

struct Call {
    target: Option<u32>,
    row: RowId,
    allowed: Option<Vec<u32>>,
    params: Vec<Actual>,
    returns: Vec<Actual>,
}

/// Decodes calls, returns of regions, `brx.idx`, `alloca`, `stacksave`, `stackrestore`.
///
/// # Errors
/// Qualifiers or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    Ok(Some(match m.mnemonic() {
        "call" => call(d, i)?,
        "ret" if i.opcode.get(1).is_some_and(|q| q == "func") => d.inst(ret),
        "brx" => {
            m.expect("idx")?;
            let uni = m.take("uni");
            m.finish()?;
            d.arity(i, 2)?;
            let Operand::Label(l) = *d.operand(i, 1)? else {
                return Err(d.error(i, "takes a label of .branchtargets"));
            };
            let targets = &d.function.labels[l as usize].targets;
            let targets: Vec<u32> = targets
                .iter()
                .map(|t| d.function.labels[*t as usize].target)
                .collect();
            if targets.is_empty() {
                return Err(d.error(i, "the label is none of .branchtargets"));
            }
            let a = d.src(i, 0, Type::U32)?;
            let x = d.push_aux(Box::new((targets, uni)));
            Inst {
                a,
                x,
                ..d.inst(brx)
            }
        }
        "alloca" => {
            m.ty()?;
            m.finish()?;
            let align = match i.operands.get(2) {
                None => 8,
                Some(Operand::Int {
                    bits,
                    negative: false,
                }) if bits.is_power_of_two() && *bits <= 1 << 16 => *bits as u32,
                Some(_) => return Err(d.error(i, "the alignment is a power of two")),
            };
            d.stack = true;
            Inst {
                d: d.dst(i, 0, Type::U64)?,
                a: d.src(i, 1, Type::U64)?,
                x: align,
                ..d.inst(alloca)
            }
        }
        "stacksave" => {
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 1)?;
            d.stack = true;
            Inst {
                d: d.dst(i, 0, ty)?,
                x: ty.bytes() as u32,
                ..d.inst(stacksave)
            }
        }
        "stackrestore" => {
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 1)?;
            d.stack = true;
            Inst {
                a: d.src(i, 0, ty)?,
                x: ty.bytes() as u32,
                ..d.inst(stackrestore)
            }
        }
        _ => return Ok(None),
    }))
}

fn call(d: &mut Decoder, i: &ast::Inst) -> Result<Inst> {
    let [
        target,
        Operand::List(results),
        Operand::List(arguments),
        Operand::Int { bits, .. },
    ] = &i.operands[..]
    else {
        return Err(d.error(i, "is not complete"));
    };
    let site = &d.sites[*bits as usize];
    let (named, allowed) = (site.target, site.allowed.clone());
    let row = match target {
        Operand::Reg(_) => d.src_operand(i, target, Type::U64, false)?,
        _ => 0,
    };
    let mut actual = |list: &[Operand], kinds: &[(u64, Option<Type>)]| {
        let mut out = Vec::new();
        for (o, (size, reg)) in list.iter().zip(kinds) {
            let ty = match reg {
                None => Type::U64,
                Some(Type::Pred) => return Err(d.error(i, "a predicate cannot be passed here")),
                Some(t) => *t,
            };
            out.push(Actual {
                row: d.src_operand(i, o, ty, false)?,
                rows: rows_of(ty),
                by_address: reg.is_none(),
                size: *size,
            });
        }
        Ok(out)
    };
    let call = Call {
        target: named,
        row,
        allowed,
        params: actual(arguments, &site.params)?,
        returns: actual(results, &site.returns)?,
    };
    let x = d.push_aux(Box::new(call));
    Ok(Inst { x, ..d.inst(enter) })
}

/// Moves the lanes of each mask to its place; lanes of the fragment that are in none go on with the next instruction.
pub(super) fn scatter(cx: &mut Cx, mask: u32, targets: &[(u32, u32)]) -> Flow {
    let (here, frag) = (cx.pc, cx.frag);
    let warp = cx.warp();
    let mut old = warp.frags[frag];
    if targets.iter().any(|t| t.1 <= here) {
        old.spins += 1;
    }
    let rest = old.mask & !mask;
    let mut targets = targets.iter();
    let first = if rest != 0 {
        Some((rest, here + 1))
    } else {
        targets.next().copied()
    };
    if let Some((mask, pc)) = first {
        old.mask = mask;
        old.pc = pc;
        warp.frags[frag] = old;
    }
    for &(mask, pc) in targets {
        warp.frags
            .push(crate::machine::block::Frag { mask, pc, ..old });
    }
    Flow::Jump
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 != 0)
}

/// The lanes of `mask` by a key of each.
fn groups<K: PartialEq>(mask: u32, key: impl Fn(usize) -> K) -> Vec<(K, u32)> {
    let mut out: Vec<(K, u32)> = Vec::new();
    for l in lanes(mask) {
        let k = key(l);
        match out.iter_mut().find(|g| g.0 == k) {
            Some(g) => g.1 |= 1 << l,
            None => out.push((k, 1 << l)),
        }
    }
    out
}

unsafe fn brx(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    let ((targets, uni), index) = unsafe { (cx.aux::<(Vec<u32>, bool)>(i.x), cx.get(i.a)) };
    let g = groups(mask, |l| index[l]);
    if let Some((k, m)) = g.iter().find(|g| g.0 as usize >= targets.len()) {
        let text = format!("index {k} of {} branch targets", targets.len());
        return cx.fail(Finding::new(FaultCode::IllegalInstruction, "branch", text).lanes(*m));
    }
    if *uni && (g.len() > 1 || mask != cx.frag_mask) {
        let text = "lanes that execute a .uni branch together go different ways";
        return cx.fail(Finding::new(FaultCode::LaunchFailed, "divergence", text).lanes(mask));
    }
    let g: Vec<_> = g
        .into_iter()
        .map(|(k, m)| (m, targets[k as usize]))
        .collect();
    scatter(cx, mask, &g)
}

unsafe fn read(cx: &Cx, row: RowId, rows: u32, lane: usize) -> u64 {
    // SAFETY: the caller's rows belong to this kernel.
    unsafe {
        if rows == 2 {
            cx.get64(row)[lane]
        } else {
            cx.get(row)[lane].into()
        }
    }
}

unsafe fn write(cx: &mut Cx, row: RowId, rows: u32, lane: usize, v: u64) {
    // SAFETY: the caller's rows belong to this kernel.
    unsafe {
        if rows == 2 {
            cx.row64(row)[lane] = v;
        } else {
            cx.row(row)[lane] = v as u32;
        }
    }
}

unsafe fn enter(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `call`; its rows belong to this kernel.
    unsafe {
        let t = cx.aux::<Call>(i.x);
        let kernel = std::ptr::from_ref(cx.block().kernel());
        // The kernel outlives the block.
        let kernel = &*kernel;
        let targets = if t.target.is_some() {
            [0; 32]
        } else {
            cx.get64(t.row)
        };
        let mut jumps = Vec::new();
        for (f, m) in groups(mask, |l| t.target.or_else(|| function(targets[l]))) {
            let bad = |text: String| Finding::new(FaultCode::InvalidPc, "call", text).lanes(m);
            let a = targets[m.trailing_zeros() as usize];
            if let (Some(f), Some(list)) = (f, &t.allowed)
                && !list.contains(&f)
            {
                return cx.fail(bad("the function is none of .calltargets".into()));
            }
            let region = f.and_then(|f| kernel.regions.iter().position(|r| r.function == f));
            let Some(k) = region else {
                return cx.fail(bad(format!("{a:#x} is not the address of a function")));
            };
            let r = &kernel.regions[k];
            let same = |a: &[Actual], b: &[crate::machine::calls::Formal<_>]| {
                a.len() == b.len()
                    && a.iter().zip(b).all(
                        |(a, b): (
                            _,
                            &crate::machine::calls::Formal<crate::machine::calls::Slot>,
                        )| {
                            a.size == b.size && a.by_address == b.reg.is_none()
                        },
                    )
            };
            if !same(&t.params, &r.params) || !same(&t.returns, &r.returns) {
                let text =
                    "parameters or return values of the function are not those of the prototype";
                return cx.fail(bad(text.into()));
            }
            for l in lanes(m) {
                let (sp, room) = (cx.warp().sp[l], cx.warp().local_bytes);
                let end = u64::from(sp) + u64::from(r.frame) + u64::from(LINK);
                if end > room.into() {
                    let depth = cx.warp().calls[l].len();
                    return cx.fail(
                        Finding::new(
                            FaultCode::HardwareStack,
                            "stack",
                            format!("{end} bytes of local memory after {depth} calls, a thread has {room} (CU_LIMIT_STACK_SIZE)"),
                        )
                        .lanes(1 << l),
                    );
                }
                let params: Vec<u64> = t
                    .params
                    .iter()
                    .map(|a| read(cx, a.row, a.rows, l))
                    .collect();
                let returns: Vec<u64> = t
                    .returns
                    .iter()
                    .map(|a| read(cx, a.row, a.rows, l))
                    .collect();
                let slots = r.slots.iter().map(|s| read(cx, s.row, s.rows, l)).collect();
                let preds = (r.preds.0..r.preds.1)
                    .map(|p| cx.pred(p) >> l & 1 != 0)
                    .collect();
                let site = cx.pc;
                cx.warp().calls[l].push(Activation {
                    site,
                    region: k as u32,
                    sp,
                    slots,
                    preds,
                });
                cx.warp().sp[l] = end as u32;
                for &(row, wide, base, add) in &r.addresses {
                    let from = match base {
                        Base::Frame => u64::from(sp),
                        Base::Param(p) => params[p as usize],
                        Base::Return(p) => returns[p as usize],
                    };
                    let rows = if wide { 2 } else { 1 };
                    write(cx, row, rows, l, from.wrapping_add_signed(add));
                }
                for (f, v) in r.params.iter().zip(params) {
                    if let Some(s) = f.reg {
                        write(cx, s.row, s.rows, l, v);
                    }
                }
            }
            jumps.push((m, r.entry));
        }
        scatter(cx, mask, &jumps)
    }
}

unsafe fn ret(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    // SAFETY: what a call pushed came from rows of this kernel.
    unsafe {
        let kernel = std::ptr::from_ref(cx.block().kernel());
        // The kernel outlives the block.
        let kernel = &*kernel;
        let mut jumps: Vec<(u32, u32)> = Vec::new();
        for l in lanes(mask) {
            let Some(a) = cx.warp().calls[l].pop() else {
                let text = "a return without a call";
                return cx.fail(Finding::new(FaultCode::InvalidPc, "call", text).lanes(1 << l));
            };
            let r = &kernel.regions[a.region as usize];
            let t = cx.aux::<Call>(kernel.code[a.site as usize].x);
            let mut values = Vec::new();
            for f in &r.returns {
                values.push(f.reg.map(|s| read(cx, s.row, s.rows, l)));
            }
            for (s, v) in r.slots.iter().zip(a.slots.iter()) {
                write(cx, s.row, s.rows, l, *v);
            }
            for (p, v) in (r.preds.0..r.preds.1).zip(a.preds.iter()) {
                cx.set_pred(p, if *v { u32::MAX } else { 0 }, 1 << l);
            }
            cx.warp().sp[l] = a.sp;
            for (to, v) in t.returns.iter().zip(values) {
                if let Some(v) = v {
                    write(cx, to.row, to.rows, l, v);
                }
            }
            match jumps.iter_mut().find(|j| j.1 == a.site + 1) {
                Some(j) => j.0 |= 1 << l,
                None => jumps.push((1 << l, a.site + 1)),
            }
        }
        scatter(cx, mask, &jumps)
    }
}

unsafe fn alloca(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let size = cx.get64(i.a);
        let mut out = [0; 32];
        for l in lanes(mask) {
            let room = cx.warp().local_bytes;
            let at = cx.warp().sp[l].next_multiple_of(i.x);
            let end = u64::from(at).saturating_add(size[l]);
            if end > room.into() {
                return cx.fail(
                    Finding::new(
                        FaultCode::HardwareStack,
                        "stack",
                        format!(
                            "{end} bytes of local memory, a thread has {room} (CU_LIMIT_STACK_SIZE)"
                        ),
                    )
                    .lanes(1 << l),
                );
            }
            cx.warp().sp[l] = end as u32;
            out[l] = u64::from(at);
        }
        cx.set64(i.d, &out, mask);
    }
    Flow::Next
}

unsafe fn stacksave(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    let sp = cx.warp().sp;
    // SAFETY: the row was decoded for this kernel.
    unsafe {
        if i.x == 8 {
            cx.set64(i.d, &sp.map(u64::from), mask);
        } else {
            cx.set(i.d, &sp, mask);
        }
    }
    Flow::Next
}

unsafe fn stackrestore(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the row was decoded for this kernel.
    let to = unsafe {
        if i.x == 8 {
            cx.get64(i.a)
        } else {
            cx.get(i.a).map(u64::from)
        }
    };
    for l in lanes(mask) {
        let sp = cx.warp().sp[l];
        if to[l] > sp.into() {
            let text = format!("stackrestore of {:#x}, the stack ends at {sp:#x}", to[l]);
            return cx.fail(Finding::new(FaultCode::HardwareStack, "stack", text).lanes(1 << l));
        }
        cx.warp().sp[l] = to[l] as u32;
    }
    Flow::Next
}
