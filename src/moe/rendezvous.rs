//! Where the ranks of a group meet on the host: each brings something, all get everything, or all learn who was missing.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a meeting failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// These ranks did not come before somebody's patience ended.
    Missing(Vec<usize>),
    /// Somebody with this rank is there already.
    Taken,
}

struct State<T> {
    here: Vec<Option<T>>,
    /// What became of the meetings so far.
    past: Vec<Result<Arc<Vec<T>>, Vec<usize>>>,
}

/// Meetings of a fixed number of ranks.
pub(crate) struct Meeting<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Meeting<T> {
    pub fn new(ranks: usize) -> Self {
        Self {
            state: Mutex::new(State {
                here: (0..ranks).map(|_| None).collect(),
                past: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Brings `value` and waits for the others. Where one waits in vain, all who came get the same answer.
    pub fn meet(&self, rank: usize, value: T, patience: Duration) -> Result<Arc<Vec<T>>, Absent> {
        let until = Instant::now() + patience;
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let round = s.past.len();
        match s.here.get_mut(rank) {
            Some(place @ None) => *place = Some(value),
            _ => return Err(Absent::Taken),
        }
        if s.here.iter().all(Option::is_some) {
            let all = s.here.iter_mut().filter_map(Option::take).collect();
            s.past.push(Ok(Arc::new(all)));
            self.changed.notify_all();
        }
        while s.past.len() == round {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let missing = (0..s.here.len()).filter(|r| s.here[*r].is_none()).collect();
                s.here.iter_mut().for_each(|h| *h = None);
                s.past.push(Err(missing));
                self.changed.notify_all();
                break;
            }
            s = self
                .changed
                .wait_timeout(s, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        s.past[round].clone().map_err(Absent::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_nobody() {
        let m = Meeting::new(3);
        let long = Duration::from_secs(20);
        std::thread::scope(|s| {
            for round in 0..5 {
                let all: Vec<_> = (0..3)
                    .map(|r| {
                        s.spawn({
                            let m = &m;
                            move || m.meet(r, r + 10 * round, long)
                        })
                    })
                    .collect();
                for t in all {
                    let want: Vec<_> = (0..3).map(|r| r + 10 * round).collect();
                    assert_eq!(*t.join().unwrap().unwrap(), want);
                }
            }
            let patient = s.spawn(|| m.meet(2, 0, long));
            let hasty = s.spawn(|| m.meet(0, 0, Duration::from_millis(200)));
            let want = Err(Absent::Missing(vec![1]));
            assert_eq!(hasty.join().unwrap(), want);
            assert_eq!(patient.join().unwrap(), want);
        });
        assert_eq!(m.meet(3, 0, long), Err(Absent::Taken));
    }
}
