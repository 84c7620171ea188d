//! Initialisation, devices, contexts.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint};

use super::{Context, Library, attributes, code, exports, put, ready, tag};

/// The driver version that is claimed: CUDA 13.0.
const VERSION: c_int = 13000;
/// CU_LIMIT_STACK_SIZE of a new context, and the most it can be set to.
const STACK_SIZE: u32 = 1024;
const STACK_SIZE_MOST: usize = 512 << 10;

thread_local! {
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The calling thread's context.
pub fn current(l: &Library) -> Result<(u64, Context), u32> {
    let top = STACK
        .with(|s| s.borrow().last().copied())
        .filter(|h| *h != 0)
        .ok_or(code::INVALID_CONTEXT)?;
    let c = l
        .contexts
        .get(&top)
        .cloned()
        .ok_or(code::CONTEXT_IS_DESTROYED)?;
    Ok((top, c))
}

/// The current context, whose universe has not failed.
pub fn healthy(l: &Library) -> Result<(u64, Context), u32> {
    let (h, c) = current(l)?;
    c.universe.health()?;
    Ok((h, c))
}

fn set(ctx: u64) {
    STACK.with(|s| {
        let mut s = s.borrow_mut();
        if s.pop().is_some() || ctx != 0 {
            s.push(ctx);
        }
    });
}

/// Devices that programs see which ask how many there are.
pub fn default_devices() -> u32 {
    std::env::var("HADAL_EMU_DEVICES")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(8)
        .clamp(1, super::LEASED)
}

fn device(l: &Library, dev: c_int) -> Result<u32, u32> {
    u32::try_from(dev)
        .ok()
        .filter(|d| l.universe(*d).is_some())
        .ok_or(code::INVALID_DEVICE)
}

/// The default stream's queue of a device.
pub fn default_queue(device: u32) -> u64 {
    tag::STREAM | u64::from(device) << 32 | 1
}

exports! {
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        let mut l = super::library()?;
        if !l.initialised {
            let knobs = super::control::knobs_from_environment(default_devices())?;
            l.initialised = true;
            l.add_universe(knobs, Some(0));
        }
        Ok(())
    }
    fn cuDriverGetVersion(version: *mut c_int) {
        // SAFETY: as the API asks of its caller.
        unsafe { put(version, VERSION) }
    }
    fn cuDeviceGetCount(count: *mut c_int) {
        drop(ready()?);
        // SAFETY: as the API asks of its caller.
        unsafe { put(count, default_devices() as c_int) }
    }
    fn cuDeviceGet(dev: *mut c_int, ordinal: c_int) {
        let l = ready()?;
        device(&l, ordinal)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(dev, ordinal) }
    }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, dev: c_int) {
        let l = ready()?;
        let d = device(&l, dev)?;
        if name.is_null() || len <= 0 {
            return Err(code::INVALID_VALUE);
        }
        let text = l.compute_capability(d)?.profile().name.as_bytes();
        let n = text.len().min(len as usize - 1);
        // SAFETY: the caller gives `len` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, n);
            name.add(n).write(0);
        }
        Ok(())
    }
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], dev: c_int) {
        let l = ready()?;
        let d = device(&l, dev)?;
        let mut u = *b"hadal-emulator-0";
        u[12..].copy_from_slice(&d.to_le_bytes());
        // SAFETY: as the API asks of its caller.
        unsafe { put(uuid, u) }
    }
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], dev: c_int) {
        // SAFETY: as the API asks of its caller.
        match unsafe { cuDeviceGetUuid(uuid, dev) } {
            code::SUCCESS => Ok(()),
            c => Err(c),
        }
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: c_int) {
        let l = ready()?;
        device(&l, dev)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(bytes, crate::machine::memory::CAPACITY as usize) }
    }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, dev: c_int) {
        let l = ready()?;
        let d = device(&l, dev)?;
        let v = attributes::get(l.compute_capability(d)?, attribute, d).ok_or(code::INVALID_VALUE)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(value, v) }
    }
    fn cuDeviceGetDefaultMemPool(pool: *mut u64, dev: c_int) {
        let l = ready()?;
        let d = device(&l, dev)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(pool, tag::POOL | u64::from(d)) }
    }
    fn cuDeviceGetMemPool(pool: *mut u64, dev: c_int) {
        let l = ready()?;
        let d = device(&l, dev)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(pool, tag::POOL | u64::from(d)) }
    }
    fn cuDevicePrimaryCtxRetain(ctx: *mut u64, dev: c_int) {
        let mut l = ready()?;
        let d = device(&l, dev)?;
        let handle = tag::CONTEXT | u64::from(d) << 8 | 1;
        let universe = l.universe(d).ok_or(code::INVALID_DEVICE)?;
        universe.add_queue(default_queue(d), super::universe::Queue { device: d, default: true, ..Default::default() });
        let c = l.contexts.entry(handle).or_insert(Context { device: d, universe, count: 0, primary: true, flags: 0, stack: STACK_SIZE });
        c.count += 1;
        // SAFETY: as the API asks of its caller.
        unsafe { put(ctx, handle) }
    }
    fn cuDevicePrimaryCtxRelease_v2(dev: c_int) {
        let mut l = ready()?;
        let d = device(&l, dev)?;
        let handle = tag::CONTEXT | u64::from(d) << 8 | 1;
        let c = l.contexts.get_mut(&handle).ok_or(code::INVALID_CONTEXT)?;
        c.count = c.count.saturating_sub(1);
        if c.count == 0 {
            l.contexts.remove(&handle);
        }
        Ok(())
    }
    fn cuDevicePrimaryCtxGetState(dev: c_int, flags: *mut c_uint, active: *mut c_int) {
        let l = ready()?;
        let d = device(&l, dev)?;
        let c = l.contexts.get(&(tag::CONTEXT | u64::from(d) << 8 | 1));
        // SAFETY: as the API asks of its caller.
        unsafe {
            put(flags, c.map_or(0, |c| c.flags))?;
            put(active, c_int::from(c.is_some()))
        }
    }
    fn cuDevicePrimaryCtxSetFlags_v2(dev: c_int, flags: c_uint) {
        let mut l = ready()?;
        let d = device(&l, dev)?;
        if let Some(c) = l.contexts.get_mut(&(tag::CONTEXT | u64::from(d) << 8 | 1)) {
            c.flags = flags;
        }
        Ok(())
    }
    fn cuCtxCreate_v2(ctx: *mut u64, flags: c_uint, dev: c_int) {
        let mut l = ready()?;
        let d = device(&l, dev)?;
        let universe = l.universe(d).ok_or(code::INVALID_DEVICE)?;
        universe.add_queue(default_queue(d), super::universe::Queue { device: d, default: true, ..Default::default() });
        let handle = l.handle(tag::CONTEXT);
        l.contexts.insert(handle, Context { device: d, universe, count: 1, primary: false, flags, stack: STACK_SIZE });
        STACK.with(|s| s.borrow_mut().push(handle));
        // SAFETY: as the API asks of its caller.
        unsafe { put(ctx, handle) }
    }
    fn cuCtxDestroy_v2(ctx: u64) {
        let mut l = ready()?;
        if l.contexts.get(&ctx).is_none_or(|c| c.primary) {
            return Err(code::INVALID_CONTEXT);
        }
        l.contexts.remove(&ctx);
        STACK.with(|s| s.borrow_mut().retain(|c| *c != ctx));
        Ok(())
    }
    fn cuCtxSetCurrent(ctx: u64) {
        let l = ready()?;
        if ctx != 0 && !l.contexts.contains_key(&ctx) {
            return Err(code::INVALID_CONTEXT);
        }
        set(ctx);
        Ok(())
    }
    fn cuCtxGetCurrent(ctx: *mut u64) {
        drop(ready()?);
        // SAFETY: as the API asks of its caller.
        unsafe { put(ctx, STACK.with(|s| s.borrow().last().copied().unwrap_or(0))) }
    }
    fn cuCtxPushCurrent_v2(ctx: u64) {
        let l = ready()?;
        if !l.contexts.contains_key(&ctx) {
            return Err(code::INVALID_CONTEXT);
        }
        STACK.with(|s| s.borrow_mut().push(ctx));
        Ok(())
    }
    fn cuCtxPopCurrent_v2(ctx: *mut u64) {
        drop(ready()?);
        let top = STACK.with(|s| s.borrow_mut().pop()).ok_or(code::INVALID_CONTEXT)?;
        if ctx.is_null() {
            return Ok(());
        }
        // SAFETY: as the API asks of its caller.
        unsafe { put(ctx, top) }
    }
    fn cuCtxGetDevice(dev: *mut c_int) {
        let l = ready()?;
        let (_, c) = current(&l)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(dev, c.device as c_int) }
    }
    fn cuCtxSynchronize() {
        let c = {
            let l = ready()?;
            current(&l)?.1
        };
        c.universe.wait_device(c.device)
    }
    fn cuCtxGetFlags(flags: *mut c_uint) {
        let l = ready()?;
        let (_, c) = current(&l)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(flags, c.flags) }
    }
    fn cuCtxSetFlags(flags: c_uint) {
        let mut l = ready()?;
        let (h, _) = current(&l)?;
        if let Some(c) = l.contexts.get_mut(&h) {
            c.flags = flags;
        }
        Ok(())
    }
    fn cuCtxGetApiVersion(ctx: u64, version: *mut c_uint) {
        let l = ready()?;
        if ctx != 0 && !l.contexts.contains_key(&ctx) {
            return Err(code::INVALID_CONTEXT);
        }
        // SAFETY: as the API asks of its caller.
        unsafe { put(version, 3020) }
    }
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        drop(ready()?);
        // SAFETY: as the API asks of its caller.
        unsafe {
            put(least, 0)?;
            put(greatest, -5)
        }
    }
    fn cuCtxGetLimit(value: *mut usize, limit: c_uint) {
        let l = ready()?;
        let v = match limit {
            0 => current(&l)?.1.stack as usize,
            1 => 1 << 20,
            2 => 8 << 20,
            3 => 2,
            4 => 2048,
            5 => 128,
            _ => return Err(code::INVALID_VALUE),
        };
        // SAFETY: as the API asks of its caller.
        unsafe { put(value, v) }
    }
    fn cuCtxSetLimit(limit: c_uint, value: usize) {
        let mut l = ready()?;
        let (h, _) = current(&l)?;
        if limit == 0 {
            if value > STACK_SIZE_MOST {
                return Err(code::INVALID_VALUE);
            }
            if let Some(c) = l.contexts.get_mut(&h) {
                c.stack = (value as u32).next_multiple_of(16);
            }
        }
        if limit > 5 { Err(code::INVALID_VALUE) } else { Ok(()) }
    }
    fn cuCtxGetCacheConfig(config: *mut c_uint) {
        drop(ready()?);
        // SAFETY: as the API asks of its caller.
        unsafe { put(config, 0) }
    }
    fn cuCtxSetCacheConfig(_config: c_uint) {
        drop(ready()?);
        Ok(())
    }
    fn cuDeviceCanAccessPeer(can: *mut c_int, dev: c_int, peer: c_int) {
        let l = ready()?;
        let (a, b) = (device(&l, dev)?, device(&l, peer)?);
        let same = matches!((l.universe(a), l.universe(b)), (Some(x), Some(y)) if std::sync::Arc::ptr_eq(&x, &y));
        // SAFETY: as the API asks of its caller.
        unsafe { put(can, c_int::from(same && a != b)) }
    }
    fn cuCtxEnablePeerAccess(peer: u64, flags: c_uint) {
        let l = ready()?;
        let (_, c) = healthy(&l)?;
        if flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        let p = l.contexts.get(&peer).ok_or(code::INVALID_CONTEXT)?;
        if p.device == c.device || !std::sync::Arc::ptr_eq(&p.universe, &c.universe) {
            return Err(code::INVALID_DEVICE);
        }
        if l.memory.enable_peer(c.device, p.device) { Ok(()) } else { Err(code::PEER_ACCESS_ALREADY_ENABLED) }
    }
    fn cuCtxDisablePeerAccess(peer: u64) {
        let l = ready()?;
        let (_, c) = healthy(&l)?;
        let p = l.contexts.get(&peer).ok_or(code::INVALID_CONTEXT)?;
        if l.memory.disable_peer(c.device, p.device) { Ok(()) } else { Err(code::PEER_ACCESS_NOT_ENABLED) }
    }
}
