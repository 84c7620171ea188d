//! What goes wrong in a group, and what every rank is told: ranks that never come, never start, stall or bring another
//! configuration, indices that no expert has, banks that overflow, states that are dropped. After each the group works again.
//!
//! Cost: about 20 s of CPU. Time here is the emulator's.

mod common;

use std::sync::Barrier;
use std::time::Duration;

use common::moe::*;
use common::*;
use hadal::device::Status;
use hadal::error::{ArgumentError, MoeError, StatusError};
use hadal::moe::protocol::{Phase, Verdict, VerdictKind};
use hadal::moe::{ExpertRows, Group, GroupConfig, Payload, Picks, Rejected, Rendezvous, Rows};
use hadal::tensor::{Matrix, MatrixMut};
use half::bf16;

/// Lets virtual time pass where nothing else can happen, so that deadlines do.
fn patient() -> Knobs {
    Knobs {
        on_deadlock: hadal_emulator::client::OnDeadlock::AdvanceTime,
        ..Knobs::default()
    }
}

fn small(ranks: usize) -> GroupConfig {
    GroupConfig {
        deadline: Duration::from_millis(50),
        warm_up_deadline: Duration::from_millis(80),
        ..config(ranks, 6, 2, 5, Payload::Bf16(40), 40)
    }
}

/// Buffers of a rank for one hand-made operation.
struct Bench {
    ids: cudarc::driver::CudaSlice<i32>,
    weights: cudarc::driver::CudaSlice<f32>,
    rows: cudarc::driver::CudaSlice<bf16>,
    out: cudarc::driver::CudaSlice<bf16>,
    counts: cudarc::driver::CudaSlice<i32>,
    offsets: cudarc::driver::CudaSlice<i32>,
    status: Status,
    tokens: usize,
}

impl Bench {
    fn new(c: &GroupConfig, me: &Rank, ids: &[i32]) -> Self {
        let (s, tokens) = (&me.stream, ids.len() / c.top_k);
        Self {
            ids: s.clone_htod(ids).unwrap(),
            weights: s.clone_htod(&vec![1.0; ids.len()]).unwrap(),
            rows: s.clone_htod(&vec![bf16::ONE; tokens * 40]).unwrap(),
            out: s.clone_htod(&vec![bf16::NAN; c.max_rows * 40]).unwrap(),
            counts: s.clone_htod(&[-77; 8]).unwrap(),
            offsets: s.clone_htod(&[-77; 8]).unwrap(),
            status: Status::new(s).unwrap(),
            tokens,
        }
    }

    /// Dispatch, receive, and combine the received rows as they are, as far as `kernels` says (1 to 4).
    fn run(
        &mut self,
        c: &GroupConfig,
        me: &Rank,
        group: &mut Group,
        kernels: usize,
    ) -> Result<(), MoeError> {
        let s = &me.stream;
        let picks = Picks::new(s, &self.ids, &self.weights, self.tokens, c.top_k)?;
        let rows = Rows::bf16(Matrix::new(s, &self.rows, self.tokens, 40)?)?;
        let sent = group.channels()[0].dispatch(&rows, &picks, &mut self.status)?;
        if kernels == 1 {
            return Ok(());
        }
        let mut d = s.alloc_zeros::<bf16>(self.tokens * 40 + 8).unwrap();
        let received = {
            let m = MatrixMut::new(s, &mut self.out, c.max_rows, 40)?;
            sent.receive(&mut ExpertRows::bf16(
                s,
                m,
                &mut self.counts,
                &mut self.offsets,
            )?)?
        };
        if kernels == 2 {
            return Ok(());
        }
        let returning = received.combine(&Matrix::new(s, &self.out, c.max_rows, 40)?)?;
        if kernels == 3 {
            return Ok(());
        }
        returning.receive(
            &mut MatrixMut::new(s, &mut d, self.tokens, 40)?,
            &Default::default(),
        )?;
        Ok(())
    }
}

fn join(rendezvous: &std::sync::Arc<Rendezvous>, me: &Rank, c: &GroupConfig) -> Group {
    Group::join(rendezvous, me.rank, &me.device, &me.stream, c, PATIENCE).unwrap()
}

/// Everybody recovers, then a whole round trip is right.
fn works_again(c: &GroupConfig, me: &Rank, group: &mut Group, seed: u64) {
    group.recover(PATIENCE).unwrap();
    for i in 0..3 {
        let data = round(c, &vec![c.max_tokens; c.ranks], Routing::Random, seed + i);
        round_trip(c, me, &mut group.channels()[0], &data).unwrap();
        group.check().unwrap();
    }
}

