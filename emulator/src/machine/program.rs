//! A loaded module: kernels decoded into executable instructions.

use super::calls::RegionCode;
use super::inline::Inlined;
use crate::count;
use crate::isa;
use crate::isa::decode::{Cpu, Decoder, Result};
use crate::machine::inst::{Inst, RowId, RowInit};
use crate::ptx::ast::{self, Directives, PtxError, Space, Span, Variable};

/// First byte of user shared memory in a block's window: the first KiB is the system's on sm_90.
pub const SHARED_BASE: u32 = 0x400;

/// Side table entry of a complex instruction.
pub type Aux = Box<dyn std::any::Any + Send + Sync>;

/// One kernel parameter in the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamLayout {
    /// Byte offset.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Alignment.
    pub align: u32,
}

/// What the host may ask about a kernel.
#[derive(Clone, Debug)]
pub struct KernelInfo {
    /// Name.
    pub name: String,
    /// Parameters.
    pub params: Vec<ParamLayout>,
    /// Bytes of the parameter block.
    pub param_bytes: u64,
    /// Bytes of static shared memory.
    pub static_smem: u32,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    /// Registers per thread: what `.maxnreg` says, else an estimate from the block size limit.
    pub regs: u32,
    /// Threads a block may have.
    pub max_threads: u32,
    /// Directives as written.
    pub directives: Directives,
}

/// A kernel ready to run.
pub struct Kernel {
    /// For the host.
    pub info: KernelInfo,
    /// Instructions; the last is an implicit `ret`.
    pub code: Vec<Inst>,
    /// Per instruction: place in the text.
    pub spans: Vec<Span>,
    /// Per instruction: the opcode.
    pub opcodes: Vec<String>,
    /// Per instruction: registers of matrix operations that it touches. Empty when the kernel has none.
    pub watch: Vec<Box<[RowId]>>,
    /// Per instruction: what it moves, to count.
    pub sites: Vec<Option<count::Site>>,
    /// Side tables.
    pub aux: Vec<Aux>,
    /// Rows of a warp's register file.
    pub rows: u32,
    /// Predicates.
    pub preds: u32,
    /// What rows hold when a warp starts.
    pub init: Vec<(RowId, RowInit)>,
    /// Functions that are entered by calls.
    pub regions: Vec<RegionCode>,
    /// It moves its stack pointer: threads have local memory beyond `local_bytes`, as much as the context's limit says.
    pub stack: bool,
    /// Offset in the window of the dynamic shared memory.
    pub dyn_shared: u32,
}

/// A loaded module.
pub struct Program {
    kernels: Vec<Kernel>,
    variables: Vec<Variable>,
    /// Hash of the text ([`crate::mutate::hash`]); empty where it is not known.
    pub source: String,
    functions: Vec<String>,
}

impl Program {
    /// Decodes every kernel of `module` for this CPU.
    ///
    /// # Errors
    /// The first instruction, qualifier or operand that the instruction set does not know, with its place.
    pub fn load(module: &ast::Module) -> Result<Self> {
        Self::load_for(module, Cpu::detect())
    }

    /// As [`Program::load`], with the lane loops of `cpu`.
    ///
    /// # Errors
    /// As there.
    pub fn load_for(module: &ast::Module, cpu: Cpu) -> Result<Self> {
        Self::decode(module, cpu).map_err(|mut all| all.swap_remove(0))
    }

    /// As [`Program::load`], but with everything that is not known.
    ///
    /// # Errors
    /// All of it, in the order of the text.
    pub fn load_all(module: &ast::Module) -> std::result::Result<Self, Vec<PtxError>> {
        Self::decode(module, Cpu::detect())
    }

