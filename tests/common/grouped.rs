//! Grouped GEMMs in hostile memory: rows of no group hold NaN in A and must keep a canary in D.

use hadal::device::Status;
use hadal::fp8::E4M3;
use hadal::gemm::{Fp8Gemm, GemmOptions, GroupedShape, Groups};
use hadal::tensor::{Fp8Blocks, Fp8Rows, Indices, MatrixMut, ScaleLayout};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::gemm::{Out, Problem, verify};
use super::{Lease, rng};

/// A grouped problem: rows of each group, and how they lie.
#[derive(Clone, Debug)]
pub struct Case {
    pub by: Groups,
    pub counts: Vec<usize>,
    pub n: usize,
    pub k: usize,
    /// Room of a group with counts.
    pub room: usize,
    pub by_row: bool,
    pub gather: bool,
    pub options: GemmOptions,
    pub seed: u64,
}

/// What a run needs, in host memory.
pub struct Data {
    pub problems: Vec<Problem>,
    /// Which group's row lies at each row of D; counts: of all groups' rooms.
    pub rows: Vec<Option<(usize, usize)>>,
    pub index: Vec<i32>,
    pub gather: Vec<i32>,
    pub a: Vec<E4M3>,
    pub sfa: Vec<f32>,
    pub b: Vec<E4M3>,
    pub sfb: Vec<f32>,
    /// Rows of A, of each matrix.
    pub a_rows: usize,
    /// Scales from line to line.
    pub ld_sfa: usize,
    /// Scales of a matrix.
    pub sfa_group: usize,
}

impl Case {
    pub fn groups(&self) -> usize {
        self.counts.len()
    }

    pub fn blocks(&self) -> usize {
        self.k.div_ceil(128)
    }

    pub fn layers(&self) -> usize {
        if self.by == Groups::Counts {
            self.groups()
        } else {
            1
        }
    }

    /// Rows of the operand, of each matrix.
    pub fn m(&self, d: &Data) -> usize {
        d.rows.len() / self.layers().max(1)
    }

    pub fn data(&self) -> Data {
        let mut r = rng(self.seed);
        let (n, k, g) = (self.n, self.k, self.blocks());
        let problems: Vec<Problem> = (self.counts.iter().enumerate())
            .map(|(i, m)| Problem::random(*m, n, k, self.seed * 1000 + i as u64))
            .collect();
        let mut rows = Vec::new();
        let mut index: Vec<i32> = Vec::new();
        match self.by {
            Groups::Counts => {
                for (i, m) in self.counts.iter().enumerate() {
                    rows.extend((0..self.room).map(|j| (j < *m).then_some((i, j))));
                    index.push(*m as i32);
                }
            }
            Groups::Ends => {
                for (i, m) in self.counts.iter().enumerate() {
                    rows.extend((0..*m).map(|j| Some((i, j))));
                    index.push(rows.len() as i32);
                }
                // Rows behind the last group belong to none.
                rows.extend([None; 3]);
            }
            _ => {
                let mut order: Vec<usize> = (0..self.groups()).collect();
                order.shuffle(&mut r);
                for i in order {
                    rows.extend((0..r.random_range(0..3)).map(|_| None));
                    rows.extend((0..self.counts[i]).map(|j| Some((i, j))));
                }
                rows.push(None);
                index = rows
                    .iter()
                    .map(|x| x.map_or(-1, |(i, _)| i as i32))
                    .collect();
            }
        }
        let layers = self.layers();
        let m = rows.len() / layers.max(1);
        // With the gather, rows of A lie in any order among others that nobody names.
        let (a_rows, place): (usize, Vec<usize>) = if self.gather {
            let mut p: Vec<usize> = (0..m + 5).collect();
            p.shuffle(&mut r);
            (m + 5, p[..m].to_vec())
        } else {
            (m, (0..m).collect())
        };
        let mut a = vec![E4M3::NAN; layers * a_rows * k];
        let (ld_sfa, lines) = if self.by_row {
            (g.next_multiple_of(4), a_rows)
        } else {
            (a_rows.next_multiple_of(4), g)
        };
        let sfa_group = (lines * ld_sfa).next_multiple_of(4);
        let mut sfa = vec![f32::NAN; layers * sfa_group];
        for (i, row) in rows.iter().enumerate() {
            let Some((group, j)) = *row else { continue };
            let (layer, at) = (i / m, place[i % m]);
            let p = &problems[group];
            a[(layer * a_rows + at) * k..][..k].copy_from_slice(&p.a[j * k..][..k]);
            for b in 0..g {
                let s = if self.by_row {
                    at * ld_sfa + b
                } else {
                    b * ld_sfa + at
                };
                sfa[layer * sfa_group + s] = p.sfa[b * p.shape.m + j];
            }
        }
        Data {
            index,
            gather: place.iter().map(|p| *p as i32).collect(),
            a,
            sfa,
            b: problems.iter().flat_map(|p| p.b.clone()).collect(),
            sfb: problems.iter().flat_map(|p| p.sfb.clone()).collect(),
            problems,
            rows,
            a_rows,
            ld_sfa,
            sfa_group,
        }
    }

