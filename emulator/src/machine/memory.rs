//! Device memory: reserved address space that host code cannot read by accident, with its bytes elsewhere.
//!
//! ```text
//! device address   [ PROT_NONE reservation, kept for ever: addresses are never used twice       ]
//!                     |  same offset
//! backing store    [ private, no-reserve pages, present once written (host pointer of a Region) ]
//! init bitmap      [ one bit a byte                                                             ]
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a device's first reservation. Small, because processes lease devices by the hundred and have 2^47 bytes of
/// address space; when it is full, a larger one follows.
const FIRST_SPACE: u64 = 16 << 30;
/// Bytes of the following ones, at least.
const NEXT_SPACE: u64 = 256 << 30;
/// Alignment of allocations, and the least distance between two.
const ALIGN: u64 = 512;
/// Bytes that a device has (H100 80 GB, what the driver reports as total).
pub const CAPACITY: u64 = 85_029_158_912;
/// Windows of the generic address space that no mapping may take: shared, local, parameters, constants.
const WINDOWS: (u64, u64) = (0x10_0000_0000, 4 << 32);

/// An allocation as the machine sees it.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Device address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// Where the bytes are.
    pub host: *mut u8,
    /// One bit per byte, set once written; null for host memory, which counts as written.
    pub init: *mut u8,
    /// The device that owns it; `None` for host memory.
    pub device: Option<u32>,
    /// Number, never given twice.
    pub id: u64,
}

/// What is at an address that is no live allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AddressFault {
    Null,
    Unmapped,
    Freed {
        base: u64,
        len: u64,
    },
    /// Outside, next to this live allocation.
    Beyond {
        base: u64,
        len: u64,
    },
    NoPeerAccess {
        owner: u32,
    },
}

/// A reservation of a device.
struct Space {
    device: u32,
    base: u64,
    len: u64,
    /// Null once the device was reset: nothing is live here any more.
    backing: *mut u8,
    bitmap: *mut u8,
    next: u64,
    used: u64,
    live: BTreeMap<u64, (u64, u64)>,
    freed: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct State {
    spaces: Vec<Space>,
    host: BTreeMap<u64, (u64, u64)>,
    peers: std::collections::HashSet<(u32, u32)>,
}

// SAFETY: the pointers are to mappings that live as long as the process; access to the bytes is ordered by the worker.
unsafe impl Send for State {}

/// The memory of all devices, and what is registered of the host's.
#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
    generation: AtomicU64,
    ids: AtomicU64,
}

fn reserve(bytes: u64, access: libc::c_int) -> io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, access, flags, -1, 0) };
    if p == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(p.cast())
    }
}

fn of(s: &State, device: u32) -> impl Iterator<Item = &Space> {
    s.spaces.iter().filter(move |x| x.device == device)
}

