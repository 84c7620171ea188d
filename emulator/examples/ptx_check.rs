//! Parses and decodes PTX files: `cargo run -p hadal-emulator --example ptx_check -- FILE…`.

fn main() {
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        match hadal_emulator::ptx::parse(&text) {
            Err(e) => println!("{path}: {e}"),
            Ok(m) => {
                let n: usize = m.functions.iter().map(|f| f.body.len()).sum();
                println!("{path}: {} functions, {n} instructions", m.functions.len());
                if let Err(e) = hadal_emulator::machine::program::Program::load(&m) {
                    println!("{path}: {e}");
                }
            }
        }
    }
}
