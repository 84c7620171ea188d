//! Memory: allocation, copies, fills, host memory.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use super::context::{default_queue, healthy};
use super::universe::{Op, Side};
use super::{Context, Library, Res, code, exports, put, ready, tag};
use crate::machine::memory::CAPACITY;

/// The queue of a stream handle, for calls on the current context.
pub fn queue(l: &Library, ctx: &Context, stream: u64) -> Result<u64, u32> {
    match stream {
        0 | 1 => Ok(default_queue(ctx.device)),
        // The per-thread default stream is not told apart from one more stream; nobody here asks for it.
        2 => Err(code::NOT_SUPPORTED),
        s => l.streams.get(&s).map(|_| s).ok_or(code::INVALID_HANDLE),
    }
}

/// Refuses a device range that no live allocation holds.
fn check(l: &Library, addr: u64, bytes: u64) -> Res {
    match l.memory.find(addr) {
        Ok(r) if bytes <= r.len - (addr - r.base) => Ok(()),
        _ => Err(code::INVALID_VALUE),
    }
}

fn host_side(l: &Library, p: *const c_void, bytes: usize, asynchronous: bool) -> Side {
    // Pageable memory is read when the call is made; registered memory when the copy runs.
    if asynchronous && l.memory.find(p as u64).is_err() {
        // SAFETY: the caller gives `bytes` readable bytes.
        let v = unsafe { std::slice::from_raw_parts(p.cast::<u8>(), bytes) }.to_vec();
        Side::Bytes(Arc::new(v))
    } else {
        Side::Host(p as usize)
    }
}

fn submit(dst: Side, src: Side, bytes: u64, stream: u64, wait: bool) -> Res {
    let (c, q) = {
        let l = ready()?;
        let (_, c) = healthy(&l)?;
        for side in [&dst, &src] {
            if let Side::Device(a) = side {
                check(&l, *a, bytes)?;
            }
        }
        let q = queue(&l, &c, stream)?;
        super::stream::refuse_capture(&l, stream)?;
        (c, q)
    };
    let n = c.universe.push(q, Op::Copy { dst, src, bytes })?;
    if wait {
        c.universe.wait(q, Some(n))
    } else {
        Ok(())
    }
}

fn fill(dst: u64, value: u32, width: u32, count: usize, stream: u64, wait: bool) -> Res {
    if count == 0 {
        return Ok(());
    }
    if !dst.is_multiple_of(u64::from(width)) {
        return Err(code::INVALID_VALUE);
    }
    let (c, q) = {
        let l = ready()?;
        let (_, c) = healthy(&l)?;
        check(
            &l,
            dst,
            (count as u64)
                .checked_mul(width.into())
                .ok_or(code::INVALID_VALUE)?,
        )?;
        let q = queue(&l, &c, stream)?;
        super::stream::refuse_capture(&l, stream)?;
        (c, q)
    };
    let n = c.universe.push(
        q,
        Op::Set {
            dst,
            value,
            width,
            count: count as u64,
        },
    )?;
    if wait {
        c.universe.wait(q, Some(n))
    } else {
        Ok(())
    }
}

fn allocate(out: *mut u64, bytes: usize) -> Res {
    if bytes == 0 || out.is_null() {
        return Err(code::INVALID_VALUE);
    }
    let take = || {
        let l = ready()?;
        let (_, c) = healthy(&l)?;
        Ok::<_, u32>((l.memory.alloc(c.device, bytes as u64), c))
    };
    let a = match take()? {
        (Some(a), _) => a,
        // Frees may be under way in some stream.
        (None, c) => {
            c.universe.wait_device(c.device)?;
            take()?.0.ok_or(code::OUT_OF_MEMORY)?
        }
    };
    // SAFETY: as the API asks of its caller.
    unsafe { put(out, a) }
}

