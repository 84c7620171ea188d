//! Copies of a run of bytes.

use super::{Common, finish_group};
use crate::machine::Machine;
use crate::machine::memory::Memory;
use crate::machine::report::{FaultCode, Finding};

/// Between which spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Global to shared.
    Load,
    /// Shared to another block's shared.
    Push,
    /// Shared to global.
    Store,
}

/// A copy that was issued. Targets are (block, offset of the data, offset of the mbarrier).
pub enum Linear {
    /// Global to shared.
    Load {
        from: u64,
        size: u32,
        to: Vec<(usize, u32, u32)>,
    },
    /// Shared to another block's shared.
    Push {
        from: u32,
        size: u32,
        to: Vec<(usize, u32, u32)>,
    },
    /// Shared to global.
    Store {
        from: u32,
        to: u64,
        size: u32,
        thread: u32,
        group: u64,
    },
}

fn gone() -> Box<Finding> {
    Box::new(Finding::new(
        FaultCode::LaunchFailed,
        "bulk",
        "a bulk copy writes to a block that has exited",
    ))
}

fn deliver(m: &mut Machine, bytes: &[u8], to: &[(usize, u32, u32)]) -> Result<(), Box<Finding>> {
    for &(id, off, mbar) in to {
        let b = m.blocks[id]
            .as_deref_mut()
            .filter(|b| !b.done)
            .ok_or_else(gone)?;
        b.smem[off as usize..off as usize + bytes.len()].copy_from_slice(bytes);
        m.complete_tx(id, mbar, bytes.len() as i64)?;
    }
    Ok(())
}

impl Linear {
    /// Does it.
    ///
    /// # Errors
    /// Bounds, bytes never written, misuse of the mbarrier.
    pub fn run(&self, m: &mut Machine, common: Common) -> Result<(), Box<Finding>> {
        let device = m.blocks[common.block]
            .as_deref()
            .map_or(0, |b| b.launch.device);
        match self {
            Self::Load { from, size, to } => {
                let r = m.region(device, *from, u64::from(*size))?;
                let at = from - r.base;
                if m.knobs.checks.uninitialised_global
                    && let Some(bad) = Memory::first_uninit(&r, at, u64::from(*size))
                {
                    return Err(crate::isa::memory::uninitialised(
                        r.base,
                        bad,
                        common.origin.lanes,
                    ));
                }
                // SAFETY: `region` has checked that the bytes lie in a live allocation.
                let bytes =
                    unsafe { std::slice::from_raw_parts(r.host.add(at as usize), *size as usize) }
                        .to_vec();
                m.totals.bulk_load_bytes += u64::from(*size);
                if let Some(c) = m.counts(common.block) {
                    c.bulk_read(&r, at, u64::from(*size));
                    c.bulk_delivered(u64::from(*size), to.len());
                }
                deliver(m, &bytes, to)
            }
            Self::Push { from, size, to } => {
                let b = m.blocks[common.block].as_deref().ok_or_else(gone)?;
                let bytes = b.smem[*from as usize..(*from + *size) as usize].to_vec();
                if let Some(c) = m.counts(common.block) {
                    c.bulk_pushed(u64::from(*size) * to.len() as u64);
                }
                deliver(m, &bytes, to)
            }
            Self::Store {
                from,
                to,
                size,
                thread,
                group,
            } => {
                let r = m.region(device, *to, u64::from(*size))?;
                let at = to - r.base;
                let b = m.blocks[common.block].as_deref().ok_or_else(gone)?;
                let bytes = &b.smem[*from as usize..(*from + *size) as usize];
                // SAFETY: `region` has checked that the bytes lie in a live allocation.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        bytes.as_ptr(),
                        r.host.add(at as usize),
                        *size as usize,
                    )
                };
                Memory::mark_init(&r, at, u64::from(*size));
                m.totals.bulk_store_bytes += u64::from(*size);
                if let Some(c) = m.counts(common.block) {
                    c.bulk_write(&r, at, u64::from(*size), false);
                    c.bulk_stored(false);
                }
                finish_group(m, common.block, *thread, *group);
                Ok(())
            }
        }
    }
}