fn verdict(e: MoeError) -> Verdict {
    match e {
        MoeError::Failed(v) => v,
        e => panic!("{e}"),
    }
}

/// Rank 2 of 3 stops after 0 to 3 kernels of a round; the others run on.
#[test]
fn a_rank_stops() {
    let c = small(3);
    for kernels in 0..4 {
        let all = ranks(3, &patient());
        let (rendezvous, barrier) = (Rendezvous::new(3), Barrier::new(3));
        let verdicts = all.each(|me| {
            let mut group = join(&rendezvous, me, &c);
            let ids: Vec<i32> = (0..10).map(|i| (i + me.rank as i32) % 6).collect();
            let mut b = Bench::new(&c, me, &ids);
            if me.rank != 2 {
                b.run(&c, me, &mut group, 4).unwrap();
                // More work behind it drains at once.
                let mut more = Bench::new(&c, me, &ids);
                more.run(&c, me, &mut group, 4).unwrap();
                let v = verdict(group.check().unwrap_err());
                barrier.wait();
                works_again(&c, me, &mut group, 10);
                Some(v)
            } else {
                if kernels > 0 {
                    b.run(&c, me, &mut group, kernels).unwrap();
                }
                barrier.wait();
                let v = group.check().err().map(verdict);
                works_again(&c, me, &mut group, 10);
                v
            }
        });
        let v = verdicts[0].unwrap();
        assert_eq!(verdicts, [Some(v); 3], "after {kernels} kernels");
        assert_eq!(
            (v.peer, v.kind, v.channel),
            (2, VerdictKind::Timeout, 0),
            "after {kernels} kernels"
        );
        let phase = [
            Phase::Dispatch,
            Phase::Combine,
            Phase::Combine,
            Phase::Dispatch,
        ][kernels];
        assert_eq!(v.phase(), phase, "after {kernels} kernels");
        all.quiet();
    }
}

#[test]
fn a_rank_never_joins() {
    let c = small(2);
    let all = ranks(2, &Knobs::default());
    let rendezvous = Rendezvous::new(2);
    let me = &all.ranks[0];
    let e = Group::join(
        &rendezvous,
        0,
        &me.device,
        &me.stream,
        &c,
        Duration::from_millis(100),
    )
    .unwrap_err();
    assert!(matches!(e, MoeError::Missing { ranks } if ranks == [1]));
}

#[test]
fn configurations_that_differ() {
    let all = ranks(2, &Knobs::default());
    let rendezvous = Rendezvous::new(2);
    let errors = all.each(|me| {
        let c = GroupConfig {
            hidden: 40 + 8 * me.rank,
            ..small(2)
        };
        Group::join(&rendezvous, me.rank, &me.device, &me.stream, &c, PATIENCE)
            .unwrap_err()
            .to_string()
    });
    assert_eq!(
        errors,
        ["rank 1 has another `hidden`", "rank 0 has another `hidden`"]
    );
}

#[test]
fn ids_that_no_expert_has() {
    let c = small(2);
    let all = ranks(2, &Knobs::default());
    let rendezvous = Rendezvous::new(2);
    all.each(|me| {
        let mut group = join(&rendezvous, me, &c);
        let ids = [0, 6, -2, 5, i32::MIN, i32::MAX, 3, 3, -1, -1];
        let mut b = Bench::new(&c, me, &ids);
        b.run(&c, me, &mut group, 4).unwrap();
        group.check().unwrap();
        assert!(matches!(
            b.status.check(&me.stream),
            Err(StatusError::IndexOutOfRange { limit: 6, .. })
        ));
        // What was left out was left out alone: experts 0, 3 (twice), 5 have their rows from both ranks.
        let counts = me.stream.clone_dtoh(&b.counts).unwrap();
        assert_eq!(counts[..3], [[2, 0, 0], [4, 0, 2]][me.rank]);
        works_again(&c, me, &mut group, 30);
    });
    all.quiet();
}

