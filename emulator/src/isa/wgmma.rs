//! Warpgroup matrix operations.

use super::decode::{Decoder, Result};
use crate::machine::inst::Inst;
use crate::ptx::ast;

/// Matrix operations of a block's warpgroups.
pub struct WgmmaState {}

impl WgmmaState {
    /// For `warps` warps.
    pub fn new(_warps: u32) -> Self {
        Self {}
    }
}

/// Decodes nothing yet.
///
/// # Errors
/// None.
pub fn decode(_: &mut Decoder, _: &ast::Inst) -> Result<Option<Inst>> {
    Ok(None)
}
