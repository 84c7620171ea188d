//! `cuTensorMapEncodeTiled`: every constraint that cuda.h documents.

use std::ffi::c_void;

use super::{Res, code, exports, ready};
use crate::machine::tensor_map::{Element, Swizzle, TensorMap};

fn require(ok: bool) -> Res {
    if ok { Ok(()) } else { Err(code::INVALID_VALUE) }
}

/// The map that these arguments describe.
#[allow(clippy::too_many_arguments)]
unsafe fn encode(
    data_type: u32,
    rank: u32,
    address: u64,
    dims: *const u64,
    strides: *const u64,
    box_dims: *const u32,
    element_strides: *const u32,
    interleave: u32,
    swizzle: u32,
    l2: u32,
    fill: u32,
) -> Result<TensorMap, u32> {
    let element = Element::from_driver(data_type).ok_or(code::INVALID_VALUE)?;
    let swizzle = Swizzle::from_driver(swizzle).ok_or(code::INVALID_VALUE)?;
    require((1..=5).contains(&rank) && interleave <= 2 && l2 <= 3 && fill <= 1)?;
    require(interleave == 0 || rank >= 3)?;
    require(
        !dims.is_null()
            && !box_dims.is_null()
            && !element_strides.is_null()
            && (rank == 1 || !strides.is_null()),
    )?;
    require(address != 0 && address.is_multiple_of(if interleave == 2 { 32 } else { 16 }))?;
    let n = rank as usize;
    let mut m = TensorMap {
        address,
        rank: n,
        dims: [1; 5],
        strides: [0; 4],
        box_dims: [1; 5],
        element_strides: [1; 5],
        element,
        swizzle,
        interleave: interleave as u8,
        fill_nan: fill == 1,
        l2_promotion: l2 as u8,
    };
    for k in 0..n {
        // SAFETY: the caller gives `rank` elements.
        unsafe {
            m.dims[k] = *dims.add(k);
            m.box_dims[k] = *box_dims.add(k);
            m.element_strides[k] = *element_strides.add(k);
        }
        // One text of cuda.h bounds a dimension by 2^31, a later one by 2^32: the stricter holds here.
        require((1..=1 << 31).contains(&m.dims[k]))?;
        require((1..=256).contains(&m.box_dims[k]))?;
        require((1..=8).contains(&m.element_strides[k]))?;
    }
    if interleave == 0 {
        // The first element stride is ignored without interleave.
        m.element_strides[0] = 1;
    }
    let mut reach = m.dims[0] * element.bytes();
    for k in 0..n - 1 {
        // SAFETY: the caller gives `rank - 1` strides.
        m.strides[k] = unsafe { *strides.add(k) };
        require(
            m.strides[k].is_multiple_of(if interleave == 2 { 32 } else { 16 })
                && m.strides[k] < 1 << 40,
        )?;
        // Each dimension lies beyond the one before it.
        require(
            k == 0 && m.strides[0] >= reach || k > 0 && m.strides[k] >= reach || m.dims[k + 1] == 1,
        )?;
        reach = m.strides[k];
    }
    let inner = u64::from(m.box_dims[0]) * element.bytes();
    require(interleave != 0 || inner % 16 == 0)?;
    require(interleave != 2 || swizzle == Swizzle::B32)?;
    require(interleave != 0 || swizzle == Swizzle::None || inner <= u64::from(swizzle.span()))?;
    require(fill == 0 || element.float())?;
    Ok(m)
}

exports! {
    fn cuTensorMapEncodeTiled(
        map: *mut c_void, data_type: u32, rank: u32, address: u64, dims: *const u64, strides: *const u64,
        box_dims: *const u32, element_strides: *const u32, interleave: u32, swizzle: u32, l2: u32, fill: u32,
    ) {
        drop(ready()?);
        require(!map.is_null() && (map as usize).is_multiple_of(64))?;
        // SAFETY: as the API asks of its caller.
        let mut m = unsafe { encode(data_type, rank, address, dims, strides, box_dims, element_strides, interleave, swizzle, l2, fill)? };
        super::mutant::on_map(&mut m)?;
        // SAFETY: a CUtensorMap has 128 bytes.
        unsafe { map.cast::<[u8; 128]>().write(m.encode()) };
        Ok(())
    }
    fn cuTensorMapReplaceAddress(map: *mut c_void, address: u64) {
        drop(ready()?);
        require(!map.is_null() && (map as usize).is_multiple_of(64))?;
        // SAFETY: a CUtensorMap has 128 bytes.
        let bytes = unsafe { map.cast::<[u8; 128]>().read() };
        let mut m = TensorMap::decode(&bytes).map_err(|_| code::INVALID_VALUE)?;
        require(address != 0 && address.is_multiple_of(if m.interleave == 2 { 32 } else { 16 }))?;
        m.address = address;
        // SAFETY: as above.
        unsafe { map.cast::<[u8; 128]>().write(m.encode()) };
        Ok(())
    }
}
