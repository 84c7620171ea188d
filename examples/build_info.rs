//! Prints what the build put into the crate; with a folder as argument, writes the machine code and PTX of each unit there.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let info = hadal::build_info();
    println!("hadal {}, {}", info.version, info.compiler);
    println!(
        "{:<40} {:>8} {:>9} {:>8} {:>6} {:>6}",
        "entry", "arch", "registers", "static", "stack", "spills"
    );
    for k in info.kernels {
        for e in k.entries {
            println!(
                "{:<40} {:>8} {:>9} {:>8} {:>6} {:>6}",
                e.name,
                k.arch,
                e.registers,
                e.static_shared,
                e.stack,
                e.spill_stores + e.spill_loads
            );
        }
    }
    if let Some(folder) = std::env::args_os().nth(1).map(std::path::PathBuf::from) {
        std::fs::create_dir_all(&folder)?;
        for k in info.kernels {
            std::fs::write(folder.join(format!("{}.cubin", k.name)), k.cubin())?;
            std::fs::write(folder.join(format!("{}.ptx", k.name)), k.ptx())?;
        }
    }
    Ok(())
}
