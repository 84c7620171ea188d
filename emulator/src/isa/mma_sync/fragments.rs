//! Which lane holds what (PTX ISA, the figures of "Matrix Fragments for mma").
//!
//! `g = lane / 4`, `t = lane % 4`. Whatever the type, register r of A holds four bytes of row `g + 8 (r & 1)` from byte
//! `4 t + 16 (r / 2)` of K on, register r of B those of column g from byte `4 t + 16 r` on. C and D: register r holds row
//! `g + 8 (r / 2)`, column `2 t + (r & 1)`; two f16 in register r: row `g + 8 r`, columns `2 t` and `2 t + 1`.
//! f64 is the same with eight bytes in a register pair.

use crate::isa::mma_arith::AccType;
use crate::machine::inst::{Row, RowId};

use super::N;

/// A's rows of 32 bytes.
pub fn load_a(regs: &[Row], rows: &[RowId], out: &mut [u8; 16 * 32]) {
    for (r, &id) in rows.iter().enumerate() {
        for (lane, x) in regs[id as usize].0.iter().enumerate() {
            let at = (lane / 4 + 8 * (r & 1)) * 32 + 4 * (lane % 4) + 16 * (r >> 1);
            out[at..at + 4].copy_from_slice(&x.to_le_bytes());
        }
    }
}

/// B's columns of 32 bytes.
pub fn load_b(regs: &[Row], rows: &[RowId], out: &mut [u8; N * 32]) {
    for (r, &id) in rows.iter().enumerate() {
        for (lane, x) in regs[id as usize].0.iter().enumerate() {
            let at = lane / 4 * 32 + 4 * (lane % 4) + 16 * r;
            out[at..at + 4].copy_from_slice(&x.to_le_bytes());
        }
    }
}

/// Where the (first) element of register `r` of C or D is.
fn place(r: usize, lane: usize, half: bool) -> usize {
    let (g, t) = (lane / 4, lane % 4);
    if half {
        (g + 8 * r) * N + 2 * t
    } else {
        (g + 8 * (r >> 1)) * N + 2 * t + (r & 1)
    }
}

/// C, row-major; f16 in the low half of its word.
pub fn load_c(regs: &[Row], rows: &[RowId], half: bool, out: &mut [u32; 16 * N]) {
    for (r, &id) in rows.iter().enumerate() {
        for (lane, &x) in regs[id as usize].0.iter().enumerate() {
            let at = place(r, lane, half);
            if half {
                (out[at], out[at + 1]) = (x & 0xFFFF, x >> 16);
            } else {
                out[at] = x;
            }
        }
    }
}

/// The inverse of [`load_c`].
pub fn store_d(regs: &mut [Row], rows: &[RowId], half: bool, d: &[u32; 16 * N]) {
    for (r, &id) in rows.iter().enumerate() {
        for (lane, x) in regs[id as usize].0.iter_mut().enumerate() {
            let at = place(r, lane, half);
            *x = if half {
                d[at] & 0xFFFF | d[at + 1] << 16
            } else {
                d[at]
            };
        }
    }
}

/// Every f64 of a fragment: register, `g`, `t`, value.
pub fn each_f64(
    regs: &mut [Row],
    rows: &[RowId],
    mut f: impl FnMut(usize, usize, usize, &mut f64),
) {
    for (r, &id) in rows.iter().enumerate() {
        for lane in 0..32 {
            // A register pair is 32 lanes of eight bytes.
            let (row, at) = (id as usize + lane / 16, lane % 16 * 2);
            let w = &mut regs[row].0[at..at + 2];
            let mut x = f64::from_bits(u64::from(w[0]) | u64::from(w[1]) << 32);
            f(r, lane / 4, lane % 4, &mut x);
            let bits = x.to_bits();
            (w[0], w[1]) = (bits as u32, (bits >> 32) as u32);
        }
    }
}

/// The lanes of operation `q` of m8n8k4: number 0 to 7 and lane.
fn quad(q: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..8).map(move |j| (j, 4 * q + j % 4 + 16 * (j / 4)))
}

/// A's rows or B's columns of four f16. Lane j of the eight holds row j, or (`across`: A by columns, B by rows) of k = j % 4
/// the four rows from 4 (j / 4) on.
pub fn quad_operand(regs: &[Row], rows: &[RowId], q: usize, across: bool) -> [[u16; 4]; 8] {
    let mut out = [[0; 4]; 8];
    for (j, lane) in quad(q) {
        for i in 0..4 {
            let x = (regs[rows[i / 2] as usize].0[lane] >> (16 * (i % 2))) as u16;
            if across {
                out[4 * (j / 4) + i][j % 4] = x;
            } else {
                out[j][i] = x;
            }
        }
    }
    out
}

/// Every element of C or D of operation `q`: row, column, value. f16: lane j holds row j, two columns in a register. f32:
/// register i of lane j holds row `(j & 1) + (i & 2) + 4 (j / 4)`, column `(i & 4) + (j & 2) + (i & 1)`.
pub fn quad_accumulators(
    regs: &mut [Row],
    rows: &[RowId],
    q: usize,
    ty: AccType,
    mut f: impl FnMut(usize, usize, &mut u32),
) {
    for (j, lane) in quad(q) {
        for i in 0..8 {
            if ty == AccType::F16 {
                let word = &mut regs[rows[i / 2] as usize].0[lane];
                let shift = 16 * (i % 2);
                let mut x = *word >> shift & 0xFFFF;
                f(j, i, &mut x);
                *word = *word & !(0xFFFF << shift) | (x & 0xFFFF) << shift;
            } else {
                let (row, col) = ((j % 4) & 1 | i & 2 | j & 4, i & 4 | j & 2 | i & 1);
                f(row, col, &mut regs[rows[i] as usize].0[lane]);
            }
        }
    }
}
