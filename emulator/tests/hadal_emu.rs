//! `hadal-emu run`: a program that knows nothing of the emulator. Cost: a second.

use std::process::Command;

fn emu(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_hadal-emu"))
        .args(arguments)
        .output()
        .expect("the binary")
}

const PROGRAM: &str = r"
import ctypes
cuda = ctypes.CDLL('libcuda.so.1')
n, name = ctypes.c_int(), ctypes.create_string_buffer(100)
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGetCount(ctypes.byref(n)) == 0
assert cuda.cuDeviceGetName(name, 100, 0) == 0
print(n.value, name.value.decode())
";

#[test]
fn a_stranger_finds_the_driver() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3");
        return;
    }
    let out = emu(&["run", "--devices", "3", "--", "python3", "-c", PROGRAM]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(text.starts_with("3 NVIDIA H100"), "{text}");
}

#[test]
fn bad_settings_are_refused() {
    let program = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))";
    let out = emu(&[
        "run",
        "--",
        "env",
        "HADAL_EMU_KNOBS={\"devices\":true}",
        "python3",
        "-c",
        program,
    ]);
    if out.status.success() {
        assert_eq!(
            String::from_utf8_lossy(&out.stdout).trim(),
            "1",
            "CUDA_ERROR_INVALID_VALUE"
        );
    } else {
        println!("skipped: {}", String::from_utf8_lossy(&out.stderr));
    }
    assert_eq!(
        emu(&["run", "--async", "sometimes", "--", "true"])
            .status
            .code(),
        Some(2)
    );
    assert_eq!(emu(&["run"]).status.code(), Some(2));
}

#[test]
fn the_exit_status_passes_through() {
    assert_eq!(
        emu(&["run", "--", "sh", "-c", "exit 7"]).status.code(),
        Some(7)
    );
    assert_eq!(
        emu(&["run", "--", "sh", "-c", "kill -9 $$"]).status.code(),
        Some(137)
    );
    assert_eq!(
        emu(&["run", "--", "/no/such/program"]).status.code(),
        Some(125)
    );
    let out = emu(&["run", "--", "sh", "-c", "echo ${LD_LIBRARY_PATH%%:*}"]);
    let folder = String::from_utf8_lossy(&out.stdout).trim().to_string();
    assert!(
        folder.contains("hadal-emu-") && !std::path::Path::new(&folder).exists(),
        "{folder}"
    );
}

const PTX: &str = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n\
    ld.param.u64 %rd0, [p];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd1, %r0, 4;\nadd.s64 %rd0, %rd0, %rd1;\nst.global.u32 [%rd0], %r0;\nret;\n}\n";

/// Launches the kernel of `argv[1]` on one block of 32 threads (`two`: 64), with 4 bytes for each or, given `wild`, a bad address.
const LAUNCHER: &str = r"
import ctypes, sys
cuda = ctypes.CDLL('libcuda.so.1')
def ok(r): assert r == 0, r
ctx, mod, f, p = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64(4096)
n = 64 if 'two' in sys.argv else 32
ok(cuda.cuInit(0))
ok(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(ctx), 0))
ok(cuda.cuCtxSetCurrent(ctx))
ok(cuda.cuModuleLoadData(ctypes.byref(mod), open(sys.argv[1], 'rb').read() + b'\0'))
ok(cuda.cuModuleGetFunction(ctypes.byref(f), mod, b'k'))
if 'wild' not in sys.argv: ok(cuda.cuMemAlloc_v2(ctypes.byref(p), 4 * n))
args = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(p), ctypes.c_void_p))
for _ in range(2): cuda.cuLaunchKernel(f, 1, 1, 1, n, 1, 1, 0, None, args, None)
ok(cuda.cuCtxSynchronize())
";

