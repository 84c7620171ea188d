//! Which GPU the devices of a universe are: its limits, and which modules it takes.

use serde::{Deserialize, Serialize};

/// Compute capability of the devices of a universe.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum ComputeCapability {
    /// 8.0: an A100.
    #[serde(rename = "8.0")]
    Cc80,
    /// 8.9: an L40S.
    #[serde(rename = "8.9")]
    Cc89,
    /// 9.0: an H100.
    #[default]
    #[serde(rename = "9.0")]
    Cc90,
}

/// What a device has. Sizes in bytes (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name: honest about what it is.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Threads that one SM holds.
    pub threads_per_sm: u32,
    /// Blocks that one SM holds.
    pub blocks_per_sm: u32,
    /// Registers of an SM and of a block.
    pub registers: u32,
    /// Shared memory of an SM.
    pub shared_per_sm: u32,
    /// Shared memory that a block may ask for.
    pub shared_per_block: u32,
    /// Shared memory of each block that the system takes.
    pub shared_reserved: u32,
    /// Blocks of a cluster without and with the non-portable attribute; 1 where there are no clusters.
    pub cluster: [u32; 2],
}

/// Shared memory that a block may have without asking for more.
pub const SHARED_DEFAULT: u32 = 49152;

const A100: Profile = Profile {
    name: "NVIDIA A100-SXM4-80GB (hadal-emulator)",
    sms: 108,
    threads_per_sm: 2048,
    blocks_per_sm: 32,
    registers: 65536,
    shared_per_sm: 164 << 10,
    shared_per_block: 163 << 10,
    shared_reserved: 1 << 10,
    cluster: [1, 1],
};

const L40S: Profile = Profile {
    name: "NVIDIA L40S (hadal-emulator)",
    sms: 142,
    threads_per_sm: 1536,
    blocks_per_sm: 24,
    shared_per_sm: 100 << 10,
    shared_per_block: 99 << 10,
    ..A100
};

const H100: Profile = Profile {
    name: "NVIDIA H100 80GB HBM3 (hadal-emulator)",
    sms: 132,
    shared_per_sm: 228 << 10,
    shared_per_block: 227 << 10,
    cluster: [8, 16],
    ..A100
};

impl ComputeCapability {
    /// Limits.
    pub const fn profile(self) -> &'static Profile {
        match self {
            Self::Cc80 => &A100,
            Self::Cc89 => &L40S,
            Self::Cc90 => &H100,
        }
    }

    /// Ten times the major number plus the minor: 80, 89, 90.
    pub const fn number(self) -> u32 {
        let (major, minor) = self.version();
        major * 10 + minor
    }

    /// Major and minor number.
    pub const fn version(self) -> (u32, u32) {
        match self {
            Self::Cc80 => (8, 0),
            Self::Cc89 => (8, 9),
            Self::Cc90 => (9, 0),
        }
    }

    /// Whether a module whose `.target` is `target` runs here. `sm_XY` runs on XY and what is newer; `sm_XYa` on exactly
    /// XY; `sm_XYf` on XY's family, of which 8.0, 8.9 and 9.0 have none (PTX ISA, ".target").
    pub fn runs(self, target: &str) -> bool {
        match target.strip_prefix("sm_") {
            Some("90a") => self == Self::Cc90,
            Some(t) => t.parse::<u32>().is_ok_and(|t| t <= self.number()),
            None => false,
        }
    }
}

impl std::fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.version();
        write!(f, "{major}.{minor}")
    }
}

#[cfg(test)]
mod tests {
    use super::ComputeCapability::*;

    #[test]
    fn modules_run_on_their_target_and_newer() {
        let takes = |cc: super::ComputeCapability| {
            [
                "sm_70", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_100a", "90",
            ]
            .map(|t| cc.runs(t))
        };
        assert_eq!(
            takes(Cc80),
            [true, true, false, false, false, false, false, false, false]
        );
        assert_eq!(
            takes(Cc89),
            [true, true, true, true, false, false, false, false, false]
        );
        assert_eq!(
            takes(Cc90),
            [true, true, true, true, true, true, false, false, false]
        );
    }
}
