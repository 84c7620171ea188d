//! The GEMM's deadline: with one of its loads taken out, no stage ever fills. The kernel has to say so through the status, end
//! by itself, write nothing, and leave the device usable. A few seconds.
//!
//! The broken kernel is the embedded PTX without one instruction, launched through cudarc's raw layer.

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
    status: u64,
    m: u32,
    n: u32,
    k: u32,
    ld_sfb: u32,
    deadline_ns: u64,
}

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
    // SAFETY: two dimensions and one stride behind valid pointers.
    let r = unsafe {
        sys::cuTensorMapEncodeTiled(
            m.as_mut_ptr(),
            ty,
            2,
            address as *mut c_void,
            dims.as_ptr(),
            [dims[0] * bytes].as_ptr(),
            tile.as_ptr(),
            [1, 1].as_ptr(),
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

/// The embedded PTX; `broken`: without the last load of each entry (the scales of A).
fn ptx(broken: bool) -> CString {
    let info = hadal::build_info();
    let text = info.kernel("sm90_fp8_gemm_1d2d").expect("the unit").ptx();
    let mut lines: Vec<&str> = text.lines().collect();
    let load = |l: &str| l.contains("cp.async.bulk.tensor.2d.shared::cluster.global");
    if broken {
        let (mut last, mut gone) = (None, 0);
        for i in 0..lines.len() {
            if load(lines[i]) {
                last = Some(i);
            }
            if lines[i].starts_with('}')
                && let Some(l) = last.take()
            {
                lines[l] = "";
                gone += 1;
            }
        }
        assert_eq!(gone, 6, "a load of each entry");
    }
    CString::new(lines.join("\n")).expect("no NUL")
}

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
        let mut p = Params {
            maps: [
                map(u8s, 1, a.device_ptr(s).0, [K, M], [128, 128], true),
                map(u8s, 1, b.device_ptr(s).0, [K, N], [128, 128], true),
                map(f32s, 4, sfa.device_ptr(s).0, [M, K / 128], [128, 1], false),
                map(f32s, 4, d.device_ptr_mut(s).0, [N, M], [32, 64], true),
            ],
            sfb: sfb.device_ptr(s).0,
            status: status.device_ptr_mut(s).0,
            m: M as u32,
            n: N as u32,
            k: K as u32,
            ld_sfb: (K / 128) as u32,
            deadline_ns: DEADLINE,
        };
        let text = ptx(broken);
        let name = CString::new("sm90_fp8_gemm_1d2d_128x128_f32").expect("no NUL");
        // SAFETY: whole PTX; the parameter is the kernel's; all memory outlives the synchronisation below.
        unsafe {
            let module = result::module::load_data(text.as_ptr().cast()).expect("a module");
            let f = result::module::get_function(module, name).expect("the kernel");
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(f, attribute, 200_832).expect("shared memory");
            let mut arguments = [std::ptr::from_mut(&mut p).cast::<c_void>()];
            result::launch_kernel(
                f,
                (1, 1, 1),
                (384, 1, 1),
                200_832,
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
