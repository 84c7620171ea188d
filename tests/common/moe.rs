//! A whole round trip of the all-to-all against the reference, in hostile memory: every rank a thread with a device.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use hadal::device::{Device, Status};
use hadal::error::MoeError;
use hadal::fp8::E4M3;
use hadal::moe::{
    Addends, Channel, CombineMode, ExpertRows, Group, GroupConfig, Payload, Picks, Rendezvous,
    Rows, SendPath,
};
use hadal::reference;
use hadal::reference::moe::{Added, Origin};
use hadal::tensor::{Fp8Out, Matrix, MatrixMut, ScaleLayout};
use half::bf16;
use rand::RngExt;

use super::*;

pub const PATIENCE: Duration = Duration::from_secs(120);

/// One rank's devices and stream.
pub struct Rank {
    pub rank: usize,
    pub device: Device,
    pub stream: Arc<CudaStream>,
}

/// Ranks on devices of their own, or, on a machine with fewer GPUs, several on one.
pub struct Ranks {
    pub ranks: Vec<Rank>,
    pub universe: Option<hadal_emulator::client::Universe>,
    #[allow(dead_code)] // held for its drop
    limit: Limit,
}

pub fn ranks(n: usize, knobs: &Knobs) -> Ranks {
    let limit = Limit::new(if full() { 3600 } else { 300 });
    let (universe, ordinals) = match driver().expect("a driver") {
        Driver::Gpu => {
            let have = CudaContext::device_count().unwrap_or(1).max(1) as usize;
            (None, (0..n).map(|r| r % have).collect::<Vec<_>>())
        }
        Driver::Emulator(e) => {
            let u = e
                .universe(&Knobs {
                    devices: n as u32,
                    ..knobs.clone()
                })
                .unwrap();
            let o = (0..n).map(|r| u.ordinal(r as u32)).collect();
            (Some(u), o)
        }
    };
    let ranks = ordinals
        .into_iter()
        .enumerate()
        .map(|(rank, o)| {
            let context = CudaContext::new(o).unwrap();
            Rank {
                rank,
                device: Device::new(&context).unwrap(),
                stream: context.new_stream().unwrap(),
            }
        })
        .collect();
    Ranks {
        ranks,
        universe,
        limit,
    }
}

