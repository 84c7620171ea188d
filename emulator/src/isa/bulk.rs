//! Bulk and tensor copies.

use super::decode::{Decoder, Result};
use crate::machine::Origin;
use crate::machine::block::Block;
use crate::machine::inst::Inst;
use crate::machine::report::Finding;
use crate::ptx::ast;

/// Bulk groups of a block's threads.
pub struct BulkState {}

impl BulkState {
    /// For `warps` warps.
    pub fn new(_warps: u32) -> Self {
        Self {}
    }
}

/// What a block may not leave behind.
pub fn at_exit(_block: &mut Block) -> Option<(Origin, Finding)> {
    None
}

/// Decodes nothing yet.
///
/// # Errors
/// None.
pub fn decode(_: &mut Decoder, _: &ast::Inst) -> Result<Option<Inst>> {
    Ok(None)
}
