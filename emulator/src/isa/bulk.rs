//! Bulk and tensor copies (PTX ISA, `cp.async.bulk`, `cp.async.bulk.tensor`), their groups, prefetches.

mod decode;
mod linear;
mod tensor;

use std::collections::{BTreeMap, VecDeque};

pub use decode::decode;

use crate::machine::Origin;
use crate::machine::block::{Block, BlockId};
use crate::machine::report::{FaultCode, Finding};
use crate::machine::{AsyncOp, Machine};

/// Groups of one thread.
#[derive(Default)]
struct Groups {
    /// Number of the group being formed.
    open: u64,
    /// Operations of the open group that have not finished, and whether there was any.
    committed: VecDeque<u64>,
    /// Unfinished operations per group.
    pending: BTreeMap<u64, u32>,
    /// Groups up to here have been waited for.
    waited: u64,
    /// The last operation, for the report of one that nobody waited for.
    last: Option<(u64, Origin)>,
}

/// Bulk groups of a block's threads: `.bulk_group` completion is per thread.
pub struct BulkState {
    threads: Vec<Groups>,
}

impl BulkState {
    /// For `warps` warps.
    pub fn new(warps: u32) -> Self {
        Self {
            threads: (0..warps * 32)
                .map(|_| Groups {
                    open: 1,
                    ..Groups::default()
                })
                .collect(),
        }
    }

    fn issue(&mut self, thread: u32, origin: Origin) -> u64 {
        let t = &mut self.threads[thread as usize];
        *t.pending.entry(t.open).or_default() += 1;
        t.last = Some((t.open, origin));
        t.open
    }

    fn finish(&mut self, thread: u32, group: u64) {
        let t = &mut self.threads[thread as usize];
        if let Some(n) = t.pending.get_mut(&group) {
            *n -= 1;
            if *n == 0 {
                t.pending.remove(&group);
            }
        }
    }

    fn commit(&mut self, thread: u32) {
        let t = &mut self.threads[thread as usize];
        t.committed.push_back(t.open);
        t.open += 1;
    }

    /// True when at most `n` of the thread's newest groups are unfinished.
    fn wait(&mut self, thread: u32, n: usize) -> bool {
        let t = &mut self.threads[thread as usize];
        let done = t.committed.len().saturating_sub(n);
        let ok = t
            .committed
            .iter()
            .take(done)
            .all(|g| !t.pending.contains_key(g));
        if ok {
            for _ in 0..done {
                if let Some(g) = t.committed.pop_front() {
                    t.waited = g;
                }
            }
        }
        ok
    }
}

/// What a block may not leave behind: copies out of its shared memory that nobody waited for.
pub fn at_exit(block: &mut Block) -> Option<(Origin, Finding)> {
    let (_, origin) = block
        .bulk
        .threads
        .iter()
        .find_map(|t| t.last.filter(|(g, _)| *g > t.waited))?;
    Some((
        origin,
        Finding::new(
            FaultCode::LaunchFailed,
            "bulk",
            "the block exits although nobody waited (cp.async.bulk.wait_group) for this copy out of its shared memory",
        ),
    ))
}

/// What every bulk copy carries.
#[derive(Clone, Copy)]
struct Common {
    block: BlockId,
    origin: Origin,
}

/// A bulk copy as an operation of the machine.
enum Copy {
    Linear(linear::Linear),
    Tensor(Box<tensor::Tensor>),
}

struct BulkOp {
    common: Common,
    copy: Copy,
}

impl AsyncOp for BulkOp {
    fn run(&mut self, m: &mut Machine) -> Result<(), Box<Finding>> {
        match &self.copy {
            Copy::Linear(x) => x.run(m, self.common),
            Copy::Tensor(x) => x.run(m, self.common),
        }
    }

    fn block(&self) -> BlockId {
        self.common.block
    }

    fn origin(&self) -> Origin {
        self.common.origin
    }

    fn outlives(&self) -> Option<Finding> {
        Some(Finding::new(
            FaultCode::LaunchFailed,
            "bulk",
            "the block exits while this copy is still under way",
        ))
    }
}

/// Ends an operation of a thread's group and wakes who waits.
fn finish_group(m: &mut Machine, b: BlockId, thread: u32, group: u64) {
    if let Some(block) = m.blocks[b].as_deref_mut() {
        block.bulk.finish(thread, group);
    }
    m.wake(b);
}
