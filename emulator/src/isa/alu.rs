//! Arithmetic, logic, comparison and moves.

mod approx;
mod binary;
mod compare;
pub(crate) mod float;
pub mod half_float;
mod mov;
mod packed;
pub(crate) mod soft;
mod special;
pub(crate) mod vector;
mod video;

pub use float::Round;

use super::decode::{Decoder, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::ptx::ast;

/// Decodes arithmetic.
///
/// # Errors
/// Qualifiers or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    for family in [
        mov::decode,
        binary::decode,
        special::decode,
        compare::decode,
        approx::decode,
        float::decode,
        half_float::decode,
        video::decode,
    ] {
        if let Some(inst) = family(d, i)? {
            return Ok(Some(inst));
        }
    }
    Ok(None)
}

/// A function of three 32-bit values (unused ones are 0), lane by lane.
pub(super) trait Op32 {
    /// The value.
    fn f(a: u32, b: u32, c: u32) -> u32;
}

/// A function of three 64-bit values.
pub(super) trait Op64 {
    /// The value.
    fn f(a: u64, b: u64, c: u64) -> u64;
}

/// d = O(a, b, c).
#[inline(always)]
pub(super) unsafe fn op32<O: Op32>(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b, c) = (cx.get(i.a), cx.get(i.b), cx.get(i.c));
        let mut r = [0; 32];
        for l in 0..32 {
            r[l] = O::f(a[l], b[l], c[l]);
        }
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

/// d = O(a, b, c), 64 bits.
#[inline(always)]
pub(super) unsafe fn op64<O: Op64>(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b, c) = (cx.get64(i.a), cx.get64(i.b), cx.get64(i.c));
        let mut r = [0; 32];
        for l in 0..32 {
            r[l] = O::f(a[l], b[l], c[l]);
        }
        cx.set64(i.d, &r, mask);
    }
    Flow::Next
}

/// Names a lane function and gives its versions for this CPU.
macro_rules! lane32 {
    ($d:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {{
        struct F;
        impl $crate::isa::alu::Op32 for F {
            #[inline(always)]
            #[allow(unused_variables)]
            fn f($a: u32, $b: u32, $c: u32) -> u32 {
                $e
            }
        }
        use $crate::isa::alu::op32;
        $crate::isa::lanes::versions!($d.cpu, op32::<F>)
    }};
}
/// The same for 64 bits.
macro_rules! lane64 {
    ($d:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {{
        struct F;
        impl $crate::isa::alu::Op64 for F {
            #[inline(always)]
            #[allow(unused_variables)]
            fn f($a: u64, $b: u64, $c: u64) -> u64 {
                $e
            }
        }
        use $crate::isa::alu::op64;
        $crate::isa::lanes::versions!($d.cpu, op64::<F>)
    }};
}
pub(crate) use {lane32, lane64};
