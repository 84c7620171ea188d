//! What a PTX module says, with every name resolved: registers, labels and variables are indices, scopes are gone.
//!
//! Opcodes stay text, split at their dots: which qualifiers an instruction takes is the business of the instruction set
//! (`crate::isa`), which refuses what it does not know when the module is loaded.

use std::fmt;

/// A place in the PTX text, both counted from 1. `line == 0` means "nowhere".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Line.
    pub line: u32,
    /// Column, in bytes.
    pub col: u32,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.col)
    }
}

/// Why a module was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ptx:{span}: {message}")]
pub struct PtxError {
    /// The place.
    pub span: Span,
    /// What was found and what would have been legal.
    pub message: String,
}

impl PtxError {
    /// An error at `span`.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
        }
    }
}

/// A type of the PTX type system (PTX ISA, "Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F32x2,
    F64,
    Pred,
}

impl Type {
    /// Bytes of one value in memory; 1 for a predicate.
    pub const fn bytes(self) -> usize {
        use Type::*;
        match self {
            B8 | U8 | S8 | Pred => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 => 4,
            B64 | U64 | S64 | F64 | F32x2 => 8,
            B128 => 16,
        }
    }

    /// The type that a qualifier names (without its dot).
    pub fn parse(text: &str) -> Option<Self> {
        use Type::*;
        Some(match text {
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "f32" => F32,
            "f32x2" => F32x2,
            "f64" => F64,
            "pred" => Pred,
            _ => return None,
        })
    }
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Space {
    Local,
    Shared,
    Global,
    Const,
    Param,
}

/// Index into [`Function::registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);

/// One declared register.
#[derive(Clone, Debug)]
pub struct Register {
    /// As declared (`%r12`).
    pub name: String,
    /// Declared type.
    pub ty: Type,
}

/// How other modules see a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Linkage {
    None,
    Visible,
    Extern,
    Weak,
    Common,
}

/// A variable of a space other than registers.
#[derive(Clone, Debug)]
pub struct Variable {
    /// As declared.
    pub name: String,
    /// Space.
    pub space: Space,
    /// Element type.
    pub ty: Type,
    /// Alignment in bytes.
    pub align: u32,
    /// Size in bytes; 0 for an unsized array (`.extern .shared .b8 x[]`).
    pub size: u64,
    /// True for an unsized array.
    pub unsized_array: bool,
    /// Initial bytes (`size` of them), if given.
    pub init: Option<Vec<u8>>,
    /// Addresses to be stored into `init`: (byte offset, variable or function name, addend, generic()?).
    pub relocations: Vec<Relocation>,
    /// Linkage.
    pub linkage: Linkage,
    /// Where.
    pub span: Span,
}

/// An address inside an initialiser.
#[derive(Clone, Debug)]
pub struct Relocation {
    /// Byte offset in the initialised variable.
    pub offset: u64,
    /// Name of the variable or function.
    pub symbol: String,
    /// Added to its address.
    pub addend: i64,
    /// True for `generic(name)`.
    pub generic: bool,
    /// `mask(name)`: the one byte of the address that goes into the place.
    pub byte: Option<u8>,
}

/// Which table a variable operand indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VarRef {
    /// `Module::variables[i]`.
    Module(u32),
    /// `Function::variables[i]`.
    Function(u32),
    /// `Function::params[i]`.
    Param(u32),
    /// `Function::returns[i]`.
    Return(u32),
    /// `Function::call_params[i]`: a `.param` declared inside the body, for a call.
    CallParam(u32),
}

/// The base of an address operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AddrBase {
    Reg(RegId),
    Var(VarRef),
    Absolute,
}

/// An operand, resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register.
    Reg(RegId),
    /// `!p`.
    NotReg(RegId),
    /// `%r1.h0`, `-%r1.b3`: a part of a register, for video instructions.
    Part {
        /// The register.
        reg: RegId,
        /// Which bytes or halves; all of it where none is named.
        select: Option<String>,
        /// With a minus sign.
        negated: bool,
    },
    /// `d|p`; `None` is the sink `_`.
    Pair(Option<RegId>, Option<RegId>),
    /// A special register, with its leading `%` and any `.x`: `%tid.x`, `%laneid`, `%clock64`. WARP_SZ arrives as an integer.
    Special(String),
    /// An integer constant (two's complement; `negative` keeps what the sign was, for range checks).
    Int {
        /// The low 64 bits.
        bits: u64,
        /// Written with a minus sign.
        negative: bool,
    },
    /// `0f…`: bits.
    F32(u32),
    /// `0d…` or a decimal literal: bits.
    F64(u64),
    /// The address of a variable, plus a constant.
    Var(VarRef, i64),
    /// A label: index into [`Function::labels`].
    Label(u32),
    /// A function by name (call target).
    Func(String),
    /// `{a, b, …}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`.
    Addr {
        /// Base.
        base: AddrBase,
        /// Constant offset.
        offset: i64,
    },
    /// `[map, {c0, …}]` or `[map, {c…}, {im2col offsets…}]`: the lists after the map, in order.
    TensorAddr {
        /// Base of the tensor map's address.
        base: AddrBase,
        /// Constant offset.
        offset: i64,
        /// The lists.
        lists: Vec<Vec<Operand>>,
    },
    /// `_`.
    Sink,
    /// A call's parenthesised list: `(a, b)`.
    List(Vec<Operand>),
}

