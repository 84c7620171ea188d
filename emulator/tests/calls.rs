//! Calls of device functions, as compilers write them and by hand. Cost: a second.

mod common;

use common::{Arg, Device, device};
use cudarc::driver::DevicePtrMut;
use hadal_emulator::client::Knobs;

const HEAD: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

fn kernel(functions: &str, body: &str) -> String {
    format!(
        "{HEAD}{functions}\n.visible .entry k(.param .u64 out)\n{{\n.reg .pred %p<4>;\n.reg .b32 %r<20>;\n.reg .b64 %rd<8>;\n\
         mov.u32 %r0, %tid.x;\n{body}\nld.param.u64 %rd0, [out];\nmul.wide.u32 %rd1, %r0, 4;\nadd.s64 %rd0, %rd0, %rd1;\n\
         st.global.u32 [%rd0], %r9;\nret;\n}}\n"
    )
}

fn run(text: &str) -> Vec<u32> {
    let d: Device = device(&Knobs::default());
    let m = d.load(text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    let mut out = d.stream.alloc_zeros::<u32>(64).unwrap();
    let p = out.device_ptr_mut(&d.stream).0;
    let r = d.launch(m, "k", [1, 1, 1], [64, 1, 1], 0, &[Arg::U64(p)]);
    assert!(r.is_ok(), "{r:?} {}", d.report());
    d.stream.clone_dtoh(&out).unwrap()
}

/// Parameters through `.param` space, two calls in one kernel, a function that calls another, an early return.
#[test]
fn as_compilers_write_them() {
    let functions = "
.func (.param .b32 func_retval0) half(.param .b32 half_param_0);
.func (.param .b32 func_retval0) collatz(.param .b32 collatz_param_0)
{
    .reg .pred %p<3>;
    .reg .b32 %r<6>;
    ld.param.u32 %r1, [collatz_param_0];
    and.b32 %r2, %r1, 1;
    setp.eq.u32 %p1, %r2, 0;
    @%p1 bra $L_even;
    mad.lo.u32 %r3, %r1, 3, 1;
    st.param.b32 [func_retval0+0], %r3;
    ret;
$L_even:
    {
    .param .b32 param0;
    st.param.b32 [param0+0], %r1;
    .param .b32 retval0;
    call.uni (retval0), half, (param0);
    ld.param.b32 %r4, [retval0+0];
    }
    st.param.b32 [func_retval0+0], %r4;
    ret;
}
.func (.param .b32 func_retval0) half(.param .b32 half_param_0)
{
    .reg .b32 %r<4>;
    ld.param.u32 %r1, [half_param_0];
    shr.u32 %r2, %r1, 1;
    st.param.b32 [func_retval0+0], %r2;
    ret;
}";
    let call = |to: &str, from: &str| {
        format!(
            "{{\n.param .b32 param0;\nst.param.b32 [param0+0], {from};\n.param .b32 retval0;\n\
             call.uni (retval0), collatz, (param0);\nld.param.b32 {to}, [retval0+0];\n}}\n"
        )
    };
    let got = run(&kernel(
        functions,
        &(call("%r8", "%r0") + &call("%r9", "%r8")),
    ));
    let step = |v: u32| {
        if v.is_multiple_of(2) {
            v / 2
        } else {
            3 * v + 1
        }
    };
    for (t, g) in got.iter().enumerate() {
        assert_eq!(*g, step(step(t as u32)), "thread {t}");
    }
}

/// A structure by value, and a pointer into local memory.
#[test]
fn structures_and_pointers() {
    let functions = "
.func (.param .align 8 .b8 func_retval0[16]) turn(.param .align 8 .b8 turn_param_0[16], .param .b64 turn_param_1)
{
    .reg .b64 %rd<6>;
    .reg .b32 %r<3>;
    ld.param.u64 %rd1, [turn_param_0];
    ld.param.u64 %rd2, [turn_param_0+8];
    ld.param.u64 %rd3, [turn_param_1];
    st.u32 [%rd3], 77;
    st.param.b64 [func_retval0+0], %rd2;
    st.param.b64 [func_retval0+8], %rd1;
    ret;
}";
    let body = "
.local .align 8 .b8 depot[8];
mov.u64 %rd2, depot;
cvta.local.u64 %rd2, %rd2;
cvt.u64.u32 %rd3, %r0;
mov.b64 %rd4, 1000;
{
.param .align 8 .b8 param0[16];
st.param.b64 [param0+0], %rd3;
st.param.b64 [param0+8], %rd4;
.param .b64 param1;
st.param.b64 [param1+0], %rd2;
.param .align 8 .b8 retval0[16];
call.uni (retval0), turn, (param0, param1);
ld.param.b64 %rd5, [retval0+0];
ld.param.b64 %rd6, [retval0+8];
}
sub.s64 %rd5, %rd5, %rd6;
cvt.u32.u64 %r9, %rd5;
ld.local.u32 %r8, [depot];
add.u32 %r9, %r9, %r8;";
    for (t, g) in run(&kernel(functions, body)).iter().enumerate() {
        assert_eq!(*g, 1000 - t as u32 + 77, "thread {t}");
    }
}

/// Register parameters, immediates, a guarded call, and a function that some lanes leave early.
#[test]
fn by_hand() {
    let functions = "
.func (.reg .u32 %result) scaled(.reg .u32 %x, .reg .u32 %by)
{
    .reg .pred %small;
    mul.lo.u32 %result, %x, %by;
    setp.lt.u32 %small, %x, 10;
    @%small ret;
    add.u32 %result, %result, 5;
}";
    let body = "mov.u32 %r9, 1;\nsetp.ne.u32 %p1, %r0, 20;\n@%p1 call (%r9), scaled, (%r0, 3);";
    for (t, g) in run(&kernel(functions, body)).iter().enumerate() {
        let t = t as u32;
        let want = match t {
            20 => 1,
            0..10 => 3 * t,
            _ => 3 * t + 5,
        };
        assert_eq!(*g, want, "thread {t}");
    }
}

/// A function's shared variable is one, wherever it is called from.
#[test]
fn shared_variables_of_functions() {
    let functions = "
.func (.reg .u32 %old) swap(.reg .u32 %x)
{
    .shared .align 4 .b8 kept[256];
    .reg .b32 %a;
    .reg .b32 %t;
    mov.u32 %a, kept;
    mov.u32 %t, %tid.x;
    shl.b32 %t, %t, 2;
    add.u32 %a, %a, %t;
    atom.shared.exch.b32 %old, [%a], %x;
}";
    let first = "{ .reg .b32 %n; mov.u32 %n, 0; }\nmov.u32 %r5, 9;\n";
    let body = format!(
        "{first}call (%r8), swap, (%r5);\nadd.u32 %r6, %r0, 100;\ncall (%r9), swap, (%r6);\ncall (%r9), swap, (0);"
    );
    let d = device(&Knobs {
        checks: hadal_emulator::client::Checks::NONE,
        ..Knobs::default()
    });
    let m = d.load(&kernel(functions, &body)).unwrap();
    let mut out = d.stream.alloc_zeros::<u32>(64).unwrap();
    let p = out.device_ptr_mut(&d.stream).0;
    d.launch(m, "k", [1, 1, 1], [64, 1, 1], 0, &[Arg::U64(p)])
        .unwrap();
    for (t, g) in d.stream.clone_dtoh(&out).unwrap().iter().enumerate() {
        assert_eq!(*g, t as u32 + 100);
    }
}

#[test]
fn what_is_refused() {
    let d = device(&Knobs::default());
    let bad = |functions: &str, body: &str, word: &str| {
        let e = d.load(&kernel(functions, body)).expect_err(body);
        assert!(e.contains("INVALID_PTX") && e.contains(word), "{word}: {e}");
    };
    bad(
        ".func f(.reg .u32 %x) { ret; }",
        "call f;",
        "takes 1 arguments",
    );
    bad(".extern .func f();", "call f;", "no function with a body");
    // Nobody calls it, and it is decoded all the same.
    bad(
        ".func f() { .reg .b32 %r<2>; frobnicate.b32 %r1, %r0; ret; }",
        "mov.u32 %r9, 0;",
        "frobnicate",
    );
}
