//! What C++ compiles to beside plain arithmetic (`cuda/idioms.cu`), compiled by nvcc for each target with and without
//! optimisation, against the same computed on the host. Cost: 15 s, of which nvcc takes most.

mod common;

use common::{Arg, Device, device};
use cudarc::driver::{DevicePtrMut, sys};
use hadal_emulator::client::{ComputeCapability, Knobs};

/// PTX of `cuda/NAME.cu`; `None`, with the reason printed, where there is no nvcc.
fn compile(name: &str, arch: &str, options: &[&str]) -> Option<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let nvcc = std::path::PathBuf::from(root).join(".cuda/nvidia/cu13/bin/nvcc");
    if !nvcc.exists() {
        println!(
            "skipped: no {}; building the hadal crate installs it",
            nvcc.display()
        );
        return None;
    }
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let out = folder.join(format!("{name}-{arch}-{}.ptx", options.concat()));
    let run = std::process::Command::new(nvcc)
        .args(["-ptx", &format!("-arch={arch}"), "-o"])
        .arg(&out)
        .args(options)
        .arg(format!(
            "{}/tests/cuda/{name}.cu",
            env!("CARGO_MANIFEST_DIR")
        ))
        .output();
    match run {
        Ok(r) if r.status.success() => Some(std::fs::read_to_string(out).expect("nvcc wrote it")),
        Ok(r) => {
            let text = String::from_utf8_lossy(&r.stderr).into_owned();
            // The one failure that is not ours: no host compiler to preprocess with.
            assert!(text.contains("gcc") || text.contains("g++"), "{text}");
            println!("skipped: nvcc finds no host compiler: {text}");
            None
        }
        Err(e) => panic!("nvcc: {e}"),
    }
}

fn launch(d: &Device, m: sys::CUmodule, kernel: &str) -> (Vec<u32>, Result<(), sys::CUresult>) {
    let mut out = d.stream.alloc_zeros::<u32>(64).unwrap();
    let p = out.device_ptr_mut(&d.stream).0;
    let r = d.launch(m, kernel, [1, 1, 1], [64, 1, 1], 0, &[Arg::U64(p)]);
    (d.stream.clone_dtoh(&out).unwrap_or_default(), r)
}

/// Sets CU_LIMIT_STACK_SIZE.
fn stack(d: &Device, bytes: usize) {
    d.context.bind_to_thread().unwrap();
    // SAFETY: no pointers.
    let r = unsafe { sys::cuCtxSetLimit(sys::CUlimit::CU_LIMIT_STACK_SIZE, bytes) };
    assert_eq!(r, sys::CUresult::CUDA_SUCCESS);
}

fn fibonacci(n: u32) -> u32 {
    if n < 2 {
        n
    } else {
        fibonacci(n - 1) + fibonacci(n - 2)
    }
}

fn sum_down(n: u32, above: Option<&[u32; 4]>) -> u32 {
    let own = [n, n + 1, n + 2, above.map_or(7, |a| a[n as usize % 4])];
    if n == 0 {
        return own[3];
    }
    let below = sum_down(n - 1, Some(&own));
    below + own[(n + below) as usize % 4]
}

fn switches(t: u32) -> u32 {
    let v = t * 3;
    match t % 11 {
        0 => v * 5 + 1,
        1 => v ^ 77,
        2 => v << 3,
        3 => v.count_ones(),
        4 => v / 7,
        5 => v.wrapping_sub(1000),
        6 => v.reverse_bits(),
        7 => v % 13,
        8 => !v,
        9 => v.wrapping_mul(v),
        _ => 42,
    }
}

fn structures(t: u32) -> u32 {
    let turn = |(a, b, c): (u32, f64, [u16; 3]), by: u32| {
        let r: [u16; 3] = std::array::from_fn(|i| (a + i as u32) as u16);
        (u32::from(c[by as usize % 3]), b * f64::from(by), r)
    };
    let r = turn(turn((t, 1.5, [10, 20, 30]), t), 2);
    r.0 + r.1 as u32 + u32::from(r.2[1])
}

fn allocates(t: u32) -> u32 {
    let n = t % 9 + 1;
    (0..n).map(|i| (n - 1 - i) * t * (i + 1)).sum()
}

