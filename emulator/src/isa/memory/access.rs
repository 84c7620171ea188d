//! Where an address points, and how bytes get from there to lanes and back.

use super::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::isa::decode::Address;
use crate::machine::block::Block;
use crate::machine::exec::Cx;
use crate::machine::memory::Memory;
use crate::machine::program::SHARED_BASE;
use crate::machine::report::{FaultCode, Finding};

/// What a generic address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Device or host memory.
    Global,
    /// Shared memory of the cluster: rank << 24 | offset.
    Shared(u32),
    /// Local memory: offset.
    Local(u32),
    /// Kernel parameters: offset.
    Param(u32),
}

/// Classifies a generic address.
#[inline(always)]
pub fn place(addr: u64) -> Place {
    match addr >> 32 {
        x if x == SHARED_WINDOW >> 32 => Place::Shared(addr as u32),
        x if x == LOCAL_WINDOW >> 32 => Place::Local(addr as u32),
        x if x == PARAM_WINDOW >> 32 => Place::Param(addr as u32),
        _ => Place::Global,
    }
}

/// A failed access.
pub type Access<T> = Result<T, Box<Finding>>;

/// The addresses of all lanes.
///
/// # Safety
/// `a` must have been decoded for the kernel that runs.
#[inline(always)]
pub unsafe fn addresses(cx: &Cx, a: &Address) -> [u64; 32] {
    // SAFETY: the caller's duty.
    unsafe {
        if a.wide {
            let r = cx.get64(a.row);
            std::array::from_fn(|l| r[l].wrapping_add_signed(a.offset))
        } else {
            let r = cx.get(a.row);
            std::array::from_fn(|l| u64::from(r[l].wrapping_add(a.offset as u32)))
        }
    }
}

/// Lanes whose address is not a multiple of `bytes`.
#[inline(always)]
pub fn misaligned(addrs: &[u64; 32], bytes: u64, mask: u32) -> u32 {
    let mut bad = 0;
    for (l, a) in addrs.iter().enumerate() {
        bad |= u32::from(a & (bytes - 1) != 0) << l;
    }
    bad & mask
}

/// The finding for misaligned lanes.
#[cold]
pub fn misalignment(addrs: &[u64; 32], bytes: u64, bad: u32) -> Box<Finding> {
    let a = addrs[bad.trailing_zeros() as usize];
    Box::new(
        Finding::new(
            FaultCode::Misaligned,
            "alignment",
            format!("an access of {bytes} bytes at {a:#x}, which is no multiple of that"),
        )
        .lanes(bad),
    )
}

/// The block and the offset in its shared memory that a window address means. Checks that `bytes` bytes lie inside.
pub fn shared(cx: &mut Cx, at: u32, bytes: u32) -> Access<(&mut Block, usize)> {
    let (rank, off) = (at >> 24, at & 0x00FF_FFFF);
    let own = cx.block().rank;
    let block = if rank == own {
        Some(cx.block())
    } else {
        cx.peer(rank)
    };
    let Some(block) = block else {
        return Err(Box::new(Finding::new(
            FaultCode::IllegalAddress,
            "bounds",
            format!(
                "shared address {at:#x} means block {rank} of the cluster, which does not exist or has exited"
            ),
        )));
    };
    let end = block.smem.len() as u32;
    if off < SHARED_BASE || bytes > end || off > end - bytes {
        return Err(outside_shared(at, bytes, end));
    }
    Ok((block, off as usize))
}

/// The finding for an access outside a block's shared memory.
#[cold]
pub fn outside_shared(at: u32, bytes: u32, end: u32) -> Box<Finding> {
    Box::new(Finding::new(
        FaultCode::IllegalAddress,
        "bounds",
        format!(
            "{bytes} bytes at shared address {at:#x}: the block's shared memory is [{SHARED_BASE:#x}, {end:#x})"
        ),
    ))
}

