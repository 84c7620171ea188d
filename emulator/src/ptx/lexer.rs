//! Characters to tokens.

use super::ast::{PtxError, Span};

/// A token. Dots belong to the words they start (`.reg`), except inside an opcode, which the parser splits.
#[derive(Clone, Debug, PartialEq)]
pub enum Token<'a> {
    /// Identifier, opcode (with its dots), `%register`, label, `.directive`.
    Word(&'a str),
    /// Integer literal.
    Int(u64),
    /// `0f…`.
    F32(u32),
    /// `0d…` or decimal.
    F64(u64),
    /// String literal, without quotes.
    Str(&'a str),
    /// Anything else: one character, or `<<`, `>>`, `==`, `!=`, `<=`, `>=`, `&&`, `||`.
    Punct(&'a str),
}

fn word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn word_part(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.')
}

/// All tokens with their places.
///
/// # Errors
/// A character or literal that PTX does not have.
pub fn lex(text: &str) -> Result<Vec<(Token<'_>, Span)>, PtxError> {
    let s = text.as_bytes();
    let mut out = Vec::with_capacity(s.len() / 4);
    let (mut i, mut line, mut line_start) = (0, 1u32, 0);
    while i < s.len() {
        let span = Span {
            line,
            col: (i - line_start + 1) as u32,
        };
        let c = s[i];
        match c {
            b'\n' => {
                i += 1;
                line += 1;
                line_start = i;
            }
            b' ' | b'\t' | b'\r' => i += 1,
            b'/' if s.get(i + 1) == Some(&b'/') => {
                while i < s.len() && s[i] != b'\n' {
                    i += 1;
                }
            }
            b'/' if s.get(i + 1) == Some(&b'*') => {
                let mut j = i + 2;
                loop {
                    match (s.get(j), s.get(j + 1)) {
                        (Some(b'*'), Some(b'/')) => break,
                        (None, _) => return Err(PtxError::new(span, "this comment does not end")),
                        (Some(b'\n'), _) => {
                            line += 1;
                            line_start = j + 1;
                        }
                        _ => {}
                    }
                    j += 1;
                }
                i = j + 2;
            }
            b'"' => {
                let mut j = i + 1;
                while j < s.len() && s[j] != b'"' && s[j] != b'\n' {
                    j += if s[j] == b'\\' { 2 } else { 1 };
                }
                if s.get(j) != Some(&b'"') {
                    return Err(PtxError::new(span, "this string does not end"));
                }
                out.push((Token::Str(text.get(i + 1..j).unwrap_or("")), span));
                i = j + 1;
            }
            b'0'..=b'9' => {
                let (t, n) = number(&text[i..])
                    .ok_or_else(|| PtxError::new(span, "this number is not one of PTX's forms"))?;
                out.push((t, span));
                i += n;
            }
            c if word_start(c) => {
                let mut j = i + 1;
                loop {
                    match s.get(j) {
                        // `.reg.b32` is two directives.
                        Some(b'.') if c == b'.' => break,
                        Some(&c) if word_part(c) => j += 1,
                        // `shared::cluster`, `mbarrier::complete_tx::bytes`
                        Some(b':')
                            if s.get(j + 1) == Some(&b':')
                                && s.get(j + 2).is_some_and(|&c| word_part(c)) =>
                        {
                            j += 2
                        }
                        _ => break,
                    }
                }
                out.push((Token::Word(&text[i..j]), span));
                i = j;
            }
            _ => {
                let two = text
                    .get(i..i + 2)
                    .filter(|t| ["<<", ">>", "==", "!=", "<=", ">=", "&&", "||"].contains(t));
                let n = two.map_or(1, str::len);
                let p = text
                    .get(i..i + n)
                    .ok_or_else(|| PtxError::new(span, "PTX is ASCII"))?;
                if !c.is_ascii_punctuation() {
                    return Err(PtxError::new(span, format!("unexpected character {p:?}")));
                }
                out.push((Token::Punct(p), span));
                i += n;
            }
        }
    }
    Ok(out)
}

/// A literal and its length.
fn number(t: &str) -> Option<(Token<'_>, usize)> {
    let b = t.as_bytes();
    let digits = |from: usize, ok: fn(u8) -> bool| b[from..].iter().take_while(|c| ok(**c)).count();
    let hex = |c: u8| c.is_ascii_hexdigit();
    let bounded = |n: usize| {
        !b.get(n)
            .is_some_and(|&c| c.is_ascii_alphanumeric() || c == b'_')
    };
    let unsigned = |n: usize| {
        if matches!(b.get(n), Some(b'U')) {
            n + 1
        } else {
            n
        }
    };
    if b[0] == b'0' && b.len() > 1 {
        match b[1] {
            b'x' | b'X' => {
                let n = digits(2, hex);
                let end = unsigned(2 + n);
                return (n > 0 && bounded(end)).then(|| {
                    Some((Token::Int(u64::from_str_radix(&t[2..2 + n], 16).ok()?), end))
                })?;
            }
            b'f' | b'F' if digits(2, hex) == 8 => {
                return bounded(10)
                    .then(|| Some((Token::F32(u32::from_str_radix(&t[2..10], 16).ok()?), 10)))?;
            }
            b'd' | b'D' if digits(2, hex) == 16 => {
                return bounded(18)
                    .then(|| Some((Token::F64(u64::from_str_radix(&t[2..18], 16).ok()?), 18)))?;
            }
            b'b' | b'B' => {
                let n = digits(2, |c| matches!(c, b'0' | b'1'));
                let end = unsigned(2 + n);
                return (n > 0 && bounded(end)).then(|| {
                    Some((Token::Int(u64::from_str_radix(&t[2..2 + n], 2).ok()?), end))
                })?;
            }
            _ => {}
        }
    }
    let n = digits(0, |c| c.is_ascii_digit());
    let mut end = n;
    let mut float = false;
    if b.get(end) == Some(&b'.') {
        float = true;
        end += 1 + digits(end + 1, |c| c.is_ascii_digit());
    }
    if matches!(b.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(b.get(end + 1), Some(b'+' | b'-')));
        let m = digits((end + 1 + sign).min(b.len()), |c| c.is_ascii_digit());
        if m > 0 {
            float = true;
            end += 1 + sign + m;
        }
    }
    if float {
        return bounded(end)
            .then(|| Some((Token::F64(t[..end].parse::<f64>().ok()?.to_bits()), end)))?;
    }
    let octal = b[0] == b'0' && n > 1;
    let v = u64::from_str_radix(&t[..n], if octal { 8 } else { 10 }).ok()?;
    let end = unsigned(n);
    bounded(end).then_some((Token::Int(v), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        let all = |t| lex(t).unwrap().into_iter().map(|x| x.0).collect::<Vec<_>>();
        assert_eq!(
            all("0x1F 017 0b101 12U 9"),
            [31, 15, 5, 12, 9].map(Token::Int)
        );
        assert_eq!(
            all("0f3F800000 0d3FF0000000000000 1.5 2e3"),
            [
                Token::F32(0x3F80_0000),
                Token::F64(1f64.to_bits()),
                Token::F64(1.5f64.to_bits()),
                Token::F64(2e3f64.to_bits())
            ]
        );
        for bad in ["0xg", "12q", "089", "\u{e9}", "/* x", "\"x"] {
            assert!(lex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_and_places() {
        let t = lex("a.b::c.d [%r1]; // x\n  $L_1:").unwrap();
        assert_eq!(t[0].0, Token::Word("a.b::c.d"));
        assert_eq!(t[2].0, Token::Word("%r1"));
        assert_eq!(t[5], (Token::Word("$L_1"), Span { line: 2, col: 3 }));
        let t = lex(".reg.b32 .shared::cta").unwrap();
        let words = [".reg", ".b32", ".shared::cta"].map(Token::Word);
        assert_eq!(t.iter().map(|t| t.0.clone()).collect::<Vec<_>>(), words);
    }
}
