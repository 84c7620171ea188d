//! An attention in hostile memory: everything that must not be read holds NaN, everything that must not be written a canary.

use cudarc::driver::{CudaSlice, DeviceRepr};
use hadal::device::Status;
use hadal::mla::{
    Cache, CacheFormat, DIMS, Half, LATENT, MlaDecode, MlaOptions, MlaPlan, MlaShape, MlaWorkspace,
    Outputs, PageTable, Queries, ScaleRule, Selection, Sinks, SplitRule,
};
use hadal::reference::mla::{Row, attend};
use hadal::tensor::Element;
use rand::{Rng, RngExt};

use super::{Lease, rng};

/// The largest page id that FlashMLA's tests put into unused entries of a table.
const GARBAGE: i32 = 2_147_480_000;

/// 16-bit elements in the tests.
pub trait Bits16: Half + DeviceRepr + std::fmt::Debug {
    fn from_u16(bits: u16) -> Self;
    fn bits(self) -> u16;
}
impl Bits16 for half::bf16 {
    fn from_u16(bits: u16) -> Self {
        Self::from_bits(bits)
    }
    fn bits(self) -> u16 {
        self.to_bits()
    }
}
impl Bits16 for half::f16 {
    fn from_u16(bits: u16) -> Self {
        Self::from_bits(bits)
    }
    fn bits(self) -> u16 {
        self.to_bits()
    }
}

/// Elements that caches are stored in.
pub trait Stored: DeviceRepr + Copy {
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}
impl Stored for u8 {
    fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        bytes.to_vec()
    }
}
macro_rules! stored {
    ($t:ty) => {
        impl Stored for $t {
            fn from_bytes(bytes: &[u8]) -> Vec<Self> {
                bytes
                    .chunks_exact(2)
                    .map(|b| <$t>::from_le_bytes([b[0], b[1]]))
                    .collect()
            }
        }
    };
}
stored!(half::bf16);
stored!(half::f16);

/// Canary bits: a finite number that no result here has.
const CANARY: u16 = 0x5A5A;
const CANARY_LSE: f32 = -12345.678;

/// What to run.
#[derive(Clone, Debug)]
pub struct Case {
    pub lengths: Vec<i32>,
    /// Query tokens of each request, at most.
    pub queries: usize,
    /// Query tokens of each request where they differ.
    pub ragged: Option<Vec<usize>>,
    pub heads: usize,
    pub page_size: usize,
    pub causal: bool,
    pub split: Option<SplitRule>,
    pub pairs: bool,
    pub sinks: Option<Vec<f32>>,
    /// Slots of each query token instead of pages.
    pub topk: Option<usize>,
    /// Valid slots of each token; none: all.
    pub topk_lengths: Option<Vec<i32>>,
    /// One slot in so many is -1 (0: none).
    pub holes: u32,
    pub rule: ScaleRule,
    /// Standard deviation of keys and queries.
    pub spread: f32,
    pub seed: u64,
    pub sm_limit: Option<u32>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            lengths: vec![65],
            queries: 1,
            ragged: None,
            heads: 16,
            page_size: 64,
            causal: true,
            split: None,
            pairs: true,
            sinks: None,
            topk: None,
            topk_lengths: None,
            holes: 5,
            rule: ScaleRule::Amax,
            spread: 1.0,
            seed: 1,
            sm_limit: None,
        }
    }
}

pub const SCALE: f32 = 0.0625;

/// Nearly normal: the sum of four uniforms.
pub fn normal(r: &mut impl Rng) -> f32 {
    let s: f32 = (0..4).map(|_| r.random_range(-1.0f32..1.0)).sum();
    s * 0.866
}

/// A case in host memory.
#[derive(Clone)]
pub struct Problem<F: CacheFormat> {
    pub case: Case,
    pub q: Vec<F::Query>,
    pub offsets: Vec<i32>,
    /// Bytes of the whole cache; 0xFF (NaN in every format) where nothing is.
    pub cache: Vec<u8>,
    pub pages: usize,
    pub page_stride: usize,
    pub tensor_scale: f32,
    pub table: Vec<i32>,
    pub width: usize,
    pub slots: Vec<i32>,
    /// Token of each request -> its 576 values.
    pub keys: Vec<Vec<f32>>,
}