/// Reads `out.len()` bytes for lane `lane` at a generic (or `.global`) address.
pub fn read(cx: &mut Cx, place: Place, addr: u64, lane: u32, out: &mut [u8]) -> Access<()> {
    let n = out.len();
    match place {
        Place::Global => {
            let r = cx.region(addr, n as u64)?;
            let at = addr - r.base;
            if cx.machine().knobs.checks.uninitialised_global
                && let Some(bad) = Memory::first_uninit(&r, at, n as u64)
            {
                return Err(uninitialised_global(r.base, bad, 1 << lane));
            }
            // SAFETY: `region` has checked that the bytes lie in a live allocation.
            unsafe { std::ptr::copy_nonoverlapping(r.host.add(at as usize), out.as_mut_ptr(), n) };
        }
        Place::Shared(at) => {
            let (w, pc, own, strong) = (cx.warp().index, cx.pc, cx.block().rank, cx.strong);
            let (b, off) = shared(cx, at, n as u32)?;
            let mut offs = [0; 32];
            offs[lane as usize] = off as u32;
            if b.rank == own && strong {
                b.checks.atomic(w, pc, off as u32, n as u32)?;
            } else if b.rank == own {
                b.checks.load(w, pc, &offs, n as u32, 1 << lane)?;
            } else {
                b.checks.remote_load(off as u32, n as u32)?;
            }
            out.copy_from_slice(&b.smem[off..off + n]);
        }
        Place::Local(at) => {
            let range = local(cx, at, n, lane)?;
            out.copy_from_slice(&cx.warp().local[range]);
        }
        Place::Param(at) => {
            let p = &cx.block().launch.params;
            let Some(bytes) = p.get(at as usize..at as usize + n) else {
                return Err(outside_params(at, n, p.len()));
            };
            out.copy_from_slice(bytes);
        }
    }
    Ok(())
}

/// Writes `bytes` for lane `lane`.
pub fn write(cx: &mut Cx, place: Place, addr: u64, lane: u32, bytes: &[u8]) -> Access<()> {
    let n = bytes.len();
    match place {
        Place::Global => {
            let r = cx.region(addr, n as u64)?;
            let at = addr - r.base;
            // SAFETY: `region` has checked that the bytes lie in a live allocation.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), r.host.add(at as usize), n) };
            Memory::mark_init(&r, at, n as u64);
        }
        Place::Shared(at) => {
            let (w, pc, own, strong) = (cx.warp().index, cx.pc, cx.block().rank, cx.strong);
            let (b, off) = shared(cx, at, n as u32)?;
            let mut offs = [0; 32];
            offs[lane as usize] = off as u32;
            if b.rank == own && strong {
                b.checks.remote_store(off as u32, n as u32)?;
            } else if b.rank == own {
                let (smem, first) = (&b.smem, off as u32);
                let same = |_: usize, from: u32, to: u32| {
                    let at = (from - first) as usize..(to - first) as usize;
                    smem[from as usize..to as usize] == bytes[at]
                };
                b.checks.store(w, pc, &offs, n as u32, 1 << lane, same)?;
            } else {
                b.checks.remote_store(off as u32, n as u32)?;
            }
            b.smem[off..off + n].copy_from_slice(bytes);
        }
        Place::Local(at) => {
            let range = local(cx, at, n, lane)?;
            cx.warp().local[range].copy_from_slice(bytes);
        }
        Place::Param(_) => {
            return Err(Box::new(Finding::new(
                FaultCode::IllegalAddress,
                "bounds",
                "kernel parameters cannot be written",
            )));
        }
    }
    Ok(())
}

/// The finding for a read of bytes nobody wrote.
#[cold]
pub fn uninitialised_global(base: u64, at: u64, lanes: u32) -> Box<Finding> {
    Box::new(
        Finding::new(
            FaultCode::LaunchFailed,
            "uninitialised",
            format!("global memory at {:#x}, byte {at} of the allocation at {base:#x}, was never written", base + at),
        )
        .lanes(lanes),
    )
}

fn outside_params(at: u32, n: usize, len: usize) -> Box<Finding> {
    Box::new(Finding::new(
        FaultCode::IllegalAddress,
        "bounds",
        format!("{n} bytes at parameter offset {at}: the block has {len}"),
    ))
}

fn local(cx: &mut Cx, at: u32, n: usize, lane: u32) -> Access<std::ops::Range<usize>> {
    let per = cx.warp().local_bytes as usize;
    let at = at as usize;
    if at + n > per {
        return Err(Box::new(
            Finding::new(
                FaultCode::IllegalAddress,
                "bounds",
                format!("{n} bytes at local offset {at:#x}: a thread has {per}"),
            )
            .lanes(1 << lane),
        ));
    }
    let start = lane as usize * per + at;
    Ok(start..start + n)
}
