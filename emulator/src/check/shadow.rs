//! Who last wrote and read each byte of a range, four bytes (a granule) at a time.
//!
//! Whole words written and read by few agents are kept in a fixed record; everything else (bytes of their own, many
//! readers, several writers at once) in a list. Two unordered writes of the same bytes conflict unless both go through the
//! generic proxy and store the same value: the PTX memory model gives every later read that value, whichever write it
//! takes (compilers do that where warps hold copies of a value). Both writes stay in the list, so that whatever follows
//! has to be ordered after each of them.

use std::collections::HashMap;

use super::clock::{Clock, Epoch, WARPS};

/// All bytes of a granule.
const ALL: u8 = 0xF;

/// An access that nothing orders before the present one.
#[derive(Clone, Copy, Debug)]
pub struct Conflict {
    /// Whose.
    pub epoch: Epoch,
    /// Its instruction (of reads: the last of all agents').
    pub pc: u32,
    /// It wrote.
    pub write: bool,
}

#[derive(Clone, Copy)]
struct Seen {
    epoch: Epoch,
    pc: u32,
    bytes: u8,
    write: bool,
}

/// Whole words, one writer, at most three readers.
#[derive(Clone, Copy, Default)]
struct Granule {
    write: Epoch,
    write_pc: u32,
    reads: [Epoch; 3],
    read_pc: u32,
    /// The list of this granule holds what is known, the other fields nothing.
    listed: bool,
}

impl Granule {
    fn list(&self) -> Vec<Seen> {
        let writes = [(self.write, self.write_pc, true)];
        let reads = self.reads.map(|r| (r, self.read_pc, false));
        writes
            .into_iter()
            .chain(reads)
            .filter(|(e, _, _)| !e.is_none())
            .map(|(epoch, pc, write)| Seen {
                epoch,
                pc,
                bytes: ALL,
                write,
            })
            .collect()
    }
}

/// Who accesses: its epoch, what is known to whoever issues the access, and where.
#[derive(Clone, Copy)]
pub struct By<'a> {
    /// Epoch of the access.
    pub epoch: Epoch,
    /// Knowledge of the issuing warp.
    pub known: &'a Clock,
    /// Instruction.
    pub pc: u32,
    /// Whether conflicts are looked for.
    pub check: bool,
}

impl By<'_> {
    fn after(&self, e: Epoch) -> bool {
        e.is_none() || e.agent() == self.epoch.agent() || self.known.knows(e)
    }
}

/// The bytes of granule `g` that the range from `at` to `end` covers.
pub fn covered(g: u32, at: u32, end: u32) -> u8 {
    let from = at.max(4 * g) - 4 * g;
    let to = end.min(4 * g + 4) - 4 * g;
    (ALL << from) & (ALL >> (4 - to))
}

/// The records of a block's shared memory.
pub struct Shadow {
    granules: Vec<Granule>,
    lists: HashMap<u32, Vec<Seen>>,
}

impl Shadow {
    /// Of `n` granules that nobody has touched.
    pub fn new(n: usize) -> Self {
        Self {
            granules: vec![Granule::default(); n],
            lists: HashMap::new(),
        }
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.granules.is_empty()
    }

    /// Reads 32 whole granules from `first`. False, and nothing noted, where one of them needs a closer look.
    #[inline]
    pub fn read_row(&mut self, first: u32, by: By) -> bool {
        let me = by.epoch;
        let row = &mut self.granules[first as usize..][..32];
        // A clock knows its own agent's epochs and the epoch 0.
        let fine = |g: &Granule| {
            !g.listed
                & by.known.knows(g.write)
                & (g.reads[0].is_none() | (g.reads[0].agent() == me.agent()))
        };
        if !row.iter().fold(true, |a, g| a & fine(g)) {
            return false;
        }
        for g in row {
            g.reads[0] = me;
            g.read_pc = by.pc;
        }
        true
    }

    /// Writes 32 whole granules, likewise.
    #[inline]
    pub fn write_row(&mut self, first: u32, by: By) -> bool {
        let row = &mut self.granules[first as usize..][..32];
        let fine = |g: &Granule| {
            !g.listed
                & by.known.knows(g.write)
                & by.known.knows(g.reads[0])
                & (g.reads[1].0 | g.reads[2].0 == 0)
        };
        if !row.iter().fold(true, |a, g| a & fine(g)) {
            return false;
        }
        for g in row {
            g.write = by.epoch;
            g.write_pc = by.pc;
            g.reads[0] = Epoch::default();
        }
        true
    }

