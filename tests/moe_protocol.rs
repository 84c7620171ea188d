//! The cell protocol of the all-to-all, every interleaving of it.
//!
//! Two and three ranks run the steps of `hadal::moe::protocol::operation` over several operations. Rows become visible to
//! others in any order after their store (a store buffer that is no queue) and at the latest at a release; ranks stall at
//! any step; deadlines pass. All states that can be reached are visited. Checked in each of them:
//!
//! * a read finds the rows of its own operation, whole;
//! * nobody waits for ever: where nothing more can happen, every rank that has not stalled has ended;
//! * all ranks that failed have the same verdict, and where no deadline was premature its peer is the rank that stalled;
//! * after a recovery everything is as new.
//!
//! Then each rule of the protocol is dropped in turn, and the failure that follows is found.
//!
//! Cost: about 8 s of CPU.

use std::collections::{HashMap, HashSet};

use hadal::moe::protocol::{Half, Step, operation};

/// What may be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dropped {
    Nothing,
    /// A send kernel waits for the receive kernel before it (rule 1).
    KernelOrder,
    /// Ranks without rows for each other signal and await all the same (rule 2).
    Everyone,
    /// Arrival is a release (rule 3).
    Release,
    /// Arrival is acquired (rule 3).
    Acquire,
    /// A second micro-batch has banks of its own (rule 4).
    OwnChannel,
    /// A new generation waits for all kernels of the old one (rule 5).
    Drained,
    /// The first verdict decides.
    OneVerdict,
    /// The decided verdict is stored into every abort cell.
    AbortEveryone,
    /// Cells are compared for equality with the operation's number ("not empty" instead).
    Equality,
}

#[derive(Clone)]
struct Setup {
    ranks: usize,
    blocks: usize,
    /// Kernels of the stream of every rank: channel, operation (from 1), half.
    kernels: Vec<(u8, u8, Half)>,
    /// Ranks that send rows to each other: `rows[from][to]`.
    rows: Vec<Vec<bool>>,
    /// How many ranks may stall, how many deadlines may pass too early.
    stalls: u8,
    premature: u8,
    recover: bool,
    dropped: Dropped,
}

const OPERATIONS: u8 = 16;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    /// Per rank, kernel, block: steps done; past the end: over.
    pc: Vec<u8>,
    /// Per rank, kernel, block: 0, or 1 + the abort step that it is at after its deadline passed.
    leaving: Vec<u8>,
    /// Rows in a bank: the operation that wrote them. By channel, direction, owner, source, block.
    banks: Vec<u8>,
    /// Stores on their way, the same numbering: the operation, or 0. A store that overtakes another cannot occur here,
    /// since a block's stores to one place are operations apart.
    flying: Vec<u8>,
    /// Arrival cells, the same numbering.
    cells: Vec<u8>,
    /// Verdict cell, abort cells.
    verdict: u8,
    abort: Vec<u8>,
    /// Per rank: what it failed with.
    failed: Vec<u8>,
    stalled: Vec<bool>,
    stalls: u8,
    premature: u8,
    generation: u8,
}

/// A verdict as a byte: peer and operation, never 0.
fn pack(peer: usize, op: u8) -> u8 {
    op << 2 | peer as u8
}

impl Setup {
    fn new(ranks: usize, blocks: usize, operations: u8) -> Self {
        Self {
            ranks,
            blocks,
            kernels: (1..=operations)
                .flat_map(|o| [(0, o, Half::Send), (0, o, Half::Receive)])
                .collect(),
            rows: vec![vec![true; ranks]; ranks],
            stalls: 0,
            premature: 0,
            recover: false,
            dropped: Dropped::Nothing,
        }
    }

    fn steps(&self, half: Half) -> Vec<Step> {
        let s = operation(half, self.ranks as u8);
        if self.dropped != Dropped::Acquire || half == Half::Send {
            return s;
        }
        // Nothing keeps the reads behind the wait.
        s.chunks(2).flat_map(|c| [c[1], c[0]]).collect()
    }

    fn thread(&self, rank: usize, kernel: usize, block: usize) -> usize {
        (rank * self.kernels.len() + kernel) * self.blocks + block
    }

    /// Place in `banks`, `flying` and `cells`.
    fn place(&self, kernel: usize, owner: usize, source: usize, block: usize) -> usize {
        let (channel, op, _) = self.kernels[kernel];
        let channel = if self.dropped == Dropped::OwnChannel {
            0
        } else {
            channel as usize
        };
        (((channel * 2 + op as usize % 2) * self.ranks + owner) * self.ranks + source) * self.blocks
            + block
    }

