//! Expert-parallel all-to-all: dispatch of token rows to the ranks of their experts, and combine back.

pub mod protocol;
