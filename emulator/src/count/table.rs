//! Counters as a table for people.

use std::fmt::{Display, Formatter, Result};

use super::counters::{Counters, Launched, SharedTraffic, Traffic, ratio};

/// Thousands apart.
fn n(v: u64) -> String {
    let digits = v.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\'');
        }
        out.push(c);
    }
    out
}

fn row(f: &mut Formatter<'_>, name: &str, value: u64, more: &str) -> Result {
    if value == 0 && more.is_empty() {
        return Ok(());
    }
    writeln!(f, "  {name:<42} {:>20}  {more}", n(value))
}

fn traffic(f: &mut Formatter<'_>, name: &str, t: &Traffic) -> Result {
    if t.requests == 0 {
        return Ok(());
    }
    let more = format!(
        "{} requests, {:.2} sectors each, {} excess sectors",
        n(t.requests),
        t.sectors_per_request(),
        n(t.excess_sectors)
    );
    row(f, &format!("{name}, bytes"), t.bytes, &more)
}

fn banks(f: &mut Formatter<'_>, name: &str, t: &SharedTraffic) -> Result {
    if t.requests == 0 {
        return Ok(());
    }
    let more = format!(
        "{} requests, {} wavefronts, {} by conflicts",
        n(t.requests),
        n(t.wavefronts),
        n(t.extra_wavefronts)
    );
    row(f, &format!("{name}, bytes"), t.bytes, &more)
}

fn place(d: Option<u32>) -> String {
    d.map_or("host".into(), |d| format!("device {d}"))
}

impl Display for Counters {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let lanes = ratio(self.thread_instructions, self.instructions);
        row(f, "blocks", self.blocks, "")?;
        row(
            f,
            "warp instructions",
            self.instructions,
            &format!("{lanes:.1} lanes each"),
        )?;
        row(f, "  held back by their guard", self.predicated_off, "")?;
        let mut classes: Vec<_> = self.classes.iter().filter(|(_, v)| **v > 0).collect();
        classes.sort_by_key(|(_, v)| std::cmp::Reverse(**v));
        for (name, v) in classes {
            let share = format!("{:.1} %", 100.0 * ratio(*v, self.instructions));
            row(f, &format!("  {name}"), *v, &share)?;
        }
        traffic(f, "global loads", &self.global.load)?;
        traffic(f, "global stores", &self.global.store)?;
        traffic(f, "global atomics", &self.global.atomic)?;
        traffic(f, "local loads", &self.local.load)?;
        traffic(f, "local stores", &self.local.store)?;
        banks(f, "shared loads", &self.shared.load)?;
        banks(f, "shared stores", &self.shared.store)?;
        row(f, "shared atomics, lanes", self.shared.atomics, "")?;
        row(
            f,
            "other blocks' shared: loads, bytes",
            self.dsmem.load_bytes,
            "",
        )?;
        row(
            f,
            "other blocks' shared: stores, bytes",
            self.dsmem.store_bytes,
            "",
        )?;
        row(
            f,
            "other blocks' shared: bulk copies, bytes",
            self.dsmem.bulk_bytes,
            "",
        )?;
        row(
            f,
            "other blocks' shared: atomics, lanes",
            self.dsmem.atomics,
            "",
        )?;
        let t = &self.tma;
        if t.loads > 0 {
            let more = format!(
                "{} copies, {} bytes delivered",
                n(t.loads),
                n(t.delivered_bytes)
            );
            row(f, "bulk copies in, bytes", t.load_bytes, &more)?;
        }
        if t.stores > 0 {
            row(
                f,
                "bulk copies out, bytes",
                t.store_bytes,
                &format!("{} copies", n(t.stores)),
            )?;
        }
        if t.reductions > 0 {
            row(
                f,
                "bulk reductions, bytes",
                t.reduced_bytes,
                &format!("{} copies", n(t.reductions)),
            )?;
        }
        row(f, "L2 to SMs, bytes", self.l2_to_sm_bytes(), "")?;
        row(f, "SMs to L2, bytes", self.sm_to_l2_bytes(), "")?;
        for t in self.transfers.iter().filter(|t| t.from != t.to) {
            row(
                f,
                &format!("{} to {}, bytes", place(t.from), place(t.to)),
                t.bytes,
                "",
            )?;
        }
        for (name, v) in &self.tensor_macs {
            row(f, &format!("multiply-adds, {name}"), *v, "")?;
        }
        for (name, s) in &self.sync {
            row(
                f,
                name,
                s.executed,
                &format!("{} times parked", n(s.parked)),
            )?;
        }
        for (name, v) in &self.fences {
            row(f, name, *v, "")?;
        }
        row(f, "strong loads", self.strong_loads, "")?;
        if self.system_releases > 0 {
            let per = format!("{:.2} of a block", ratio(self.system_releases, self.blocks));
            row(f, "releases of system scope", self.system_releases, &per)?;
        }
        for a in &self.allocations {
            let more = format!(
                "at {:#x}, {}: read {} ({} different), written {} ({} different)",
                a.address,
                place(a.device),
                n(a.load_bytes),
                n(32 * a.load_sectors),
                n(a.store_bytes),
                n(32 * a.store_sectors)
            );
            row(f, "allocation, bytes", a.bytes, &more)?;
        }
        for l in &self.lines {
            writeln!(
                f,
                "  ptx:{:<6} {:<50} executed {}, {} wavefronts by conflicts, {} of {} sectors in excess",
                l.line,
                l.opcode,
                n(l.executed),
                n(l.extra_wavefronts),
                n(l.excess_sectors),
                n(l.sectors)
            )?;
        }
        Ok(())
    }
}

impl Display for Launched {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(
            f,
            "{} on device {}: grid {:?}, block {:?}, cluster {:?}, {} bytes of dynamic shared memory{}",
            self.kernel,
            self.device,
            self.grid,
            self.block,
            self.cluster,
            self.dynamic_smem,
            if self.completed { "" } else { ", stopped" }
        )?;
        self.counters.fmt(f)
    }
}