    fn start(&self) -> State {
        let threads = self.ranks * self.kernels.len() * self.blocks;
        let places = 4 * self.ranks * self.ranks * self.blocks;
        State {
            pc: vec![0; threads],
            leaving: vec![0; threads],
            banks: vec![0; places],
            flying: vec![0; places],
            cells: vec![0; places],
            verdict: 0,
            abort: vec![0; self.ranks],
            failed: vec![0; self.ranks],
            stalled: vec![false; self.ranks],
            stalls: self.stalls,
            premature: self.premature,
            generation: 0,
        }
    }

    fn number(&self, s: &State, kernel: usize) -> u8 {
        self.kernels[kernel].1 + OPERATIONS * s.generation
    }

    fn over(&self, s: &State, rank: usize, kernel: usize) -> bool {
        let n = self.steps(self.kernels[kernel].2).len() as u8;
        (0..self.blocks).all(|b| {
            s.pc[self.thread(rank, kernel, b)] >= n && s.leaving[self.thread(rank, kernel, b)] == 0
        })
    }

    fn done(&self, s: &State, rank: usize) -> bool {
        (0..self.kernels.len()).all(|k| self.over(s, rank, k))
    }

    /// All states one step further, each with what happened.
    fn next(&self, s: &State, out: &mut Vec<(State, String)>) -> Result<(), String> {
        for rank in 0..self.ranks {
            if s.stalled[rank] {
                // It wakes up when everybody else has ended, to be recovered.
                let others = (0..self.ranks).all(|r| r == rank || self.done(s, r));
                if self.recover && others && s.generation == 0 {
                    let mut t = s.clone();
                    t.stalled[rank] = false;
                    out.push((t, format!("rank {rank} goes on")));
                }
                continue;
            }
            if s.stalls > 0 && s.generation == 0 && !self.done(s, rank) {
                let mut t = s.clone();
                (t.stalled[rank], t.stalls) = (true, s.stalls - 1);
                out.push((t, format!("rank {rank} stalls")));
            }
            for k in 0..self.kernels.len() {
                if self.over(s, rank, k) {
                    continue;
                }
                let ready = match self.dropped {
                    // The next kernel may start once all blocks of this one have started to wait.
                    Dropped::KernelOrder => {
                        k == 0
                            || self.kernels[k].2 == Half::Receive
                            || k < 2
                            || self.over(s, rank, k - 2)
                    }
                    _ => k == 0 || self.over(s, rank, k - 1),
                };
                if !ready {
                    break;
                }
                for b in 0..self.blocks {
                    self.step(s, rank, k, b, out)?;
                }
                if self.dropped != Dropped::KernelOrder {
                    break;
                }
            }
        }
        // Stores arrive when they like; also those of a rank that has stalled.
        for (i, &op) in s.flying.iter().enumerate() {
            if op != 0 {
                let mut t = s.clone();
                (t.banks[i], t.flying[i]) = (op, 0);
                out.push((t, format!("rows of operation {op} arrive at place {i}")));
            }
        }
        self.recovery(s, out);
        Ok(())
    }

    fn recovery(&self, s: &State, out: &mut Vec<(State, String)>) {
        if !self.recover || s.generation > 0 || s.failed.iter().all(|f| *f == 0) {
            return;
        }
        let ready =
            |r: usize| self.done(s, r) || (self.dropped == Dropped::Drained && s.stalled[r]);
        if !(0..self.ranks).all(ready) {
            return;
        }
        let mut t = s.clone();
        t.generation = 1;
        t.verdict = 0;
        t.abort.fill(0);
        t.failed.fill(0);
        t.stalled.fill(false);
        // Kernels that have not drained leave their stores on the way.
        t.pc.fill(0);
        t.leaving.fill(0);
        t.premature = 0;
        if self.dropped != Dropped::Drained {
            // The end of a kernel makes its stores visible.
            for i in 0..t.flying.len() {
                if t.flying[i] != 0 {
                    (t.banks[i], t.flying[i]) = (t.flying[i], 0);
                }
            }
        }
        out.push((t, "recovery".into()));
    }

