//! The decoder against a list of instruction forms that ptxas was asked about (`corpus/forms.txt`, written by
//! `corpus/forms.py`): what ptxas takes for a target and version is taken, what it refuses is refused, and each form is
//! refused one version or one target below its least. Cost: 2 s.

use hadal_emulator::machine::program::Program;
use hadal_emulator::ptx;

const LIST: &str = include_str!("corpus/forms.txt");
const VERSIONS: [&str; 19] = [
    "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "8.0", "8.1", "8.2", "8.3",
    "8.4", "8.5", "8.6", "8.7", "8.8", "9.0",
];
const TARGETS: [&str; 4] = ["sm_80", "sm_89", "sm_90", "sm_90a"];

/// Forms that ptxas takes and the emulator leaves out: a part of the form, a word of the refusal.
const LEFT_OUT: &[(&str, &str)] = &[
    (".oob.", "left out"),
    ("%reserved_smem_offset", "reserved_smem_offset"),
    ("mov.v4.u32", "%tid"),
    ("istypep", "unknown instruction"),
    ("tex.1d", "unknown instruction"),
];

/// Mnemonics whose forms are not held against the list: their qualifiers are checked more loosely than ptxas does, and
/// vectors, 128 bits and narrow floats of atomics are refused.
const LOOSE: [&str; 7] = ["ld", "ldu", "st", "atom", "red", "fence", "prefetch"];

fn take(target: &str, version: &str, form: &str) -> Result<(), String> {
    let q = if form.contains("%q") {
        ".reg .b128 %q<8>;\n"
    } else {
        ""
    };
    let text = format!(
        ".version {version}\n.target {target}\n.address_size 64\n.global .align 16 .b32 gv[4];\n.const .align 16 .b32 cv[4];\n\
         .func ff() {{ ret; }}\n.func (.reg .b32 %o) fr(.reg .b32 %i) {{ mov.b32 %o, %i; ret; }}\n\
         .visible .entry k(.param .align 16 .b8 kp[64])\n{{\n.reg .pred %p<20>;\n.reg .b8 %b<8>;\n.reg .b16 %h<20>;\n\
         .reg .b32 %r<20>;\n.reg .b64 %l<20>;\n{q}T: .branchtargets L;\n{form}\nL: ret;\n}}\n"
    );
    let module = ptx::parse(&text).map_err(|e| e.to_string())?;
    Program::load(&module)
        .map(|_| ())
        .map_err(|e| e.to_string())
}

/// What a form needs (target, version; one of them), and the form.
fn forms() -> impl Iterator<Item = (Vec<(&'static str, &'static str)>, &'static str)> {
    let lines = LIST.lines().filter(|l| !l.starts_with('#'));
    let forms = lines.map(|l| {
        let (needs, form) = l.split_once(' ').expect("needs and a form");
        let needs = needs.split(',').filter_map(|n| n.split_once(':'));
        (needs.collect(), form)
    });
    forms.filter(|(_, form): &(Vec<_>, &str)| {
        let mnemonic = form.split(['.', ' ', ';']).next().unwrap_or_default();
        !LOOSE.contains(&mnemonic)
    })
}

/// Prints every form that fails; fails when there are any.
fn none(what: &str, failures: Vec<String>) {
    for f in &failures {
        println!("{f}");
    }
    assert!(failures.is_empty(), "{} forms {what}", failures.len());
}

#[test]
fn what_ptxas_takes_is_taken() {
    let mut bad = Vec::new();
    for (needs, form) in forms() {
        for (target, version) in needs {
            let left_out = LEFT_OUT.iter().find(|(start, _)| form.contains(start));
            match (take(target, version, form), left_out) {
                (Ok(()), None) => {}
                (Err(e), Some((_, word))) if e.contains(word) => {}
                (Err(e), _) => bad.push(format!("{form} {e}")),
                (Ok(()), Some(_)) => bad.push(format!("{form} is taken and listed as left out")),
            }
        }
    }
    none("are refused that ptxas takes", bad);
}

#[test]
fn what_ptxas_refuses_is_refused() {
    let taken = forms()
        .filter(|(needs, form)| needs.is_empty() && take("sm_90a", "9.0", form).is_ok())
        .map(|f| f.1.to_string());
    none("are taken that ptxas refuses", taken.collect());
}

#[test]
fn forms_have_their_least_target_and_version() {
    let mut bad = Vec::new();
    for (needs, form) in forms() {
        for (k, (target, version)) in needs.iter().enumerate() {
            let below = |list: &[&'static str], x: &str| {
                let i = list.iter().position(|v| *v == x).expect("one of the list");
                i.checked_sub(1).map(|i| list[i])
            };
            if let Some(lower) = below(&TARGETS, target)
                && k == 0
                && take(lower, "9.0", form).is_ok()
            {
                bad.push(format!("{form} on {lower}"));
            }
            // Below these the target itself is not known.
            let least = match *target {
                "sm_80" => "7.0",
                "sm_90a" => "8.0",
                _ => "7.8",
            };
            if *version != least
                && let Some(lower) = below(&VERSIONS, version)
                && take(target, lower, form).is_ok()
            {
                bad.push(format!("{form} in {lower}"));
            }
        }
    }
    none("are taken too early", bad);
}

/// ptxas takes qualifiers in any order, and so does the decoder.
#[test]
fn qualifiers_stand_in_any_order() {
    for form in [
        "add.s32.sat %r0, %r1, %r2;",
        "fma.f32.rn.ftz %r0, %r1, %r2, %r3;",
        "ld.u32.global.relaxed.gpu %r0, [%l1];",
        "setp.s32.lt %p0, %r1, %r2;",
        "cvt.s32.rzi.f32 %r0, %r1;",
        "atom.global.gpu.acq_rel.add.f32 %r0, [%l1], %r2;",
        "atom.u32.add.global %r0, [%l1], %r2;",
        "shfl.idx.sync.b32 %r0, %r1, %r2, %r3, %r4;",
        "ld.global.v2.L1::no_allocate.u32 {%r0, %r1}, [%l1];",
        "red.gpu.global.relaxed.add.u32 [%l1], %r2;",
        "set.f32.eq.s32 %r0, %r1, %r2;",
    ] {
        assert_eq!(take("sm_90", "8.3", form), Ok(()), "{form}");
    }
    for form in [
        "mul.u32.lo %r0, %r1, %r2;",
        "add.rn.rn.f32 %r0, %r1, %r2;",
        "ld.global.global.u32 %r0, [%l1];",
    ] {
        assert!(take("sm_90", "8.3", form).is_err(), "{form}");
    }
}
