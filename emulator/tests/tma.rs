//! Tensor copies: one to five dimensions, every element size and swizzle, boxes that stick out on all sides, both fills, both
//! directions; and what `cuTensorMapEncodeTiled` refuses. Cost: seconds.

mod common;

use std::ffi::c_void;

use common::{Arg, Device, device};
use cudarc::driver::{DevicePtr, DevicePtrMut, sys};
use hadal_emulator::client::{AsyncMode, Knobs};

type Ty = sys::CUtensorMapDataType;
type Swizzle = sys::CUtensorMapSwizzle;

#[derive(Clone, Debug)]
struct Tensor {
    ty: Ty,
    bytes: usize,
    dims: Vec<u64>,
    /// Bytes, of dimension 1 and up.
    strides: Vec<u64>,
    tile: Vec<u32>,
    steps: Vec<u32>,
    swizzle: Swizzle,
    interleave: sys::CUtensorMapInterleave,
    nan: bool,
}

impl Tensor {
    fn new(ty: Ty, bytes: usize, dims: &[u64], tile: &[u32]) -> Self {
        let mut strides = Vec::new();
        let mut s = (dims[0] * bytes as u64).next_multiple_of(16);
        for d in &dims[1..] {
            strides.push(s);
            s *= d;
        }
        Self {
            ty,
            bytes,
            dims: dims.to_vec(),
            strides,
            tile: tile.to_vec(),
            steps: vec![1; dims.len()],
            swizzle: Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            interleave: sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            nan: false,
        }
    }

    fn encode(&self, address: u64) -> Result<sys::CUtensorMap, sys::CUresult> {
        let mut m = std::mem::MaybeUninit::zeroed();
        let fill = if self.nan {
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
        } else {
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
        };
        // SAFETY: arrays as long as the rank asks.
        let r = unsafe {
            sys::cuTensorMapEncodeTiled(
                m.as_mut_ptr(),
                self.ty,
                self.dims.len() as u32,
                address as *mut c_void,
                self.dims.as_ptr(),
                self.strides.as_ptr(),
                self.tile.as_ptr(),
                self.steps.as_ptr(),
                self.interleave,
                self.swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                fill,
            )
        };
        if r == sys::CUresult::CUDA_SUCCESS {
            // SAFETY: all bytes were zeroed.
            Ok(unsafe { m.assume_init() })
        } else {
            Err(r)
        }
    }

    fn size(&self) -> usize {
        let last = self.dims.len() - 1;
        if last == 0 {
            self.dims[0] as usize * self.bytes
        } else {
            (self.strides[last - 1] * self.dims[last]) as usize
        }
    }

    fn box_bytes(&self) -> usize {
        self.tile.iter().product::<u32>() as usize * self.bytes
    }

    /// Bytes of a row of the box; the swizzle's span where there is one.
    fn span(&self) -> usize {
        match self.swizzle {
            Swizzle::CU_TENSOR_MAP_SWIZZLE_32B => 32,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_64B => 64,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B => 128,
            _ => 16,
        }
    }

    /// For each element of the box: its place in shared memory, and in global memory if it is inside.
    fn elements(&self, at: &[i32]) -> Vec<(usize, Option<usize>)> {
        let n: usize = self.tile.iter().product::<u32>() as usize;
        (0..n)
            .map(|i| {
                let (mut rest, mut offset, mut inside) = (i, 0, true);
                for (d, first) in at.iter().enumerate().take(self.dims.len()) {
                    let c = i64::from(*first) + (rest % self.tile[d] as usize) as i64;
                    rest /= self.tile[d] as usize;
                    inside &= c >= 0 && (c as u64) < self.dims[d];
                    let stride = if d == 0 {
                        self.bytes as u64
                    } else {
                        self.strides[d - 1]
                    };
                    offset += c * stride as i64;
                }
                let place = i * self.bytes;
                let swizzled = place ^ ((place >> 7) & (self.span() / 16 - 1)) << 4;
                (swizzled, inside.then_some(offset as usize))
            })
            .collect()
    }
}