#[test]
fn nvcc_output_runs() {
    use ComputeCapability::{Cc80, Cc89, Cc90};
    let initialisers = |t: u32| {
        let k = t as usize % 2;
        let weights = [1.5f32, -0.5];
        [100 + 4 + 97, 200 + 3 + 98][k]
            + (weights[k] * 10.0 + 20.0) as u32
            + [u32::from(b'r'), u32::from(b'c')][k]
    };
    let kernels: [(&str, &dyn Fn(u32) -> u32); 10] = [
        ("recursion", &|t| fibonacci(t % 12)),
        ("frames", &|t| sum_down(t % 7, None)),
        ("mutual", &|t| u32::from(t.is_multiple_of(2))),
        ("pointers", &|t| {
            [t + 5, t * 5, (t << 8) ^ 5][t as usize % 3]
        }),
        ("virtuals", &|t| if t % 2 == 1 { t * t } else { t * 3 }),
        ("switches", &switches),
        ("structures", &structures),
        ("initialisers", &initialisers),
        ("prints", &|t| if t == 5 { 3 } else { 0 }),
        ("allocates", &allocates),
    ];
    let targets = [
        ("sm_80", Cc80),
        ("sm_89", Cc89),
        ("sm_90", Cc90),
        ("sm_80", Cc90),
    ];
    for (arch, cc) in targets {
        for options in [&[][..], &["-G"], &["-O1", "-lineinfo"]] {
            if arch != "sm_90" && options == ["-O1", "-lineinfo"] {
                continue;
            }
            let Some(text) = compile("idioms", arch, options) else {
                return;
            };
            let d = device(&Knobs {
                compute_capability: cc,
                ..Knobs::default()
            });
            let m = d
                .load(&text)
                .unwrap_or_else(|e| panic!("{arch} {options:?}: {e}"));
            stack(&d, 64 << 10);
            for (kernel, want) in &kernels {
                let (got, r) = launch(&d, m, kernel);
                assert!(
                    r.is_ok(),
                    "{arch} {options:?} {kernel}: {r:?} {}",
                    d.report()
                );
                for (t, g) in got.iter().enumerate() {
                    assert_eq!(
                        *g,
                        want(t as u32),
                        "{arch} {options:?} {kernel}: thread {t}"
                    );
                }
            }
            let printed = d.universe.output();
            let mut lines: Vec<&str> = printed.lines().collect();
            lines.sort_unstable();
            let want = [
                "1|2   |+3",
                "no arguments",
                "thread 3:  0.67 text c -5000000000 0x0000beef %",
            ];
            assert_eq!(lines, want);
            assert_eq!(d.universe.reports(), []);
            let (_, r) = launch(&d, m, "asserts");
            assert_eq!(r, Err(sys::CUresult::CUDA_ERROR_ASSERT));
            let report = d.report();
            assert_eq!(report.check, "assert");
            for word in [
                "idioms.cu",
                "asserts(unsigned int *)",
                "thread: [40,0,0]",
                "threadIdx.x < 40",
            ] {
                assert!(report.message.contains(word), "{word}: {}", report.message);
            }
        }
    }
}

/// The default stack holds some activations and not many.
#[test]
fn deep_recursion_is_a_stack_error() {
    let text = "
.version 8.0\n.target sm_80\n.address_size 64
.func (.reg .u32 %r) depth(.reg .u32 %n)
{
    .local .align 8 .b8 own[64];
    .reg .pred %p; .reg .u32 %m, %t;
    st.local.u32 [own+4], %n;
    mov.u32 %r, 0;
    setp.eq.u32 %p, %n, 0;
    @%p ret;
    sub.u32 %m, %n, 1;
    call (%t), depth, (%m);
    ld.local.u32 %m, [own+4];
    add.u32 %r, %t, %m;
}
.visible .entry k(.param .u64 out)
{
    .reg .u32 %n, %r; .reg .u64 %a, %b;
    mov.u32 %n, %tid.x;
    call (%r), depth, (%n);
    ld.param.u64 %a, [out];
    mul.wide.u32 %b, %n, 4;
    add.u64 %a, %a, %b;
    st.global.u32 [%a], %r;
}";
    let d = device(&Knobs::default());
    let m = d.load(text).unwrap();
    stack(&d, 16 << 10);
    let (got, r) = launch(&d, m, "k");
    r.unwrap();
    for (t, g) in got.iter().enumerate() {
        assert_eq!(*g as usize, t * (t + 1) / 2);
    }
    let d = device(&Knobs::default());
    let m = d.load(text).unwrap();
    let (_, r) = launch(&d, m, "k");
    assert_eq!(r, Err(sys::CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR));
    let report = d.report();
    assert!(
        report.check == "stack" && report.message.contains("CU_LIMIT_STACK_SIZE"),
        "{report}"
    );
}

