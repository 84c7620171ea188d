//! Functions that the machine provides: `vprintf` and `__assertfail`, as nvcc calls them for `printf` and `assert`.

use std::io::Write;

use super::decode::{Decoder, Result};
use super::memory::{Place, read_bytes};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::machine::report::{FaultCode, Finding};
use crate::ptx::ast::{self, Operand, Type};

/// Bytes of a string at most.
const LONGEST: usize = 1 << 16;
/// Arguments of a printf at most (CUDA C++ Programming Guide, "Formatted Output").
const ARGUMENTS: usize = 32;

/// Local addresses of results and arguments.
struct Builtin {
    returns: Vec<RowId>,
    params: Vec<RowId>,
}

/// Decodes `builtin.NAME`, which the inliner writes for calls of these functions.
///
/// # Errors
/// Operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    if i.opcode[0] != "builtin" {
        return Ok(None);
    }
    let [Operand::List(r), Operand::List(p)] = &i.operands[..] else {
        return Err(d.error(i, "is not complete"));
    };
    let mut rows = |list: &[Operand]| {
        list.iter()
            .map(|o| match o {
                Operand::Var(..) | Operand::Reg(_) => d.src_operand(i, o, Type::U64, false),
                _ => Err(d.error(i, "takes parameters in .param space")),
            })
            .collect::<Result<Vec<_>>>()
    };
    let b = Builtin {
        returns: rows(r)?,
        params: rows(p)?,
    };
    let x = d.push_aux(Box::new(b));
    let exec = match i.opcode.get(1).map(String::as_str) {
        Some("vprintf") => vprintf,
        _ => assertfail,
    };
    Ok(Some(Inst { x, ..d.inst(exec) }))
}

type Access<T> = super::memory::Access<T>;

fn generic<const N: usize>(cx: &mut Cx, addr: u64, lane: u32) -> Access<[u8; N]> {
    let mut out = [0; N];
    read_bytes(cx, super::memory::place(addr), addr, lane, &mut out)?;
    Ok(out)
}

/// Parameter `k` of lane `lane`, of `N` bytes.
unsafe fn parameter<const N: usize>(cx: &mut Cx, row: RowId, lane: u32) -> Access<[u8; N]> {
    // SAFETY: the caller's row belongs to this kernel.
    let at = unsafe { cx.get64(row)[lane as usize] };
    let mut out = [0; N];
    read_bytes(cx, Place::Local(at as u32), at, lane, &mut out)?;
    Ok(out)
}

/// A NUL-terminated string.
fn string(cx: &mut Cx, addr: u64, lane: u32) -> Access<Vec<u8>> {
    let mut out = Vec::new();
    while out.len() < LONGEST {
        let [b] = generic(cx, addr + out.len() as u64, lane)?;
        if b == 0 {
            return Ok(out);
        }
        out.push(b);
    }
    let text = format!("a string at {addr:#x} has no end within {LONGEST} bytes");
    Err(Box::new(Finding::new(
        FaultCode::IllegalAddress,
        "bounds",
        text,
    )))
}

/// A conversion of a format.
#[derive(Debug, PartialEq, Eq)]
struct Conversion {
    /// `%`, flags, width, precision, without length and type. `*` still stands in it.
    head: Vec<u8>,
    /// Bytes of an integer argument as C's varargs pass it, from `l` and `ll`.
    wide: bool,
    /// Type: one of `cdiouxXpeEfFgGaAs`.
    kind: u8,
}

/// Text, and what is to be converted after it.
type Pieces = Vec<(Vec<u8>, Option<Conversion>)>;

