//! The DeepSeek-V3 checkpoint format: `NAME.weight` F8_E4M3 [n, k] and `NAME.weight_scale_inv` F32 [⌈n/128⌉, ⌈k/128⌉] in
//! safetensors files, in shards listed by `model.safetensors.index.json`.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use hadal::fp8::E4M3;
use half::{bf16, f16};
use memmap2::Mmap;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::Failure;
use crate::activations::normal;

/// The tensor that [`write_seeded`] writes.
pub const SEEDED: &str = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight";

/// A folder that goes away with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn named(name: &str) -> Result<Self, Failure> {
        let p = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&p)?;
        Ok(Self(p))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes a layer with normal weights under the name of DeepSeek-V3's `kv_a_proj_with_mqa`, which is 576 x 7168: latent 512
/// and rope 64, from the hidden size.
pub fn write_seeded(folder: &Path, (n, k): (usize, usize), seed: u64) -> Result<PathBuf, Failure> {
    let mut r = ChaCha8Rng::seed_from_u64(seed);
    let w: Vec<f32> = (0..n * k).map(|_| 0.02 * normal(&mut r)).collect();
    let q = hadal::reference::quant::blocks(&w, n, k)?;
    let scales: &[u8] = bytemuck::cast_slice(&q.scales);
    let codes: &[u8] = bytemuck::cast_slice(&q.codes);
    let shape = vec![n.div_ceil(128), k.div_ceil(128)];
    let tensors = [
        (
            SEEDED.to_string(),
            TensorView::new(Dtype::F8_E4M3, vec![n, k], codes)?,
        ),
        (
            format!("{SEEDED}_scale_inv"),
            TensorView::new(Dtype::F32, shape, scales)?,
        ),
    ];
    let file = "model-00001-of-00001.safetensors";
    safetensors::serialize_to_file(tensors, None, &folder.join(file))?;
    let map: HashMap<_, _> = [
        (SEEDED.to_string(), file),
        (format!("{SEEDED}_scale_inv"), file),
    ]
    .into();
    let index = serde_json::json!({ "metadata": { "total_size": codes.len() + scales.len() }, "weight_map": map });
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        serde_json::to_string_pretty(&index)?,
    )?;
    Ok(folder.to_path_buf())
}

/// Values of a weight.
pub enum Weight<'a> {
    Fp8 { codes: &'a [E4M3], scales: Vec<f32> },
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    F32(Vec<f32>),
}

/// A weight and its shape.
pub struct Linear<'a> {
    pub n: usize,
    pub k: usize,
    pub data: Weight<'a>,
}

/// The mapped files that hold a tensor and its scales.
pub struct Checkpoint {
    name: String,
    weight: (PathBuf, Mmap),
    /// None where the index names no scales.
    scales: Option<(PathBuf, Mmap)>,
}

fn map(path: &Path) -> Result<Mmap, Failure> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    // SAFETY: the file is only read here. Should another program change it meanwhile, values change and nothing else does:
    // all that is read is plain numbers, copied before use.
    Ok(unsafe { Mmap::map(&file)? })
}

/// Finds the files of `name` (with or without `.weight`).
pub fn open(path: &Path, name: &str) -> Result<Checkpoint, Failure> {
    let name = if name.ends_with(".weight") {
        name.to_string()
    } else {
        format!("{name}.weight")
    };
    let scale_name = format!("{name}_scale_inv");
    let index = path.join("model.safetensors.index.json");
    let (weight, scales) = if path.is_file() {
        (path.to_path_buf(), Some(path.to_path_buf()))
    } else if index.is_file() {
        let text = std::fs::read_to_string(&index)?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", index.display()))?;
        let shard = |t: &str| -> Result<Option<PathBuf>, Failure> {
            let Some(file) = json["weight_map"][t].as_str() else {
                return Ok(None);
            };
            // The index is data: it may not name files elsewhere.
            if Path::new(file)
                .components()
                .any(|c| !matches!(c, std::path::Component::Normal(_)))
            {
                return Err(format!(
                    "{}: {t} lies in {file:?}, which is not a file of this folder",
                    index.display()
                )
                .into());
            }
            Ok(Some(path.join(file)))
        };
        let weight =
            shard(&name)?.ok_or_else(|| format!("{} names no tensor {name}", index.display()))?;
        (weight, shard(&scale_name)?)
    } else {
        let one = path.join("model.safetensors");
        if !one.is_file() {
            return Err(format!("{} is no file and holds neither model.safetensors.index.json nor model.safetensors", path.display()).into());
        }
        (one.clone(), Some(one))
    };
    let scales = scales.map(|p| map(&p).map(|m| (p, m))).transpose()?;
    Ok(Checkpoint {
        name,
        weight: (weight.clone(), map(&weight)?),
        scales,
    })
}

fn tensor<'a>((path, bytes): &'a (PathBuf, Mmap), name: &str) -> Result<TensorView<'a>, Failure> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    file.tensor(name)
        .map_err(|e| format!("{}: {name}: {e}", path.display()).into())
}

/// Little-endian numbers; tensors in a file are aligned to nothing.
fn numbers<T: bytemuck::AnyBitPattern>(t: &TensorView<'_>) -> Vec<T> {
    t.data()
        .chunks_exact(size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
        .collect()
}

impl Checkpoint {
    pub fn describe(&self) -> String {
        format!("{} from {}", self.name, self.weight.0.display())
    }

    /// The weight, its codes still in the mapped file.
    pub fn weight(&self) -> Result<Linear<'_>, Failure> {
        let w = tensor(&self.weight, &self.name)?;
        let &[n, k] = w.shape() else {
            return Err(format!(
                "{}: has shape {:?}, a linear layer has two dimensions",
                self.name,
                w.shape()
            )
            .into());
        };
        let data = match w.dtype() {
            Dtype::F8_E4M3 => {
                let name = format!("{}_scale_inv", self.name);
                let at = self
                    .scales
                    .as_ref()
                    .ok_or_else(|| format!("the checkpoint's index names no {name}"))?;
                let s = tensor(at, &name)?;
                let shape = [n.div_ceil(128), k.div_ceil(128)];
                if s.dtype() != Dtype::F32 || s.shape() != shape {
                    return Err(format!(
                        "{name}: is {:?} {:?}, expected F32 {shape:?}",
                        s.dtype(),
                        s.shape()
                    )
                    .into());
                }
                Weight::Fp8 {
                    codes: bytemuck::cast_slice(w.data()),
                    scales: numbers(&s),
                }
            }
            Dtype::BF16 => Weight::Bf16(
                numbers::<u16>(&w)
                    .into_iter()
                    .map(bf16::from_bits)
                    .collect(),
            ),
            Dtype::F16 => Weight::F16(numbers::<u16>(&w).into_iter().map(f16::from_bits).collect()),
            Dtype::F32 => Weight::F32(numbers(&w)),
            other => {
                return Err(format!(
                    "{}: element type {other:?} is not one of F8_E4M3, BF16, F16, F32",
                    self.name
                )
                .into());
            }
        };
        Ok(Linear { n, k, data })
    }
}