impl<F: CacheFormat> Problem<F>
where
    F::Query: Bits16,
{
    pub fn new(case: &Case) -> Self {
        let mut r = rng(case.seed);
        let batch = case.lengths.len();
        let per: Vec<usize> = case
            .ragged
            .clone()
            .unwrap_or_else(|| vec![case.queries; batch]);
        let mut offsets = vec![0i32];
        for n in &per {
            offsets.push(offsets[offsets.len() - 1] + *n as i32);
        }
        let tokens = offsets[batch] as usize;
        let q = (0..tokens * case.heads * DIMS)
            .map(|_| F::Query::from_f32(normal(&mut r) * case.spread))
            .collect();
        let needed: Vec<usize> = case
            .lengths
            .iter()
            .map(|n| (*n as usize).div_ceil(case.page_size))
            .collect();
        let width = needed.iter().max().unwrap_or(&0) + 2;
        let pages = needed.iter().sum::<usize>() + 3;
        let page_stride = (case.page_size * F::ROW_BYTES).next_multiple_of(16) + 48;
        let tensor_scale = 0.013;
        let mut ids: Vec<i32> = (0..pages as i32).collect();
        for i in (1..ids.len()).rev() {
            ids.swap(i, r.random_range(0..=i));
        }
        let mut cache = vec![0xFFu8; pages * page_stride];
        let mut table = vec![GARBAGE; batch * width];
        let mut keys = Vec::new();
        for (b, n) in case.lengths.iter().enumerate() {
            let mut mine = Vec::with_capacity(*n as usize * DIMS);
            for t in 0..*n as usize {
                let entry = &mut table[b * width + t / case.page_size];
                if t % case.page_size == 0 {
                    *entry = ids.pop().unwrap();
                }
                let values: [f32; DIMS] = std::array::from_fn(|_| normal(&mut r) * case.spread);
                let at = *entry as usize * page_stride + t % case.page_size * F::ROW_BYTES;
                let row = &mut cache[at..][..F::ROW_BYTES];
                F::encode(&values, case.rule, tensor_scale, row).unwrap();
                mine.extend(F::decode(row, tensor_scale).unwrap());
            }
            keys.push(mine);
        }
        let mut p = Self {
            case: case.clone(),
            q,
            offsets,
            cache,
            pages,
            page_stride,
            tensor_scale,
            table,
            width,
            slots: Vec::new(),
            keys,
        };
        if let Some(topk) = case.topk {
            p.select(topk, &mut r);
        }
        p
    }

    /// Random slots of each query token among its request's tokens, with holes; beyond the token's length: garbage.
    fn select(&mut self, topk: usize, r: &mut impl Rng) {
        for b in 0..self.case.lengths.len() {
            for t in self.offsets[b]..self.offsets[b + 1] {
                let valid = self
                    .case
                    .topk_lengths
                    .as_ref()
                    .map_or(topk, |l| l[t as usize] as usize);
                for i in 0..topk {
                    let n = self.case.lengths[b];
                    let hole = self.case.holes != 0 && r.random_range(0..self.case.holes) == 0;
                    self.slots.push(if i >= valid {
                        GARBAGE
                    } else if n == 0 || hole {
                        -1
                    } else {
                        let at = r.random_range(0..n) as usize;
                        self.slot(b, at)
                    });
                }
            }
        }
    }

    /// The slot of token `t` of request `b`.
    pub fn slot(&self, b: usize, t: usize) -> i32 {
        let ps = self.case.page_size;
        self.table[b * self.width + t / ps] * ps as i32 + (t % ps) as i32
    }

    pub fn tokens(&self) -> usize {
        *self.offsets.last().unwrap() as usize
    }

    pub fn shape(&self) -> MlaShape {
        let c = &self.case;
        match c.topk {
            Some(topk) => MlaShape {
                batch: self.tokens().max(1),
                queries: 1,
                heads: c.heads,
                capacity: topk,
            },
            None => MlaShape {
                batch: c.lengths.len(),
                queries: c.queries,
                heads: c.heads,
                capacity: self.width * c.page_size,
            },
        }
    }

    pub fn plan(&self, decode: &MlaDecode) -> MlaPlan<F> {
        let mut o = MlaOptions::default();
        o.split = self.case.split;
        o.causal = self.case.causal;
        o.pairs = self.case.pairs;
        o.sm_limit = self.case.sm_limit;
        decode.plan(self.shape(), SCALE, &o).expect("a plan")
    }

    /// Keys and flags of what a query token sees.
    fn view(&self, b: usize, t: usize) -> (Vec<f32>, Vec<bool>) {
        let c = &self.case;
        match c.topk {
            Some(topk) => {
                let mut keys = Vec::new();
                let mut seen = Vec::new();
                let n = c.topk_lengths.as_ref().map_or(topk, |l| l[t] as usize);
                for s in &self.slots[t * topk..][..n] {
                    seen.push(*s >= 0);
                    let ps = c.page_size as i32;
                    if *s < 0 {
                        keys.extend([0.0; DIMS]);
                        continue;
                    }
                    let row = &self.table[b * self.width..][..self.width];
                    let entry = row.iter().position(|p| *p == s / ps).unwrap();
                    let at = entry * c.page_size + (s % ps) as usize;
                    keys.extend(&self.keys[b][at * DIMS..][..DIMS]);
                }
                (keys, seen)
            }
            None => {
                let n = c.lengths[b];
                let last = self.offsets[b + 1] - 1 - t as i32;
                let limit = if c.causal { n - last } else { n };
                (self.keys[b].clone(), (0..n).map(|i| i < limit).collect())
            }
        }
    }

    /// Rows `step` apart lie within their bounds.
    pub fn verify(&self, got: &Output<F::Query>, step: usize) {
        self.verify_with(got, step, |_, _, _| {});
    }

    /// The same, with a change to what each row sees: request, keys, flags.
    pub fn verify_with(
        &self,
        got: &Output<F::Query>,
        step: usize,
        change: impl Fn(usize, &mut Vec<f32>, &mut Vec<bool>),
    ) {
        let heads = self.case.heads;
        let mut worst = 0.0f64;
        for b in 0..self.case.lengths.len() {
            for t in self.offsets[b] as usize..self.offsets[b + 1] as usize {
                let (mut keys, mut seen) = self.view(b, t);
                change(b, &mut keys, &mut seen);
                for h in (t % step..heads).step_by(step) {
                    let row = t * heads + h;
                    let q: Vec<f32> = self.q[row * DIMS..][..DIMS]
                        .iter()
                        .map(|v| v.to_f32())
                        .collect();
                    let a = attend(&Row {
                        query: &q,
                        keys: &keys,
                        seen: &seen,
                        scale: SCALE,
                        sink: self.case.sinks.as_ref().map(|s| s[h]),
                        digits: F::Query::DIGITS,
                        least: F::Query::LEAST,
                        splits: 64,
                    })
                    .unwrap();
                    let lse = f64::from(got.lse[row]);
                    assert!(
                        lse == a.lse.value || (lse - a.lse.value).abs() <= a.lse.bound,
                        "{:?} request {b} token {t} head {h}: log-sum {lse}, expected {} within {:e}",
                        self.case,
                        a.lse.value,
                        a.lse.bound
                    );
                    for (j, e) in a.out.iter().enumerate() {
                        let o = f64::from(got.out[row * LATENT + j].to_f32());
                        let bound = e.rounded(F::Query::DIGITS, F::Query::LEAST);
                        assert!(
                            (o - e.value).abs() <= bound,
                            "{:?} request {b} token {t} head {h} column {j}: {o} is {:e} from {}, the bound is {bound:e}",
                            self.case,
                            (o - e.value).abs(),
                            e.value
                        );
                        worst = worst.max((o - e.value).abs() / bound.max(1e-300));
                    }
                }
            }
        }
        if std::env::var_os("HADAL_VERBOSE").is_some() {
            println!("largest error {worst:.3} of its bound");
        }
    }
}