impl Ranks {
    /// Runs `f` on a thread per rank. What each gave.
    pub fn each<T: Send>(&self, f: impl Fn(&Rank) -> T + Sync) -> Vec<T> {
        std::thread::scope(|s| {
            let threads: Vec<_> = self.ranks.iter().map(|r| s.spawn(|| f(r))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    pub fn quiet(&self) {
        if let Some(u) = &self.universe {
            let r = u.reports();
            assert!(r.is_empty(), "{r:#?}");
        }
    }
}

/// A configuration with room for everything.
pub fn config(
    ranks: usize,
    experts: usize,
    top_k: usize,
    max_tokens: usize,
    payload: Payload,
    hidden: usize,
) -> GroupConfig {
    GroupConfig {
        ranks,
        experts,
        top_k,
        max_tokens,
        capacity: max_tokens,
        max_rows: ranks * max_tokens * top_k,
        payload,
        hidden,
        combine: CombineMode::Exact,
        path: SendPath::Auto,
        blocks: 3,
        channels: 2,
        deadline: Duration::from_secs(20),
        warm_up_deadline: Duration::from_secs(60),
    }
}

/// What the ranks bring to one round trip.
pub struct Round {
    pub ids: Vec<Vec<i32>>,
    pub weights: Vec<Vec<f32>>,
    /// Rows as bytes of the payload's input.
    pub rows: Vec<Vec<u8>>,
    pub shared: Vec<Vec<bf16>>,
    pub residual: Vec<Vec<bf16>>,
    pub bias: Vec<f32>,
}

/// How experts are picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Routing {
    /// Distinct experts at random, one in ten masked.
    Random,
    /// Everybody to the first experts.
    AllToOne,
    /// Nothing to the last rank.
    EmptyRank,
    /// All masked.
    Nothing,
}

pub fn round(c: &GroupConfig, tokens: &[usize], routing: Routing, seed: u64) -> Round {
    let mut r = rng(seed);
    let mut out = Round {
        ids: vec![],
        weights: vec![],
        rows: vec![],
        shared: vec![],
        residual: vec![],
        bias: vec![],
    };
    let usable = match routing {
        Routing::AllToOne => c.top_k.min(c.experts),
        Routing::EmptyRank if c.ranks > 1 => c.experts_of(c.ranks - 1).0,
        _ => c.experts,
    };
    let value = |r: &mut ChaCha8Rng| bf16::from_f32(r.random_range(-4.0f32..4.0));
    for &t in tokens {
        let mut ids = Vec::new();
        for _ in 0..t {
            let mut left: Vec<i32> = (0..usable as i32).collect();
            for _ in 0..c.top_k {
                let masked = left.is_empty()
                    || routing == Routing::Nothing
                    || (routing == Routing::Random && r.random_range(0..10) == 0);
                ids.push(if masked {
                    -1
                } else {
                    left.swap_remove(r.random_range(0..left.len()))
                });
            }
        }
        out.weights.push(
            ids.iter()
                .map(|id| {
                    if *id < 0 {
                        f32::NAN
                    } else {
                        r.random_range(0.0..1.0)
                    }
                })
                .collect(),
        );
        out.ids.push(ids);
        out.rows.push(match c.payload {
            Payload::Bytes(n) => (0..t * n).map(|_| r.random()).collect(),
            Payload::Bf16(h) | Payload::Fp8(h) => (0..t * h)
                .flat_map(|_| value(&mut r).to_le_bytes())
                .collect(),
        });
        out.shared
            .push((0..t * c.hidden).map(|_| value(&mut r)).collect());
        out.residual
            .push((0..t * c.hidden).map(|_| value(&mut r)).collect());
    }
    out.bias = (0..c.hidden)
        .map(|_| r.random_range(-1.0f32..1.0))
        .collect();
    out
}

/// The row that "the expert" makes of a token's pick: any function that all can compute.
pub fn expert_row(o: &Origin, hidden: usize) -> Vec<bf16> {
    let mut r = rng((o.rank * 1_000_003 + o.token * 101 + o.k) as u64);
    (0..hidden)
        .map(|_| bf16::from_f32(r.random_range(-2.0f32..2.0)))
        .collect()
}

fn halves(bytes: &[u8]) -> Vec<bf16> {
    bytes
        .chunks_exact(2)
        .map(|b| bf16::from_le_bytes([b[0], b[1]]))
        .collect()
}

/// Device memory of one rank's round trip.
pub struct Buffers {
    ids: CudaSlice<i32>,
    weights: CudaSlice<f32>,
    rows: CudaSlice<u8>,
    halves: CudaSlice<bf16>,
    bytes_out: CudaSlice<u8>,
    halves_out: CudaSlice<bf16>,
    codes_out: CudaSlice<E4M3>,
    scales_out: CudaSlice<f32>,
    counts: CudaSlice<i32>,
    offsets: CudaSlice<i32>,
}

const PAD: usize = 16;
const CANARY: u8 = 0xA5;

/// One round trip of one rank, every byte compared.
pub fn round_trip(
    c: &GroupConfig,
    me: &Rank,
    channel: &mut Channel,
    data: &Round,
) -> Result<(), MoeError> {
    let s = &me.stream;
    let (ids, weights) = (&data.ids[me.rank], &data.weights[me.rank]);
    let tokens = ids.len() / c.top_k;
    let up = |v: &[u8]| {
        let mut v = v.to_vec();
        v.resize(v.len() + PAD, CANARY);
        s.clone_htod(&v).unwrap()
    };
    let out_bytes = c.payload.output_bytes();
    let (is_bf16, is_fp8) = (
        matches!(c.payload, Payload::Bf16(_)),
        matches!(c.payload, Payload::Fp8(_)),
    );
    let groups = c.payload.scales();
    let ld = c.max_rows.next_multiple_of(4);
    let locals = c.experts_of(me.rank).1;
    let input = &data.rows[me.rank];
    let mut b = Buffers {
        ids: s.clone_htod(&[ids.as_slice(), &[7; 4]].concat()).unwrap(),
        weights: s
            .clone_htod(&[weights.as_slice(), &[f32::NAN; 4]].concat())
            .unwrap(),
        rows: up(input),
        halves: s
            .clone_htod(&[halves(input), vec![bf16::NAN; 8]].concat())
            .unwrap(),
        bytes_out: s
            .clone_htod(&vec![CANARY; c.max_rows * out_bytes + PAD])
            .unwrap(),
        halves_out: s
            .clone_htod(&vec![
                bf16::from_bits(0xA5A5);
                c.max_rows * out_bytes / 2 + PAD
            ])
            .unwrap(),
        codes_out: s
            .clone_htod(&vec![E4M3::from_bits(CANARY); c.max_rows * out_bytes + PAD])
            .unwrap(),
        scales_out: s.clone_htod(&vec![-77.25f32; groups * ld + 4]).unwrap(),
        counts: s.clone_htod(&vec![-77; locals + 1]).unwrap(),
        offsets: s.clone_htod(&vec![-77; locals + 2]).unwrap(),
    };
    let mut status = Status::new(s).unwrap();
    let picks = Picks::new(s, &b.ids, &b.weights, tokens, c.top_k)?;
    let rows = match c.payload {
        Payload::Bytes(n) => Rows::bytes(s, &b.rows, tokens, n, n)?,
        Payload::Bf16(h) | Payload::Fp8(h) => Rows::bf16(Matrix::new(s, &b.halves, tokens, h)?)?,
    };
    let sent = channel.dispatch(&rows, &picks, &mut status)?;
    let received = {
        let mut out = match c.payload {
            Payload::Bytes(n) => ExpertRows::bytes(
                s,
                &mut b.bytes_out,
                (c.max_rows, n, n),
                &mut b.counts,
                &mut b.offsets,
            )?,
            Payload::Bf16(h) => ExpertRows::bf16(
                s,
                MatrixMut::new(s, &mut b.halves_out, c.max_rows, h)?,
                &mut b.counts,
                &mut b.offsets,
            )?,
            Payload::Fp8(h) => {
                let codes = Fp8Out::new(
                    s,
                    &mut b.codes_out,
                    &mut b.scales_out,
                    (c.max_rows, h),
                    h,
                    ld,
                )?;
                ExpertRows::fp8(s, codes, &mut b.counts, &mut b.offsets)?
            }
        };
        sent.receive(&mut out)?
    };

    // What must be there.
    let want: Vec<Vec<Origin>> = reference::moe::dispatch(&data.ids, c.top_k, c.experts, me.rank);
    let flat: Vec<Origin> = want.iter().flatten().copied().collect();
    let counts = s.clone_dtoh(&b.counts).unwrap();
    let offsets = s.clone_dtoh(&b.offsets).unwrap();
    let mut at = 0;
    for (l, rows) in want.iter().enumerate() {
        assert_eq!(
            (counts[l], offsets[l]),
            (rows.len() as i32, at),
            "rank {} local expert {l}",
            me.rank
        );
        at += rows.len() as i32;
    }
    assert_eq!(
        (counts[locals], offsets[locals], offsets[locals + 1]),
        (-77, at, -77)
    );
    let got: Vec<u8> = if is_bf16 {
        s.clone_dtoh(&b.halves_out)
            .unwrap()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect()
    } else if is_fp8 {
        s.clone_dtoh(&b.codes_out)
            .unwrap()
            .iter()
            .map(|v| v.to_bits())
            .collect()
    } else {
        s.clone_dtoh(&b.bytes_out).unwrap()
    };
    let scales = s.clone_dtoh(&b.scales_out).unwrap();
    for (i, o) in flat.iter().enumerate() {
        let n = c.payload.input_bytes();
        let from = &data.rows[o.rank][o.token * n..][..n];
        let row = &got[i * out_bytes..][..out_bytes];
        if is_fp8 {
            let q =
                reference::quant::rows(&halves(from), 1, out_bytes, ScaleLayout::RowMajor).unwrap();
            let codes: Vec<u8> = q.codes.iter().map(|v| v.to_bits()).collect();
            assert_eq!(row, codes, "rank {} row {i} of {o:?}", me.rank);
            for g in 0..groups {
                assert_eq!(
                    scales[g * ld + i].to_bits(),
                    q.scales[g].to_bits(),
                    "rank {} scale {g} of row {i}",
                    me.rank
                );
            }
        } else {
            assert_eq!(row, from, "rank {} row {i} of {o:?}", me.rank);
        }
    }
    assert!(
        got[flat.len() * out_bytes..].iter().all(|v| *v == CANARY),
        "rows past the last are touched"
    );
    for g in 0..groups {
        assert!(
            scales[g * ld + flat.len()..][..ld - flat.len()]
                .iter()
                .all(|v| *v == -77.25)
        );
    }
    // The experts' work: NaN where there is no row.
    let mut y = vec![bf16::NAN; c.max_rows * c.hidden];
    for (i, o) in flat.iter().enumerate() {
        y[i * c.hidden..][..c.hidden].copy_from_slice(&expert_row(o, c.hidden));
    }
    let y = s.clone_htod(&y).unwrap();
    let (shared, residual) = (&data.shared[me.rank], &data.residual[me.rank]);
    let tail = vec![bf16::NAN; 8];
    let shared_on = s.clone_htod(&[shared.as_slice(), &tail].concat()).unwrap();
    let residual_on = s
        .clone_htod(&[residual.as_slice(), &tail].concat())
        .unwrap();
    let bias_on = s.clone_htod(&data.bias).unwrap();
    let mut out = s
        .clone_htod(&vec![bf16::from_bits(0xA5A5); tokens * c.hidden + 8])
        .unwrap();
    {
        let returning = received.combine(&Matrix::new(s, &y, c.max_rows, c.hidden)?)?;
        let shared = Matrix::new(s, &shared_on, tokens, c.hidden)?;
        let residual = Matrix::new(s, &residual_on, tokens, c.hidden)?;
        let bias = Matrix::new(s, &bias_on, 1, c.hidden)?;
        let add = Addends {
            shared: Some(&shared),
            residual: Some(&residual),
            bias: Some(&bias),
        };
        returning.receive(&mut MatrixMut::new(s, &mut out, tokens, c.hidden)?, &add)?;
    }
    let out = s.clone_dtoh(&out).unwrap();
    for t in 0..tokens {
        let picks: Vec<Option<Vec<bf16>>> = (0..c.top_k)
            .map(|k| {
                let id = ids[t * c.top_k + k];
                (id >= 0 && (id as usize) < c.experts).then(|| {
                    expert_row(
                        &Origin {
                            rank: me.rank,
                            token: t,
                            k,
                        },
                        c.hidden,
                    )
                })
            })
            .collect();
        let picks: Vec<Option<&[bf16]>> = picks.iter().map(Option::as_deref).collect();
        let line = t * c.hidden..(t + 1) * c.hidden;
        let add = Added {
            shared: Some(&shared[line.clone()]),
            residual: Some(&residual[line.clone()]),
            bias: Some(&data.bias),
        };
        let w = &weights[t * c.top_k..][..c.top_k];
        let want = match c.combine {
            CombineMode::Exact => reference::moe::combine(&picks, w, add, c.hidden),
            CombineMode::PreReduced => {
                let owner = |e: &i32| {
                    let has = |r: &usize| {
                        let (first, n) = c.experts_of(*r);
                        (first..first + n).contains(&(*e as usize))
                    };
                    (0..c.ranks).find(has).unwrap_or(0)
                };
                let owners: Vec<usize> = ids[t * c.top_k..][..c.top_k].iter().map(owner).collect();
                reference::moe::combine_pre_reduced(&picks, w, &owners, add, c.hidden)
            }
        };
        assert_eq!(out[line], want, "rank {} token {t}", me.rank);
    }
    assert!(
        out[tokens * c.hidden..]
            .iter()
            .all(|v| v.to_bits() == 0xA5A5)
    );
    status.check(s).map_err(|e| panic!("{e}"))
}

/// Joins, runs `rounds`, checks.
pub fn exchange(c: &GroupConfig, rounds: &[Round], knobs: &Knobs) {
    let all = ranks(c.ranks, knobs);
    let rendezvous = Rendezvous::new(c.ranks);
    all.each(|me| {
        let mut group =
            Group::join(&rendezvous, me.rank, &me.device, &me.stream, c, PATIENCE).unwrap();
        for (i, data) in rounds.iter().enumerate() {
            let n = group.channels().len();
            round_trip(c, me, &mut group.channels()[i / 2 % n], data).unwrap();
            group.check().unwrap();
        }
    });
    all.quiet();
}
