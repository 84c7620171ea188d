//! A set of devices, one worker thread that does all their work, and the queues it takes it from.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::code;
use crate::count::{Launched, Totals};
use crate::machine::memory::{Memory, Region};
use crate::machine::report::{Fault, FaultCode, Report};
use crate::machine::{GridId, Knobs, Launch, Machine};

/// Instructions between two looks at the queues.
const SLICE: u64 = 1 << 18;

/// Where bytes come from or go to.
#[derive(Clone)]
pub enum Side {
    /// Device (or registered host) address.
    Device(u64),
    /// Plain host memory, read or written when the operation runs. The caller keeps it alive (it waits).
    Host(usize),
    /// Bytes taken when the call was made.
    Bytes(Arc<Vec<u8>>),
}

/// Work of a stream.
pub enum Op {
    /// A copy.
    Copy { dst: Side, src: Side, bytes: u64 },
    /// `count` elements of `width` bytes.
    Set {
        dst: u64,
        value: u32,
        width: u32,
        count: u64,
    },
    /// A grid.
    Launch(Box<Launch>),
    /// An event's record.
    Record {
        event: Arc<super::stream::Event>,
        ticket: u64,
    },
    /// Waits for that record.
    Wait {
        event: Arc<super::stream::Event>,
        ticket: u64,
    },
    /// Frees device memory.
    Free(u64),
    /// Calls the host.
    Host { f: usize, data: usize },
}

/// A stream's queue.
#[derive(Default)]
pub struct Queue {
    /// Device.
    pub device: u32,
    /// Does not wait for the default stream.
    pub free: bool,
    /// The default stream of its device.
    pub default: bool,
    pub(super) ops: VecDeque<(u64, Op)>,
    pub(super) busy: Option<u64>,
    /// Operations handed in and done.
    pub issued: u64,
    /// See above.
    pub done: u64,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<u64, Queue>,
    next: u64,
    stop: bool,
    /// The worker runs.
    working: bool,
}

/// Devices that share one worker.
pub struct Universe {
    /// Number of devices.
    pub devices: u32,
    /// First ordinal.
    pub first: u32,
    /// Settings.
    pub knobs: Knobs,
    state: Mutex<State>,
    changed: Condvar,
    fault: Mutex<Option<u32>>,
    reports: Mutex<Vec<Report>>,
    output: Mutex<Vec<u8>>,
    totals: Mutex<Totals>,
    launches: Mutex<Vec<Launched>>,
    memory: Arc<Memory>,
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held by the worker; tells when it ends.
struct Working<'a>(&'a Universe);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        locked(&self.0.state).working = false;
        self.0.changed.notify_all();
    }
}

impl Universe {
    /// Starts the worker.
    pub fn start(first: u32, mut knobs: Knobs, memory: Arc<Memory>) -> Arc<Self> {
        super::control::force(&mut knobs);
        let u = Arc::new(Self {
            devices: knobs.devices,
            first,
            knobs: knobs.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
            fault: Mutex::new(None),
            reports: Mutex::default(),
            output: Mutex::default(),
            totals: Mutex::default(),
            launches: Mutex::default(),
            memory,
        });
        let worker = u.clone();
        locked(&u.state).working = true;
        let spawned = std::thread::Builder::new()
            .name(format!("hadal-emu {first}"))
            .spawn(move || {
                // Whatever ends it, nobody may wait for it for ever.
                let _end = Working(&worker);
                worker.clone().run();
            });
        if spawned.is_err() {
            locked(&u.state).working = false;
            *locked(&u.fault) = Some(code::OUT_OF_MEMORY);
        }
        u
    }