/// `@p` or `@!p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The predicate.
    pub reg: RegId,
    /// `@!p`.
    pub negated: bool,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    /// Guard predicate.
    pub guard: Option<Guard>,
    /// The opcode split at its dots; `::` stays inside a part: `["cp", "async", "bulk", "tensor", "2d", "shared::cluster", …]`.
    pub opcode: Vec<String>,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// Place of the opcode.
    pub span: Span,
    /// `.loc` in force: (file number, line).
    pub loc: Option<(u32, u32)>,
}

/// A label and the instruction it stands before (may be one past the last).
#[derive(Clone, Debug)]
pub struct Label {
    /// As written.
    pub name: String,
    /// Index into [`Function::body`].
    pub target: u32,
    /// For `.branchtargets`: the labels listed (indices into `labels`), else empty.
    pub targets: Vec<u32>,
    /// For `.callprototype` and `.calltargets`: what may be called through a register.
    pub calls: Option<Box<Callable>>,
}

/// What an indirect call may reach.
#[derive(Clone, Debug)]
pub enum Callable {
    /// `.callprototype`: any function with these return values and parameters.
    Prototype(Vec<Param>, Vec<Param>),
    /// `.calltargets`: one of these functions.
    Targets(Vec<String>),
}

/// A kernel parameter (or a device function's).
#[derive(Clone, Debug)]
pub struct Param {
    /// Name.
    pub name: String,
    /// Element type.
    pub ty: Type,
    /// Alignment in bytes.
    pub align: u32,
    /// Size in bytes.
    pub size: u64,
    /// Byte offset in the parameter block: each parameter aligned to `align`, in order.
    pub offset: u64,
    /// A register parameter (`.reg`) of a device function.
    pub reg: Option<RegId>,
}

/// Performance and launch directives of an entry. `None` where not given.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Directives {
    pub maxntid: Option<[u32; 3]>,
    pub reqntid: Option<[u32; 3]>,
    pub minnctapersm: Option<u32>,
    pub maxnreg: Option<u32>,
    pub maxclusterrank: Option<u32>,
    pub reqnctapercluster: Option<[u32; 3]>,
    pub explicitcluster: bool,
    pub noreturn: bool,
}

/// A function or a kernel (`.entry`).
#[derive(Clone, Debug)]
pub struct Function {
    /// Name.
    pub name: String,
    /// True for `.entry`.
    pub entry: bool,
    /// Linkage.
    pub linkage: Linkage,
    /// False for a prototype (`.extern .func`) without a body.
    pub defined: bool,
    /// Return values of a `.func`.
    pub returns: Vec<Param>,
    /// Parameters.
    pub params: Vec<Param>,
    /// Registers of all scopes, flattened.
    pub registers: Vec<Register>,
    /// `.shared`, `.local`, `.const`, `.global` declared in the body, of all scopes.
    pub variables: Vec<Variable>,
    /// `.param` variables declared in the body (for calls).
    pub call_params: Vec<Param>,
    /// Instructions in order; braces are gone.
    pub body: Vec<Inst>,
    /// Labels of all scopes.
    pub labels: Vec<Label>,
    /// Directives.
    pub directives: Directives,
    /// Where.
    pub span: Span,
}

/// A PTX module.
#[derive(Clone, Debug)]
pub struct Module {
    /// `.version`.
    pub version: (u32, u32),
    /// `.target`, the first (`sm_90a`).
    pub target: String,
    /// `.target`'s other words (`texmode_unified`, `debug`).
    pub target_options: Vec<String>,
    /// Variables of module scope.
    pub variables: Vec<Variable>,
    /// Functions in order; prototypes of a later defined function are merged into it.
    pub functions: Vec<Function>,
    /// `.file`: (number, path).
    pub files: Vec<(u32, String)>,
}
