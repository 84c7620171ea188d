//! What must not happen, seen by observers of loads, stores, barriers and asynchronous operations.

pub mod clock;
mod shadow;
pub mod shared;