exports! {
    fn cuMemAlloc_v2(out: *mut u64, bytes: usize) {
        allocate(out, bytes)
    }
    fn cuMemAllocAsync(out: *mut u64, bytes: usize, stream: u64) {
        {
            let l = ready()?;
            let (_, c) = healthy(&l)?;
            queue(&l, &c, stream)?;
            super::stream::refuse_capture(&l, stream)?;
        }
        allocate(out, bytes)
    }
    fn cuMemAllocFromPoolAsync(out: *mut u64, bytes: usize, pool: u64, stream: u64) {
        if pool & tag::MASK != tag::POOL {
            return Err(code::INVALID_HANDLE);
        }
        // SAFETY: as the API asks of its caller.
        match unsafe { cuMemAllocAsync(out, bytes, stream) } {
            code::SUCCESS => Ok(()),
            c => Err(c),
        }
    }
    fn cuMemFree_v2(addr: u64) {
        if addr == 0 {
            return Ok(());
        }
        let c = {
            let l = ready()?;
            let (_, c) = healthy(&l)?;
            match l.memory.find(addr) {
                Ok(r) if r.base == addr && r.device.is_some() => {}
                _ => return Err(code::INVALID_VALUE),
            }
            c
        };
        // A plain free waits for the device.
        c.universe.wait_device(c.device)?;
        if ready()?.memory.free(addr) { Ok(()) } else { Err(code::INVALID_VALUE) }
    }
    fn cuMemFreeAsync(addr: u64, stream: u64) {
        if addr == 0 {
            return Ok(());
        }
        let (c, q) = {
            let l = ready()?;
            let (_, c) = healthy(&l)?;
            match l.memory.find(addr) {
                Ok(r) if r.base == addr && r.device.is_some() => {}
                _ => return Err(code::INVALID_VALUE),
            }
            let q = queue(&l, &c, stream)?;
            super::stream::refuse_capture(&l, stream)?;
            (c, q)
        };
        c.universe.push(q, Op::Free(addr)).map(|_| ())
    }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let l = ready()?;
        let (_, c) = healthy(&l)?;
        // SAFETY: as the API asks of its caller.
        unsafe {
            put(free, (CAPACITY - l.memory.used(c.device)) as usize)?;
            put(total, CAPACITY as usize)
        }
    }
    fn cuMemGetAddressRange_v2(base: *mut u64, size: *mut usize, addr: u64) {
        let l = ready()?;
        let r = l.memory.find(addr).map_err(|_| code::NOT_FOUND)?;
        // SAFETY: null means that this one is not wanted; else as the API asks of its caller.
        unsafe {
            if !base.is_null() {
                put(base, r.base)?;
            }
            if !size.is_null() {
                put(size, r.len as usize)?;
            }
        }
        Ok(())
    }
    fn cuPointerGetAttribute(data: *mut c_void, attribute: c_int, addr: u64) {
        let l = ready()?;
        let r = l.memory.find(addr).map_err(|_| code::INVALID_VALUE)?;
        // SAFETY: the caller gives room for the attribute's type.
        unsafe {
            match (attribute, r.device) {
                // CU_POINTER_ATTRIBUTE_CONTEXT, MEMORY_TYPE, DEVICE_POINTER, HOST_POINTER, DEVICE_ORDINAL
                (1, Some(d)) => put(data.cast::<u64>(), tag::CONTEXT | u64::from(d) << 8 | 1),
                (2, d) => put(data.cast::<u32>(), if d.is_some() { 2 } else { 1 }),
                (3, _) => put(data.cast::<u64>(), addr),
                (4, None) => put(data.cast::<u64>(), addr),
                (9, d) => put(data.cast::<c_int>(), d.map_or(0, |d| d as c_int)),
                _ => Err(code::INVALID_VALUE),
            }
        }
    }
    fn cuMemcpyHtoD_v2(dst: u64, src: *const c_void, bytes: usize) {
        if bytes == 0 {
            return Ok(());
        }
        if src.is_null() {
            return Err(code::INVALID_VALUE);
        }
        submit(Side::Device(dst), Side::Host(src as usize), bytes as u64, 0, true)
    }
    fn cuMemcpyHtoDAsync_v2(dst: u64, src: *const c_void, bytes: usize, stream: u64) {
        if bytes == 0 {
            return Ok(());
        }
        if src.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let side = host_side(&*ready()?, src, bytes, true);
        submit(Side::Device(dst), side, bytes as u64, stream, false)
    }
    fn cuMemcpyDtoH_v2(dst: *mut c_void, src: u64, bytes: usize) {
        if bytes == 0 {
            return Ok(());
        }
        if dst.is_null() {
            return Err(code::INVALID_VALUE);
        }
        submit(Side::Host(dst as usize), Side::Device(src), bytes as u64, 0, true)
    }
    fn cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: u64, bytes: usize, stream: u64) {
        if bytes == 0 {
            return Ok(());
        }
        if dst.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // Into pageable memory the driver returns once the bytes are there.
        let pageable = ready()?.memory.find(dst as u64).is_err();
        submit(Side::Host(dst as usize), Side::Device(src), bytes as u64, stream, pageable)
    }
    fn cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) {
        if bytes == 0 {
            return Ok(());
        }
        submit(Side::Device(dst), Side::Device(src), bytes as u64, 0, false)
    }
    fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64) {
        if bytes == 0 {
            return Ok(());
        }
        submit(Side::Device(dst), Side::Device(src), bytes as u64, stream, false)
    }
    fn cuMemcpyPeerAsync(dst: u64, dst_ctx: u64, src: u64, src_ctx: u64, bytes: usize, stream: u64) {
        {
            let l = ready()?;
            if !l.contexts.contains_key(&dst_ctx) || !l.contexts.contains_key(&src_ctx) {
                return Err(code::INVALID_CONTEXT);
            }
        }
        if bytes == 0 {
            return Ok(());
        }
        submit(Side::Device(dst), Side::Device(src), bytes as u64, stream, false)
    }
    fn cuMemsetD8_v2(dst: u64, value: u8, count: usize) {
        fill(dst, value.into(), 1, count, 0, true)
    }
    fn cuMemsetD16_v2(dst: u64, value: u16, count: usize) {
        fill(dst, value.into(), 2, count, 0, true)
    }
    fn cuMemsetD32_v2(dst: u64, value: c_uint, count: usize) {
        fill(dst, value, 4, count, 0, true)
    }
    fn cuMemsetD8Async(dst: u64, value: u8, count: usize, stream: u64) {
        fill(dst, value.into(), 1, count, stream, false)
    }
    fn cuMemsetD16Async(dst: u64, value: u16, count: usize, stream: u64) {
        fill(dst, value.into(), 2, count, stream, false)
    }
    fn cuMemsetD32Async(dst: u64, value: c_uint, count: usize, stream: u64) {
        fill(dst, value, 4, count, stream, false)
    }
    fn cuMemHostAlloc(out: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        let l = ready()?;
        healthy(&l)?;
        if bytes == 0 || out.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if p == libc::MAP_FAILED {
            return Err(code::OUT_OF_MEMORY);
        }
        l.memory.register_host(p as u64, bytes as u64);
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, p.cast()) }
    }
    fn cuMemFreeHost(p: *mut c_void) {
        let c = {
            let l = ready()?;
            healthy(&l)?.1
        };
        c.universe.wait_device(c.device)?;
        let bytes = ready()?.memory.unregister_host(p as u64).ok_or(code::INVALID_VALUE)?;
        // SAFETY: the mapping was made by cuMemHostAlloc with this length.
        unsafe { libc::munmap(p.cast(), bytes as usize) };
        Ok(())
    }
    fn cuMemHostRegister_v2(p: *mut c_void, bytes: usize, _flags: c_uint) {
        let l = ready()?;
        healthy(&l)?;
        if p.is_null() || bytes == 0 {
            return Err(code::INVALID_VALUE);
        }
        if l.memory.find(p as u64).is_ok() {
            return Err(code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        l.memory.register_host(p as u64, bytes as u64);
        Ok(())
    }
    fn cuMemHostUnregister(p: *mut c_void) {
        let l = ready()?;
        healthy(&l)?;
        l.memory.unregister_host(p as u64).map(|_| ()).ok_or(code::HOST_MEMORY_NOT_REGISTERED)
    }
    fn cuMemHostGetDevicePointer_v2(out: *mut u64, p: *mut c_void, _flags: c_uint) {
        let l = ready()?;
        match l.memory.find(p as u64) {
            // SAFETY: as the API asks of its caller.
            Ok(r) if r.device.is_none() => unsafe { put(out, p as u64) },
            _ => Err(code::INVALID_VALUE),
        }
    }
    fn cuMemPoolTrimTo(pool: u64, _keep: usize) {
        if pool & tag::MASK == tag::POOL { Ok(()) } else { Err(code::INVALID_HANDLE) }
    }
    fn cuMemPoolSetAttribute(pool: u64, _attribute: c_int, _value: *mut c_void) {
        if pool & tag::MASK == tag::POOL { Ok(()) } else { Err(code::INVALID_HANDLE) }
    }
}