/// Results in host memory.
#[derive(Clone, PartialEq, Debug)]
pub struct Output<T> {
    pub out: Vec<T>,
    pub lse: Vec<f32>,
}

impl<T: Bits16> Output<T> {
    pub fn bits(&self) -> (Vec<u16>, Vec<u32>) {
        (
            self.out.iter().map(|v| v.bits()).collect(),
            self.lse.iter().map(|v| v.to_bits()).collect(),
        )
    }

    /// The rows of tokens `a..b`.
    pub fn rows(&self, heads: usize, a: usize, b: usize) -> (Vec<u16>, Vec<u32>) {
        let (o, l) = self.bits();
        (
            o[a * heads * LATENT..b * heads * LATENT].to_vec(),
            l[a * heads..b * heads].to_vec(),
        )
    }
}

/// Operands on the device.
pub struct Loaded<F: CacheFormat> {
    pub q: CudaSlice<F::Query>,
    pub cache: CudaSlice<F::Storage>,
    pub scale: CudaSlice<f32>,
    pub table: CudaSlice<i32>,
    pub lengths: CudaSlice<i32>,
    pub offsets: CudaSlice<i32>,
    pub slots: CudaSlice<i32>,
    pub topk_lengths: CudaSlice<i32>,
    pub sinks: CudaSlice<f32>,
    pub out: CudaSlice<F::Query>,
    pub lse: CudaSlice<f32>,
}

