//! Running one warp for a while.

use super::block::{BlockId, Frag, Wait, Warp};
use super::exec::Cx;
use super::inst::Flow;
use super::program::Kernel;
use super::report::{Fault, Finding, Report, Severity};
use super::{Machine, Origin};
use crate::count::Raw;

/// Backward jumps after which a fragment lets its siblings run.
const SPIN_LIMIT: u32 = 64;

impl Machine {
    /// Runs warp `w` of block `b` for at most `quantum` instructions. Answers how many it took.
    pub(super) fn run_warp(&mut self, b: BlockId, w: u32, quantum: u64) -> u64 {
        match self.counts(b).map(std::ptr::from_mut) {
            Some(counts) => self.run_warp_as::<true>(b, w, quantum, counts),
            None => self.run_warp_as::<false>(b, w, quantum, std::ptr::null_mut()),
        }
    }

    /// [`Machine::run_warp`]; with `COUNT` into `counts`, which belong to the block's grid.
    fn run_warp_as<const COUNT: bool>(
        &mut self,
        b: BlockId,
        w: u32,
        quantum: u64,
        counts: *mut Raw,
    ) -> u64 {
        let Some(block) = self.blocks[b].as_deref_mut() else {
            return 0;
        };
        let block: *mut _ = block;
        let machine: *mut Machine = self;
        // SAFETY: the block is boxed and stays where it is; nothing else runs on this thread, and the machine frees a block
        // only between calls of this function.
        let (warp, kernel) = unsafe {
            (
                (*block).warps.as_mut_ptr().add(w as usize),
                std::ptr::from_ref((*block).kernel()),
            )
        };
        // SAFETY: the launch (and so the program) lives as long as the block.
        let code = unsafe { (*kernel).code.as_ptr() };
        // SAFETY: as above.
        let watch = self.knobs.checks.wgmma && unsafe { !(*kernel).watch.is_empty() };
        let mut steps = 0;
        // SAFETY: as above.
        let mut cx = unsafe {
            Cx {
                regs: (*warp).regs.as_mut_ptr(),
                preds: (*warp).preds.as_mut_ptr(),
                pc: 0,
                frag_mask: 0,
                wait: Wait::Ready,
                fault: None,
                strong: false,
                frag: 0,
                warp,
                block,
                machine,
                aux: (*kernel).aux.as_ptr(),
            }
        };
        while steps < quantum {
            let Some(f) = pick(cx.warp()) else { break };
            let siblings = cx.warp().frags.len() > 1;
            cx.frag = f;
            let Frag { mut pc, mask, .. } = cx.warp().frags[f];
            cx.frag_mask = mask;
            loop {
                // SAFETY: `pc` is a label or follows an instruction that is not the last (the last one exits).
                let inst = unsafe { &*code.add(pc as usize) };
                // SAFETY: the guard was decoded for this kernel.
                let guard = unsafe { cx.pred(inst.guard >> 1) } ^ (inst.guard & 1).wrapping_neg();
                let lanes = mask & guard;
                steps += 1;
                if lanes == 0 {
                    if COUNT {
                        // SAFETY: the grid, and so its counts, outlives this call, or this call ends with the grid.
                        unsafe { (*counts).skip(pc) };
                    }
                    pc += 1;
                } else {
                    cx.pc = pc;
                    if watch && let Some(finding) = watched(&mut cx, kernel, pc) {
                        self.fault_at(b, Origin { pc, warp: w, lanes }, finding);
                        return steps;
                    }
                    let site = if COUNT {
                        // SAFETY: as above; there is one entry per instruction.
                        unsafe { (&(*kernel).sites)[pc as usize].as_ref() }
                    } else {
                        None
                    };
                    if COUNT {
                        // SAFETY: the site was made for this kernel.
                        unsafe { (*counts).before(&mut cx, site, lanes) };
                    }
                    // SAFETY: the context is this warp's, and the instruction was decoded for this CPU.
                    let flow = unsafe { (inst.exec)(&mut cx, inst, lanes) };
                    if COUNT {
                        // SAFETY: an instruction ends no grid.
                        unsafe { (*counts).after(pc, site, lanes, flow) };
                    }
                    match flow {
                        Flow::Next => pc += 1,
                        Flow::Jump => break,
                        Flow::Retry => {
                            let wait = cx.wait;
                            let fr = &mut cx.warp().frags[f];
                            fr.pc = pc;
                            fr.wait = wait;
                            break;
                        }
                        Flow::Yield => {
                            cx.warp().frags[f].pc = pc + 1;
                            cx.warp().steps += steps;
                            return steps;
                        }
                        Flow::Park => {
                            let wait = cx.wait;
                            let fr = &mut cx.warp().frags[f];
                            fr.pc = pc + 1;
                            fr.wait = wait;
                            break;
                        }
                        Flow::Fault => {
                            if let Some(finding) = cx.fault.take() {
                                let origin = Origin { pc, warp: w, lanes };
                                self.fault_at(b, origin, *finding);
                            }
                            return steps;
                        }
                    }
                }
                if siblings
                    && cx
                        .warp()
                        .frags
                        .iter()
                        .enumerate()
                        .any(|(i, o)| i != f && o.pc == pc)
                {
                    cx.warp().frags[f].pc = pc;
                    break;
                }
                if steps >= quantum {
                    cx.warp().frags[f].pc = pc;
                    break;
                }
            }
        }
        cx.warp().steps += steps;
        steps
    }