impl Memory {
    /// No device yet; the generic windows are kept free of mappings.
    ///
    /// # Errors
    /// The address space of the windows is taken.
    pub fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | libc::MAP_NORESERVE
            | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: with MAP_FIXED_NOREPLACE nothing that exists is replaced.
        let p = unsafe {
            libc::mmap(
                WINDOWS.0 as *mut _,
                WINDOWS.1 as usize,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            let e = io::Error::last_os_error();
            // Another memory of this process has reserved them already.
            if e.raw_os_error() != Some(libc::EEXIST) {
                return Err(e);
            }
        }
        Ok(Self::default())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when an allocation is freed or peer access changes: what [`Memory::lookup`] said before is void then.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn bump(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Allocates `bytes` (not 0) on `device`. `None` when the device is full.
    pub fn alloc(&self, device: u32, bytes: u64) -> Option<u64> {
        let mut s = self.lock();
        let size = bytes.checked_next_multiple_of(ALIGN)?;
        let used: u64 = of(&s, device).map(|x| x.used).sum();
        if bytes == 0 || size > CAPACITY - used {
            return None;
        }
        let room = |x: &Space| !x.backing.is_null() && x.next + size + ALIGN <= x.len;
        let fits = |x: &Space| x.device == device && room(x);
        let i = match s.spaces.iter().position(fits) {
            Some(i) => i,
            None => {
                let first = of(&s, device).next().is_none() && size < FIRST_SPACE / 2;
                let len = if first { FIRST_SPACE } else { NEXT_SPACE };
                let rw = libc::PROT_READ | libc::PROT_WRITE;
                let base = reserve(len, libc::PROT_NONE).ok()? as u64;
                let backing = reserve(len, rw).ok()?;
                let bitmap = reserve(len / 8, rw).ok()?;
                // A first page that is never given out keeps offset 0 from being an allocation.
                let (live, freed) = Default::default();
                s.spaces.push(Space {
                    device,
                    base,
                    len,
                    backing,
                    bitmap,
                    next: 2 << 20,
                    used: 0,
                    live,
                    freed,
                });
                s.spaces.len() - 1
            }
        };
        let x = &mut s.spaces[i];
        let at = x.next;
        x.next += size + ALIGN;
        x.used += size;
        let id = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
        x.live.insert(at, (bytes, id));
        Some(x.base + at)
    }

    /// Frees an allocation by its address. False when none starts there.
    pub fn free(&self, addr: u64) -> bool {
        let mut s = self.lock();
        let Some(x) = s
            .spaces
            .iter_mut()
            .find(|x| addr >= x.base && addr - x.base < x.len)
        else {
            return false;
        };
        let at = addr - x.base;
        let Some((len, _)) = x.live.remove(&at) else {
            return false;
        };
        x.used -= len.next_multiple_of(ALIGN);
        x.freed.insert(at, len);
        let (first, end) = (at.next_multiple_of(4096), (at + len) & !4095);
        if first < end {
            // SAFETY: whole pages of a private mapping that belong to the freed allocation alone.
            unsafe {
                libc::madvise(
                    x.backing.add(first as usize).cast(),
                    (end - first) as usize,
                    libc::MADV_DONTNEED,
                )
            };
        }
        self.bump();
        true
    }

    /// Bytes in use on a device.
    pub fn used(&self, device: u32) -> u64 {
        of(&self.lock(), device).map(|x| x.used).sum()
    }

    /// Frees all that a device holds.
    pub fn reset(&self, device: u32) {
        let addrs: Vec<u64> = {
            let s = self.lock();
            s.spaces
                .iter()
                .filter(|x| x.device == device)
                .flat_map(|x| x.live.keys().map(|k| x.base + k))
                .collect()
        };
        for a in addrs {
            self.free(a);
        }
        // The bytes go; the reservation stays, so that old addresses are known for what they are.
        for x in &mut self.lock().spaces {
            if x.device == device && !x.backing.is_null() {
                // SAFETY: mappings of this space; nothing in it is live, so nobody holds a pointer into them.
                unsafe {
                    libc::munmap(x.backing.cast(), x.len as usize);
                    libc::munmap(x.bitmap.cast(), x.len as usize / 8);
                }
                x.backing = std::ptr::null_mut();
                x.bitmap = std::ptr::null_mut();
            }
        }
    }

    /// Makes host memory known: devices may use it at its own address.
    pub fn register_host(&self, addr: u64, len: u64) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock().host.insert(addr, (len, id));
    }

    /// Forgets host memory. Its length, if it was known.
    pub fn unregister_host(&self, addr: u64) -> Option<u64> {
        let r = self.lock().host.remove(&addr).map(|(len, _)| len);
        self.bump();
        r
    }

    /// Lets `from` use the memory of `to`. False when it could already.
    pub fn enable_peer(&self, from: u32, to: u32) -> bool {
        let new = self.lock().peers.insert((from, to));
        self.bump();
        new
    }

    /// Takes that back. False when it could not.
    pub fn disable_peer(&self, from: u32, to: u32) -> bool {
        let had = self.lock().peers.remove(&(from, to));
        self.bump();
        had
    }

    /// The allocation that contains `addr`, for a kernel of `device`.
    ///
    /// # Errors
    /// What is there instead.
    pub fn lookup(&self, device: u32, addr: u64) -> Result<Region, AddressFault> {
        let r = self.find(addr)?;
        match r.device {
            Some(owner) if owner != device && !self.lock().peers.contains(&(device, owner)) => {
                Err(AddressFault::NoPeerAccess { owner })
            }
            _ => Ok(r),
        }
    }

    /// The allocation that contains `addr`, whoever asks (the host does).
    ///
    /// # Errors
    /// What is there instead.
    pub fn find(&self, addr: u64) -> Result<Region, AddressFault> {
        let s = self.lock();
        if addr < 4096 {
            return Err(AddressFault::Null);
        }
        if let Some(x) = s
            .spaces
            .iter()
            .find(|x| addr >= x.base && addr - x.base < x.len)
        {
            let at = addr - x.base;
            let below = x.live.range(..=at).next_back().map(|(&b, &v)| (b, v));
            if let Some((b, (len, id))) = below
                && at - b < len
            {
                // SAFETY: offsets of live allocations lie inside the mappings.
                let (host, init) =
                    unsafe { (x.backing.add(b as usize), x.bitmap.add(b as usize / 8)) };
                return Ok(Region {
                    base: x.base + b,
                    len,
                    host,
                    init,
                    device: Some(x.device),
                    id,
                });
            }
            if let Some((&b, &len)) = x.freed.range(..=at).next_back()
                && at - b < len
            {
                return Err(AddressFault::Freed {
                    base: x.base + b,
                    len,
                });
            }
            let above = x.live.range(at..).next().map(|(&b, &(len, _))| (b, len));
            let near = match (below.map(|(b, (len, _))| (b, len)), above) {
                (Some(l), Some(h)) => Some(if at - (l.0 + l.1) <= h.0 - at { l } else { h }),
                (l, h) => l.or(h),
            };
            return Err(
                near.map_or(AddressFault::Unmapped, |(b, len)| AddressFault::Beyond {
                    base: x.base + b,
                    len,
                }),
            );
        }
        match s.host.range(..=addr).next_back() {
            Some((&b, &(len, id))) if addr - b < len => Ok(Region {
                base: b,
                len,
                host: b as *mut u8,
                init: std::ptr::null_mut(),
                device: None,
                id,
            }),
            _ => Err(AddressFault::Unmapped),
        }
    }

    /// Notes that bytes `[at, at + n)` of a region were written.
    #[inline]
    pub fn mark_init(r: &Region, at: u64, n: u64) {
        if r.init.is_null() {
            return;
        }
        let (mut i, end) = (at, at + n);
        while i < end {
            // SAFETY: one bit for each byte of the region; allocations start at multiples of 8.
            let byte = unsafe { &mut *r.init.add((i / 8) as usize) };
            if i % 8 == 0 && end - i >= 8 {
                *byte = 0xFF;
                i += 8;
            } else {
                *byte |= 1 << (i % 8);
                i += 1;
            }
        }
    }

    /// Forgets that bytes were written (a fresh allocation's bits are clear already).
    pub fn clear_init(r: &Region, at: u64, n: u64) {
        for i in at..at + n {
            if !r.init.is_null() {
                // SAFETY: as in `mark_init`.
                unsafe { *r.init.add((i / 8) as usize) &= !(1 << (i % 8)) };
            }
        }
    }

    /// The first byte of `[at, at + n)` that was never written.
    #[inline]
    pub fn first_uninit(r: &Region, at: u64, n: u64) -> Option<u64> {
        if r.init.is_null() {
            return None;
        }
        let (mut i, end) = (at, at + n);
        while i < end {
            // SAFETY: one bit for each byte of the region.
            let byte = unsafe { *r.init.add((i / 8) as usize) };
            if i % 8 == 0 && end - i >= 8 && byte == 0xFF {
                i += 8;
            } else if byte >> (i % 8) & 1 == 0 {
                return Some(i);
            } else {
                i += 1;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_guards_and_freed() {
        let m = Memory::new().unwrap();
        let a = m.alloc(0, 100).unwrap();
        let b = m.alloc(0, 100).unwrap();
        assert_eq!(a % 512, 0);
        assert!(b - a >= 1024);
        assert_eq!(m.lookup(0, a + 99).unwrap().base, a);
        assert_eq!(
            m.lookup(0, a + 100).unwrap_err(),
            AddressFault::Beyond { base: a, len: 100 }
        );
        assert_eq!(
            m.lookup(1, a).unwrap_err(),
            AddressFault::NoPeerAccess { owner: 0 }
        );
        let g = m.generation();
        assert!(m.free(a));
        assert!(!m.free(a));
        assert_ne!(m.generation(), g);
        assert_eq!(
            m.lookup(0, a + 5).unwrap_err(),
            AddressFault::Freed { base: a, len: 100 }
        );
        assert!(m.alloc(0, 100).unwrap() > b);
        assert_eq!(m.lookup(0, 8).unwrap_err(), AddressFault::Null);
    }

    #[test]
    fn written_bytes() {
        let m = Memory::new().unwrap();
        let a = m.alloc(0, 64).unwrap();
        let r = m.lookup(0, a).unwrap();
        assert_eq!(Memory::first_uninit(&r, 3, 4), Some(3));
        Memory::mark_init(&r, 3, 30);
        assert_eq!(Memory::first_uninit(&r, 3, 30), None);
        assert_eq!(Memory::first_uninit(&r, 3, 31), Some(33));
        assert_eq!(Memory::first_uninit(&r, 2, 2), Some(2));
    }
}
