//! What must not happen, seen by observers of loads, stores, barriers and asynchronous operations.

pub mod clock;
pub mod shared;
