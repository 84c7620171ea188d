//! Counters of a launch: what it moved, how well, what it executed, what it waited for.
//!
//! Counting stands beside the instructions, not inside them: when a kernel is loaded, [`site`] notes for each memory
//! instruction where its address is and how many bytes a lane moves; `raw` reads the same registers as the instruction
//! just before it executes and adds up once it has happened. Everything that follows from how often an instruction was
//! executed (mix, tensor operations, fences, barriers) is worked out when the launch ends. Off, nothing of this runs.

mod banks;
mod counters;
mod merge;
mod raw;
mod site;
mod summary;
mod table;

pub use counters::{
    Allocation, Counters, Dsmem, Launched, Line, Memory, Shared, SharedTraffic, Sync, Tma, Totals,
    Traffic, Transfer,
};
pub use raw::Raw;
pub use site::{Site, site};
pub(crate) use summary::{executed, summary};