impl<F: CacheFormat> Loaded<F>
where
    F::Query: Bits16,
    F::Storage: Stored,
{
    pub fn new(l: &Lease, p: &Problem<F>) -> Self {
        let s = &l.stream;
        let rows = p.tokens() * p.case.heads;
        let some = |v: &[i32]| {
            s.clone_htod(if v.is_empty() { &[0][..] } else { v })
                .expect("integers")
        };
        // A row of NaN behind the last query.
        let mut q = p.q.clone();
        q.extend([F::Query::from_u16(0x7FFF); DIMS]);
        Self {
            q: s.clone_htod(&q).expect("q"),
            cache: s
                .clone_htod(&F::Storage::from_bytes(&p.cache))
                .expect("cache"),
            scale: s.clone_htod(&[p.tensor_scale]).expect("scale"),
            table: some(&p.table),
            lengths: some(&p.case.lengths),
            offsets: some(&p.offsets),
            slots: some(&p.slots),
            topk_lengths: some(p.case.topk_lengths.as_deref().unwrap_or(&[])),
            sinks: s
                .clone_htod(p.case.sinks.as_deref().unwrap_or(&[0.0]))
                .expect("sinks"),
            out: s
                .clone_htod(&vec![F::Query::from_u16(CANARY); (rows + 1) * LATENT])
                .expect("out"),
            lse: s.clone_htod(&vec![CANARY_LSE; rows + 4]).expect("lse"),
        }
    }

    pub fn launch(
        &mut self,
        l: &Lease,
        p: &Problem<F>,
        plan: &MlaPlan<F>,
        workspace: &mut MlaWorkspace,
        status: &mut Status,
    ) {
        let s = &l.stream;
        let (tokens, heads) = (p.tokens(), p.case.heads);
        let q = Queries::new(s, &self.q, tokens, heads).expect("q");
        let scale = F::TENSOR_SCALE.then_some(&self.scale);
        let cache = Cache::<F>::new(
            s,
            &self.cache,
            scale,
            p.pages,
            p.case.page_size,
            Some(p.page_stride as u64),
        )
        .expect("cache");
        let sinks = p
            .case
            .sinks
            .is_some()
            .then(|| Sinks::new(s, &self.sinks, heads).expect("sinks"));
        let mut out = Outputs::new(s, &mut self.out, &mut self.lse, tokens, heads).expect("out");
        match p.case.topk {
            Some(topk) => {
                let lengths = p.case.topk_lengths.is_some().then_some(&self.topk_lengths);
                let t = Selection::new(s, &self.slots, lengths, (tokens, topk), topk);
                plan.run_selected(
                    s,
                    &q,
                    &cache,
                    &t.expect("slots"),
                    sinks.as_ref(),
                    &mut out,
                    workspace,
                    status,
                )
                .expect("a launch");
            }
            None => {
                let batch = p.case.lengths.len();
                let mut t =
                    PageTable::new(s, &self.table, &self.lengths, (batch, p.width), p.width)
                        .expect("table");
                if p.case.ragged.is_some() {
                    t = t.with_offsets(s, &self.offsets).expect("offsets");
                }
                plan.run(
                    s,
                    &q,
                    &cache,
                    &t,
                    sinks.as_ref(),
                    &mut out,
                    workspace,
                    status,
                )
                .expect("a launch");
            }
        }
    }

    /// Results, after a look at what lies behind them.
    pub fn results(&self, l: &Lease, p: &Problem<F>) -> Output<F::Query> {
        let rows = p.tokens() * p.case.heads;
        let mut out = l.stream.clone_dtoh(&self.out).expect("out");
        let mut lse = l.stream.clone_dtoh(&self.lse).expect("lse");
        assert!(out[rows * LATENT..].iter().all(|v| v.bits() == CANARY));
        assert!(lse[rows..].iter().all(|v| *v == CANARY_LSE));
        out.truncate(rows * LATENT);
        lse.truncate(rows);
        Output { out, lse }
    }
}

/// Plans, runs in hostile memory, checks the status.
pub fn run<F: CacheFormat>(l: &Lease, p: &Problem<F>) -> Output<F::Query>
where
    F::Query: Bits16,
    F::Storage: Stored,
{
    let decode = MlaDecode::new(&l.device).expect("kernels");
    run_with(l, p, &decode)
}

/// The same with loaded kernels.
pub fn run_with<F: CacheFormat>(l: &Lease, p: &Problem<F>, decode: &MlaDecode) -> Output<F::Query>
where
    F::Query: Bits16,
    F::Storage: Stored,
{
    let plan = p.plan(decode);
    let mut workspace = MlaWorkspace::new(&l.stream, &plan).expect("a workspace");
    let mut status = Status::new(&l.stream).expect("a status");
    let mut d = Loaded::new(l, p);
    d.launch(l, p, &plan, &mut workspace, &mut status);
    if let Err(e) = status.check(&l.stream) {
        let found: Vec<_> = l.reports().iter().map(ToString::to_string).collect();
        panic!("{:?}: {e}\n{}", p.case, found.join("\n"));
    }
    d.results(l, p)
}

/// Runs and verifies.
pub fn check<F: CacheFormat>(l: &Lease, case: &Case) -> Output<F::Query>
where
    F::Query: Bits16,
    F::Storage: Stored,
{
    let p = Problem::<F>::new(case);
    let o = run(l, &p);
    p.verify(&o, 1 + case.heads / 8);
    o
}
