//! Modules, functions, launches, occupancy.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::context::healthy;
use super::memory::queue;
use super::universe::Op;
use super::{Res, code, control, exports, put, ready, tag};
use crate::machine::Launch;
use crate::machine::device::{Profile, SHARED_DEFAULT};
use crate::machine::memory::Memory;
use crate::machine::program::{KernelInfo, Program};
use crate::ptx;
use crate::ptx::ast::Space;

/// A loaded module.
pub struct Module {
    program: Arc<Program>,
    context: u64,
    variables: Arc<Vec<u64>>,
    ptx_version: (u32, u32),
}

/// A kernel's handle.
#[derive(Clone)]
pub struct Function {
    module: u64,
    kernel: usize,
    max_dynamic: u32,
    non_portable: bool,
}

/// The log buffers of `cuModuleLoadDataEx`.
#[derive(Default)]
struct Logs {
    error: Option<(*mut c_char, usize)>,
}

impl Logs {
    fn write(&self, text: &str) {
        if let Some((p, n)) = self.error.filter(|(p, n)| !p.is_null() && *n > 0) {
            let k = text.len().min(n - 1);
            // SAFETY: the caller gives `n` bytes.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr().cast(), p, k);
                p.add(k).write(0);
            }
        }
    }
}

/// # Safety
/// `image` is a NUL-terminated text or an object of one of the driver's formats.
unsafe fn load(out: *mut u64, image: *const c_void, logs: &Logs) -> Res {
    if out.is_null() || image.is_null() {
        return Err(code::INVALID_VALUE);
    }
    let ctx = {
        let l = ready()?;
        healthy(&l)?
    };
    // SAFETY: the caller's duty: at least four bytes.
    let magic = unsafe { image.cast::<[u8; 4]>().read_unaligned() };
    if magic == *b"\x7fELF"
        || u32::from_le_bytes(magic) == 0xBA55_ED50
        || u32::from_le_bytes(magic) == 0x4662_43B1
    {
        // Machine code: there is none for a CPU. Loaders go on to the PTX.
        logs.write("this device runs PTX, the image has machine code of another");
        return Err(code::NO_BINARY_FOR_GPU);
    }
    // SAFETY: the caller's duty.
    let text = unsafe { CStr::from_ptr(image.cast()) }
        .to_str()
        .map_err(|_| code::INVALID_IMAGE)?;
    if !text.contains(".version") {
        return Err(code::INVALID_IMAGE);
    }
    let fail = |e: ptx::ast::PtxError, c: u32| {
        logs.write(&e.to_string());
        control::note(format!("module refused: {e}"));
        c
    };
    let mut module = ptx::parse(text).map_err(|e| {
        let newer = e.message.contains("is newer than");
        fail(
            e,
            if newer {
                code::UNSUPPORTED_PTX_VERSION
            } else {
                code::INVALID_PTX
            },
        )
    })?;
    let cc = ctx.1.universe.compute_capability();
    if !cc.runs(&module.target) {
        let text = format!(
            "target {} does not run on compute capability {cc}",
            module.target
        );
        logs.write(&text);
        control::note(format!("module refused: {text}"));
        return Err(code::NO_BINARY_FOR_GPU);
    }
    let mutant = super::mutant::on_load(&mut module, text)?;
    let mut program = Program::load(&module).map_err(|e| {
        if mutant {
            super::mutant::refused();
        }
        fail(e, code::INVALID_PTX)
    })?;
    program.source = crate::mutate::hash(text);
    let program = Arc::new(program);
    let mut l = ready()?;
    let mut variables = vec![0; program.variables().len()];
    for (v, a) in program.variables().iter().zip(&mut variables) {
        if matches!(v.space, Space::Global | Space::Const) && v.size > 0 {
            *a = l
                .memory
                .alloc(ctx.1.device, v.size)
                .ok_or(code::OUT_OF_MEMORY)?;
        }
    }
    for (k, v) in program
        .variables()
        .iter()
        .enumerate()
        .filter(|(k, _)| variables[*k] != 0)
    {
        let mut bytes = v.init.clone().unwrap_or_else(|| vec![0; v.size as usize]);
        for r in &v.relocations {
            let target = program
                .variables()
                .iter()
                .position(|x| x.name == r.symbol)
                .map(|i| variables[i])
                .filter(|a| *a != 0)
                .or_else(|| program.function(&r.symbol));
            let Some(target) = target else {
                logs.write(&format!(
                    "initial value of {}: {} has no address",
                    v.name, r.symbol
                ));
                return Err(code::INVALID_PTX);
            };
            let at = r.offset as usize;
            let address = target.wrapping_add_signed(r.addend).to_le_bytes();
            match r.byte {
                Some(k) => bytes[at] = address[k as usize],
                None => {
                    let n = v.ty.bytes().min(8);
                    bytes[at..at + n].copy_from_slice(&address[..n]);
                }
            }
        }
        let region = l.memory.find(variables[k]).map_err(|_| code::UNKNOWN)?;
        // SAFETY: the allocation was made above with this size; nothing runs on it yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.host, bytes.len()) };
        Memory::mark_init(&region, 0, bytes.len() as u64);
    }
    let id = l.handle(tag::MODULE);
    l.modules.insert(
        id,
        Module {
            program,
            context: ctx.0,
            variables: Arc::new(variables),
            ptx_version: module.version,
        },
    );
    // SAFETY: as the API asks of its caller.
    unsafe { put(out, id) }
}

