//! PTX text, checked and resolved.

pub mod ast;
