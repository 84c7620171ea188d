//! Streams and events.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::{current, healthy};
use super::memory::queue;
use super::universe::{Op, Queue, Universe};
use super::{Library, Res, code, exports, put, ready, tag};

/// A stream as its handle knows it.
pub struct StreamRef {
    /// Its context.
    pub context: u64,
    /// Where its queue is.
    pub universe: Arc<Universe>,
    /// Creation flags and priority.
    pub flags: u32,
    /// See above.
    pub priority: i32,
}

/// An event: records are numbered, a wait is for a number.
pub struct Event {
    issued: AtomicU64,
    reached: AtomicU64,
    time: AtomicU64,
    timing: bool,
    universe: Arc<Universe>,
}

impl Event {
    /// The record `ticket` has been reached at virtual time `now`.
    pub fn set(&self, ticket: u64, now: u64) {
        self.time.store(now, Ordering::Release);
        self.reached.fetch_max(ticket, Ordering::AcqRel);
    }

    /// Whether it has.
    pub fn reached(&self, ticket: u64) -> bool {
        self.reached.load(Ordering::Acquire) >= ticket
    }
}

/// Capture into graphs is not provided; streams never capture.
pub fn refuse_capture(_: &Library, _: u64) -> Res {
    Ok(())
}

fn create(out: *mut u64, flags: c_uint, priority: c_int) -> Res {
    let mut l = ready()?;
    let (h, c) = healthy(&l)?;
    if flags > 1 {
        return Err(code::INVALID_VALUE);
    }
    let id = l.handle(tag::STREAM);
    c.universe.add_queue(
        id,
        Queue {
            device: c.device,
            free: flags == 1,
            ..Queue::default()
        },
    );
    l.streams.insert(
        id,
        StreamRef {
            context: h,
            universe: c.universe,
            flags,
            priority: priority.clamp(-5, 0),
        },
    );
    // SAFETY: as the API asks of its caller.
    unsafe { put(out, id) }
}

/// Universe and queue of a stream handle.
fn target(stream: u64) -> Result<(Arc<Universe>, u64), u32> {
    let l = ready()?;
    match l.streams.get(&stream) {
        Some(s) => Ok((s.universe.clone(), stream)),
        None => {
            let (_, c) = current(&l)?;
            let q = queue(&l, &c, stream)?;
            Ok((c.universe, q))
        }
    }
}

fn event(h: u64) -> Result<Arc<Event>, u32> {
    ready()?.events.get(&h).cloned().ok_or(code::INVALID_HANDLE)
}