struct Geometry {
    grid: [u32; 3],
    block: [u32; 3],
    cluster: Option<[u32; 3]>,
    smem: u32,
}

fn product(v: [u32; 3]) -> u64 {
    v.iter().map(|&x| u64::from(x)).product()
}

/// The cluster of a launch, checked against kernel and grid.
fn cluster(
    p: &Profile,
    info: &KernelInfo,
    f: &Function,
    g: &Geometry,
) -> Result<([u32; 3], bool), u32> {
    let of_kernel = info.directives.reqnctapercluster;
    let c = match (of_kernel, g.cluster) {
        (Some(k), Some(c)) if k != c => return Err(code::INVALID_VALUE),
        (Some(c), _) | (None, Some(c)) => c,
        (None, None) => return Ok(([1; 3], false)),
    };
    let n = product(c);
    if n == 0 || n > u64::from(p.cluster[usize::from(f.non_portable)]) {
        return Err(code::INVALID_CLUSTER_SIZE);
    }
    if (0..3).any(|k| !g.grid[k].is_multiple_of(c[k])) {
        return Err(code::INVALID_VALUE);
    }
    Ok((c, true))
}

/// # Safety
/// `params` and `extra` are as `cuLaunchKernel` asks.
unsafe fn launch(
    func: u64,
    g: &Geometry,
    stream: u64,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Res {
    let (ctx, q, job) = {
        let mut l = ready()?;
        let (h, ctx) = healthy(&l)?;
        let f = l
            .functions
            .get(&func)
            .cloned()
            .ok_or(code::INVALID_HANDLE)?;
        let m = l.modules.get(&f.module).ok_or(code::INVALID_HANDLE)?;
        if m.context != h {
            return Err(code::INVALID_CONTEXT);
        }
        let info = m.program.kernel_info(f.kernel);
        let p = ctx.universe.compute_capability().profile();
        let threads = product(g.block);
        if product(g.grid) == 0
            || threads == 0
            || threads > 1024
            || g.block[2] > 64
            || g.grid[0] > i32::MAX as u32
            || g.grid[1] > 65535
            || g.grid[2] > 65535
        {
            return Err(code::INVALID_VALUE);
        }
        if threads > u64::from(info.max_threads)
            || info.directives.reqntid.is_some_and(|r| r != g.block)
        {
            return Err(code::INVALID_VALUE);
        }
        if g.smem > f.max_dynamic || g.smem + info.static_smem > p.shared_per_block {
            return Err(code::INVALID_VALUE);
        }
        if u64::from(info.regs) * threads.next_multiple_of(32) > u64::from(p.registers) {
            return Err(code::LAUNCH_OUT_OF_RESOURCES);
        }
        let (cluster, explicit_cluster) = cluster(p, info, &f, g)?;
        // SAFETY: the caller's duty.
        let bytes = unsafe { parameters(info, params, extra)? };
        let q = queue(&l, &ctx, stream)?;
        let (program, variables) = (m.program.clone(), m.variables.clone());
        let launch_id = l.handle(0) >> 4;
        let job = Launch {
            device: ctx.device,
            program,
            kernel: f.kernel,
            grid: g.grid,
            block: g.block,
            cluster,
            explicit_cluster,
            dynamic_smem: g.smem,
            params: bytes,
            variables,
            stream,
            launch_id,
            stack: ctx.stack,
        };
        (ctx, q, job)
    };
    ctx.universe.push(q, Op::Launch(Box::new(job))).map(|_| ())
}

/// # Safety
/// As [`launch`].
unsafe fn parameters(
    info: &KernelInfo,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Vec<u8>, u32> {
    let mut bytes = vec![0u8; info.param_bytes as usize];
    if !extra.is_null() {
        if !params.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let (mut buffer, mut size, mut k) = (std::ptr::null::<u8>(), 0usize, 0);
        loop {
            // SAFETY: the list ends with 0 (CU_LAUNCH_PARAM_END).
            match unsafe { *extra.add(k) } as usize {
                0 => break,
                // SAFETY: key and value come in pairs; BUFFER_POINTER, BUFFER_SIZE.
                1 => buffer = unsafe { *extra.add(k + 1) }.cast(),
                // SAFETY: as above.
                2 => size = unsafe { *(*extra.add(k + 1)).cast::<usize>() },
                _ => return Err(code::INVALID_VALUE),
            }
            k += 2;
        }
        if buffer.is_null() || size < bytes.len() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the caller gives `size` bytes.
        unsafe { std::ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), bytes.len()) };
        return Ok(bytes);
    }
    if info.params.is_empty() {
        return Ok(bytes);
    }
    if params.is_null() {
        return Err(code::INVALID_VALUE);
    }
    for (k, p) in info.params.iter().enumerate() {
        // SAFETY: the caller gives one pointer per parameter, to as many bytes as the parameter has.
        unsafe {
            let src = *params.add(k);
            if src.is_null() {
                return Err(code::INVALID_VALUE);
            }
            std::ptr::copy_nonoverlapping(
                src.cast::<u8>(),
                bytes.as_mut_ptr().add(p.offset as usize),
                p.size as usize,
            );
        }
    }
    Ok(bytes)
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    smem: c_uint,
    stream: u64,
    attrs: *const LaunchAttribute,
    num_attrs: c_uint,
}

