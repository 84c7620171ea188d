//! Clusters: shared memory of other blocks, multicast copies, barriers, ranks. Cost: a second.

mod common;

use std::ffi::{CString, c_void};

use common::{Device, device};
use cudarc::driver::{DevicePtr, DevicePtrMut, result, sys};
use hadal_emulator::client::{AsyncMode, Knobs, Schedule};

/// Launches `k` on `grid` blocks of 64 threads in clusters of `size`.
fn launch(
    d: &Device,
    text: &str,
    grid: u32,
    size: u32,
    arguments: &mut [u64],
) -> Result<(), sys::CUresult> {
    let m = d.load(text).expect("a module");
    let name = CString::new("k").expect("no NUL");
    // SAFETY: a loaded module; the arguments are the kernel's 64-bit parameters; what they name outlives the synchronisation.
    unsafe {
        let f = result::module::get_function(m, name).map_err(|e| e.0)?;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: std::mem::zeroed(),
        };
        attribute.value.clusterDim.x = size;
        attribute.value.clusterDim.y = 1;
        attribute.value.clusterDim.z = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 64,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: d.stream.cu_stream(),
            attrs: &mut attribute,
            numAttrs: 1,
        };
        let mut pointers: Vec<*mut c_void> = arguments
            .iter_mut()
            .map(|a| std::ptr::from_mut(a).cast())
            .collect();
        sys::cuLaunchKernelEx(&config, f, pointers.as_mut_ptr(), std::ptr::null_mut())
            .result()
            .map_err(|e| e.0)?;
        result::stream::synchronize(d.stream.cu_stream()).map_err(|e| e.0)
    }
}

fn settings() -> Vec<Knobs> {
    vec![
        Knobs::default(),
        Knobs {
            async_mode: AsyncMode::Eager,
            ..Knobs::default()
        },
        Knobs {
            async_mode: AsyncMode::Random,
            schedule: Schedule::Random,
            seed: 3,
            ..Knobs::default()
        },
    ]
}

const HEAD: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n";

/// Each block writes its number into the next block's shared memory and reads what it got, directly and from the next.
#[test]
fn distributed_shared_memory() {
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 out)\n{{\n.reg .pred %p<4>;\n.reg .b32 %r<20>;\n.reg .b64 %rd<8>;\n\
         .shared .align 16 .b8 buf[256];\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, %cluster_ctarank;\nmov.u32 %r2, %cluster_nctarank;\nmov.u32 %r3, %ctaid.x;\n\
         add.u32 %r4, %r1, 1;\nrem.u32 %r4, %r4, %r2;\nmov.u32 %r5, buf;\nshl.b32 %r6, %r0, 2;\nadd.u32 %r7, %r5, %r6;\n\
         mapa.shared::cluster.u32 %r8, %r7, %r4;\nmul.lo.u32 %r9, %r3, 1000;\nadd.u32 %r9, %r9, %r0;\n\
         barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n\
         st.shared::cluster.u32 [%r8], %r9;\n\
         barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n\
         ld.shared.u32 %r10, [%r7];\nld.shared::cluster.u32 %r11, [%r8];\n\
         barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n\
         ld.param.u64 %rd0, [out];\nmad.lo.u32 %r12, %r3, 64, %r0;\nmul.wide.u32 %rd1, %r12, 8;\nadd.s64 %rd0, %rd0, %rd1;\n\
         st.global.v2.u32 [%rd0], {{%r10, %r11}};\nret;\n}}\n"
    );
    for knobs in settings() {
        for size in [1u32, 2, 4, 8] {
            let d = device(&knobs);
            let grid = 2 * size;
            let mut out = d.stream.alloc_zeros::<u32>(grid as usize * 128).unwrap();
            let r = launch(
                &d,
                &text,
                grid,
                size,
                &mut [out.device_ptr_mut(&d.stream).0],
            );
            assert!(r.is_ok(), "{size}: {r:?} {:?}", d.universe.reports());
            let got = d.stream.clone_dtoh(&out).unwrap();
            for b in 0..grid {
                let (first, rank) = (b / size * size, b % size);
                let from = first + (rank + size - 1) % size;
                for t in 0..64 {
                    let at = (b * 64 + t) as usize * 2;
                    assert_eq!(
                        got[at..at + 2],
                        [from * 1000 + t, b * 1000 + t],
                        "cluster of {size}, block {b}, thread {t}"
                    );
                }
            }
        }
    }
}

