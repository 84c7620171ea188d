//! Without a driver: a typed error, no panic. In a process of its own.

use hadal::error::DeviceError;

const CHILD: &str = "HADAL_TEST_CHILD_WITHOUT_DRIVER";

#[test]
fn a_missing_driver_is_an_error() {
    if std::env::var_os(CHILD).is_some() {
        match hadal::device::probe() {
            Err(DeviceError::DriverMissing { tried, reason }) => {
                assert_eq!(tried.first().map(String::as_str), Some("libcuda.so"));
                assert!(tried.iter().any(|t| t == "libcuda.so.1"), "{tried:?}");
                assert!(
                    reason.contains("cannot open shared object file"),
                    "{reason}"
                );
                println!("child: {}", DeviceError::DriverMissing { tried, reason });
            }
            Ok(v) => println!("skipped: this machine has a driver, version {}", v.0),
            Err(e) => panic!("{e}"),
        }
        return;
    }
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_missing_driver_is_an_error", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    println!("{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success());
    assert!(text.contains("no CUDA driver") || text.contains("skipped"));
}
