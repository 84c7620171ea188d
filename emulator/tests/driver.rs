//! The driver's behaviour as cudarc sees it. Cost: seconds.

mod common;

use common::{Arg, device};
use cudarc::driver::{DevicePtr, DevicePtrMut, result, sys};
use hadal_emulator::client::Knobs;

const SAXPY: &str = r"
.version 8.0
.target sm_90
.address_size 64
.visible .entry saxpy(.param .u64 y, .param .u64 x, .param .f32 a, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .f32 %f<5>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [y];
    ld.param.u64 %rd2, [x];
    ld.param.f32 %f1, [a];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f2, [%rd5];
    ld.global.f32 %f3, [%rd4];
    fma.rn.f32 %f4, %f2, %f1, %f3;
    st.global.f32 [%rd4], %f4;
DONE:
    ret;
}
";

#[test]
fn a_kernel_runs_and_its_result_comes_back() {
    let d = device(&Knobs::default());
    let m = d.load(SAXPY).unwrap();
    let n = 1000usize;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let dx = d.stream.clone_htod(&x).unwrap();
    let mut dy = d.stream.alloc_zeros::<f32>(n).unwrap();
    let (px, py) = (dx.device_ptr(&d.stream).0, dy.device_ptr_mut(&d.stream).0);
    d.launch(
        m,
        "saxpy",
        [8, 1, 1],
        [128, 1, 1],
        0,
        &[
            Arg::U64(py),
            Arg::U64(px),
            Arg::F32(2.0),
            Arg::U32(n as u32),
        ],
    )
    .unwrap();
    let y = d.stream.clone_dtoh(&dy).unwrap();
    assert!(y.iter().enumerate().all(|(i, v)| *v == 2.0 * i as f32));
    assert_eq!(d.universe.totals().blocks, 8);
}

