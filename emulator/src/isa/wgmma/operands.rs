//! Matrix operands: descriptors, tiles in shared memory, fragments in registers.

use super::misuse;
use crate::machine::inst::{Row, RowId};
use crate::machine::report::Finding;
use crate::machine::tensor_map::Swizzle;

/// A shared memory descriptor (PTX ISA, "Matrix Descriptor Format").
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    /// Swizzle.
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// From its 64 bits.
    ///
    /// # Errors
    /// A base offset other than 0, which has no tested public description; bits that mean nothing.
    pub fn parse(bits: u64) -> Result<Self, Box<Finding>> {
        let field = |at: u32| ((bits >> at & 0x3FFF) as u32) << 4;
        if bits >> 49 & 7 != 0 {
            return Err(misuse(format!(
                "descriptor {bits:#x}: base offset {} is not supported",
                bits >> 49 & 7
            )));
        }
        if bits & 0x3000_C000_0000_C000 != 0 || bits >> 46 & 7 != 0 || bits >> 52 & 0x3FF != 0 {
            return Err(misuse(format!(
                "descriptor {bits:#x}: bits outside its fields are set"
            )));
        }
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        Ok(Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            swizzle,
        })
    }

    /// Calls `f(offset, row, part)` for each 16 bytes of `rows` rows from `first` on. K-major: `part` is 0 or 1, the half
    /// of the row's 32 bytes. MN-major: the 16 bytes are rows `row..row + 8` at K index `part`.
    ///
    /// # Errors
    /// What `f` answers.
    pub fn chunks<E>(
        &self,
        first: u32,
        rows: u32,
        mn: bool,
        mut f: impl FnMut(u32, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let p = self.swizzle.span();
        if mn {
            for r in (first..first + rows).step_by(8) {
                for k in 0..16 {
                    let at = if p == 0 {
                        self.start + r / 8 * self.stride + k % 8 * 16 + k / 8 * self.leading
                    } else {
                        let w = p / 16;
                        self.start
                            + r / 8 % w * 16
                            + r / (8 * w) * self.leading
                            + k % 8 * p
                            + k / 8 * self.stride
                    };
                    f(self.swizzle.apply(at), r - first, k)?;
                }
            }
        } else {
            for r in first..first + rows {
                for c in 0..2 {
                    let at = if p == 0 {
                        self.start + r % 8 * 16 + r / 8 * self.stride + c * self.leading
                    } else {
                        self.start + r % 8 * p + r / 8 * self.stride + c * 16
                    };
                    f(self.swizzle.apply(at), r - first, c)?;
                }
            }
        }
        Ok(())
    }

    /// Brings `rows` rows into `out`, 32 bytes a row, K contiguous.
    ///
    /// # Errors
    /// Bytes outside of shared memory.
    pub fn gather(
        &self,
        smem: &[u8],
        first: u32,
        rows: u32,
        mn: bool,
        out: &mut [u8],
    ) -> Result<(), Box<Finding>> {
        self.chunks(first, rows, mn, |at, r, part| {
            let Some(src) = smem.get(at as usize..at as usize + 16) else {
                return Err(crate::isa::memory::outside(at, 16, smem.len() as u32));
            };
            if mn {
                for j in 0..8 {
                    let o = (r as usize + j) * 32 + part as usize * 2;
                    out[o..o + 2].copy_from_slice(&src[2 * j..2 * j + 2]);
                }
            } else {
                let o = r as usize * 32 + part as usize * 16;
                out[o..o + 16].copy_from_slice(src);
            }
            Ok(())
        })
    }
}

/// Row and column of element `i` of lane `l` in a warp's sixteen rows of D.
fn d_place(l: usize, i: usize) -> (usize, usize) {
    (
        l / 4 + 8 * (i >> 1 & 1),
        8 * (i >> 2) + 2 * (l % 4) + (i & 1),
    )
}

/// D's fragments as rows: `acc[row * n + col]`, f16 in the low half of its word.
pub fn load_d(regs: &[Row], d: &[RowId], half: bool, n: usize, acc: &mut [u32]) {
    for (j, &r) in d.iter().enumerate() {
        let v = &regs[r as usize].0;
        for (l, &x) in v.iter().enumerate() {
            if half {
                for h in 0..2 {
                    let (row, col) = d_place(l, 2 * j + h);
                    acc[row * n + col] = x >> (16 * h) & 0xFFFF;
                }
            } else {
                let (row, col) = d_place(l, j);
                acc[row * n + col] = x;
            }
        }
    }
}

/// The inverse of [`load_d`].
pub fn store_d(regs: &mut [Row], d: &[RowId], half: bool, n: usize, acc: &[u32]) {
    for (j, &r) in d.iter().enumerate() {
        let v = &mut regs[r as usize].0;
        for (l, x) in v.iter_mut().enumerate() {
            if half {
                let ((r0, c0), (r1, c1)) = (d_place(l, 2 * j), d_place(l, 2 * j + 1));
                *x = acc[r0 * n + c0] & 0xFFFF | acc[r1 * n + c1] << 16;
            } else {
                let (row, col) = d_place(l, j);
                *x = acc[row * n + col];
            }
        }
    }
}

/// A's fragments from four registers: sixteen rows of 32 bytes.
pub fn gather_registers(regs: &[Row], rows: &[RowId], elem: u32, out: &mut [u8; 512]) {
    for (j, &r) in rows.iter().enumerate() {
        for (l, &x) in regs[r as usize].0.iter().enumerate() {
            let (g, t) = (l / 4, l % 4);
            // Register j holds row g or g + 8 (bit 0 of j) and, by bit 1, the first or second half of K.
            let row = g + 8 * (j & 1);
            let at = match elem {
                1 => 4 * t + 16 * (j >> 1),
                2 => 2 * (2 * t + 8 * (j >> 1)),
                _ => 4 * (t + 4 * (j >> 1)),
            };
            out[row * 32 + at..row * 32 + at + 4].copy_from_slice(&x.to_le_bytes());
        }
    }
}
