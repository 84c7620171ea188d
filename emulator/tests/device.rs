//! The device profile: what devices of each compute capability say of themselves, which modules they take, and how far
//! launches may go. Cost: a second.

mod common;

use common::device;
use cudarc::driver::{result, sys};
use hadal_emulator::client::{ComputeCapability, Knobs};

const ALL: [(ComputeCapability, &str, u32, u32); 3] = [
    (ComputeCapability::Cc80, "A100", 108, 163),
    (ComputeCapability::Cc89, "L40S", 142, 99),
    (ComputeCapability::Cc90, "H100", 132, 227),
];

fn text(target: &str) -> String {
    format!(
        ".version 8.0\n.target {target}\n.address_size 64\n.visible .entry k() {{\n.reg .b32 %r<2>;\n\
         mov.u32 %r1, %nsmid;\nret;\n}}\n"
    )
}

#[test]
fn devices_say_what_they_are() {
    for (cc, name, sms, shared) in ALL {
        let d = device(&Knobs {
            compute_capability: cc,
            ..Knobs::default()
        });
        assert!(d.context.name().unwrap().contains(name));
        let a = |x| d.context.attribute(x).unwrap() as u32;
        use sys::CUdevice_attribute::*;
        assert_eq!(a(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), sms);
        assert_eq!(
            a(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
            shared << 10
        );
        let version = (
            a(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            a(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        );
        assert_eq!(version, cc.version());
    }
}

#[test]
fn modules_run_on_their_target_and_newer() {
    use ComputeCapability::*;
    let takes = [
        ("sm_75", Cc80, true),
        ("sm_80", Cc80, true),
        ("sm_86", Cc80, false),
        ("sm_89", Cc80, false),
        ("sm_80", Cc89, true),
        ("sm_89", Cc89, true),
        ("sm_90", Cc89, false),
        ("sm_80", Cc90, true),
        ("sm_90a", Cc90, true),
        ("sm_90a", Cc89, false),
        ("sm_100", Cc90, false),
    ];
    for (target, cc, want) in takes {
        let d = device(&Knobs {
            compute_capability: cc,
            ..Knobs::default()
        });
        match d.load(&text(target)) {
            Ok(_) => assert!(want, "{target} on {cc}"),
            Err(e) => assert!(
                !want && e.contains("NO_BINARY_FOR_GPU") && e.contains(target),
                "{e}"
            ),
        }
    }
}

#[test]
fn launches_stay_within_the_device() {
    for (cc, _, _, shared) in ALL {
        let d = device(&Knobs {
            compute_capability: cc,
            ..Knobs::default()
        });
        let m = d.load(&text("sm_80")).unwrap();
        let run = |bytes| d.launch(m, "k", [1, 1, 1], [32, 1, 1], bytes, &[]);
        run(shared << 10).unwrap();
        assert_eq!(
            run((shared << 10) + 1),
            Err(sys::CUresult::CUDA_ERROR_INVALID_VALUE)
        );
        // SAFETY: the module is loaded and has this kernel.
        let f = unsafe { result::module::get_function(m, c"k".into()) }.unwrap();
        let mut blocks = 0;
        // SAFETY: a place for the answer, a live function.
        let r = unsafe { sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, f, 32, 0) };
        assert_eq!(r, sys::CUresult::CUDA_SUCCESS);
        assert_eq!(
            blocks,
            if cc == ComputeCapability::Cc89 {
                24
            } else {
                32
            }
        );
    }
}
