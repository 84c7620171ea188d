//! Which forms are legal: what ptxas 13.0 says of each, against what the decoder says. Cost: seconds.
//!
//! `data/ptx_forms.txt` is written by `conformance/forms.py`, which asks ptxas. A form that ptxas takes and we do not must be
//! refused by a message that names what is not supported; `REFUSED` lists those families.

use hadal_emulator::machine::program::Program;

/// Legal forms that are refused: a part of the form, a part of the message.
const REFUSED: &[(&str, &str)] = &[
    // ptxas takes it; the PTX ISA gives it no meaning.
    ("cp.async.wait_group -1", "takes a constant"),
];

fn module(target: &str, form: &str) -> String {
    format!(
        ".version 8.8\n.target {target}\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .global .align 128 .b8 gmem[256];\n.visible .entry k(.param .align 64 .b8 map[128]) {{\n\
         .reg .pred p<4>; .reg .b16 h<8>; .reg .b32 r<160>; .reg .f32 f<160>; .reg .b64 d<32>; .reg .f64 e<32>;\n\
         .reg .b128 q<4>; .reg .u32 u<8>; .reg .s32 s<8>; .reg .f16x2 x<8>;\n{form}\nret;\n}}\n"
    )
}

fn verdict(target: &str, form: &str) -> Result<(), String> {
    let m = hadal_emulator::ptx::parse(&module(target, form)).map_err(|e| e.to_string())?;
    Program::load(&m).map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn the_decoder_agrees_with_ptxas() {
    let (mut both, mut neither, mut refused, mut wrong) = (0, 0, 0, Vec::new());
    for line in include_str!("data/ptx_forms.txt").lines() {
        if line.starts_with('#') {
            continue;
        }
        let mut parts = line.splitn(3, ' ');
        let (target, legal, form) = (
            parts.next().unwrap(),
            parts.next().unwrap() == "+",
            parts.next().unwrap(),
        );
        match (legal, verdict(target, form)) {
            (true, Ok(())) => both += 1,
            (false, Err(_)) => neither += 1,
            (true, Err(e)) => {
                let known = |(f, m): &&(&str, &str)| form.contains(*f) && e.contains(*m);
                if REFUSED.iter().any(|r| known(&r)) {
                    refused += 1;
                } else {
                    wrong.push(format!("{target} {form}\n    is legal: {e}"));
                }
            }
            (false, Ok(())) => wrong.push(format!("{target} {form}\n    is not legal")),
        }
    }
    println!("{both} taken by both, {neither} by neither, {refused} refused by name");
    assert!(
        wrong.is_empty(),
        "{} forms:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(60)].join("\n")
    );
    assert!(both > 300 && neither > 1000);
}
