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
