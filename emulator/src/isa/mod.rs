//! What each instruction does. Each file decodes its own mnemonics, takes every qualifier it knows and refuses the rest.

pub mod alu;
pub mod builtin;
pub mod bulk;
pub mod call;
pub mod control;
pub mod convert;
pub mod cp_async;
pub mod decode;
pub mod forms;
pub(crate) mod lanes;
pub mod matrix;
pub mod mbarrier;
pub mod memory;
pub mod mma_arith;
pub mod mma_sync;
pub mod warp;
pub mod wgmma;

use crate::machine::inst::Inst;
use crate::ptx::ast;
use decode::{Decoder, Result};

/// Decodes one instruction. The guard is the caller's.
///
/// # Errors
/// An opcode, qualifier or operand that is not known, by name.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Inst> {
    let i = &*forms::canonical(d, i)?;
    for family in [
        call::decode,
        builtin::decode,
        alu::decode,
        convert::decode,
        memory::decode,
        control::decode,
        warp::decode,
        mbarrier::decode,
        bulk::decode,
        cp_async::decode,
        wgmma::decode,
        matrix::decode,
        mma_sync::decode,
    ] {
        if let Some(inst) = family(d, i)? {
            return Ok(inst);
        }
    }
    Err(d.error(i, "unknown instruction"))
}