/// Loads the box at `c` and writes shared memory out as it is; `store`: the other way round.
fn kernel(rank: usize, bytes: usize, store: bool) -> String {
    let coords: Vec<String> = (0..rank).map(|i| format!("%r1{i}")).collect();
    let mut s = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .align 64 .b8 map[128], .param .u64 p, .param .align 4 .b8 c[20])\n{{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<40>;\n.reg .b64 %rd<8>;\n.shared .align 1024 .b8 buf[{}];\n.shared .align 8 .b8 bar[8];\n\
         mov.b64 %rd0, map;\ncvta.param.u64 %rd0, %rd0;\nld.param.u64 %rd1, [p];\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, buf;\nmov.u32 %r2, bar;\n\
         setp.eq.u32 %p0, %r0, 0;\n",
        bytes.next_multiple_of(1024)
    );
    for i in 0..5 {
        s += &format!("ld.param.u32 %r1{i}, [c+{}];\n", 4 * i);
    }
    let list = coords.join(", ");
    let walk = |body: &str| {
        format!(
            "mov.u32 %r20, %r0;\nWALK:\nsetp.ge.u32 %p2, %r20, {bytes};\n@%p2 bra DONE;\ncvt.u64.u32 %rd2, %r20;\nadd.s64 %rd2, %rd2, %rd1;\n\
             add.u32 %r21, %r20, %r1;\n{body}add.u32 %r20, %r20, 64;\nbra WALK;\nDONE:\n"
        )
    };
    if store {
        s += &walk("ld.global.u8 %r22, [%rd2];\nst.shared.u8 [%r21], %r22;\n");
        s += &format!(
            "fence.proxy.async;\nbar.sync 0;\n@!%p0 bra END;\n\
             cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [%rd0, {{{list}}}], [%r1];\n\
             cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\nEND:\n"
        );
    } else {
        s += &format!(
            "@!%p0 bra READY;\nmbarrier.init.shared::cta.b64 [%r2], 1;\nfence.mbarrier_init.release.cluster;\n\
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], {bytes};\n\
             cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd0, {{{list}}}], [%r2];\n\
             READY:\nbar.sync 0;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;\n@!%p1 bra WAIT;\n"
        );
        s += &walk("ld.shared.u8 %r22, [%r21];\nst.global.u8 [%rd2], %r22;\n");
    }
    s + "ret;\n}\n"
}

fn bytes_of(map: &sys::CUtensorMap) -> Vec<u8> {
    map.opaque.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn launch(d: &Device, t: &Tensor, map: &sys::CUtensorMap, p: u64, at: &[i32], store: bool) {
    let m = d
        .load(&kernel(t.dims.len(), t.box_bytes(), store))
        .expect("a module");
    let mut c = [0i32; 5];
    c[..at.len()].copy_from_slice(at);
    let c = c.iter().flat_map(|v| v.to_le_bytes()).collect();
    let r = d.launch(
        m,
        "k",
        [1, 1, 1],
        [64, 1, 1],
        0,
        &[Arg::Bytes(bytes_of(map)), Arg::U64(p), Arg::Bytes(c)],
    );
    assert!(r.is_ok(), "{t:?} at {at:?}: {r:?} {}", d.report());
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1)
        .collect()
}

/// The bytes of an element outside.
fn outside(t: &Tensor) -> Vec<u8> {
    match (t.nan, t.bytes) {
        (false, n) => vec![0; n],
        // The NaN of the fill: all ones but the sign.
        (true, n) => {
            let mut v = vec![0xFF; n];
            v[n - 1] = 0x7F;
            v
        }
    }
}

fn load(t: &Tensor, at: &[i32]) {
    let d = device(&Knobs {
        async_mode: AsyncMode::Random,
        ..Knobs::default()
    });
    let host = pattern(t.size());
    let memory = d.stream.clone_htod(&host).expect("memory");
    let mut out = d.stream.alloc_zeros::<u8>(t.box_bytes()).expect("memory");
    let map = t.encode(memory.device_ptr(&d.stream).0).expect("a map");
    launch(&d, t, &map, out.device_ptr_mut(&d.stream).0, at, false);
    let got = d.stream.clone_dtoh(&out).expect("memory");
    for (i, (place, from)) in t.elements(at).into_iter().enumerate() {
        let want = from.map_or_else(|| outside(t), |f| host[f..f + t.bytes].to_vec());
        if t.nan && from.is_none() {
            // Which NaN is not documented.
            let v = &got[place..place + t.bytes];
            let nan = if t.bytes == 4 {
                f32::from_le_bytes(v.try_into().unwrap()).is_nan()
            } else {
                half::bf16::from_le_bytes(v.try_into().unwrap()).is_nan()
            };
            assert!(nan, "{t:?} at {at:?}: element {i} is {v:?}");
        } else {
            assert_eq!(
                got[place..place + t.bytes],
                want,
                "{t:?} at {at:?}: element {i}"
            );
        }
    }
}

fn store(t: &Tensor, at: &[i32]) {
    let d = device(&Knobs::default());
    let before = pattern(t.size());
    let mut memory = d.stream.clone_htod(&before).expect("memory");
    let image: Vec<u8> = (0..t.box_bytes()).map(|i| (i as u8) << 1).collect();
    let from = d.stream.clone_htod(&image).expect("memory");
    let map = t.encode(memory.device_ptr_mut(&d.stream).0).expect("a map");
    launch(&d, t, &map, from.device_ptr(&d.stream).0, at, true);
    let mut want = before;
    for (place, to) in t.elements(at) {
        if let Some(to) = to {
            want[to..to + t.bytes].copy_from_slice(&image[place..place + t.bytes]);
        }
    }
    assert_eq!(
        d.stream.clone_dtoh(&memory).expect("memory"),
        want,
        "{t:?} at {at:?}"
    );
}

