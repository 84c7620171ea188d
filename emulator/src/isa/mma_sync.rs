//! `mma.sync` (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions"): sm_80 to sm_90, dense.
//!
//! | operand types | shapes | D, C |
//! |---|---|---|
//! | f16 | m16n8k8, m16n8k16 | f16, f32 |
//! | f16 | m8n8k4, rows or columns: four operations, one for each pair of quads | f16, f32 |
//! | bf16; tf32 | m16n8k8, m16n8k16; m16n8k4, m16n8k8 | f32 |
//! | e4m3, e5m2 in any mix (sm_89) | m16n8k16, m16n8k32 | f16, f32 |
//! | s8, u8 in any mix | m8n8k16, m16n8k16, m16n8k32 | s32 |
//! | s4, u4 in any mix | m8n8k32, m16n8k32, m16n8k64 | s32 |
//! | b1, and or xor | m8n8k128, m16n8k128, m16n8k256 | s32 |
//! | f64 | m8n8k4; sm_90: m16n8k4, m16n8k8, m16n8k16 | f64 |
//!
//! The arithmetic is the device's ([`super::mma_arith`]); what it does not say of NaN payloads is canonical.

mod decode;
mod fragments;

pub use decode::decode;

use super::mma_arith::{AccType, MmaKind, Mode, Rounding, fma, mma_sync, volta};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::machine::knobs::Numerics;

/// Elements of integer operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Int {
    /// 8 or 4.
    pub bits: u32,
    pub signed: bool,
}

impl Int {
    /// Element `k` of a row of packed elements, the first in the low bits.
    fn at(self, row: &[u8], k: usize) -> i32 {
        match (self.bits, self.signed) {
            (8, true) => i32::from(row[k] as i8),
            (8, false) => i32::from(row[k]),
            (_, signed) => {
                let x = i32::from(row[k / 2] >> (4 * (k % 2)) & 15);
                if signed { (x ^ 8) - 8 } else { x }
            }
        }
    }
}

/// What is multiplied.
pub(crate) enum Operation {
    Float(MmaKind),
    Integer {
        a: Int,
        b: Int,
        saturate: bool,
    },
    Bits {
        xor: bool,
    },
    Double(Rounding),
    Volta {
        a_col: bool,
        b_row: bool,
        c: AccType,
        d: AccType,
    },
}

/// An instruction.
pub(crate) struct MmaInst {
    operation: Operation,
    m: usize,
    k: usize,
    /// Rows of the registers of D, A, B, C (f64: the first of each pair).
    d: Vec<RowId>,
    a: Vec<RowId>,
    b: Vec<RowId>,
    c: Vec<RowId>,
    /// D and C hold two f16 in a register.
    half: bool,
}

/// Columns of every shape.
const N: usize = 8;

fn mode(cx: &mut Cx) -> Mode {
    match cx.machine().knobs.numerics {
        Numerics::Exact => Mode::Exact,
        Numerics::Fast => Mode::Fast,
    }
}

unsafe fn mma(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.whole_warp(mask) {
        return flow;
    }
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    let t = unsafe { cx.aux::<MmaInst>(i.x) };
    match &t.operation {
        Operation::Float(kind) => float(cx, t, *kind),
        Operation::Integer { a, b, saturate } => {
            let (a, b, saturate) = (*a, *b, *saturate);
            integer(cx, t, |x, y, c| {
                let dot: i64 = (0..t.k)
                    .map(|k| i64::from(a.at(x, k)) * i64::from(b.at(y, k)))
                    .sum();
                let sum = dot + i64::from(c);
                if saturate {
                    sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32
                } else {
                    sum as i32
                }
            });
        }
        Operation::Bits { xor } => integer(cx, t, |x, y, c| {
            let bits = x
                .iter()
                .zip(y)
                .map(|(x, y)| if *xor { x ^ y } else { x & y });
            c.wrapping_add(bits.map(u8::count_ones).sum::<u32>() as i32)
        }),
        Operation::Double(rounding) => double(cx, t, *rounding),
        Operation::Volta { a_col, b_row, c, d } => quads(cx, t, *a_col, *b_row, *c, *d),
    }
    Flow::Next
}