    /// Reads `bytes` of granule `g`.
    ///
    /// # Errors
    /// A write that is not ordered before it.
    #[inline(always)]
    pub fn read(&mut self, g: u32, bytes: u8, by: By) -> Result<(), Conflict> {
        let s = &mut self.granules[g as usize];
        if s.listed || bytes != ALL {
            return self.listed(g, bytes, by, None);
        }
        if by.check && !by.after(s.write) {
            return Err(Conflict {
                epoch: s.write,
                pc: s.write_pc,
                write: true,
            });
        }
        let me = by.epoch;
        // A read of the same agent stays known through its latest.
        let mine = |r: &Epoch| !r.is_none() && r.agent() == me.agent();
        let free =
            |r: &Epoch| r.is_none() || (by.known.knows(*r) && r.agent() < WARPS && me.generic());
        let slot = s.reads.iter().position(mine);
        match slot.or_else(|| s.reads.iter().position(free)) {
            Some(i) => {
                s.reads[i] = me;
                s.read_pc = by.pc;
                Ok(())
            }
            None => self.listed(g, bytes, by, None),
        }
    }

    /// Writes `bytes` of granule `g`; `same` tells whether they hold the value already.
    ///
    /// # Errors
    /// An access that is not ordered before it.
    #[inline(always)]
    pub fn write(
        &mut self,
        g: u32,
        bytes: u8,
        by: By,
        same: &dyn Fn() -> bool,
    ) -> Result<(), Conflict> {
        let s = &mut self.granules[g as usize];
        let simple = !s.listed && bytes == ALL;
        if !simple || (by.check && !(by.after(s.write) && s.reads.iter().all(|r| by.after(*r)))) {
            return self.listed(g, bytes, by, Some(same));
        }
        *s = Granule {
            write: by.epoch,
            write_pc: by.pc,
            ..Granule::default()
        };
        Ok(())
    }

    #[cold]
    fn listed(
        &mut self,
        g: u32,
        bytes: u8,
        by: By,
        write: Option<&dyn Fn() -> bool>,
    ) -> Result<(), Conflict> {
        let s = &mut self.granules[g as usize];
        let list = self.lists.entry(g).or_default();
        if !s.listed {
            *list = s.list();
            s.listed = true;
        }
        if by.check {
            let unordered = |o: &&Seen| {
                o.bytes & bytes != 0 && (o.write || write.is_some()) && !by.after(o.epoch)
            };
            for o in list.iter().filter(unordered) {
                let agree = o.write
                    && o.epoch.generic()
                    && by.epoch.generic()
                    && write.is_some_and(|same| same());
                if !agree {
                    return Err(Conflict {
                        epoch: o.epoch,
                        pc: o.pc,
                        write: o.write,
                    });
                }
            }
        }
        let me = by.epoch;
        if write.is_some() {
            // What this write comes after and covers is known through it.
            list.retain(|o| o.bytes & !bytes != 0 || !by.after(o.epoch));
        } else {
            list.retain(|o| {
                o.write
                    || o.bytes & !bytes != 0
                    || !(o.epoch.agent() == me.agent()
                        || (by.known.knows(o.epoch) && o.epoch.generic() && me.generic()))
            });
        }
        match list
            .iter_mut()
            .find(|o| o.epoch == me && o.write == write.is_some())
        {
            Some(o) => {
                o.bytes |= bytes;
                o.pc = by.pc;
            }
            None => list.push(Seen {
                epoch: me,
                pc: by.pc,
                bytes,
                write: write.is_some(),
            }),
        }
        if let [one] = list[..]
            && one.write
            && one.bytes == ALL
        {
            self.lists.remove(&g);
            self.granules[g as usize] = Granule {
                write: me,
                write_pc: by.pc,
                ..Granule::default()
            };
        }
        Ok(())
    }

    /// The last write through the generic proxy to `bytes` of granule `g` that `fenced` does not know.
    pub fn unfenced(&self, g: u32, bytes: u8, fenced: &Clock) -> Option<Conflict> {
        let s = &self.granules[g as usize];
        let open = |e: Epoch| !e.is_none() && e.generic() && !fenced.knows(e);
        if !s.listed {
            return open(s.write).then_some(Conflict {
                epoch: s.write,
                pc: s.write_pc,
                write: true,
            });
        }
        let list = self.lists.get(&g)?;
        let o = list
            .iter()
            .find(|o| o.write && o.bytes & bytes != 0 && open(o.epoch))?;
        Some(Conflict {
            epoch: o.epoch,
            pc: o.pc,
            write: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_granule() {
        assert_eq!(covered(1, 4, 8), 0b1111);
        assert_eq!(covered(1, 5, 6), 0b0010);
        assert_eq!(covered(1, 0, 6), 0b0011);
        assert_eq!(covered(1, 6, 100), 0b1100);
    }
}