    fn step(
        &self,
        s: &State,
        rank: usize,
        k: usize,
        b: usize,
        out: &mut Vec<(State, String)>,
    ) -> Result<(), String> {
        let (_, _, half) = self.kernels[k];
        let steps = self.steps(half);
        let me = self.thread(rank, k, b);
        let op = self.number(s, k);
        let end = steps.len() as u8;
        let name = format!("rank {rank} operation {op} {half:?} block {b}");
        if s.leaving[me] > 0 {
            // Store the verdict into one abort cell after the other, then leave.
            let to = s.leaving[me] as usize - 1;
            let mut t = s.clone();
            if to < self.ranks {
                if self.dropped != Dropped::AbortEveryone || to == rank {
                    t.abort[to] = if self.dropped == Dropped::OneVerdict {
                        s.failed[rank]
                    } else {
                        s.verdict
                    };
                }
                t.leaving[me] += 1;
            } else {
                (t.leaving[me], t.pc[me]) = (0, end);
            }
            out.push((t, format!("{name}: abort cell {to}")));
            return Ok(());
        }
        let Some(&step) = steps.get(s.pc[me] as usize) else {
            return Ok(());
        };
        let fail = |t: &mut State, v: u8| {
            if t.failed[rank] == 0 {
                t.failed[rank] = v;
            }
        };
        // A kernel looks at the abort cell before it starts.
        if s.pc[me] == 0 && s.abort[rank] != 0 {
            let mut t = s.clone();
            t.pc[me] = end;
            fail(&mut t, s.abort[rank]);
            out.push((t, format!("{name}: drains")));
            return Ok(());
        }
        let mut t = s.clone();
        t.pc[me] += 1;
        match step {
            Step::Store { to } => {
                if self.rows[rank][to as usize] {
                    let p = self.place(k, to as usize, rank, b);
                    if s.flying[p] != 0 {
                        return Err(format!(
                            "{name}: stores to {to} while its stores of operation {} are on their way",
                            s.flying[p]
                        ));
                    }
                    t.flying[p] = op;
                }
                out.push((t, format!("{name}: rows to {to}")));
            }
            Step::Release { to } => {
                let silent = self.dropped == Dropped::Everyone && !self.rows[rank][to as usize];
                if !silent {
                    if self.dropped != Dropped::Release {
                        // All stores of this block are visible before its arrival is.
                        let mine = (0..self.ranks).map(|o| self.place(k, o, rank, b));
                        if mine.clone().any(|p| s.flying[p] != 0) {
                            return Ok(());
                        }
                    }
                    let p = self.place(k, to as usize, rank, b);
                    t.cells[p] = op;
                }
                out.push((t, format!("{name}: arrival at {to}")));
            }
            Step::Acquire { from } => {
                let from = from as usize;
                let silent = self.dropped == Dropped::Everyone && !self.rows[from][rank];
                let there = |x: u8| {
                    if self.dropped == Dropped::Equality {
                        x != 0
                    } else {
                        x == op
                    }
                };
                if silent || (0..self.blocks).all(|x| there(s.cells[self.place(k, rank, from, x)]))
                {
                    out.push((t, format!("{name}: sees {from}")));
                } else if s.abort[rank] != 0 {
                    t.pc[me] = end;
                    fail(&mut t, s.abort[rank]);
                    out.push((t, format!("{name}: aborted")));
                } else if s.stalled[from] || s.premature > 0 {
                    t.pc[me] -= 1;
                    if !s.stalled[from] {
                        t.premature -= 1;
                    }
                    if s.verdict == 0 {
                        t.verdict = pack(from, op);
                    }
                    let v = if self.dropped == Dropped::OneVerdict {
                        pack(from, op)
                    } else {
                        t.verdict
                    };
                    fail(&mut t, v);
                    t.leaving[me] = 1;
                    out.push((t, format!("{name}: deadline passed for {from}")));
                }
            }
            Step::Read { from } => {
                let from = from as usize;
                if self.rows[from][rank] {
                    for x in 0..self.blocks {
                        let got = s.banks[self.place(k, rank, from, x)];
                        if got != op {
                            return Err(format!(
                                "{name}: reads rows of operation {got} from {from}"
                            ));
                        }
                    }
                }
                out.push((t, format!("{name}: reads {from}")));
            }
        }
        Ok(())
    }

    /// What must hold where nothing more can happen.
    fn terminal(&self, s: &State) -> Result<(), String> {
        for r in 0..self.ranks {
            if !s.stalled[r] && !self.done(s, r) {
                return Err(format!("rank {r} waits for ever"));
            }
        }
        if self.recover && s.generation == 0 && s.failed.iter().any(|f| *f != 0) {
            return Err("no recovery".into());
        }
        Ok(())
    }

    fn invariant(&self, s: &State) -> Result<(), String> {
        let verdicts: HashSet<u8> = s.failed.iter().copied().filter(|f| *f != 0).collect();
        if verdicts.len() > 1 {
            return Err(format!("ranks disagree: {:?}", s.failed));
        }
        if self.premature == 0
            && s.generation == 0
            && self.stalls == 1
            && let (Some(v), Some(culprit)) =
                (verdicts.iter().next(), s.stalled.iter().position(|x| *x))
            && (v & 3) as usize != culprit
        {
            return Err(format!(
                "rank {culprit} stalled and rank {} is blamed",
                v & 3
            ));
        }
        if s.generation == 1 && !verdicts.is_empty() {
            return Err("the new generation failed".into());
        }
        Ok(())
    }