#[test]
fn a_bad_address_is_reported_with_its_place_and_sticks() {
    let d = device(&Knobs::default());
    let m = d.load(SAXPY).unwrap();
    let dx = d.stream.clone_htod(&[1f32; 100]).unwrap();
    let px = dx.device_ptr(&d.stream).0;
    // y is 100 floats, n says 101.
    let dy = d.stream.clone_htod(&[1f32; 100]).unwrap();
    let py = dy.device_ptr(&d.stream).0;
    let e = d.launch(
        m,
        "saxpy",
        [1, 1, 1],
        [128, 1, 1],
        0,
        &[Arg::U64(py), Arg::U64(px), Arg::F32(1.0), Arg::U32(101)],
    );
    assert_eq!(e.unwrap_err(), sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let r = d.report();
    assert_eq!(
        (r.check.as_str(), r.kernel.as_str(), r.instruction.as_str()),
        ("bounds", "saxpy", "ld.global.f32")
    );
    assert_eq!(
        (r.line, r.warp, r.lanes, r.thread),
        (24, 3, 1 << 4, [100, 0, 0])
    );
    assert!(d.stream.clone_htod(&[1f32]).is_err(), "the error sticks");
    // Another universe is not concerned.
    let other = device(&Knobs::default());
    assert!(other.stream.clone_htod(&[1f32]).is_ok());
}

#[test]
fn unwritten_memory_is_noticed_and_can_be_ignored() {
    let run = |knobs: &Knobs| {
        let d = device(knobs);
        let m = d.load(SAXPY).unwrap();
        // SAFETY: that nobody writes it is what this test is about.
        let dx = unsafe { d.stream.alloc::<f32>(32) }.unwrap();
        let dy = d.stream.clone_htod(&[1f32; 32]).unwrap();
        let (px, py) = (dx.device_ptr(&d.stream).0, dy.device_ptr(&d.stream).0);
        let r = d.launch(
            m,
            "saxpy",
            [1, 1, 1],
            [32, 1, 1],
            0,
            &[Arg::U64(py), Arg::U64(px), Arg::F32(1.0), Arg::U32(32)],
        );
        (r.is_ok(), d.universe.reports())
    };
    let (ok, reports) = run(&Knobs::default());
    assert!(!ok);
    assert_eq!(reports[0].check, "uninitialised");
    let mut k = Knobs::default();
    k.checks.uninitialised_global = false;
    assert!(run(&k).0);
}

#[test]
fn unknown_text_is_refused_with_its_line() {
    let d = device(&Knobs::default());
    let e = d
        .load(&SAXPY.replace("fma.rn.f32", "fma.rn.sparkly.f32"))
        .unwrap_err();
    assert!(
        e.contains("CUDA_ERROR_INVALID_PTX") && e.contains("ptx:26:") && e.contains("sparkly"),
        "{e}"
    );
    let e = d
        .load(&SAXPY.replace(".version 8.0", ".version 99.0"))
        .unwrap_err();
    assert!(e.contains("UNSUPPORTED_PTX_VERSION"), "{e}");
    let e = d.load(&SAXPY.replace("sm_90", "sm_100a")).unwrap_err();
    assert!(e.contains("NO_BINARY_FOR_GPU"), "{e}");
    let e = d.load(&SAXPY.replace("%f4, %f2", "%f4, %f9")).unwrap_err();
    assert!(e.contains("`%f9` is not declared"), "{e}");
}

#[test]
fn functions_by_name() {
    let d = device(&Knobs::default());
    d.context.bind_to_thread().unwrap();
    let find = |name: &std::ffi::CStr, version: i32| {
        let (mut p, mut status) = (
            std::ptr::null_mut(),
            sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS,
        );
        // SAFETY: a name and places for the answers.
        let r = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut p, version, 0, &mut status) };
        (r, !p.is_null(), status as u32)
    };
    assert_eq!(
        find(c"cuMemAlloc", 12000),
        (sys::CUresult::CUDA_SUCCESS, true, 0)
    );
    assert_eq!(
        find(c"cuLaunchKernelEx", 12000),
        (sys::CUresult::CUDA_SUCCESS, true, 0)
    );
    assert_eq!(
        find(c"cuTensorMapEncodeTiled", 12000),
        (sys::CUresult::CUDA_SUCCESS, true, 0)
    );
    let (r, found, status) = find(c"cuNoSuchFunction", 12000);
    assert!(
        r == sys::CUresult::CUDA_ERROR_NOT_FOUND && !found && status == 1,
        "{r:?} {status}"
    );
    let mut table = std::ptr::null();
    let id = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: as above.
    let r = unsafe { sys::cuGetExportTable(&mut table, &id) };
    assert!(
        r != sys::CUresult::CUDA_SUCCESS && table.is_null(),
        "private tables are refused: {r:?}"
    );
}

#[test]
fn devices_by_the_hundred() {
    for i in 0..300u32 {
        let d = device(&Knobs::default());
        let x = d.stream.clone_htod(&[i; 1000]).unwrap();
        assert_eq!(d.stream.clone_dtoh(&x).unwrap()[999], i);
    }
}

#[test]
fn memory_is_what_the_card_has() {
    let d = device(&Knobs::default());
    // SAFETY: never read.
    let big = unsafe { d.stream.alloc::<u8>(70 << 30) }.unwrap();
    // SAFETY: never read.
    let more = unsafe { d.stream.alloc::<u8>(20 << 30) };
    assert_eq!(
        more.err().map(|e| e.0),
        Some(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)
    );
    drop(big);
    // SAFETY: never read.
    assert!(unsafe { d.stream.alloc::<u8>(20 << 30) }.is_ok());
}

#[test]
fn machine_code_is_refused_as_for_another_architecture() {
    let d = device(&Knobs::default());
    d.context.bind_to_thread().unwrap();
    let mut elf = vec![0u8; 4096];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[18..20].copy_from_slice(&190u16.to_le_bytes());
    // SAFETY: longer than any header that is read.
    let r = unsafe { result::module::load_data(elf.as_ptr().cast()) };
    assert_eq!(
        r.err().map(|e| e.0),
        Some(sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU)
    );
}