fn float(cx: &mut Cx, t: &MmaInst, kind: MmaKind) {
    let (device, mode) = (cx.machine().knobs.compute_capability, mode(cx));
    let regs = cx.registers();
    let (mut a, mut b) = ([0; 16 * 32], [0; N * 32]);
    fragments::load_a(regs, &t.a, &mut a);
    fragments::load_b(regs, &t.b, &mut b);
    let mut acc = [0; 16 * N];
    fragments::load_c(regs, &t.c, t.half, &mut acc);
    mma_sync(device, kind, t.m, N, t.k, &a, &b, &mut acc, mode);
    fragments::store_d(regs, &t.d, t.half, &acc);
}

fn integer(cx: &mut Cx, t: &MmaInst, dot: impl Fn(&[u8], &[u8], i32) -> i32) {
    let regs = cx.registers();
    let (mut a, mut b) = ([0; 16 * 32], [0; N * 32]);
    fragments::load_a(regs, &t.a, &mut a);
    fragments::load_b(regs, &t.b, &mut b);
    let mut acc = [0; 16 * N];
    fragments::load_c(regs, &t.c, false, &mut acc);
    for (i, d) in acc.iter_mut().enumerate().take(t.m * N) {
        *d = dot(&a[i / N * 32..][..32], &b[i % N * 32..][..32], *d as i32) as u32;
    }
    fragments::store_d(regs, &t.d, false, &acc);
}

fn double(cx: &mut Cx, t: &MmaInst, rounding: Rounding) {
    let regs = cx.registers();
    let (mut a, mut b) = ([[0.0; 16]; 16], [[0.0; 16]; N]);
    fragments::each_f64(regs, &t.a, |r, g, l, x| {
        a[g + 8 * (r & 1)][l + 4 * (r >> 1)] = *x;
    });
    fragments::each_f64(regs, &t.b, |r, g, l, x| b[g][l + 4 * r] = *x);
    let mut c = [[0.0; N]; 16];
    let place = |r: usize, g: usize, l: usize| (g + 8 * (r >> 1), 2 * l + (r & 1));
    fragments::each_f64(regs, &t.c, |r, g, l, x| {
        let (row, col) = place(r, g, l);
        c[row][col] = *x;
    });
    for (row, a) in c.iter_mut().zip(&a).take(t.m) {
        for (c, b) in row.iter_mut().zip(&b) {
            *c = (0..t.k).fold(*c, |c, k| fma(a[k], b[k], c, rounding));
        }
    }
    fragments::each_f64(regs, &t.d, |r, g, l, x| {
        let (row, col) = place(r, g, l);
        *x = c[row][col];
    });
}

/// m8n8k4: lanes 4 q .. 4 q + 4 and those 16 above do operation q by themselves.
fn quads(cx: &mut Cx, t: &MmaInst, a_col: bool, b_row: bool, c: AccType, d: AccType) {
    let mode = mode(cx);
    let regs = cx.registers();
    for q in 0..4 {
        let a = fragments::quad_operand(regs, &t.a, q, a_col);
        let b = fragments::quad_operand(regs, &t.b, q, b_row);
        let mut acc = [[0; 8]; 8];
        fragments::quad_accumulators(regs, &t.c, q, c, |row, col, x| acc[row][col] = *x);
        for (row, a) in acc.iter_mut().zip(&a) {
            for (x, b) in row.iter_mut().zip(&b) {
                *x = volta(*a, *b, *x, c, d, mode);
            }
        }
        fragments::quad_accumulators(regs, &t.d, q, d, |row, col, x| *x = acc[row][col]);
    }
}
