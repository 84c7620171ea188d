//! Sums of counters.

use std::collections::BTreeMap;

use super::counters::{Counters, Memory, SharedTraffic, Traffic};
use super::summary::worst;

fn map<V: Copy + Default>(
    to: &mut BTreeMap<String, V>,
    from: &BTreeMap<String, V>,
    add: fn(&mut V, V),
) {
    for (k, v) in from {
        add(to.entry(k.clone()).or_default(), *v);
    }
}

fn traffic(to: &mut Traffic, from: &Traffic) {
    to.requests += from.requests;
    to.bytes += from.bytes;
    to.sectors += from.sectors;
    to.excess_sectors += from.excess_sectors;
}

fn memory(to: &mut Memory, from: &Memory) {
    traffic(&mut to.load, &from.load);
    traffic(&mut to.store, &from.store);
    traffic(&mut to.atomic, &from.atomic);
}

fn shared(to: &mut SharedTraffic, from: &SharedTraffic) {
    to.requests += from.requests;
    to.bytes += from.bytes;
    to.wavefronts += from.wavefronts;
    to.extra_wavefronts += from.extra_wavefronts;
}

impl Counters {
    /// Adds the counters of another launch. Different sectors of an allocation add up: launches do not know of each other.
    pub fn merge(&mut self, o: &Self) {
        self.blocks += o.blocks;
        self.instructions += o.instructions;
        self.predicated_off += o.predicated_off;
        self.thread_instructions += o.thread_instructions;
        map(&mut self.opcodes, &o.opcodes, |a, b| *a += b);
        map(&mut self.classes, &o.classes, |a, b| *a += b);
        map(&mut self.tensor_macs, &o.tensor_macs, |a, b| *a += b);
        map(&mut self.fences, &o.fences, |a, b| *a += b);
        map(&mut self.sync, &o.sync, |a, b| {
            a.executed += b.executed;
            a.parked += b.parked;
        });
        memory(&mut self.global, &o.global);
        memory(&mut self.local, &o.local);
        shared(&mut self.shared.load, &o.shared.load);
        shared(&mut self.shared.store, &o.shared.store);
        self.shared.atomics += o.shared.atomics;
        self.dsmem.load_bytes += o.dsmem.load_bytes;
        self.dsmem.store_bytes += o.dsmem.store_bytes;
        self.dsmem.atomics += o.dsmem.atomics;
        self.dsmem.bulk_bytes += o.dsmem.bulk_bytes;
        self.tma.loads += o.tma.loads;
        self.tma.load_bytes += o.tma.load_bytes;
        self.tma.delivered_bytes += o.tma.delivered_bytes;
        self.tma.stores += o.tma.stores;
        self.tma.store_bytes += o.tma.store_bytes;
        self.tma.reductions += o.tma.reductions;
        self.tma.reduced_bytes += o.tma.reduced_bytes;
        for t in &o.transfers {
            match self
                .transfers
                .iter_mut()
                .find(|x| (x.from, x.to) == (t.from, t.to))
            {
                Some(x) => x.bytes += t.bytes,
                None => self.transfers.push(*t),
            }
        }
        self.strong_loads += o.strong_loads;
        self.system_releases += o.system_releases;
        for a in &o.allocations {
            let same = |x: &&mut super::Allocation| (x.address, x.bytes) == (a.address, a.bytes);
            match self.allocations.iter_mut().find(same) {
                Some(x) => {
                    x.load_bytes += a.load_bytes;
                    x.store_bytes += a.store_bytes;
                    x.load_sectors += a.load_sectors;
                    x.store_sectors += a.store_sectors;
                }
                None => self.allocations.push(*a),
            }
        }
        for l in &o.lines {
            match self
                .lines
                .iter_mut()
                .find(|x| x.line == l.line && x.opcode == l.opcode)
            {
                Some(x) => {
                    x.executed += l.executed;
                    x.extra_wavefronts += l.extra_wavefronts;
                    x.sectors += l.sectors;
                    x.excess_sectors += l.excess_sectors;
                }
                None => self.lines.push(l.clone()),
            }
        }
        self.lines = worst(std::mem::take(&mut self.lines));
    }
}
