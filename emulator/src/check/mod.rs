//! What must not happen.

pub mod shared;