/// The format in pieces.
fn pieces(format: &[u8]) -> std::result::Result<Pieces, String> {
    let mut out = Vec::new();
    let (mut text, mut i) = (Vec::new(), 0);
    while i < format.len() {
        if format[i] != b'%' {
            text.push(format[i]);
            i += 1;
            continue;
        }
        if format.get(i + 1) == Some(&b'%') {
            text.push(b'%');
            i += 2;
            continue;
        }
        let start = i;
        i += 1;
        while format
            .get(i)
            .is_some_and(|c| b"#0+- .*123456789".contains(c))
        {
            i += 1;
        }
        let head = format[start..i].to_vec();
        let mut wide = false;
        while let Some(c) = format.get(i).filter(|c| b"hlzjt".contains(c)) {
            wide |= *c != b'h';
            i += 1;
        }
        match format.get(i) {
            Some(k) if b"cdiouxXpeEfFgGaAs".contains(k) => out.push((
                std::mem::take(&mut text),
                Some(Conversion {
                    head,
                    wide,
                    kind: *k,
                }),
            )),
            Some(k) => return Err(format!("%{} is no conversion of printf", char::from(*k))),
            None => return Err("the format ends in a conversion".into()),
        }
        i += 1;
    }
    out.push((text, None));
    Ok(out)
}

/// One argument through the C library, which is where CUDA's output is formatted too.
fn c_format(head: &[u8], stars: &[i32], tail: &str, value: Value) -> Vec<u8> {
    let mut spec = Vec::new();
    let mut s = stars.iter();
    for &c in head {
        match (c, s.len()) {
            (b'*', n) if n > 0 => spec.extend(s.next().map_or(0, |v| *v).to_string().into_bytes()),
            _ => spec.push(c),
        }
    }
    spec.extend(tail.bytes());
    let Ok(spec) = std::ffi::CString::new(spec) else {
        return Vec::new();
    };
    let mut buffer = vec![0u8; 512];
    loop {
        let (p, n) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: one conversion in the format and one argument of its type; the buffer has `n` bytes.
        let need = unsafe {
            match &value {
                Value::Int(v) => libc::snprintf(p, n, spec.as_ptr(), *v),
                Value::Float(v) => libc::snprintf(p, n, spec.as_ptr(), *v),
                Value::Text(v) => libc::snprintf(p, n, spec.as_ptr(), v.as_ptr()),
            }
        };
        let need = usize::try_from(need).unwrap_or(0);
        if need < n {
            buffer.truncate(need);
            return buffer;
        }
        // No width may use up all memory.
        if need > 1 << 20 {
            return Vec::new();
        }
        buffer.resize(need + 1, 0);
    }
}

enum Value {
    Int(i64),
    Float(f64),
    Text(std::ffi::CString),
}

/// What a lane prints, and how many arguments it used.
fn print(cx: &mut Cx, format: u64, buffer: u64, lane: u32) -> Access<(Vec<u8>, i32)> {
    let format = string(cx, format, lane)?;
    let bad = |text: String| Box::new(Finding::new(FaultCode::LaunchFailed, "printf", text));
    let mut out = Vec::new();
    let (mut at, mut used) = (0u64, 0);
    // Arguments lie one after the other, each aligned to its size.
    let mut next = |cx: &mut Cx, wide: bool| -> Access<u64> {
        used += 1;
        if used > ARGUMENTS {
            return Err(bad(format!("more than {ARGUMENTS} arguments")));
        }
        let n = if wide { 8 } else { 4 };
        at = at.next_multiple_of(n);
        let a = buffer.wrapping_add(at);
        at += n;
        Ok(if wide {
            u64::from_le_bytes(generic(cx, a, lane)?)
        } else {
            i64::from(i32::from_le_bytes(generic(cx, a, lane)?)) as u64
        })
    };
    for (text, conversion) in pieces(&format).map_err(bad)? {
        out.extend(text);
        let Some(c) = conversion else { continue };
        let mut stars = Vec::new();
        for _ in c.head.iter().filter(|b| **b == b'*') {
            stars.push(next(cx, false)? as i32);
        }
        let kind = char::from(c.kind);
        let (tail, value) = match c.kind {
            b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => (
                kind.to_string(),
                Value::Float(f64::from_bits(next(cx, true)?)),
            ),
            b's' => {
                let a = next(cx, true)?;
                let s = if a == 0 {
                    b"(null)".to_vec()
                } else {
                    string(cx, a, lane)?
                };
                let s = std::ffi::CString::new(s).unwrap_or_default();
                ("s".into(), Value::Text(s))
            }
            b'p' => ("p".into(), Value::Int(next(cx, true)? as i64)),
            b'c' => ("c".into(), Value::Int(next(cx, false)? as i64)),
            _ if c.wide => (format!("ll{kind}"), Value::Int(next(cx, true)? as i64)),
            _ => {
                let v = next(cx, false)? as i64;
                let unsigned = matches!(c.kind, b'o' | b'u' | b'x' | b'X');
                let v = if unsigned { i64::from(v as u32) } else { v };
                (format!("ll{kind}"), Value::Int(v))
            }
        };
        out.extend(c_format(&c.head, &stars, &tail, value));
    }
    Ok((out, used as i32))
}