exports! {
    fn cuStreamCreate(out: *mut u64, flags: c_uint) {
        create(out, flags, 0)
    }
    fn cuStreamCreateWithPriority(out: *mut u64, flags: c_uint, priority: c_int) {
        create(out, flags, priority)
    }
    fn cuStreamDestroy_v2(stream: u64) {
        let s = ready()?.streams.remove(&stream).ok_or(code::INVALID_HANDLE)?;
        s.universe.remove_queue(stream);
        Ok(())
    }
    fn cuStreamSynchronize(stream: u64) {
        let (u, q) = target(stream)?;
        u.wait(q, None)
    }
    fn cuStreamQuery(stream: u64) {
        let (u, q) = target(stream)?;
        if u.idle(q)? { Ok(()) } else { Err(code::NOT_READY) }
    }
    fn cuStreamWaitEvent(stream: u64, ev: u64, _flags: c_uint) {
        let (u, q) = target(stream)?;
        let e = event(ev)?;
        let ticket = e.issued.load(Ordering::Acquire);
        // An event never recorded holds nobody up.
        if ticket == 0 {
            return Ok(());
        }
        u.push(q, Op::Wait { event: e, ticket }).map(|_| ())
    }
    fn cuStreamGetCtx(stream: u64, ctx: *mut u64) {
        let l = ready()?;
        let h = match l.streams.get(&stream) {
            Some(s) => s.context,
            None if stream <= 1 => current(&l)?.0,
            None => return Err(code::INVALID_HANDLE),
        };
        // SAFETY: as the API asks of its caller.
        unsafe { put(ctx, h) }
    }
    fn cuStreamGetFlags(stream: u64, flags: *mut c_uint) {
        let l = ready()?;
        let f = match l.streams.get(&stream) {
            Some(s) => s.flags,
            None if stream <= 1 => 0,
            None => return Err(code::INVALID_HANDLE),
        };
        // SAFETY: as the API asks of its caller.
        unsafe { put(flags, f) }
    }
    fn cuStreamGetPriority(stream: u64, priority: *mut c_int) {
        let l = ready()?;
        let p = match l.streams.get(&stream) {
            Some(s) => s.priority,
            None if stream <= 1 => 0,
            None => return Err(code::INVALID_HANDLE),
        };
        // SAFETY: as the API asks of its caller.
        unsafe { put(priority, p) }
    }
    fn cuStreamIsCapturing(stream: u64, status: *mut c_int) {
        target(stream)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(status, 0) }
    }
    fn cuLaunchHostFunc(stream: u64, f: *const c_void, data: *mut c_void) {
        let (u, q) = target(stream)?;
        if f.is_null() {
            return Err(code::INVALID_VALUE);
        }
        u.push(q, Op::Host { f: f as usize, data: data as usize }).map(|_| ())
    }
    fn cuEventCreate(out: *mut u64, flags: c_uint) {
        let mut l = ready()?;
        let (_, c) = healthy(&l)?;
        if flags & !7 != 0 {
            return Err(code::INVALID_VALUE);
        }
        let id = l.handle(tag::EVENT);
        let e = Event {
            issued: AtomicU64::new(0),
            reached: AtomicU64::new(0),
            time: AtomicU64::new(0),
            timing: flags & 2 == 0,
            universe: c.universe,
        };
        l.events.insert(id, Arc::new(e));
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, id) }
    }
    fn cuEventDestroy_v2(ev: u64) {
        ready()?.events.remove(&ev).map(|_| ()).ok_or(code::INVALID_HANDLE)
    }
    fn cuEventRecord(ev: u64, stream: u64) {
        let (u, q) = target(stream)?;
        let e = event(ev)?;
        if !Arc::ptr_eq(&u, &e.universe) {
            return Err(code::INVALID_HANDLE);
        }
        let ticket = e.issued.fetch_add(1, Ordering::AcqRel) + 1;
        u.push(q, Op::Record { event: e, ticket }).map(|_| ())
    }
    fn cuEventRecordWithFlags(ev: u64, stream: u64, _flags: c_uint) {
        // SAFETY: no pointers.
        match unsafe { cuEventRecord(ev, stream) } {
            code::SUCCESS => Ok(()),
            c => Err(c),
        }
    }
    fn cuEventQuery(ev: u64) {
        let e = event(ev)?;
        e.universe.health()?;
        if e.reached(e.issued.load(Ordering::Acquire)) { Ok(()) } else { Err(code::NOT_READY) }
    }
    fn cuEventSynchronize(ev: u64) {
        let e = event(ev)?;
        e.universe.wait_event(&e, e.issued.load(Ordering::Acquire))
    }
    fn cuEventElapsedTime(ms: *mut f32, start: u64, end: u64) {
        let (a, b) = (event(start)?, event(end)?);
        if !a.timing || !b.timing || a.issued.load(Ordering::Acquire) == 0 || b.issued.load(Ordering::Acquire) == 0 {
            return Err(code::INVALID_HANDLE);
        }
        if [&a, &b].iter().any(|e| !e.reached(e.issued.load(Ordering::Acquire))) {
            return Err(code::NOT_READY);
        }
        // Virtual time: steps of the machine, not a measurement.
        let ns = b.time.load(Ordering::Acquire) as f64 - a.time.load(Ordering::Acquire) as f64;
        // SAFETY: as the API asks of its caller.
        unsafe { put(ms, (ns * 1e-6) as f32) }
    }
    fn cuEventElapsedTime_v2(ms: *mut f32, start: u64, end: u64) {
        // SAFETY: as the API asks of its caller.
        match unsafe { cuEventElapsedTime(ms, start, end) } {
            code::SUCCESS => Ok(()),
            c => Err(c),
        }
    }
}
