//! What there is to count at an instruction, found when its kernel is loaded.

use crate::isa::decode::{Address, Decoder};
use crate::machine::inst::RowId;
use crate::ptx::ast::{self, AddrBase, Operand, Space, Type, VarRef};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Load,
    Store,
    Atomic,
}

/// An access of each lane at an address of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub addr: Address,
    /// `None`: generic.
    pub space: Option<Space>,
    pub way: Way,
    /// Bytes of a lane.
    pub bytes: u32,
    /// Row of the bytes that are really read, for `cp.async` with a source size.
    pub limit: Option<RowId>,
}

/// What an instruction moves.
#[derive(Clone, Copy, Debug)]
pub enum Site {
    /// One access.
    #[allow(private_interfaces)]
    One(Access),
    /// A load and a store (`cp.async`).
    #[allow(private_interfaces)]
    Two(Access, Access),
    /// Rows of 16 bytes at the addresses of the first 8 × n lanes (`ldmatrix`, `stmatrix`).
    #[allow(private_interfaces)]
    Rows(Access, u32),
}

fn space(i: &ast::Inst) -> Option<Space> {
    i.opcode[1..].iter().find_map(|p| {
        Some(match p.split("::").next().unwrap_or_default() {
            "global" => Space::Global,
            "shared" => Space::Shared,
            "local" => Space::Local,
            "const" => Space::Const,
            "param" => Space::Param,
            _ => return None,
        })
    })
}

/// Bytes of a lane: the last type of the opcode, times its vector.
fn bytes(i: &ast::Inst) -> u32 {
    let ty = i.opcode.iter().rev().find_map(|p| Type::parse(p));
    let n = i.opcode.iter().find_map(|p| match p.as_str() {
        "v2" => Some(2),
        "v4" => Some(4),
        "v8" => Some(8),
        _ => None,
    });
    ty.map_or(0, |t| t.bytes() as u32) * n.unwrap_or(1)
}

fn constant(o: Option<&Operand>) -> Option<u32> {
    match o? {
        Operand::Int { bits, .. } => u32::try_from(*bits).ok(),
        _ => None,
    }
}

/// What to count at `i`. It has been decoded, so what is not understood here moves nothing that is counted.
pub fn site(d: &mut Decoder, i: &ast::Inst) -> Option<Site> {
    let is = |p: &str| i.opcode.get(1).is_some_and(|x| x == p);
    let (at, way) = match i.opcode[0].as_str() {
        "ld" | "ldu" => (1, Way::Load),
        "st" if !is("bulk") => (0, Way::Store),
        "atom" => (1, Way::Atomic),
        "red" => (0, Way::Atomic),
        "ldmatrix" => (1, Way::Load),
        "stmatrix" => (0, Way::Store),
        "cp" if is("async") && i.opcode.get(2).is_some_and(|x| x == "ca" || x == "cg") => {
            return cp_async(d, i);
        }
        _ => return None,
    };
    if let Some(Operand::Addr {
        base: AddrBase::Var(VarRef::Param(_) | VarRef::CallParam(_) | VarRef::Return(_)),
        ..
    }) = i.operands.get(at)
    {
        return None;
    }
    let addr = d.address(i, at).ok()?;
    let access = Access {
        addr,
        space: space(i).or(addr.space),
        way,
        bytes: bytes(i),
        limit: None,
    };
    if access.space == Some(Space::Param) {
        return None;
    }
    if i.opcode[0].ends_with("matrix") {
        let n = i
            .opcode
            .iter()
            .find_map(|p| p.strip_prefix('x')?.parse().ok());
        return Some(Site::Rows(
            Access {
                bytes: 16,
                ..access
            },
            n.unwrap_or(1),
        ));
    }
    Some(Site::One(access))
}

fn cp_async(d: &mut Decoder, i: &ast::Inst) -> Option<Site> {
    let bytes = constant(i.operands.get(2))?;
    // A fourth operand of 32 bits is the number of bytes to read; a predicate (ignore-src) or a cache policy is not.
    let limit = match i.operands.get(3) {
        Some(Operand::Reg(r)) if d.reg_type(*r).bytes() == 4 => d.src(i, 3, Type::U32).ok(),
        Some(Operand::Int { .. }) => d.src(i, 3, Type::U32).ok(),
        _ => None,
    };
    let load = Access {
        addr: d.address(i, 1).ok()?,
        space: Some(Space::Global),
        way: Way::Load,
        bytes,
        limit,
    };
    let store = Access {
        addr: d.address(i, 0).ok()?,
        space: Some(Space::Shared),
        way: Way::Store,
        limit: None,
        ..load
    };
    Some(Site::Two(load, store))
}