unsafe fn vprintf(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    let b = unsafe { cx.aux::<Builtin>(i.x) };
    let mut all = Vec::new();
    for l in (0..32u32).filter(|l| mask >> l & 1 != 0) {
        // SAFETY: as above.
        let p: Access<_> = unsafe {
            parameter::<8>(cx, b.params[0], l)
                .and_then(|f| Ok((f, parameter::<8>(cx, b.params[1], l)?)))
        };
        let done = p.and_then(|(f, a)| print(cx, u64::from_le_bytes(f), u64::from_le_bytes(a), l));
        let (text, n) = match done {
            Ok(x) => x,
            Err(f) => return cx.fail_lane(f, l as usize),
        };
        all.extend(text);
        if let Some(&row) = b.returns.first() {
            // SAFETY: as above.
            let at = unsafe { cx.get64(row)[l as usize] };
            let place = Place::Local(at as u32);
            if let Err(f) = super::memory::write_bytes(cx, place, at, l, &n.to_le_bytes()) {
                return cx.fail_lane(f, l as usize);
            }
        }
    }
    cx.machine().print(&all);
    Flow::Yield
}

unsafe fn assertfail(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    let b = unsafe { cx.aux::<Builtin>(i.x) };
    let l = mask.trailing_zeros();
    let text = |cx: &mut Cx, k: usize| -> Access<String> {
        // SAFETY: as above.
        let a = u64::from_le_bytes(unsafe { parameter(cx, b.params[k], l)? });
        Ok(String::from_utf8_lossy(&string(cx, a, l)?).into_owned())
    };
    let all = (|| -> Access<_> {
        // SAFETY: as above.
        let line = u32::from_le_bytes(unsafe { parameter(cx, b.params[2], l)? });
        Ok((text(cx, 0)?, text(cx, 1)?, line, text(cx, 3)?))
    })();
    let (message, file, line, function) = match all {
        Ok(x) => x,
        Err(f) => return cx.fail_lane(f, l as usize),
    };
    let w = cx.warp().index;
    let (block, thread) = (cx.block().index, cx.block().thread(w, l));
    // The words of the CUDA runtime.
    let text = format!(
        "{file}:{line}: {function}: block: [{},{},{}], thread: [{},{},{}] Assertion `{message}` failed.",
        block[0], block[1], block[2], thread[0], thread[1], thread[2]
    );
    let _ = writeln!(std::io::stderr().lock(), "{text}");
    cx.fail(Finding::new(FaultCode::Assert, "assert", text).lanes(1 << l))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let p = pieces(b"a%%b %-5.2lld|%s\n").unwrap();
        assert_eq!(p.len(), 3);
        assert_eq!(p[0].0, b"a%b ");
        let c = p[0].1.as_ref().unwrap();
        assert_eq!(
            (c.head.as_slice(), c.wide, c.kind),
            (&b"%-5.2"[..], true, b'd')
        );
        assert_eq!(p[2].0, b"\n");
        assert!(pieces(b"%n").is_err());
        assert!(pieces(b"%5").is_err());
        assert_eq!(c_format(b"%*", &[6], "lld", Value::Int(-42)), b"   -42");
        assert_eq!(
            c_format(b"%.3", &[], "f", Value::Float(2.0 / 3.0)),
            b"0.667"
        );
        assert_eq!(c_format(b"%#", &[], "llx", Value::Int(255)), b"0xff");
    }
}
