//! The GEMM's deadline: with a load that brings fewer bytes than it should, no stage ever fills. The kernel has to say so through the status, end
//! by itself, write nothing, and leave the device usable. A few seconds.
//!
//! The kernel is launched through cudarc's raw layer, with a tensor map whose box is too small.

mod common;

use std::ffi::{CString, c_void};

use common::*;
use cudarc::driver::{DevicePtr, DevicePtrMut, result, sys};
use hadal_emulator::client::OnDeadlock;

/// The kernel's parameter, as its source has it.
#[repr(C, align(64))]
struct Params {
    maps: [sys::CUtensorMap; 4],
    sfb: u64,
    sfb_group: u64,
    status: u64,
    d_data: u64,
    ld_d: u64,
    /// Distance of groups, bias, weights, index buffers, what the gather and SwiGLU need: nothing here.
    unused: [u64; 14],
    deadline_ns: u64,
    m: u32,
    n: u32,
    k: u32,
    ld_sfb: u32,
    groups: u32,
    rows: u32,
    flags: u32,
    out: u32,
    n_units: u32,
    walk: u32,
    ring: u32,
    stage: u32,
    stages: u32,
    extra: u32,
    a_rows: u32,
    alpha: f32,
    clamp: f32,
    sfa_pitch: u32,
    zero: [u32; 3],
}

const _: () = assert!(size_of::<Params>() == 768);

const M: u64 = 128;
const N: u64 = 128;
const K: u64 = 2048;
const DEADLINE: u64 = 1_000_000;

fn map(
    ty: sys::CUtensorMapDataType,
    bytes: u64,
    address: u64,
    dims: [u64; 2],
    tile: [u32; 2],
    swizzled: bool,
) -> sys::CUtensorMap {
    let mut m = std::mem::MaybeUninit::zeroed();
    let swizzle = if swizzled {
        sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
    } else {
        sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE
    };
    // SAFETY: three dimensions and two strides behind valid pointers.
    let r = unsafe {
        sys::cuTensorMapEncodeTiled(
            m.as_mut_ptr(),
            ty,
            3,
            address as *mut c_void,
            [dims[0], dims[1], 1].as_ptr(),
            [dims[0] * bytes; 2].as_ptr(),
            [tile[0], tile[1], 1].as_ptr(),
            [1; 3].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    assert_eq!(r, sys::CUresult::CUDA_SUCCESS);
    // SAFETY: all bytes were zeroed.
    unsafe { m.assume_init() }
}

/// A stage: A, B, and 1024 bytes of barriers, scales and the record. Six of them, and what lies behind.
const STAGE: u32 = 33_792;
const STAGES: u32 = 6;
const SMEM: u32 = STAGES * STAGE + 16;

/// D and the words of the status.
fn run(l: &Lease, broken: bool) -> (Vec<f32>, Vec<u32>) {
    let s = &l.stream;
    let a = s.clone_htod(&vec![0x38u8; (M * K) as usize]).unwrap();
    let b = s.clone_htod(&vec![0x38u8; (N * K) as usize]).unwrap();
    let sfa = s.clone_htod(&vec![1f32; (M * K / 128) as usize]).unwrap();
    let sfb = s.clone_htod(&vec![1f32; (K / 128) as usize]).unwrap();
    let mut status = s.clone_htod(&[0u32; 16]).unwrap();
    let mut d = s.clone_htod(&vec![-7f32; (M * N) as usize]).unwrap();
    let u8s = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8;
    let f32s = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    {
        let to = d.device_ptr_mut(s).0;
        let mut p = Params {
            maps: [
                map(u8s, 1, a.device_ptr(s).0, [K, M], [128, 128], true),
                map(u8s, 1, b.device_ptr(s).0, [K, N], [128, 128], true),
                // Half of a stage's scales of A never come.
                map(
                    f32s,
                    4,
                    sfa.device_ptr(s).0,
                    [M, K / 128],
                    [if broken { 64 } else { 128 }, 1],
                    false,
                ),
                map(f32s, 4, to, [N, M], [32, 64], true),
            ],
            sfb: sfb.device_ptr(s).0,
            sfb_group: 0,
            status: status.device_ptr_mut(s).0,
            d_data: to,
            ld_d: N,
            unused: [0; 14],
            m: M as u32,
            n: N as u32,
            k: K as u32,
            ld_sfb: (K / 128) as u32,
            groups: 1,
            rows: 0,
            flags: 0,
            out: 2,
            n_units: 1,
            walk: 1,
            ring: 0,
            stage: STAGE,
            stages: STAGES,
            extra: STAGES * STAGE,
            a_rows: M as u32,
            alpha: 1.0,
            clamp: f32::INFINITY,
            sfa_pitch: 4,
            zero: [0; 3],
            deadline_ns: DEADLINE,
        };
        let unit = hadal::build_info().kernel("sm90_fp8_gemm_1d2d_128");
        let text = CString::new(unit.expect("the unit").ptx()).expect("no NUL");
        let name = CString::new("sm90_fp8_gemm_1d2d_128x128").expect("no NUL");
        // SAFETY: whole PTX; the parameter is the kernel's; all memory outlives the synchronisation below.
        unsafe {
            let module = result::module::load_data(text.as_ptr().cast()).expect("a module");
            let f = result::module::get_function(module, name).expect("the kernel");
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(f, attribute, SMEM as i32)
                .expect("shared memory");
            let mut arguments = [std::ptr::from_mut(&mut p).cast::<c_void>()];
            result::launch_kernel(
                f,
                (1, 1, 1),
                (384, 1, 1),
                SMEM,
                s.cu_stream(),
                &mut arguments,
            )
            .expect("a launch");
        }
    }
    s.synchronize()
        .unwrap_or_else(|e| panic!("{e:?} {:?}", l.reports()));
    (s.clone_dtoh(&d).unwrap(), s.clone_dtoh(&status).unwrap())
}

#[test]
fn a_load_that_never_lands_is_reported() {
    let l = lease(&Knobs {
        on_deadlock: OnDeadlock::AdvanceTime,
        ..Knobs::default()
    });
    if !l.emulated() {
        println!("skipped: the broken kernel runs on the emulator alone");
        return;
    }
    let (d, words) = run(&l, true);
    // Code 1 (time-out), kernel 1, place 1 (a stage's loads never completed), block 0, waited, limit.
    assert_eq!(words[..4], [1, 1, 1, 0]);
    assert!(u64::from(words[4]) >= DEADLINE && words[5] == 0);
    assert_eq!(words[6..8], [DEADLINE as u32, 0]);
    assert_eq!(words[8..], [0; 8]);
    assert!(d.iter().all(|v| *v == -7.0), "something was stored");
    assert!(l.reports().is_empty(), "{:?}", l.reports());
    // The device goes on: the whole kernel, likewise launched, is right.
    let (d, words) = run(&l, false);
    assert_eq!(words, [0; 16]);
    assert!(d.iter().all(|v| *v == K as f32));
}