fn types() -> [(Ty, usize); 7] {
    use sys::CUtensorMapDataType as T;
    [
        (T::CU_TENSOR_MAP_DATA_TYPE_UINT8, 1),
        (T::CU_TENSOR_MAP_DATA_TYPE_UINT16, 2),
        (T::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2),
        (T::CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4),
        (T::CU_TENSOR_MAP_DATA_TYPE_INT32, 4),
        (T::CU_TENSOR_MAP_DATA_TYPE_UINT64, 8),
        (T::CU_TENSOR_MAP_DATA_TYPE_FLOAT64, 8),
    ]
}

#[test]
fn one_to_five_dimensions() {
    let dims = [37u64, 5, 4, 3, 3];
    for (i, (ty, bytes)) in types().into_iter().enumerate() {
        for rank in 1..=5 {
            let tile: Vec<u32> = [(16 / bytes as u32) * 2, 3, 2, 2, 2][..rank].to_vec();
            let t = Tensor::new(ty, bytes, &dims[..rank], &tile);
            for at in [
                [0, 0, 0, 0, 0],
                [3, 1, 1, 1, 1],
                [-5, -1, -1, 2, -1],
                [36, 4, 3, 2, 2],
                [100, 0, 0, 0, 0],
            ] {
                load(&t, &at[..rank]);
                if (i + rank) % 2 == 0 {
                    store(&t, &at[..rank]);
                }
            }
        }
    }
}

#[test]
fn every_swizzle() {
    use sys::CUtensorMapSwizzle as S;
    for (swizzle, span) in [
        (S::CU_TENSOR_MAP_SWIZZLE_32B, 32),
        (S::CU_TENSOR_MAP_SWIZZLE_64B, 64),
        (S::CU_TENSOR_MAP_SWIZZLE_128B, 128),
    ] {
        for (ty, bytes) in types() {
            let mut t = Tensor::new(ty, bytes, &[150, 40], &[span / bytes as u32, 24]);
            t.swizzle = swizzle;
            for at in [[0, 0], [7, 3], [-3, 30], [140, -2]] {
                load(&t, &at);
                store(&t, &at);
            }
        }
    }
}

#[test]
fn nan_fill() {
    use sys::CUtensorMapDataType as T;
    for (ty, bytes) in [
        (T::CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4),
        (T::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2),
    ] {
        let mut t = Tensor::new(ty, bytes, &[20, 6], &[16, 4]);
        t.nan = true;
        load(&t, &[10, 4]);
        load(&t, &[-20, 0]);
    }
}

#[test]
fn what_the_encoder_refuses() {
    use sys::CUtensorMapDataType as T;
    let d = device(&Knobs::default());
    d.context.bind_to_thread().unwrap();
    let good = Tensor::new(T::CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, &[64, 64], &[32, 32]);
    let address = 0x7000_0000_0000;
    assert!(good.encode(address).is_ok());
    let bad = |what: &str, address: u64, change: &dyn Fn(&mut Tensor)| {
        let mut t = good.clone();
        change(&mut t);
        assert_eq!(
            t.encode(address).err(),
            Some(sys::CUresult::CUDA_ERROR_INVALID_VALUE),
            "{what}"
        );
    };
    bad("address on 8 bytes", address + 8, &|_| ());
    bad("null", 0, &|_| ());
    bad("no columns", address, &|t| t.dims[0] = 0);
    bad("more than 2^32 columns", address, &|t| {
        t.dims[0] = (1 << 32) + 1
    });
    bad("stride on 8 bytes", address, &|t| t.strides[0] = 264);
    bad("stride of 2^40", address, &|t| t.strides[0] = 1 << 40);
    bad("empty box", address, &|t| t.tile[1] = 0);
    bad("box of 257", address, &|t| t.tile[1] = 257);
    bad("rows of the box no multiple of 16 bytes", address, &|t| {
        t.tile[0] = 6
    });
    bad("box wider than the swizzle", address, &|t| {
        t.swizzle = Swizzle::CU_TENSOR_MAP_SWIZZLE_64B
    });
    bad("step of 0", address, &|t| t.steps[1] = 0);
    bad("step of 9", address, &|t| t.steps[1] = 9);
    bad("NaN fill of integers", address, &|t| {
        (t.ty, t.nan) = (T::CU_TENSOR_MAP_DATA_TYPE_INT32, true)
    });
    let exact = |change: &dyn Fn(&mut Tensor)| {
        let mut t = good.clone();
        change(&mut t);
        assert!(t.encode(address).is_ok(), "{t:?}");
    };
    exact(&|t| t.tile[1] = 256);
    exact(&|t| t.strides[0] = (1 << 40) - 16);
    exact(&|t| t.swizzle = Swizzle::CU_TENSOR_MAP_SWIZZLE_128B);
    exact(&|t| t.steps[1] = 8);
}