/// Block 0 of each cluster loads once for all of them; each block waits on its own mbarrier.
#[test]
fn multicast() {
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 out, .param .u64 from)\n{{\n.reg .pred %p<4>;\n.reg .b32 %r<20>;\n.reg .b16 %h<2>;\n.reg .b64 %rd<8>;\n\
         .shared .align 128 .b8 buf[256];\n.shared .align 8 .b8 bar[8];\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, %cluster_ctarank;\nmov.u32 %r3, %ctaid.x;\nmov.u32 %r5, buf;\nmov.u32 %r6, bar;\n\
         ld.param.u64 %rd2, [from];\nsetp.eq.u32 %p0, %r0, 0;\nsetp.eq.and.u32 %p1, %r1, 0, %p0;\n\
         @%p0 mbarrier.init.shared::cta.b64 [%r6], 1;\n@%p0 fence.mbarrier_init.release.cluster;\n\
         barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n\
         @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r6], 256;\n\
         mov.u16 %h0, 15;\n\
         @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r5], [%rd2], 256, [%r6], %h0;\n\
         WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r6], 0;\n@!%p2 bra WAIT;\n\
         shl.b32 %r7, %r0, 2;\nadd.u32 %r7, %r7, %r5;\nld.shared.u32 %r8, [%r7];\n\
         ld.param.u64 %rd0, [out];\nmad.lo.u32 %r12, %r3, 64, %r0;\nmul.wide.u32 %rd1, %r12, 4;\nadd.s64 %rd0, %rd0, %rd1;\n\
         st.global.u32 [%rd0], %r8;\nbarrier.cluster.arrive;\nbarrier.cluster.wait;\nret;\n}}\n"
    );
    for knobs in settings() {
        let d = device(&knobs);
        let host: Vec<u32> = (0..64).map(|i| i * i + 5).collect();
        let from = d.stream.clone_htod(&host).unwrap();
        let mut out = d.stream.alloc_zeros::<u32>(8 * 64).unwrap();
        let r = launch(
            &d,
            &text,
            8,
            4,
            &mut [
                out.device_ptr_mut(&d.stream).0,
                from.device_ptr(&d.stream).0,
            ],
        );
        assert!(r.is_ok(), "{r:?} {:?}", d.universe.reports());
        let got = d.stream.clone_dtoh(&out).unwrap();
        assert!(got.chunks(64).all(|c| c == host), "{got:?}");
        assert_eq!(d.universe.totals().bulk_load_bytes % 256, 0);
    }
}

#[test]
fn sizes_that_are_refused() {
    let d = device(&Knobs::default());
    let text = format!("{HEAD}.visible .entry k()\n{{\nret;\n}}\n");
    assert_eq!(launch(&d, &text, 8, 8, &mut []), Ok(()));
    assert!(
        launch(&d, &text, 9, 2, &mut []).is_err(),
        "a grid that is no multiple"
    );
    assert_eq!(
        launch(&d, &text, 32, 32, &mut []),
        Err(sys::CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE)
    );
}

/// A block that has ended has no shared memory any more.
#[test]
fn a_block_that_has_left() {
    let text = format!(
        "{HEAD}.visible .entry k()\n{{\n.reg .pred %p<4>;\n.reg .b32 %r<20>;\n.shared .align 16 .b8 buf[256];\n\
         mov.u32 %r1, %cluster_ctarank;\nmov.u32 %r5, buf;\nst.shared.u32 [%r5], %r1;\n\
         barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\nsetp.eq.u32 %p0, %r1, 1;\n@%p0 bra END;\n\
         mov.u32 %r9, 0;\nSPIN:\nadd.u32 %r9, %r9, 1;\nnanosleep.u32 1000;\nsetp.lt.u32 %p1, %r9, 2000;\n@%p1 bra SPIN;\n\
         mapa.shared::cluster.u32 %r8, %r5, 1;\nld.shared::cluster.u32 %r10, [%r8];\nEND:\nret;\n}}\n"
    );
    let d = device(&Knobs::default());
    let r = launch(&d, &text, 2, 2, &mut []);
    assert!(r.is_err(), "{r:?}");
    println!("{}", d.report());
}