    /// Runs on `data` and gives D [rows, n + 8] and what the status says.
    pub fn run<D: Out>(&self, l: &Lease, data: &Data) -> (Vec<D>, Result<(), String>) {
        let (n, k, m) = (self.n, self.k, self.m(data));
        let layers = self.layers();
        let s = &l.stream;
        let ldd = n + 8;
        let a = s.clone_htod(&data.a).expect("a");
        let sfa = s.clone_htod(&data.sfa).expect("a");
        let b = s.clone_htod(&data.b).expect("b");
        let sfb = s.clone_htod(&data.sfb).expect("b");
        let index = s.clone_htod(&data.index).expect("index");
        let gather = s.clone_htod(&data.gather).expect("gather");
        let mut d = s.clone_htod(&vec![D::CANARY; layers * m * ldd]).expect("d");
        let mut status = Status::new(s).expect("status");
        let shape = GroupedShape {
            by: self.by,
            groups: self.groups(),
            m,
            n,
            k,
            expected_m: m / self.groups().max(1),
        };
        let gemm = Fp8Gemm::new(&l.device).expect("kernels");
        let plan = gemm
            .plan_grouped::<D>(shape, self.gather, &self.options)
            .expect("a plan");
        {
            let layout = if self.by_row {
                ScaleLayout::RowMajor
            } else {
                ScaleLayout::ColumnMajor
            };
            let av = Fp8Rows::with_layout(s, &a, &sfa, (data.a_rows, k), k, data.ld_sfa, layout)
                .and_then(|v| v.stack(layers, data.a_rows * k, data.sfa_group))
                .expect("a");
            let bv = Fp8Blocks::stacked(s, &b, &sfb, (self.groups(), n, k)).expect("b");
            let mut dv = MatrixMut::with_stride(s, &mut d, m, n, ldd)
                .and_then(|v| v.stack(layers, m * ldd))
                .expect("d");
            let iv = Indices::new(s, &index, data.index.len()).expect("index");
            let gv = Indices::new(s, &gather, data.gather.len()).expect("gather");
            let e = hadal::gemm::Epilogue::default();
            let gathered = self.gather.then_some(&gv);
            plan.run_with(s, &av, &bv, &mut dv, (&iv, gathered), &e, &mut status)
                .expect("a launch");
        }
        let found = status.check(s).map_err(|e| {
            let found: Vec<_> = l.reports().iter().map(ToString::to_string).collect();
            format!("{e}\n{}", found.join("\n"))
        });
        assert!(l.reports().is_empty(), "{:?}", l.reports());
        (s.clone_dtoh(&d).expect("d"), found)
    }

    /// Rows of the groups in `left_out` and of no group hold the canary, the others the model's bits. Gives D's rows, by group.
    pub fn verify<D: Out>(&self, data: &Data, d: &[D], left_out: impl Fn(usize, usize) -> bool) {
        let (n, ldd) = (self.n, self.n + 8);
        let mut packed: Vec<Vec<D>> = data
            .problems
            .iter()
            .map(|p| vec![D::CANARY; p.shape.m * n])
            .collect();
        let mut there: Vec<Vec<usize>> = vec![Vec::new(); self.groups()];
        for (i, row) in data.rows.iter().enumerate() {
            let line = &d[i * ldd..][..ldd];
            let used = match row {
                Some((g, j)) if !left_out(*g, i) => {
                    packed[*g][j * n..][..n].copy_from_slice(&line[..n]);
                    there[*g].push(*j);
                    n
                }
                _ => 0,
            };
            for (c, v) in line.iter().enumerate().skip(used) {
                assert_eq!(
                    v.bits(),
                    D::CANARY.bits(),
                    "{self:?}: row {i} ({row:?}) column {c} was written"
                );
            }
        }
        for ((p, d), rows) in data.problems.iter().zip(&packed).zip(there) {
            verify(p, d, rows.into_iter(), true);
        }
    }

    /// Runs and verifies a case in which nothing is wrong.
    pub fn check<D: Out>(&self, l: &Lease) -> Vec<D> {
        let data = self.data();
        let (d, found) = self.run::<D>(l, &data);
        if let Err(e) = found {
            panic!("{self:?}: {e}");
        }
        self.verify(&data, &d, |_, _| false);
        d
    }
}
