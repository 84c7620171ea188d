//! Copies of a box of a tensor (tile mode).
//!
//! The box lies densely in shared memory, dimension 0 fastest, and each 16 bytes are then moved by the swizzle, a function
//! of the address. Elements outside the tensor read as the fill value and are not written; the mbarrier always gets the
//! bytes of the full box.

use super::{Common, finish_group};
use crate::machine::Machine;
use crate::machine::memory::Memory;
use crate::machine::report::{FaultCode, Finding};
use crate::machine::tensor_map::{Element, TensorMap};

/// Which way.
pub enum Direction {
    /// Into shared memory of these (block, offset, offset of the mbarrier).
    Load { to: Vec<(usize, u32, u32)> },
    /// Out of shared memory at `from`.
    Store { from: u32, thread: u32, group: u64 },
}

/// A copy that was issued.
pub struct Tensor {
    /// The map as it was when the copy was issued.
    pub map: TensorMap,
    /// Coordinates of the box.
    pub start: [i64; 5],
    /// Which way.
    pub direction: Direction,
    /// Whose addresses.
    pub device: u32,
}

/// What elements outside the tensor read as.
fn fill(map: &TensorMap) -> Vec<u8> {
    let n = map.element.bytes() as usize;
    if !map.fill_nan {
        return vec![0; n];
    }
    // The fill is a quiet NaN; which one is not documented for narrow types, the canonical one is taken.
    match map.element {
        Element::F16 => 0x7FFFu16.to_le_bytes().to_vec(),
        Element::Bf16 => 0x7FFFu16.to_le_bytes().to_vec(),
        Element::F64 => 0x7FFF_FFFF_FFFF_FFFFu64.to_le_bytes().to_vec(),
        _ => 0x7FFF_FFFFu32.to_le_bytes().to_vec(),
    }
}

impl Tensor {
    /// Does it.
    ///
    /// # Errors
    /// Bounds, bytes never written, misuse of the mbarrier.
    pub fn run(&self, m: &mut Machine, common: Common) -> Result<(), Box<Finding>> {
        let total = self.map.box_bytes() as usize;
        match &self.direction {
            Direction::Load { to } => {
                let mut tile = vec![0; total];
                self.rows(m, common, |at, range| {
                    // SAFETY: `rows` gives pointers to bytes of a live allocation.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            at,
                            tile[range.start..].as_mut_ptr(),
                            range.len(),
                        )
                    };
                })?;
                m.totals.bulk_load_bytes += total as u64;
                if let Some(c) = m.counts(common.block) {
                    c.bulk_delivered(total as u64, to.len());
                }
                for &(id, off, mbar) in to {
                    let Some(b) = m.blocks[id].as_deref_mut().filter(|b| !b.done) else {
                        return Err(Box::new(Finding::new(
                            FaultCode::LaunchFailed,
                            "bulk",
                            "a tensor copy writes to a block that has exited",
                        )));
                    };
                    for (k, chunk) in tile.chunks(16).enumerate() {
                        let at = self.map.swizzle.apply(off + k as u32 * 16) as usize;
                        b.smem[at..at + chunk.len()].copy_from_slice(chunk);
                    }
                    m.complete_tx(id, mbar, total as i64)?;
                }
                Ok(())
            }
            Direction::Store {
                from,
                thread,
                group,
            } => {
                let mut tile = vec![0; total];
                let Some(b) = m.blocks[common.block].as_deref() else {
                    return Ok(());
                };
                for (k, chunk) in tile.chunks_mut(16).enumerate() {
                    let at = self.map.swizzle.apply(from + k as u32 * 16) as usize;
                    let n = chunk.len();
                    chunk.copy_from_slice(&b.smem[at..at + n]);
                }
                let mut written = 0;
                self.rows(m, common, |at, range| {
                    let n = range.len();
                    written += n as u64;
                    // SAFETY: as above; the emulated kernel owns what it writes.
                    unsafe { std::ptr::copy_nonoverlapping(tile[range].as_ptr(), at, n) };
                })?;
                m.totals.bulk_store_bytes += written;
                if let Some(c) = m.counts(common.block) {
                    c.bulk_stored(false);
                }
                finish_group(m, common.block, *thread, *group);
                Ok(())
            }
        }
    }

    /// Calls `f` for each run of the box that lies in the tensor: pointer to global bytes, range in the dense box.
    /// For loads the rest of the box gets the fill value through `f` as well.
    fn rows(
        &self,
        m: &mut Machine,
        common: Common,
        mut f: impl FnMut(*mut u8, std::ops::Range<usize>),
    ) -> Result<(), Box<Finding>> {
        let map = &self.map;
        let load = matches!(self.direction, Direction::Load { .. });
        let e = map.element.bytes() as usize;
        let mut n = [1u32; 5];
        #[allow(clippy::needless_range_loop)] // several arrays by the same dimension
        for k in 0..map.rank {
            n[k] = map.box_dims[k].div_ceil(map.element_strides[k].max(1));
        }
        let step = |k: usize| i64::from(map.element_strides[k].max(1));
        let mut filler = fill(map);
        let mut at = 0usize;
        let mut idx = [0u32; 5];
        loop {
            let inside = (1..map.rank).all(|k| {
                let c = self.start[k] + i64::from(idx[k]) * step(k);
                c >= 0 && (c as u64) < map.dims[k]
            });
            let row: u64 = (1..map.rank)
                .map(|k| {
                    ((self.start[k] + i64::from(idx[k]) * step(k)) as u64)
                        .wrapping_mul(map.strides[k - 1])
                })
                .fold(map.address, u64::wrapping_add);
            let (mut lo, mut hi) = (0, i64::from(n[0]));
            // Without interleave the first element stride is ignored: dimension 0 is contiguous.
            lo = lo.max(-self.start[0]).min(hi);
            hi = hi.min(map.dims[0] as i64 - self.start[0]).max(lo);
            if !inside {
                hi = lo;
            }
            if load {
                for k in (0..lo).chain(hi..i64::from(n[0])) {
                    let o = at + k as usize * e;
                    f(filler.as_mut_ptr(), o..o + e);
                }
            }
            if hi > lo {
                let bytes = (hi - lo) as u64 * e as u64;
                let addr = row.wrapping_add(((self.start[0] + lo) as u64) * e as u64);
                let r = m.region(self.device, addr, bytes)?;
                let off = addr - r.base;
                if load {
                    if m.knobs.checks.uninitialised_global
                        && let Some(bad) = Memory::first_uninit(&r, off, bytes)
                    {
                        return Err(crate::isa::memory::uninitialised(
                            r.base,
                            bad,
                            common.origin.lanes,
                        ));
                    }
                } else {
                    Memory::mark_init(&r, off, bytes);
                }
                if let Some(c) = m.counts(common.block) {
                    if load {
                        c.bulk_read(&r, off, bytes);
                    } else {
                        c.bulk_write(&r, off, bytes, false);
                    }
                }
                let o = at + lo as usize * e;
                // SAFETY: `region` has checked that the bytes lie in a live allocation.
                f(unsafe { r.host.add(off as usize) }, o..o + bytes as usize);
            }
            at += n[0] as usize * e;
            let mut k = 1;
            loop {
                if k >= map.rank {
                    return Ok(());
                }
                idx[k] += 1;
                if idx[k] < n[k] {
                    break;
                }
                idx[k] = 0;
                k += 1;
            }
        }
    }
}