/// `CUlaunchAttribute`: an id, padding, a value of 64 bytes.
#[repr(C)]
pub struct LaunchAttribute {
    id: c_uint,
    pad: c_uint,
    value: [u32; 16],
}

fn blocks_per_sm(p: &Profile, info: &KernelInfo, threads: u64, dynamic: u64) -> u64 {
    if threads == 0 || threads > u64::from(info.max_threads) {
        return 0;
    }
    let warps = threads.div_ceil(32);
    // Registers are given to a warp in units of 256.
    let regs = (u64::from(info.regs) * 32).next_multiple_of(256) * warps;
    let smem = (u64::from(info.static_smem) + dynamic + u64::from(p.shared_reserved))
        .next_multiple_of(128);
    (u64::from(p.threads_per_sm / 32) / warps)
        .min(p.blocks_per_sm.into())
        .min(u64::from(p.registers) / regs.max(1))
        .min(u64::from(p.shared_per_sm) / smem)
}

fn with_info<T>(
    func: u64,
    f: impl FnOnce(&KernelInfo, &Function, &'static Profile) -> T,
) -> Result<T, u32> {
    let l = ready()?;
    let x = l
        .functions
        .get(&func)
        .cloned()
        .ok_or(code::INVALID_HANDLE)?;
    let m = l.modules.get(&x.module).ok_or(code::INVALID_HANDLE)?;
    let c = l
        .contexts
        .get(&m.context)
        .ok_or(code::CONTEXT_IS_DESTROYED)?;
    let p = c.universe.compute_capability().profile();
    Ok(f(m.program.kernel_info(x.kernel), &x, p))
}

exports! {
    fn cuModuleLoadData(out: *mut u64, image: *const c_void) {
        // SAFETY: as the API asks of its caller.
        unsafe { load(out, image, &Logs::default()) }
    }
    fn cuModuleLoadDataEx(out: *mut u64, image: *const c_void, n: c_uint, options: *const c_int, values: *const *mut c_void) {
        let (mut buffer, mut size) = (std::ptr::null_mut(), 0);
        for k in 0..n as usize {
            // SAFETY: the caller gives `n` options and values.
            let (o, v) = unsafe { (*options.add(k), *values.add(k)) };
            match o {
                // CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
                5 => buffer = v.cast(),
                6 => size = v as usize,
                _ => {}
            }
        }
        // SAFETY: as the API asks of its caller.
        unsafe { load(out, image, &Logs { error: Some((buffer, size)) }) }
    }
    fn cuModuleLoad(out: *mut u64, path: *const c_char) {
        if path.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: as the API asks of its caller.
        let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
        let mut bytes = std::fs::read(path).map_err(|_| 301u32)?;
        bytes.push(0);
        // SAFETY: the bytes end with a NUL.
        unsafe { load(out, bytes.as_ptr().cast(), &Logs::default()) }
    }
    fn cuModuleUnload(module: u64) {
        let mut l = ready()?;
        let m = l.modules.remove(&module).ok_or(code::INVALID_HANDLE)?;
        l.functions.retain(|_, f| f.module != module);
        let c = l.contexts.get(&m.context).cloned();
        drop(l);
        if let Some(c) = c {
            // Kernels of the module may still run.
            c.universe.wait_device(c.device).ok();
        }
        let l = ready()?;
        for a in m.variables.iter().filter(|a| **a != 0) {
            l.memory.free(*a);
        }
        Ok(())
    }
    fn cuModuleGetFunction(out: *mut u64, module: u64, name: *const c_char) {
        if name.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: as the API asks of its caller.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let mut l = ready()?;
        let m = l.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
        let kernel = m.program.kernel(&name).ok_or(code::NOT_FOUND)?;
        let static_smem = m.program.kernel_info(kernel).static_smem;
        let id = l.handle(tag::FUNCTION);
        l.functions.insert(id, Function { module, kernel, max_dynamic: SHARED_DEFAULT.saturating_sub(static_smem), non_portable: false });
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, id) }
    }
    fn cuModuleGetGlobal_v2(addr: *mut u64, size: *mut usize, module: u64, name: *const c_char) {
        if name.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: as the API asks of its caller.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let l = ready()?;
        let m = l.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
        let k = m.program.variables().iter().position(|v| v.name == name).ok_or(code::NOT_FOUND)?;
        // SAFETY: null means that this one is not wanted; else as the API asks of its caller.
        unsafe {
            if !addr.is_null() {
                put(addr, m.variables[k])?;
            }
            if !size.is_null() {
                put(size, m.program.variables()[k].size as usize)?;
            }
        }
        Ok(())
    }
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, func: u64) {
        let (version, cc) = {
            let l = ready()?;
            let f = l.functions.get(&func).ok_or(code::INVALID_HANDLE)?;
            let m = l.modules.get(&f.module).ok_or(code::INVALID_HANDLE)?;
            let c = l.contexts.get(&m.context).ok_or(code::CONTEXT_IS_DESTROYED)?;
            (m.ptx_version, c.universe.compute_capability().version())
        };
        let v = with_info(func, |i, f, _| {
            Ok(match attribute {
                0 => i.max_threads,
                1 => i.static_smem,
                2 | 7 => 0,
                3 => i.local_bytes,
                4 => i.regs,
                5 => version.0 * 10 + version.1,
                6 => cc.0 * 10 + cc.1,
                8 => f.max_dynamic,
                9 => u32::MAX,
                10 => u32::from(i.directives.reqnctapercluster.is_some()),
                11..=13 => i.directives.reqnctapercluster.map_or(0, |c| c[attribute as usize - 11]),
                14 => u32::from(f.non_portable),
                15 => 0,
                _ => return Err(code::INVALID_VALUE),
            })
        })??;
        // SAFETY: as the API asks of its caller.
        unsafe { put(value, v as c_int) }
    }
    fn cuFuncSetAttribute(func: u64, attribute: c_int, value: c_int) {
        let room = with_info(func, |i, _, p| p.shared_per_block.saturating_sub(i.static_smem))?;
        let mut l = ready()?;
        let f = l.functions.get_mut(&func).ok_or(code::INVALID_HANDLE)?;
        match attribute {
            8 if value >= 0 && value as u32 <= room => f.max_dynamic = value as u32,
            9 if (-1..=100).contains(&value) => {}
            14 => f.non_portable = value != 0,
            _ => return Err(code::INVALID_VALUE),
        }
        Ok(())
    }
    fn cuFuncSetCacheConfig(func: u64, _config: c_int) {
        with_info(func, |_, _, _| ())
    }
    fn cuFuncLoad(func: u64) {
        with_info(func, |_, _, _| ())
    }
    fn cuFuncGetModule(out: *mut u64, func: u64) {
        let m = with_info(func, |_, f, _| f.module)?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, m) }
    }
    fn cuFuncGetParamInfo(func: u64, index: usize, offset: *mut usize, size: *mut usize) {
        let p = with_info(func, |i, _, _| i.params.get(index).copied())?.ok_or(code::INVALID_VALUE)?;
        // SAFETY: as the API asks of its caller; the size may be null.
        unsafe {
            put(offset, p.offset as usize)?;
            if size.is_null() { Ok(()) } else { put(size, p.size as usize) }
        }
    }
    fn cuLaunchKernel(
        func: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, smem: c_uint, stream: u64,
        params: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        let g = Geometry { grid: [gx, gy, gz], block: [bx, by, bz], cluster: None, smem };
        // SAFETY: as the API asks of its caller.
        unsafe { launch(func, &g, stream, params, extra) }
    }
    fn cuLaunchKernelEx(config: *const LaunchConfig, func: u64, params: *mut *mut c_void, extra: *mut *mut c_void) {
        if config.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: as the API asks of its caller.
        let c = unsafe { &*config };
        let mut g = Geometry { grid: c.grid, block: c.block, cluster: None, smem: c.smem };
        if c.num_attrs > 0 && c.attrs.is_null() {
            return Err(code::INVALID_VALUE);
        }
        for k in 0..c.num_attrs as usize {
            // SAFETY: the caller gives `num_attrs` attributes.
            let a = unsafe { &*c.attrs.add(k) };
            match a.id {
                // Ignored; cooperative (all blocks resident, checked by residency), programmatic serialization (a dependent
                // may start early; it does not here), priority, hints.
                0 | 2 | 5 | 6 | 8 | 14 => {}
                4 => g.cluster = Some([a.value[0], a.value[1], a.value[2]]),
                _ => return Err(code::INVALID_VALUE),
            }
        }
        // SAFETY: as the API asks of its caller.
        unsafe { launch(func, &g, c.stream, params, extra) }
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(out: *mut c_int, func: u64, threads: c_int, dynamic: usize) {
        let n = with_info(func, |i, _, p| blocks_per_sm(p, i, threads.max(0) as u64, dynamic as u64))?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, n as c_int) }
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out: *mut c_int, func: u64, threads: c_int, dynamic: usize, _flags: c_uint) {
        let n = with_info(func, |i, _, p| blocks_per_sm(p, i, threads.max(0) as u64, dynamic as u64))?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, n as c_int) }
    }
    fn cuOccupancyMaxActiveClusters(out: *mut c_int, func: u64, config: *const LaunchConfig) {
        if config.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: as the API asks of its caller.
        let c = unsafe { &*config };
        let mut size = 1;
        for k in 0..c.num_attrs as usize {
            // SAFETY: the caller gives `num_attrs` attributes.
            let a = unsafe { &*c.attrs.add(k) };
            if a.id == 4 {
                size = product([a.value[0], a.value[1], a.value[2]]);
            }
        }
        if size == 0 {
            return Err(code::INVALID_VALUE);
        }
        let (per, sms) = with_info(func, |i, _, p| (blocks_per_sm(p, i, product(c.block), c.smem.into()), u64::from(p.sms)))?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, (sms * per / size) as c_int) }
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(out: *mut usize, func: u64, blocks: c_int, _threads: c_int) {
        let n = with_info(func, |i, _, p| (p.shared_per_sm / blocks.max(1) as u32).saturating_sub(p.shared_reserved + i.static_smem).min(p.shared_per_block))?;
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, n as usize) }
    }
}
