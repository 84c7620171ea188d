//! Branches, exits, barriers, traps.

use super::decode::{Decoder, Mods, Result};
use crate::machine::block::{Frag, Wait};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::machine::report::{FaultCode, Finding};
use crate::ptx::ast::{self, Operand, Type};

/// Reduction of a named barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Red {
    /// Count of true predicates.
    Popc,
    /// All true.
    And,
    /// Any true.
    Or,
}

struct Bar {
    kind: BarKind,
    /// Row of the barrier's number, and of the thread count (`None`: the whole block).
    id: u32,
    count: Option<u32>,
    /// Reduction: source predicate, negated, destination (predicate or row).
    red: Option<(Red, u32, bool, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BarKind {
    Sync,
    Arrive,
}

/// Decodes control flow and block barriers.
///
/// # Errors
/// Qualifiers or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    Ok(Some(match m.mnemonic() {
        "bra" => {
            m.take("uni");
            m.finish()?;
            d.arity(i, 1)?;
            let Operand::Label(l) = d.operand(i, 0)? else {
                return Err(d.error(i, "takes a label"));
            };
            let target = d.function.labels[*l as usize].target;
            Inst {
                d: target,
                ..d.inst(bra)
            }
        }
        "ret" | "exit" => {
            m.take("uni");
            m.finish()?;
            d.inst(exit)
        }
        "trap" => {
            m.finish()?;
            d.inst(trap)
        }
        // A counter's trigger for profilers: nobody listens.
        "pmevent" => {
            m.take("mask");
            m.finish()?;
            d.arity(i, 1)?;
            if !matches!(d.operand(i, 0)?, Operand::Int { .. }) {
                return Err(d.error(i, "takes a constant"));
            }
            d.inst(nop)
        }
        "brkpt" => {
            m.finish()?;
            d.inst(brkpt)
        }
        "nanosleep" => {
            m.expect("u32")?;
            m.finish()?;
            Inst {
                a: d.src(i, 0, Type::U32)?,
                ..d.inst(nanosleep)
            }
        }
        "bar" | "barrier" => {
            let whole = m.mnemonic() == "barrier";
            if whole && m.peek() == Some("cluster") {
                m.next();
                return cluster_barrier(d, i, m).map(Some);
            }
            if m.take("warp") {
                m.expect("sync")?;
                m.finish()?;
                let a = d.src(i, 0, Type::B32)?;
                return Ok(Some(Inst {
                    a,
                    ..d.inst(bar_warp_sync)
                }));
            }
            m.take("cta");
            let what = m.next().unwrap_or_default();
            // bar.* is the aligned form of barrier.cta.*; without .aligned the warp need not be converged, but all its
            // lanes count as one warp all the same, so both wait for the whole warp here.
            let red = if what == "red" {
                m.one_of(&["popc", "and", "or"])
            } else {
                None
            };
            if what == "red" && red.is_none() {
                return Err(m.error("expected .popc, .and or .or"));
            }
            m.take("aligned");
            if let Some(op) = red {
                m.take("aligned");
                let ty = m.ty()?;
                m.finish()?;
                let n = i.operands.len();
                let (src, neg) = d.pred(i, d.operand(i, n - 1)?)?;
                let (op, dst) = match (op, ty) {
                    ("popc", Type::U32) => (Red::Popc, d.dst(i, 0, Type::U32)?),
                    ("and", Type::Pred) => (Red::And, d.dst_pred(i, d.operand(i, 0)?)?),
                    ("or", Type::Pred) => (Red::Or, d.dst_pred(i, d.operand(i, 0)?)?),
                    _ => return Err(m.error("type does not go with the reduction")),
                };
                let count = if n == 4 {
                    Some(d.src(i, 2, Type::U32)?)
                } else {
                    None
                };
                let id = d.src(i, 1, Type::U32)?;
                let x = d.push_aux(Box::new(Bar {
                    kind: BarKind::Sync,
                    id,
                    count,
                    red: Some((op, src, neg, dst)),
                }));
                return Ok(Some(Inst { x, ..d.inst(bar) }));
            }
            m.finish()?;
            let kind = match what {
                "sync" => BarKind::Sync,
                "arrive" => BarKind::Arrive,
                _ => return Err(m.error("expected .sync, .arrive or .red")),
            };
            let id = d.src(i, 0, Type::U32)?;
            let count = if i.operands.len() > 1 {
                Some(d.src(i, 1, Type::U32)?)
            } else {
                None
            };
            if kind == BarKind::Arrive && count.is_none() {
                return Err(m.error("an arrive needs its thread count"));
            }
            let x = d.push_aux(Box::new(Bar {
                kind,
                id,
                count,
                red: None,
            }));
            Inst { x, ..d.inst(bar) }
        }
        "griddepcontrol" => {
            // Grids of a stream follow each other whole here, so a dependent's prerequisites are always complete.
            match m.next() {
                Some("launch_dependents" | "wait") => {}
                _ => return Err(m.error("expected .launch_dependents or .wait")),
            }
            m.finish()?;
            d.inst(nop)
        }
        "setmaxnreg" => {
            let inc = match m.next() {
                Some("inc") => true,
                Some("dec") => false,
                _ => return Err(m.error("expected .inc or .dec")),
            };
            m.expect("sync")?;
            m.expect("aligned")?;
            m.expect("u32")?;
            m.finish()?;
            let Operand::Int {
                bits,
                negative: false,
            } = *d.operand(i, 0)?
            else {
                return Err(d.error(i, "the register count is a constant"));
            };
            if !(24..=256).contains(&bits) || bits % 8 != 0 {
                return Err(d.error(
                    i,
                    format!("the register count is 24 to 256 in steps of 8, found {bits}"),
                ));
            }
            if d.function.directives.maxnreg.is_none()
                && d.function.directives.maxntid.is_none()
                && d.function.directives.reqntid.is_none()
            {
                return Err(d.error(i, "the kernel needs .maxnreg, .maxntid or .reqntid, so that its register count is known"));
            }
            Inst {
                a: bits as u32,
                b: u32::from(inc),
                ..d.inst(setmaxnreg)
            }
        }
        _ => return Ok(None),
    }))
}

