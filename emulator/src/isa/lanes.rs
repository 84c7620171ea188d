//! Lane loops in several versions.
//!
//! An instruction's body is an `#[inline(always)]` generic function. [`versions!`] wraps it in one function per CPU level,
//! each compiled with that level's features, so that the compiler vectorises the 32 lanes (and `f32::mul_add` is an
//! instruction, not a library call), and picks one when the kernel is decoded.

/// `versions!(cpu, body::<T>)`: the [`crate::machine::inst::Exec`] of `body` for this CPU. `body` is an
/// `unsafe fn(&mut Cx, &Inst, u32) -> Flow`, generic in any number of types, marked `#[inline(always)]`. In a generic function the wrappers need its parameters:
/// `versions!(for <T: Bound> cpu, body::<T>)`.
macro_rules! versions {
    (@ [$cpu:expr] [$($p:ident : $bound:path),*] $body:ident $(:: <$($g:ty),+>)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
        unsafe fn v3<$($p: $bound),*>(cx: &mut $crate::machine::exec::Cx, i: &$crate::machine::inst::Inst, mask: u32) -> $crate::machine::inst::Flow {
            // SAFETY: the caller keeps `Exec`'s contract.
            unsafe { $body $(::<$($g),+>)? (cx, i, mask) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn v4<$($p: $bound),*>(cx: &mut $crate::machine::exec::Cx, i: &$crate::machine::inst::Inst, mask: u32) -> $crate::machine::inst::Flow {
            // SAFETY: the caller keeps `Exec`'s contract.
            unsafe { $body $(::<$($g),+>)? (cx, i, mask) }
        }
        unsafe fn base<$($p: $bound),*>(cx: &mut $crate::machine::exec::Cx, i: &$crate::machine::inst::Inst, mask: u32) -> $crate::machine::inst::Flow {
            // SAFETY: the caller keeps `Exec`'s contract.
            unsafe { $body $(::<$($g),+>)? (cx, i, mask) }
        }
        let exec: $crate::machine::inst::Exec = match $cpu {
            #[cfg(target_arch = "x86_64")]
            $crate::isa::decode::Cpu::V4 => v4::<$($p),*>,
            #[cfg(target_arch = "x86_64")]
            $crate::isa::decode::Cpu::V3 => v3::<$($p),*>,
            _ => base::<$($p),*>,
        };
        exec
    }};
    // Inside a generic function: name its type parameters and their bounds first.
    (for <$($p:ident : $bound:path),*> $cpu:expr, $body:ident $(:: <$($g:ty),+>)?) => {
        $crate::isa::lanes::versions!(@ [$cpu] [$($p : $bound),*] $body $(:: <$($g),+>)?)
    };
    ($cpu:expr, $body:ident $(:: <$($g:ty),+>)?) => {
        $crate::isa::lanes::versions!(@ [$cpu] [] $body $(:: <$($g),+>)?)
    };
}
pub(crate) use versions;