    fn decode(module: &ast::Module, cpu: Cpu) -> std::result::Result<Self, Vec<PtxError>> {
        let calls = super::inline::Calls::new(module);
        let (mut kernels, mut errors) = (Vec::new(), Vec::new());
        for f in module.functions.iter().filter(|f| f.defined) {
            // Functions are decoded too: one that nobody calls may not hide what is not known.
            let k = super::inline::inline(&calls, f).map_err(|e| vec![e]);
            match k.and_then(|f| kernel(module, &f, cpu)) {
                Ok(k) if f.entry => kernels.push(k),
                Ok(_) => {}
                // A function that was copied into another brings its errors along.
                Err(all) => all.into_iter().for_each(|e| {
                    if !errors.contains(&e) {
                        errors.push(e);
                    }
                }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            kernels,
            variables: module.variables.clone(),
            source: String::new(),
            functions: module.functions.iter().map(|f| f.name.clone()).collect(),
        })
    }

    /// Index of the kernel called `name`.
    pub fn kernel(&self, name: &str) -> Option<usize> {
        self.kernels.iter().position(|k| k.info.name == name)
    }

    /// All kernels.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// What the host may ask about kernel `k`.
    pub fn kernel_info(&self, k: usize) -> &KernelInfo {
        &self.kernels[k].info
    }

    /// The address that stands for the function called `name`.
    pub fn function(&self, name: &str) -> Option<u64> {
        let i = self.functions.iter().position(|f| f == name)?;
        Some(isa::call::address(i as u32))
    }

    /// Variables of the module; those in `.global` and `.const` need device memory.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }
}

fn kernel(
    module: &ast::Module,
    inlined: &Inlined,
    cpu: Cpu,
) -> std::result::Result<Kernel, Vec<PtxError>> {
    let f = &inlined.function;
    // Shared memory: module variables that the kernel uses are not told apart from those it does not; all are laid out,
    // statics first, the unsized arrays all start where the statics end.
    let mut at = SHARED_BASE;
    let mut dyn_align = 16;
    let mut place = |v: &Variable| -> Option<u32> {
        if v.space != Space::Shared {
            return None;
        }
        if v.unsized_array {
            dyn_align = dyn_align.max(v.align);
            return None;
        }
        at = at.next_multiple_of(v.align.max(1));
        let here = at;
        at += v.size as u32;
        Some(here)
    };
    let shared_module: Vec<_> = module.variables.iter().map(&mut place).collect();
    let mut offsets: Vec<_> = f.variables.iter().map(&mut place).collect();
    let static_end = at;
    let mut local = 0u32;
    let moves = |i: u32| {
        let mut r = inlined.regions.iter();
        r.any(|r| (r.variables.0..r.variables.1).contains(&i))
    };
    for ((i, v), o) in (0..).zip(&f.variables).zip(&mut offsets) {
        if v.space == Space::Local && !moves(i) {
            local = local.next_multiple_of(v.align.max(1));
            *o = Some(local);
            local += v.size as u32;
        }
    }
    let mut d = Decoder::new(module, f, cpu, &shared_module, &offsets);
    d.sites = &inlined.sites;
    let regions = inlined
        .regions
        .iter()
        .map(|r| d.region(r))
        .collect::<Vec<_>>();
    let (mut code, mut spans, mut opcodes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sites, mut errors) = (Vec::new(), Vec::new());
    for i in &f.body {
        match isa::decode(&mut d, i).and_then(|e| Ok((e, d.guard(i)?))) {
            Ok((e, guard)) => code.push(Inst { guard, ..e }),
            Err(e) => {
                errors.push(e);
                continue;
            }
        }
        sites.push(count::site(&mut d, i));
        spans.push(i.span);
        opcodes.push(i.opcode.join("."));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    // Matrix operations look at their own registers.
    let own = |i: &ast::Inst| i.opcode[0] == "wgmma";
    let mut watch: Vec<Box<[RowId]>> = f
        .body
        .iter()
        .map(|i| {
            if own(i) {
                Box::default()
            } else {
                d.watched_in(i).into()
            }
        })
        .collect();
    watch.push(Box::default());
    if watch.iter().all(|w| w.is_empty()) {
        watch.clear();
    }
    code.push(d.inst(isa::control::exit));
    spans.push(f.body.last().map_or(f.span, |i| i.span));
    opcodes.push("(end of kernel)".into());
    sites.push(None);
    let stack = d.stack || !regions.is_empty();
    let (rows, preds, init, aux) = d.finish();
    let directives = f.directives.clone();
    let max_threads = directives.reqntid.or(directives.maxntid).map_or(1024, |t| {
        t.iter()
            .map(|&n| u64::from(n.max(1)))
            .product::<u64>()
            .min(1024) as u32
    });
    // The real count is ptxas' to choose. Without `.maxnreg` the largest that lets the stated block fit is taken.
    let regs = directives
        .maxnreg
        .unwrap_or_else(|| (65536 / max_threads.next_multiple_of(128)).min(255) & !7);
    Ok(Kernel {
        info: KernelInfo {
            name: f.name.clone(),
            params: f
                .params
                .iter()
                .map(|p| ParamLayout {
                    offset: p.offset,
                    size: p.size,
                    align: p.align,
                })
                .collect(),
            param_bytes: f
                .params
                .iter()
                .map(|p| p.offset + p.size)
                .max()
                .unwrap_or(0),
            static_smem: static_end - SHARED_BASE,
            local_bytes: local,
            regs,
            max_threads,
            directives,
        },
        code,
        spans,
        opcodes,
        watch,
        sites,
        aux,
        rows,
        preds,
        init,
        regions,
        stack,
        dyn_shared: static_end.next_multiple_of(dyn_align),
    })
}