    /// Ends the worker and frees the devices' memory, in this order: the worker holds pointers into it.
    pub fn stop(&self) {
        let mut s = locked(&self.state);
        s.stop = true;
        self.changed.notify_all();
        while s.working {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        drop(s);
        for d in self.first..self.first + self.devices {
            self.memory.reset(d);
        }
    }

    /// What its devices are.
    pub fn compute_capability(&self) -> crate::machine::device::ComputeCapability {
        self.knobs.compute_capability
    }

    /// The sticky error, if a kernel has failed.
    pub fn health(&self) -> Result<(), u32> {
        locked(&self.fault).map_or(Ok(()), Err)
    }

    /// What kernels have printed so far.
    pub fn output(&self) -> Vec<u8> {
        locked(&self.output).clone()
    }

    /// All findings so far.
    pub fn reports(&self) -> Vec<Report> {
        locked(&self.reports).clone()
    }

    /// Sums over all that ran.
    pub fn totals(&self) -> Totals {
        *locked(&self.totals)
    }

    /// Every launch that has ended, with its counters.
    pub fn launches(&self) -> Vec<Launched> {
        locked(&self.launches).clone()
    }

    /// Adds a stream.
    pub fn add_queue(&self, id: u64, q: Queue) {
        locked(&self.state).queues.entry(id).or_insert(q);
    }

    /// Removes a stream once its work is done.
    pub fn remove_queue(&self, id: u64) {
        let mut s = locked(&self.state);
        while s.queues.get(&id).is_some_and(|q| q.done < q.issued) && !s.stop {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        s.queues.remove(&id);
    }

    /// Hands in work. Answers its number in its stream.
    pub fn push(&self, queue: u64, op: Op) -> Result<u64, u32> {
        self.health()?;
        let mut s = locked(&self.state);
        let seq = s.next;
        s.next += 1;
        let q = s.queues.get_mut(&queue).ok_or(code::INVALID_HANDLE)?;
        q.issued += 1;
        let n = q.issued;
        q.ops.push_back((seq, op));
        self.changed.notify_all();
        Ok(n)
    }

    /// Waits until a stream has done `n` operations (`None`: all it has now).
    pub fn wait(&self, queue: u64, n: Option<u64>) -> Result<(), u32> {
        let mut s = locked(&self.state);
        let target = match s.queues.get(&queue) {
            Some(q) => n.unwrap_or(q.issued),
            None => return Err(code::INVALID_HANDLE),
        };
        while s.queues.get(&queue).is_some_and(|q| q.done < target) && !s.stop {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        drop(s);
        self.health()
    }

    /// Waits for all streams of a device.
    pub fn wait_device(&self, device: u32) -> Result<(), u32> {
        let ids: Vec<u64> = locked(&self.state)
            .queues
            .iter()
            .filter(|(_, q)| q.device == device)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            match self.wait(id, None) {
                Err(code::INVALID_HANDLE) => {}
                r => r?,
            }
        }
        self.health()
    }

    /// Whether a stream has nothing left to do.
    pub fn idle(&self, queue: u64) -> Result<bool, u32> {
        self.health()?;
        let s = locked(&self.state);
        s.queues
            .get(&queue)
            .map(|q| q.done == q.issued)
            .ok_or(code::INVALID_HANDLE)
    }

    /// Waits for an event's record.
    pub fn wait_event(&self, event: &super::stream::Event, ticket: u64) -> Result<(), u32> {
        let mut s = locked(&self.state);
        while !event.reached(ticket) && !s.stop {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        drop(s);
        self.health()
    }

    fn run(self: Arc<Self>) {
        let mut machine = Machine::new(self.memory.clone(), self.knobs.clone());
        let mut grids: HashMap<GridId, u64> = HashMap::new();
        loop {
            let next = {
                let mut s = locked(&self.state);
                loop {
                    if s.stop {
                        return;
                    }
                    if let Some(x) = take(&mut s) {
                        break Some(x);
                    }
                    if !machine.idle() {
                        break None;
                    }
                    s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                }
            };
            match next {
                Some((queue, Op::Launch(launch))) if self.health().is_ok() => {
                    grids.insert(machine.start(*launch), queue);
                }
                Some((queue, op)) => {
                    if self.health().is_ok() {
                        self.perform(op, &machine);
                    } else if let Op::Record { event, ticket } = op {
                        event.set(ticket, machine.now);
                    }
                    self.finish(queue);
                }
                None => {
                    for (grid, result) in machine.step(SLICE) {
                        let reports = machine.take_reports();
                        reports.iter().for_each(super::control::show);
                        locked(&self.reports).extend(reports);
                        locked(&self.output).extend(machine.take_printed());
                        *locked(&self.totals) = machine.totals;
                        let launched = machine.take_launched();
                        super::control::record(&launched);
                        locked(&self.launches).extend(launched);
                        if let Err(f) = result {
                            self.fail(&f);
                        }
                        if let Some(q) = grids.remove(&grid) {
                            self.finish(q);
                        }
                    }
                }
            }
        }
    }

    fn finish(&self, queue: u64) {
        let mut s = locked(&self.state);
        if let Some(q) = s.queues.get_mut(&queue) {
            q.busy = None;
            q.done += 1;
        }
        self.changed.notify_all();
    }

    fn fail(&self, f: &Fault) {
        let c = match f.code {
            FaultCode::IllegalAddress => code::ILLEGAL_ADDRESS,
            FaultCode::LaunchTimeout => code::LAUNCH_TIMEOUT,
            FaultCode::Assert => code::ASSERT,
            FaultCode::HardwareStack => code::HARDWARE_STACK_ERROR,
            FaultCode::IllegalInstruction => code::ILLEGAL_INSTRUCTION,
            FaultCode::InvalidPc => code::INVALID_PC,
            FaultCode::Misaligned => code::MISALIGNED_ADDRESS,
            FaultCode::LaunchFailed => code::LAUNCH_FAILED,
        };
        locked(&self.fault).get_or_insert(c);
    }

    fn perform(&self, op: Op, machine: &Machine) {
        match op {
            Op::Copy { dst, src, bytes } => self.copy(&dst, &src, bytes),
            Op::Set {
                dst,
                value,
                width,
                count,
            } => {
                if let Some((r, at)) = self.range(dst, u64::from(width) * count) {
                    for k in 0..count {
                        // SAFETY: `range` has checked that the bytes lie in a live allocation.
                        unsafe {
                            let p = r.host.add((at + k * u64::from(width)) as usize);
                            std::ptr::copy_nonoverlapping(
                                value.to_le_bytes().as_ptr(),
                                p,
                                width as usize,
                            );
                        }
                    }
                    Memory::mark_init(&r, at, u64::from(width) * count);
                }
            }
            Op::Record { event, ticket } => event.set(ticket, machine.now),
            Op::Wait { .. } | Op::Launch(_) => {}
            Op::Free(addr) => {
                self.memory.free(addr);
            }
            Op::Host { f, data } => {
                // SAFETY: cuLaunchHostFunc's caller promises a function of this type that may be called from any thread.
                let f: extern "C" fn(usize) = unsafe { std::mem::transmute(f) };
                f(data);
            }
        }
    }

    /// The region and offset of a device range that was checked when the call was made; a range freed since is a fault.
    fn range(&self, addr: u64, bytes: u64) -> Option<(Region, u64)> {
        match self.memory.find(addr) {
            Ok(r) if bytes <= r.len - (addr - r.base) => Some((r, addr - r.base)),
            _ => {
                locked(&self.fault).get_or_insert(code::ILLEGAL_ADDRESS);
                None
            }
        }
    }

    fn copy(&self, dst: &Side, src: &Side, bytes: u64) {
        let n = bytes as usize;
        let from = match src {
            Side::Host(p) => Some((*p as *const u8, None)),
            Side::Bytes(b) => Some((b.as_ptr(), None)),
            Side::Device(a) => self.range(*a, bytes).map(|(r, at)| {
                // SAFETY: inside the allocation.
                (
                    unsafe { r.host.add(at as usize) }.cast_const(),
                    Some((r, at)),
                )
            }),
        };
        let Some((from, source)) = from else { return };
        match dst {
            // SAFETY: the host side is the caller's, who waits; the source was checked. Ranges of one copy may overlap.
            Side::Host(p) => unsafe { std::ptr::copy(from, *p as *mut u8, n) },
            Side::Bytes(_) => {}
            Side::Device(a) => {
                let Some((r, at)) = self.range(*a, bytes) else {
                    return;
                };
                // SAFETY: as above.
                unsafe { std::ptr::copy(from, r.host.add(at as usize), n) };
                Memory::mark_init(&r, at, bytes);
                // What was not written at the source is not written here either.
                if let Some((sr, sat)) = source {
                    let mut i = 0;
                    while let Some(bad) = Memory::first_uninit(&sr, sat + i, bytes - i) {
                        Memory::clear_init(&r, at + (bad - sat), 1);
                        i = bad - sat + 1;
                        if i >= bytes {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// The next operation that may run, oldest first. Its stream is busy until it finishes.
fn take(s: &mut State) -> Option<(u64, Op)> {
    let oldest = |q: &Queue| q.busy.or(q.ops.front().map(|o| o.0));
    let mut best: Option<(u64, u64)> = None;
    for (&id, q) in &s.queues {
        let (None, Some((seq, op))) = (q.busy, q.ops.front()) else {
            continue;
        };
        // The default stream and the blocking streams of a device wait for each other.
        let held = !q.free
            && s.queues.iter().any(|(&o, x)| {
                o != id
                    && x.device == q.device
                    && !x.free
                    && (x.default || q.default)
                    && oldest(x).is_some_and(|other| other < *seq)
            });
        let waits = matches!(op, Op::Wait { event, ticket } if !event.reached(*ticket));
        if !held && !waits && best.is_none_or(|(b, _)| *seq < b) {
            best = Some((*seq, id));
        }
    }
    let (seq, id) = best?;
    let q = s.queues.get_mut(&id)?;
    q.busy = Some(seq);
    q.ops.pop_front().map(|(_, op)| (id, op))
}
