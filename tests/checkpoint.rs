//! The example's reader of DeepSeek-V3 checkpoints: what it takes, and the errors it gives. A second.

#[path = "../examples/fp8_linear/activations.rs"]
#[allow(dead_code)] // one function of it is used
mod activations;
#[path = "../examples/fp8_linear/checkpoint.rs"]
#[allow(dead_code)]
mod checkpoint;

use std::path::Path;

use checkpoint::{SEEDED, Scratch, Weight, open, write_seeded};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn scratch(name: &str) -> Scratch {
    Scratch::named(&format!(
        "hadal-test-checkpoint-{name}-{}",
        std::process::id()
    ))
    .unwrap()
}

fn write(file: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(n, t, s, b)| (n.to_string(), TensorView::new(*t, s.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, file).unwrap();
}

#[test]
fn the_seeded_checkpoint_reads_back() {
    let s = scratch("seeded");
    let folder = write_seeded(s.path(), (144, 272), 5).unwrap();
    let c = open(&folder, SEEDED).unwrap();
    let w = c.weight().unwrap();
    assert_eq!((w.n, w.k), (144, 272));
    let Weight::Fp8 { codes, scales } = w.data else {
        panic!("not FP8")
    };
    assert_eq!((codes.len(), scales.len()), (144 * 272, 2 * 3));
    // Each block uses its scale to the full.
    assert_eq!(
        codes.iter().map(|c| c.to_f32().abs()).fold(0.0, f32::max),
        448.0
    );
    // The name without `.weight` and the file itself do as well.
    assert!(
        open(
            &folder.join("model-00001-of-00001.safetensors"),
            SEEDED.trim_end_matches(".weight")
        )
        .unwrap()
        .weight()
        .is_ok()
    );
}

#[test]
fn shards_and_other_types() {
    let s = scratch("shards");
    let p = s.path();
    write(
        &p.join("a.safetensors"),
        &[("x.weight", Dtype::F8_E4M3, vec![8, 16], vec![0x38; 128])],
    );
    write(
        &p.join("b.safetensors"),
        &[(
            "x.weight_scale_inv",
            Dtype::F32,
            vec![1, 1],
            0.5f32.to_le_bytes().to_vec(),
        )],
    );
    let map = r#"{"weight_map": {"x.weight": "a.safetensors", "x.weight_scale_inv": "b.safetensors", "up.weight": "../a.safetensors"}}"#;
    std::fs::write(p.join("model.safetensors.index.json"), map).unwrap();
    let c = open(p, "x").unwrap();
    assert!(matches!(c.weight().unwrap().data, Weight::Fp8 { scales, .. } if scales == [0.5]));
    let e = open(p, "up").err().unwrap().to_string();
    assert!(e.contains("not a file of this folder"), "{e}");
    let e = open(p, "absent").err().unwrap().to_string();
    assert!(e.contains("names no tensor absent.weight"), "{e}");

    let s = scratch("bf16");
    let bytes: Vec<u8> = (0..128)
        .flat_map(|i| bf16::from_f32(i as f32).to_le_bytes())
        .collect();
    write(
        &s.path().join("model.safetensors"),
        &[("x.weight", Dtype::BF16, vec![8, 16], bytes)],
    );
    let c = open(s.path(), "x.weight").unwrap();
    assert!(matches!(c.weight().unwrap().data, Weight::Bf16(v) if v[127] == bf16::from_f32(127.0)));
}

#[test]
fn errors_name_what_is_wrong() {
    let s = scratch("errors");
    let file = s.path().join("model.safetensors");
    let message = |tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]| {
        write(&file, tensors);
        open(&file, "x")
            .and_then(|c| c.weight().map(|_| ()))
            .err()
            .unwrap()
            .to_string()
    };
    let codes = || ("x.weight", Dtype::F8_E4M3, vec![8, 16], vec![0; 128]);
    let e = message(&[codes()]);
    assert!(e.contains("x.weight_scale_inv"), "{e}");
    let e = message(&[
        codes(),
        ("x.weight_scale_inv", Dtype::F32, vec![2], vec![0; 8]),
    ]);
    assert!(e.contains("expected F32 [1, 1]"), "{e}");
    let e = message(&[("x.weight", Dtype::I64, vec![2, 2], vec![0; 32])]);
    assert!(e.contains("I64 is not one of"), "{e}");
    let e = message(&[("x.weight", Dtype::F32, vec![4], vec![0; 16])]);
    assert!(e.contains("two dimensions"), "{e}");
    std::fs::write(&file, b"not a checkpoint").unwrap();
    assert!(
        open(&file, "x")
            .and_then(|c| c.weight().map(|_| ()))
            .is_err()
    );
    assert!(open(&s.path().join("nowhere"), "x").is_err());
}