#[test]
fn banks_that_overflow() {
    for (capacity, max_rows, phase_rows) in [(2, 60, "capacity"), (5, 7, "rows")] {
        let c = GroupConfig {
            capacity,
            max_rows,
            ..small(2)
        };
        let all = ranks(2, &patient());
        let rendezvous = Rendezvous::new(2);
        let verdicts = all.each(|me| {
            let mut group = join(&rendezvous, me, &c);
            // Rank 0 sends five rows to rank 1; rank 1 sends two.
            let ids: &[i32] = if me.rank == 0 {
                &[3, 4, 3, 4, 3, 4, 3, 4, 3, 4]
            } else {
                &[3, 4, 3, 4]
            };
            let mut b = Bench::new(&c, me, ids);
            b.run(&c, me, &mut group, 4).unwrap();
            let v = verdict(group.check().unwrap_err());
            group.recover(PATIENCE).unwrap();
            let mut b = Bench::new(&c, me, &[0, 5]);
            b.run(&c, me, &mut group, 4).unwrap();
            group.check().unwrap();
            assert_eq!(
                me.stream.clone_dtoh(&b.counts).unwrap()[..3],
                [[2, 0, 0], [0, 0, 2]][me.rank]
            );
            v
        });
        assert_eq!(verdicts[0], verdicts[1]);
        let culprit = if phase_rows == "capacity" { 0 } else { 1 };
        assert_eq!(
            (verdicts[0].kind, verdicts[0].peer),
            (VerdictKind::Overflow, culprit)
        );
        all.quiet();
    }
}

#[test]
fn a_state_is_dropped() {
    let c = small(2);
    let all = ranks(2, &Knobs::default());
    let rendezvous = Rendezvous::new(2);
    all.each(|me| {
        let mut group = join(&rendezvous, me, &c);
        let mut b = Bench::new(&c, me, &[0, 5]);
        b.run(&c, me, &mut group, 2).unwrap();
        let e = b.run(&c, me, &mut group, 1).unwrap_err();
        assert!(matches!(e, MoeError::OutOfStep { channel: 0 }));
        works_again(&c, me, &mut group, 50);
    });
    all.quiet();
}

#[test]
fn a_refused_step_can_be_tried_again() {
    let c = small(1);
    let all = ranks(1, &Knobs::default());
    let rendezvous = Rendezvous::new(1);
    let me = &all.ranks[0];
    let s = &me.stream;
    let mut group = join(&rendezvous, me, &c);
    let mut b = Bench::new(&c, me, &[0, 5]);
    let picks = Picks::new(s, &b.ids, &b.weights, 1, 2).unwrap();
    let wide = Rows::bf16(Matrix::new(s, &b.rows, 1, 32).unwrap()).unwrap();
    let e = group.channels()[0]
        .dispatch(&wide, &picks, &mut b.status)
        .unwrap_err();
    assert!(matches!(
        e,
        MoeError::Argument(ArgumentError::Shape {
            argument: "rows",
            ..
        })
    ));
    let rows = Rows::bf16(Matrix::new(s, &b.rows, 1, 40).unwrap()).unwrap();
    let sent = group.channels()[0]
        .dispatch(&rows, &picks, &mut b.status)
        .unwrap();
    let sent = {
        let few = MatrixMut::new(s, &mut b.out, c.max_rows - 1, 40).unwrap();
        let mut few = ExpertRows::bf16(s, few, &mut b.counts, &mut b.offsets).unwrap();
        let Rejected { state, error } = sent.receive(&mut few).unwrap_err();
        assert!(matches!(
            error,
            MoeError::Argument(ArgumentError::Shape {
                argument: "rows",
                ..
            })
        ));
        state
    };
    let received = {
        let all = MatrixMut::new(s, &mut b.out, c.max_rows, 40).unwrap();
        sent.receive(&mut ExpertRows::bf16(s, all, &mut b.counts, &mut b.offsets).unwrap())
            .unwrap()
    };
    let y = Matrix::new(s, &b.out, c.max_rows, 32).unwrap();
    let Rejected { state, .. } = received.combine(&y).unwrap_err();
    let returning = state
        .combine(&Matrix::new(s, &b.out, c.max_rows, 40).unwrap())
        .unwrap();
    let mut d = s.alloc_zeros::<bf16>(48).unwrap();
    returning
        .receive(
            &mut MatrixMut::new(s, &mut d, 1, 40).unwrap(),
            &Default::default(),
        )
        .unwrap();
    group.check().unwrap();
    // One row of ones, twice, with weight 1.
    assert_eq!(s.clone_dtoh(&d).unwrap()[..40], [bf16::from_f32(2.0); 40]);
    all.quiet();
}