    /// Stops the grid of block `b` with a finding at `origin`.
    pub(super) fn fault_at(&mut self, b: BlockId, origin: Origin, finding: Finding) {
        let code = finding.code;
        let report = self.report_at(b, origin, finding, Severity::Error);
        self.reports.push(report.clone());
        if let Some(grid) = self.blocks[b].as_ref().map(|b| b.grid) {
            self.kill(grid, Fault { code, report });
        }
    }

    /// Notes a finding that does not stop the grid.
    pub fn warn(&mut self, b: BlockId, origin: Origin, finding: Finding) {
        let report = self.report_at(b, origin, finding, Severity::Warning);
        self.reports.push(report);
    }

    /// Adds its place to a finding.
    pub(super) fn report_at(
        &self,
        b: BlockId,
        origin: Origin,
        finding: Finding,
        severity: Severity,
    ) -> Report {
        let Origin { pc, warp, lanes } = origin;
        let lanes = if finding.lanes != 0 {
            finding.lanes
        } else {
            lanes
        };
        let mut report = Report {
            check: finding.check.into(),
            severity,
            message: finding.message,
            kernel: String::new(),
            line: 0,
            col: 0,
            instruction: String::new(),
            device: 0,
            block: [0; 3],
            warp,
            lanes,
            thread: [0; 3],
            other: finding.other,
        };
        if let Some(block) = self.blocks[b].as_deref() {
            let k = block.kernel();
            report.kernel.clone_from(&k.info.name);
            report.device = block.launch.device;
            report.block = block.index;
            report.thread = block.thread(warp, lanes.trailing_zeros().min(31));
            if let Some(span) = k.spans.get(pc as usize) {
                (report.line, report.col) = (span.line, span.col);
                report.instruction.clone_from(&k.opcodes[pc as usize]);
            }
        }
        report
    }
}

/// Tells the matrix operations of a warp that an instruction touches their registers.
fn watched(cx: &mut Cx, kernel: *const Kernel, pc: u32) -> Option<Finding> {
    // SAFETY: the kernel outlives the block that runs it.
    let rows = unsafe { &(&(*kernel).watch)[pc as usize] };
    if rows.is_empty() {
        return None;
    }
    let w = cx.warp().index;
    cx.block().wgmma.touch(w, rows)
}

/// The fragment to run next: of those that can, the one with the lowest program counter, so that lanes meet again where
/// paths join; one that has spun for long lets the others go first. Fragments at the same place become one.
fn pick(warp: &mut Warp) -> Option<usize> {
    let frags = &mut warp.frags;
    if frags.len() > 1 {
        let mut i = 0;
        while i < frags.len() {
            if let Some(j) = (i + 1..frags.len()).find(|&j| frags[j].pc == frags[i].pc) {
                let other = frags.swap_remove(j);
                frags[i].mask |= other.mask;
                frags[i].wait = Wait::Ready;
                frags[i].spins = frags[i].spins.min(other.spins);
            } else {
                i += 1;
            }
        }
    }
    let ready = || {
        frags
            .iter()
            .enumerate()
            .filter(|(_, f)| f.wait == Wait::Ready)
    };
    let best = ready()
        .filter(|(_, f)| f.spins < SPIN_LIMIT)
        .min_by_key(|(_, f)| f.pc)
        .map(|(i, _)| i);
    if best.is_none() {
        let again = ready().min_by_key(|(_, f)| f.pc).map(|(i, _)| i);
        if again.is_some() {
            frags.iter_mut().for_each(|f| f.spins = 0);
        }
        return again;
    }
    best
}