fn cluster_barrier(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Inst> {
    let arrive = match m.next() {
        Some("arrive") => true,
        Some("wait") => false,
        _ => return Err(m.error("expected .arrive or .wait")),
    };
    let relaxed = arrive && m.take("relaxed");
    if !relaxed {
        m.one_of(if arrive { &["release"] } else { &["acquire"] });
    }
    m.take("aligned");
    m.finish()?;
    d.arity(i, 0)?;
    Ok(Inst {
        a: u32::from(arrive),
        b: u32::from(relaxed),
        ..d.inst(barrier_cluster)
    })
}

unsafe fn nop(_: &mut Cx, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

unsafe fn bra(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    let (here, frag) = (cx.pc, cx.frag);
    let back = i.d <= here;
    let f = &mut cx.warp().frags[frag];
    if back {
        f.spins += 1;
    }
    if mask == f.mask {
        f.pc = i.d;
    } else {
        f.mask &= !mask;
        f.pc = here + 1;
        let spins = f.spins;
        cx.warp().frags.push(Frag {
            pc: i.d,
            mask,
            wait: Wait::Ready,
            spins,
        });
    }
    Flow::Jump
}

/// Ends the lanes of `mask`.
pub(crate) unsafe fn exit(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    let (here, frag) = (cx.pc, cx.frag);
    let warp = cx.warp();
    let f = &mut warp.frags[frag];
    f.mask &= !mask;
    f.pc = here + 1;
    if f.mask == 0 {
        warp.frags.swap_remove(frag);
    }
    // Who waited for these lanes need not any more.
    for f in &mut warp.frags {
        if f.wait == Wait::Converge {
            f.wait = Wait::Ready;
        }
    }
    // Its registers stay away from the pool: nothing documented gives them back before the block ends.
    if warp.frags.is_empty() {
        let b = cx.block();
        b.live_warps -= 1;
        let (id, cluster) = (b.id, b.cluster.clone());
        // Barriers count the threads that are left: those that wait must look again.
        cx.machine().wake(id);
        for c in cluster {
            if c != id {
                cx.machine().wake(c);
            }
        }
    }
    Flow::Jump
}

unsafe fn trap(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    cx.fail(
        Finding::new(
            FaultCode::LaunchFailed,
            "trap",
            "the kernel executed a trap",
        )
        .lanes(mask),
    )
}

unsafe fn brkpt(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    cx.fail(
        Finding::new(
            FaultCode::LaunchFailed,
            "trap",
            "the kernel executed a breakpoint and no debugger is there",
        )
        .lanes(mask),
    )
}

unsafe fn nanosleep(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the row was decoded for this kernel.
    let t = unsafe { cx.get(i.a) };
    let ns = (0..32)
        .filter(|l| mask >> l & 1 != 0)
        .map(|l| t[l as usize])
        .max()
        .unwrap_or(0);
    let until = cx.machine().now + u64::from(ns);
    cx.park(Wait::Sleep(until))
}

unsafe fn bar_warp_sync(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the row was decoded for this kernel.
    let m = unsafe { cx.get(i.a) };
    if let Some(flow) = super::warp::members(cx, mask, &m) {
        return flow;
    }
    let w = cx.warp().index;
    cx.block().checks.warp_sync(w);
    Flow::Next
}

unsafe fn bar(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.converge(mask) {
        return flow;
    }
    // SAFETY: the side table entry was made by `decode`.
    let b = unsafe { cx.aux::<Bar>(i.x) };
    let lane = mask.trailing_zeros() as usize;
    // SAFETY: the rows were decoded for this kernel.
    let id = unsafe { cx.get(b.id)[lane] };
    let threads = cx.block().threads();
    // SAFETY: as above.
    let count = b
        .count
        .map_or(threads.next_multiple_of(32), |r| unsafe { cx.get(r)[lane] });
    let bad = |cx: &mut Cx, text: String| {
        cx.fail(Finding::new(FaultCode::IllegalInstruction, "barrier", text))
    };
    if id > 15 {
        return bad(cx, format!("there are barriers 0 to 15, found {id}"));
    }
    if count == 0 || count % 32 != 0 || count > threads.next_multiple_of(32) {
        return bad(
            cx,
            format!(
                "the thread count must be a multiple of 32 and at most {threads}, found {count}"
            ),
        );
    }
    let w = cx.warp().index;
    // SAFETY: the predicate was decoded for this kernel.
    let votes = b
        .red
        .map(|(_, p, neg, _)| (unsafe { cx.pred(p) } ^ if neg { u32::MAX } else { 0 }) & mask);
    let pc = cx.pc;
    let block = cx.block();
    let bit = 1u32 << w;
    let bar = &mut block.barriers[id as usize];
    // Back from the wait: the phase this warp joined is over.
    if bar.waiting & bit != 0 && bar.warps & bit == 0 {
        bar.waiting &= !bit;
        if let Some((op, _, _, dst)) = b.red {
            let r = bar.red_result;
            match op {
                // SAFETY: the destination was decoded for this kernel.
                Red::Popc => unsafe { cx.set(dst, &[r; 32], mask) },
                // SAFETY: as above.
                _ => unsafe { cx.set_pred(dst, if r != 0 { u32::MAX } else { 0 }, mask) },
            }
        }
        cx.block().checks.barrier_leave(w, id);
        return Flow::Next;
    }
    if bar.waiting & bit != 0 {
        // Still open. Warps that have exited since count as arrived at a barrier of the whole block.
        if b.count.is_none() {
            bar.expected = bar.expected.min(block.live_warps * 32);
        }
        if bar.arrived < bar.expected {
            return cx.retry(Wait::Barrier(id));
        }
        return complete(cx, id, b.kind);
    }
    if bar.expected != 0 && bar.expected != count {
        let (e, a) = (bar.expected, bar.arrived);
        return bad(
            cx,
            format!(
                "barrier {id} waits for {e} threads ({a} arrived), this warp brings the count {count}"
            ),
        );
    }
    if bar.expected != 0 && bar.red.is_some() != b.red.is_some() {
        return bad(
            cx,
            format!("barrier {id} mixes .red with .sync or .arrive in one phase"),
        );
    }
    if b.count.is_none() {
        // A warp that has exited arrives at a barrier of the whole block.
        let live = block.live_warps * 32;
        bar.expected = count.min(live);
    } else {
        bar.expected = count;
    }
    if bar.warps & bit != 0 {
        return bad(
            cx,
            format!("warp {w} arrives twice in one phase of barrier {id}"),
        );
    }
    bar.warps |= bit;
    bar.arrived += 32;
    if let Some((op, ..)) = b.red {
        let v = votes.unwrap_or(0);
        let (start, fold): (u32, fn(u32, u32) -> u32) = match op {
            Red::Popc => (0, |a, b| a + b),
            Red::And => (1, |a, b| a & b),
            Red::Or => (0, |a, b| a | b),
        };
        let mine = match op {
            Red::Popc => v.count_ones(),
            Red::And => u32::from(v == mask),
            Red::Or => u32::from(v != 0),
        };
        let so_far = bar.red.map_or(start, |(_, x)| x);
        bar.red = Some((op, fold(so_far, mine)));
    }
    if b.kind == BarKind::Sync {
        bar.waiting |= bit;
    }
    block.checks.barrier_arrive(w, id, pc);
    let bar = &mut block.barriers[id as usize];
    if bar.arrived >= bar.expected {
        return complete(cx, id, b.kind);
    }
    if b.kind == BarKind::Sync {
        cx.retry(Wait::Barrier(id))
    } else {
        Flow::Next
    }
}

/// The last warp has come: the barrier opens. Each warp that waits leaves when it tries again, this one too.
fn complete(cx: &mut Cx, id: u32, kind: BarKind) -> Flow {
    let block = cx.block();
    let bar = &mut block.barriers[id as usize];
    bar.red_result = bar.red.take().map_or(0, |(_, x)| x);
    bar.arrived = 0;
    bar.expected = 0;
    bar.warps = 0;
    bar.phase += 1;
    block.checks.barrier_complete(id);
    let me = block.id;
    cx.machine().wake(me);
    if kind == BarKind::Sync {
        cx.retry(Wait::Ready)
    } else {
        Flow::Next
    }
}

unsafe fn barrier_cluster(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.converge(mask) {
        return flow;
    }
    super::mbarrier::cluster_barrier(cx, i.a != 0, i.b != 0)
}

unsafe fn setmaxnreg(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.converge(mask) {
        return flow;
    }
    let (want, inc) = (i.a, i.b != 0);
    let held = cx.warp().regs_held;
    if (inc && want < held) || (!inc && want > held) {
        let word = if inc { "inc" } else { "dec" };
        return cx.fail(Finding::new(
            FaultCode::IllegalInstruction,
            "setmaxnreg",
            format!("setmaxnreg.{word} to {want}, but the warp holds {held} registers per thread"),
        ));
    }
    let block = cx.block();
    if inc {
        let more = (want - held) * 32;
        if block.reg_pool < more {
            return cx.retry(Wait::Registers);
        }
        block.reg_pool -= more;
    } else {
        block.reg_pool += (held - want) * 32;
    }
    let id = block.id;
    cx.warp().regs_held = want;
    if !inc {
        cx.machine().wake(id);
    }
    Flow::Next
}