fn indirect(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64
.func (.reg .u32 %r) f(.reg .u32 %x) {{ add.u32 %r, %x, 1; }}
.func (.reg .u32 %r) g(.reg .u32 %x) {{ mul.lo.u32 %r, %x, 2; }}
.func (.reg .u32 %r) h(.reg .u32 %x, .reg .u32 %y) {{ add.u32 %r, %x, %y; }}
.global .u64 table[3] = {{f, g, h}};
.visible .entry k(.param .u64 out)
{{
    .reg .u32 %n, %r, %i; .reg .u64 %a, %b, %f; .reg .pred %p<3>;
    mov.u32 %n, %tid.x;
    and.b32 %i, %n, 1;
    ld.param.u64 %a, [out];
    mul.wide.u32 %b, %n, 4;
    add.u64 %a, %a, %b;
    mul.wide.u32 %b, %i, 8;
    mov.u64 %f, table;
    add.u64 %f, %f, %b;
    ld.global.u64 %f, [%f];
    {body}
    st.global.u32 [%a], %r;
}}"
    )
}

#[test]
fn calls_through_registers_and_tables_of_branches() {
    let fg = |t: u32| if t.is_multiple_of(2) { t + 1 } else { 2 * t };
    let good: [(&str, &dyn Fn(u32) -> u32); 4] = [
        (
            "P: .callprototype (.reg .u32 _) _ (.reg .u32 _);\ncall (%r), %f, (%n), P;",
            &fg,
        ),
        ("T: .calltargets f, g;\ncall (%r), %f, (%n), T;", &fg),
        (
            "P: .callprototype (.reg .u32 _) _ (.reg .u32 _);\nmov.u32 %r, 9;\nsetp.lt.u32 %p0, %n, 7;\n@%p0 call (%r), %f, (%n), P;",
            &|t| if t < 7 { fg(t) } else { 9 },
        ),
        (
            "B: .branchtargets X, Y, Z;\nrem.u32 %i, %n, 3;\nbrx.idx %i, B;\nX: mov.u32 %r, 5;\nbra E;\nY: mov.u32 %r, 6;\nbra E;\nZ: mov.u32 %r, 7;\nE:",
            &|t| 5 + t % 3,
        ),
    ];
    for (body, want) in good {
        let d = device(&Knobs::default());
        let m = d
            .load(&indirect(body))
            .unwrap_or_else(|e| panic!("{body}: {e}"));
        let (got, r) = launch(&d, m, "k");
        assert!(r.is_ok(), "{body}: {r:?} {}", d.report());
        for (t, g) in got.iter().enumerate() {
            assert_eq!(*g, want(t as u32), "{body}: thread {t}");
        }
    }
    let bad = [
        (
            "P: .callprototype (.reg .u32 _) _ (.reg .u32 _);\nmov.u64 %f, 4096;\ncall (%r), %f, (%n), P;",
            "INVALID_PC",
            "not the address of a function",
        ),
        (
            "T: .calltargets f;\ncall (%r), %f, (%n), T;",
            "INVALID_PC",
            "none of .calltargets",
        ),
        (
            "P: .callprototype (.reg .u32 _) _ (.reg .u32 _);\nmov.u64 %f, h;\ncall (%r), %f, (%n), P;",
            "INVALID_PC",
            "not those of the prototype",
        ),
        (
            "B: .branchtargets X;\nbrx.idx %n, B;\nX: mov.u32 %r, 5;",
            "ILLEGAL_INSTRUCTION",
            "index 1 of 1",
        ),
        (
            "B: .branchtargets X, Y;\nbrx.idx.uni %i, B;\nX: Y: mov.u32 %r, 5;",
            "LAUNCH_FAILED",
            "different ways",
        ),
    ];
    for (body, code, words) in bad {
        let d = device(&Knobs::default());
        let m = d
            .load(&indirect(body))
            .unwrap_or_else(|e| panic!("{body}: {e}"));
        let (_, r) = launch(&d, m, "k");
        assert!(format!("{r:?}").contains(code), "{body}: {r:?}");
        assert!(d.report().message.contains(words), "{body}: {}", d.report());
    }
}

#[test]
fn what_is_refused() {
    let d = device(&Knobs::default());
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let refused = [
        (
            ".extern .func (.param .b64 r) malloc(.param .b64 n);\n.entry k() { .reg .u64 %a; .param .b64 p; .param .b64 r; call (r), malloc, (p); }",
            "heap",
        ),
        (
            ".extern .func other();\n.entry k() { call other; }",
            "no function with a body",
        ),
        (".entry k() { .reg .u64 %f; call %f; }", ".callprototype"),
        (".entry k() { builtin; }", "unknown instruction"),
        (".entry k() { ret.func; }", "unknown instruction"),
        (
            ".entry k() { .reg .u32 %r; brx.idx %r, L; L: ret; }",
            ".branchtargets",
        ),
    ];
    for (text, words) in refused {
        let e = d.load(&format!("{head}{text}")).expect_err(text);
        assert!(
            e.contains("INVALID_PTX") && e.contains(words),
            "{text}: {e}"
        );
    }
}
