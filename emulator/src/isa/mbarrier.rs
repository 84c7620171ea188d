//! mbarrier objects and the cluster barrier.

use super::decode::{Decoder, Result};
use crate::machine::block::Warp;
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::ptx::ast;

/// The mbarriers of a block.
#[derive(Default)]
pub struct Mbarriers {}

impl Mbarriers {
    /// State of the object at `at`, for reports.
    pub fn describe(&self, at: u32) -> String {
        format!("mbarrier at {at:#x}")
    }

    /// Lets waits whose time is over answer false. True when there was one.
    pub fn expire_waits(&mut self, _warps: &mut [Warp]) -> bool {
        false
    }
}

/// `barrier.cluster`.
pub fn cluster_barrier(_cx: &mut Cx, _arrive: bool, _relaxed: bool) -> Flow {
    Flow::Next
}

/// Decodes nothing yet.
///
/// # Errors
/// None.
pub fn decode(_: &mut Decoder, _: &ast::Inst) -> Result<Option<Inst>> {
    Ok(None)
}
