//! Nothing yet.

use super::decode::{Decoder, Result};
use crate::machine::inst::Inst;
use crate::ptx::ast;

/// Decodes nothing yet.
///
/// # Errors
/// None.
pub fn decode(_: &mut Decoder, _: &ast::Inst) -> Result<Option<Inst>> {
    Ok(None)
}
