use super::*;
use crate::machine::program::Program;
use crate::ptx::parse;

const TEXT: &str = r"
.version 8.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 p)
{
.reg .pred %p<4>;
.reg .b32 %r<8>;
.reg .b64 %rd<8>;
.reg .f32 %f<4>;
.shared .align 1024 .b8 buf[1024];
.shared .align 8 .b8 bar[8];
    mov.u32 %r1, bar;
    mov.u32 %r2, 0;
    ld.param.u64 %rd0, [p];
    mbarrier.init.shared::cta.b64 [%r1], 2;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 256;
LOOP:
    mbarrier.try_wait.parity.shared::cta.b64 %p0, [%r1], %r2;
    @!%p0 bra LOOP;
    xor.b32 %r2, %r2, 1;
    xor.b32 %r4, %r1, 1;
    bar.sync 1, 64;
    bar.warp.sync 0xffffffff;
    ld.acquire.sys.global.u32 %r3, [%rd0];
    st.volatile.global.u32 [%rd0], %r3;
    st.relaxed.gpu.global.u32 [%rd0], %r3;
    atom.global.add.u32 %r3, [%rd0], 1;
    red.release.gpu.global.add.u32 [%rd0], 1;
    fence.acq_rel.gpu;
    membar.sys;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0, %f1, %f2, %f3}, %rd1, %rd2, 1, 1, 1, 0, 0;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    ret;
}
";

#[test]
fn sites_by_operator() {
    let all = sites(&parse(TEXT).expect("legal"), TEXT);
    let count = |o: &str| all.iter().filter(|s| s.operator == o).count();
    for (operator, n) in [
        ("fence-delete", 4),
        ("fence-scope", 2),
        ("wait-delete", 3),
        ("wait-count", 2),
        ("wait-read", 1),
        ("arrive-delete", 1),
        ("arrive-count", 2),
        ("expect-tx", 2),
        ("barrier-delete", 5),
        ("barrier-count", 2),
        ("commit-delete", 2),
        ("access-scope", 4),
        ("access-order", 3),
        ("access-weak", 2),
        ("descriptor-swizzle", 2),
        ("phase-flip", 1),
        ("phase-stuck", 1),
    ] {
        assert_eq!(count(operator), n, "{operator}: {all:#?}");
    }
    assert_eq!(
        all.iter().map(|s| s.ordinal).filter(|o| *o == 0).count(),
        operators::NAMES.len()
    );
    let wait = all
        .iter()
        .find(|s| s.operator == "phase-stuck")
        .expect("one");
    assert_eq!(
        TEXT.lines().nth(wait.line as usize - 1).map(str::trim),
        Some("xor.b32 %r2, %r2, 1;")
    );
}

/// Each mutant is one that the loader takes, and is another program.
#[test]
fn every_mutant_is_legal() {
    let module = parse(TEXT).expect("legal");
    for s in sites(&module, TEXT) {
        let mut m = module.clone();
        let spec = Spec::parse(&s.spec()).expect("a mutant");
        assert!(apply(&mut m, TEXT, &spec), "{s:?}");
        if let Err(e) = Program::load(&m) {
            panic!("{s:?}: {e}");
        }
        let (old, new) = (&module.functions[0], &m.functions[0]);
        let body = |f: &crate::ptx::ast::Function| format!("{:?}", f.body);
        assert_ne!(body(old), body(new), "{s:?}");
        // Labels still stand before the same instructions.
        let target = |f: &crate::ptx::ast::Function| f.body[f.labels[0].target as usize].span;
        if s.change.contains("removed") || s.operator != "wait-delete" {
            assert_eq!(target(old), target(new), "{s:?}");
        }
    }
}

#[test]
fn what_is_no_mutant() {
    for bad in ["k", "k:fence-delete", "k:fence-delete:x", "k:luck:0", ""] {
        assert!(Spec::parse(bad).is_err(), "{bad}");
    }
    let mut m = parse(TEXT).expect("legal");
    for none in [
        "k:fence-delete:4",
        "q:fence-delete:0",
        "k@00000000:fence-delete:0",
    ] {
        assert!(
            !apply(&mut m, TEXT, &Spec::parse(none).expect("a mutant")),
            "{none}"
        );
    }
    let named = format!("k@{}:fence-delete:3", hash(TEXT));
    assert!(apply(&mut m, TEXT, &Spec::parse(&named).expect("a mutant")));
    assert_eq!(hash(""), "cbf29ce4", "FNV-1a's offset basis");
}
