//! Checks on a block's shared memory.

use crate::machine::Knobs;
use crate::machine::report::Finding;

type Checked = Result<(), Box<Finding>>;

/// Shadow of one block's shared memory.
pub struct SharedChecks {
    /// Whether loads and stores need to be told at all.
    pub enabled: bool,
}

#[allow(missing_docs, clippy::missing_errors_doc)]
impl SharedChecks {
    pub fn new(_end: u32, _warps: u32, _knobs: &Knobs) -> Self {
        Self { enabled: false }
    }
    pub fn load(
        &mut self,
        _w: u32,
        _pc: u32,
        _offs: &[u32; 32],
        _bytes: u32,
        _mask: u32,
    ) -> Checked {
        Ok(())
    }
    pub fn store(
        &mut self,
        _w: u32,
        _pc: u32,
        _offs: &[u32; 32],
        _bytes: u32,
        _mask: u32,
    ) -> Checked {
        Ok(())
    }
    pub fn atomic(&mut self, _w: u32, _pc: u32, _off: u32, _bytes: u32) -> Checked {
        Ok(())
    }
    pub fn remote_load(&mut self, _off: u32, _bytes: u32) -> Checked {
        Ok(())
    }
    pub fn remote_store(&mut self, _off: u32, _bytes: u32) -> Checked {
        Ok(())
    }
    pub fn barrier_arrive(&mut self, _w: u32, _id: u32, _pc: u32) {}
    pub fn barrier_complete(&mut self, _id: u32) {}
    pub fn barrier_leave(&mut self, _w: u32, _id: u32) {}
    pub fn warp_sync(&mut self, _w: u32) {}
}