/// A file of this test that goes away at the end.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("hadal-emu-test-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a name")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn counters_and_findings_are_shown() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3");
        return;
    }
    let (ptx, json) = (File::new("a.ptx", PTX), File::new("a.json", ""));
    let run = |options: &[&str], more: &[&str]| {
        let tail = [&["--", "python3", "-c", LAUNCHER, ptx.path()], more].concat();
        let out = emu(&[&["run"], options, &tail[..]].concat());
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        (out.status.success(), text)
    };
    let (good, text) = run(&["--counters", "--counters-json", json.path()], &[]);
    assert!(good, "{text}");
    assert!(
        text.starts_with("hadal-emu: 2 x k on device 0: grid [1, 1, 1]"),
        "{text}"
    );
    assert!(
        text.contains("2 requests, 4.00 sectors each, 0 excess sectors"),
        "{text}"
    );
    let lines = std::fs::read_to_string(json.path()).expect("the file");
    assert_eq!(lines.lines().count(), 2);
    let one: hadal_emulator::client::Launched =
        serde_json::from_str(lines.lines().next().expect("one")).expect("a launch");
    assert_eq!(one.counters.global.store.bytes, 128);

    let (good, text) = run(&["--print"], &["wild"]);
    assert!(
        !good && text.contains("error[bounds]") && text.contains("st.global.u32"),
        "{text}"
    );
    // A module for a device that is not there.
    let old = run(&["--set", "compute_capability=8.0"], &[]);
    assert!(!old.0 && old.1.contains("AssertionError: 209"), "{}", old.1);
    assert!(run(&["--no-check", "all"], &[]).0);
    for bad in [
        ["--no-check", "luck"],
        ["--set", "luck=1"],
        ["--set", "seed=many"],
        ["--set", "seed"],
    ] {
        let (good, text) = run(&bad, &[]);
        assert!(!good && text.starts_with("hadal-emu: --"), "{text}");
    }
}

#[test]
fn ptx_is_checked_and_listed() {
    let good = File::new("b.ptx", PTX);
    let bad = File::new(
        "c.ptx",
        &PTX.replace("mov.u32", "mov.u31")
            .replace("add.s64", "add.luck"),
    );
    let out = emu(&["check", good.path()]);
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stdout).contains("1 kernels, 7 instructions, sm_90"));
    let out = emu(&["check", bad.path()]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(
        text.contains(":9:1: `mov.u31`") && text.contains(":11:1: `add.luck`"),
        "{text}"
    );
    assert_eq!(emu(&["check", "/no/such/file"]).status.code(), Some(125));
    let out = emu(&["list", good.path()]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("     4      12  st.global.u32"), "{text}");
    assert_eq!(emu(&["list", good.path(), "none"]).status.code(), Some(125));
    let text = String::from_utf8_lossy(&emu(&["info"]).stdout).into_owned();
    assert!(text.contains("\"race_shared\": true"), "{text}");
}

/// A barrier that is needed, one that is not, and one that never runs.
#[test]
fn mutants_are_caught_or_survive() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3");
        return;
    }
    let text = PTX.replace(".reg .b32", ".reg .pred %p<2>;\n.shared .align 4 .b8 buf[256];\n.reg .b32").replace(
        "st.global",
        "shl.b32 %r1, %r0, 2;\nmov.u32 %r2, buf;\nadd.u32 %r1, %r1, %r2;\nst.shared.u32 [%r1], %r0;\nbar.sync 0;\nxor.b32 %r1, %r1, 128;\n\
         ld.shared.u32 %r0, [%r1];\nbar.sync 0;\nsetp.gt.u32 %p0, %r0, 1000;\n@!%p0 bra END;\nbar.sync 0;\nEND:\nst.global",
    );
    let ptx = File::new("d.ptx", &text);
    let proofs = File::new("proofs.md", "| key | why |\n|---|---|\n");
    let json = File::new("d.json", "");
    let mutate = |options: &[&str]| {
        let program = env!("CARGO_BIN_EXE_hadal-emu");
        let tail = [
            "--",
            program,
            "run",
            "--",
            "python3",
            "-c",
            LAUNCHER,
            ptx.path(),
            "two",
        ];
        let out = emu(&[
            &["mutate", "--proofs", proofs.path(), "--json", json.path()],
            options,
            &tail,
        ]
        .concat());
        let all = [out.stdout, out.stderr].concat();
        (
            out.status.code(),
            String::from_utf8_lossy(&all).into_owned(),
        )
    };
    let (code, text) = mutate(&[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("caught 1 of 2 (50.0 %), 0 equivalent by proof, 1 sites not reached"),
        "{text}"
    );
    assert!(
        text.contains("| uninitialised | 1 |") && text.contains("| `k:barrier-delete:1` | "),
        "{text}"
    );
    let list: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json.0).expect("a file")).expect("JSON");
    assert_eq!(
        (&list[0]["verdict"], &list[1]["verdict"]),
        (&"caught".into(), &"survivor".into())
    );
    std::fs::write(
        &proofs.0,
        "| `k*:barrier-delete:1` | nothing follows that shares memory |\n",
    )
    .expect("a file");
    let (code, text) = mutate(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("caught 1 of 1 (100.0 %), 1 equivalent by proof"),
        "{text}"
    );
    let out = emu(&["mutate", "--list", ptx.path()]);
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 3);
    assert_eq!(emu(&["mutate", "--", "false"]).status.code(), Some(125));
    assert_eq!(
        emu(&["mutate", "--", "true"]).status.code(),
        Some(125),
        "nothing is launched"
    );
}