    /// Visits all states. The number of them, or what is wrong with the steps that lead there.
    fn explore(&self) -> Result<usize, String> {
        let mut seen: HashMap<State, usize> = HashMap::new();
        let mut parents: Vec<(usize, String)> = vec![(0, String::new())];
        let start = self.start();
        seen.insert(start.clone(), 0);
        let mut stack = vec![(start, 0)];
        let mut out = Vec::new();
        while let Some((s, id)) = stack.pop() {
            out.clear();
            let wrong = self
                .invariant(&s)
                .and_then(|()| self.next(&s, &mut out))
                .and_then(|()| {
                    if out.is_empty() {
                        self.terminal(&s)
                    } else {
                        Ok(())
                    }
                });
            if let Err(e) = wrong {
                let mut trace = Vec::new();
                let mut at = id;
                while at != 0 {
                    trace.push(parents[at].1.clone());
                    at = parents[at].0;
                }
                trace.reverse();
                return Err(format!("{e}\nafter\n  {}", trace.join("\n  ")));
            }
            for (t, what) in out.drain(..) {
                if !seen.contains_key(&t) {
                    let n = parents.len();
                    parents.push((id, what));
                    seen.insert(t.clone(), n);
                    stack.push((t, n));
                }
            }
        }
        Ok(seen.len())
    }

    fn holds(&self, what: &str) {
        match self.explore() {
            Ok(n) => println!("{what}: {n} states"),
            Err(e) => panic!("{what}: {e}"),
        }
    }

    fn fails(&self, text: &str) {
        let e = self
            .explore()
            .expect_err(&format!("without {:?} nothing goes wrong", self.dropped));
        assert!(
            e.contains(text),
            "without {:?}, expected \"{text}\": {e}",
            self.dropped
        );
        println!(
            "without {:?}: {}",
            self.dropped,
            e.lines().next().unwrap_or_default()
        );
    }

    fn without(mut self, d: Dropped) -> Self {
        self.dropped = d;
        self
    }
}

#[test]
fn two_ranks_two_blocks() {
    Setup::new(2, 2, 3).holds("2 ranks, 2 blocks, 3 operations");
}

#[test]
fn three_ranks() {
    Setup::new(3, 1, 3).holds("3 ranks, 3 operations");
}

#[test]
fn one_sided_routing() {
    let mut s = Setup::new(2, 1, 5);
    s.rows = vec![vec![true, true], vec![false, false]];
    s.holds("2 ranks, 5 operations, one sends nothing");
    s.without(Dropped::Everyone)
        .fails("reads rows of operation");
}

#[test]
fn two_micro_batches() {
    use Half::{Receive, Send};
    let mut s = Setup::new(2, 1, 0);
    s.kernels = vec![
        (0, 1, Send),
        (1, 1, Send),
        (0, 1, Receive),
        (0, 2, Send),
        (1, 1, Receive),
        (1, 2, Send),
        (0, 2, Receive),
        (1, 2, Receive),
    ];
    s.holds("2 ranks, 2 micro-batches");
    // In one channel the second dispatch is operation 3 of the first, sent before 1 has been received.
    for k in &mut s.kernels {
        if k.0 == 1 {
            k.1 += 2;
        }
    }
    s.without(Dropped::OwnChannel).fails("operation");
}

#[test]
fn rules_of_order() {
    Setup::new(2, 2, 4)
        .without(Dropped::KernelOrder)
        .fails("waits for ever");
    Setup::new(2, 1, 2)
        .without(Dropped::Release)
        .fails("reads rows of operation");
    Setup::new(2, 1, 2)
        .without(Dropped::Acquire)
        .fails("reads rows of operation");
    Setup::new(2, 1, 3)
        .without(Dropped::Equality)
        .fails("reads rows of operation");
}

#[test]
fn a_rank_stalls() {
    let mut s = Setup::new(3, 1, 2);
    s.stalls = 1;
    s.holds("3 ranks, 2 operations, one stalls");
    s.clone().without(Dropped::OneVerdict).fails("disagree");
    s.without(Dropped::AbortEveryone).fails("waits for ever");
}

#[test]
fn deadlines_pass_too_early() {
    let mut s = Setup::new(2, 1, 3);
    s.premature = 2;
    s.holds("2 ranks, 3 operations, two premature deadlines");
    let mut s = Setup::new(3, 1, 2);
    s.premature = 1;
    s.holds("3 ranks, 2 operations, a premature deadline");
}

#[test]
fn a_new_generation() {
    let mut s = Setup::new(2, 1, 2);
    (s.stalls, s.recover) = (1, true);
    s.holds("2 ranks, 2 operations, one stalls, all recover");
    s.premature = 1;
    s.holds("the same with a premature deadline");
    s.premature = 0;
    s.without(Dropped::Drained).fails("operation");
}
