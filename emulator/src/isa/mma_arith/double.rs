//! Tensor-core f64: fused multiply-adds, k ascending from the old accumulator (MMA-Sim), each with the rounding named.

/// Roundings of `mma` with f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Near,
    /// Toward zero.
    Zero,
    /// Down.
    Down,
    /// Up.
    Up,
}

/// `a * b + c`, rounded once. NaN results are canonical (0xFFF8000000000000).
pub fn fma(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    if rounding == Rounding::Near || !(a.is_finite() && b.is_finite() && c.is_finite()) {
        let r = a.mul_add(b, c);
        return if r.is_nan() {
            f64::from_bits(0xFFF8_0000_0000_0000)
        } else {
            r
        };
    }
    directed(a, b, c, rounding)
}

/// Integer and exponent of a finite number: `m * 2^e`.
fn split(x: f64) -> (i128, i32) {
    let bits = x.to_bits();
    let (field, man) = (
        (bits >> 52 & 0x7FF) as i32,
        (bits & ((1 << 52) - 1)) as i128,
    );
    let m = if field > 0 { man | 1 << 52 } else { man };
    (
        if x.is_sign_negative() { -m } else { m },
        field.max(1) - 1075,
    )
}

/// The operands are finite. The sum is formed in 126 bits; what falls off below leaves a one in the last place, which is
/// far below the 53 bits kept: bits are lost only where the other term is larger by 19 bits or more.
fn directed(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    let ((ma, ea), (mb, eb), (mc, ec)) = (split(a), split(b), split(c));
    let (mut x, mut ex, mut y, mut ey) = (ma * mb, ea + eb, mc, ec);
    if x == 0 && y == 0 {
        // IEEE: zeroes of one sign keep it; otherwise the sum is -0 only when rounding down.
        let negative = a.is_sign_negative() != b.is_sign_negative();
        let zero = match (negative, c.is_sign_negative()) {
            (true, true) => true,
            (false, false) => false,
            _ => rounding == Rounding::Down,
        };
        return if zero { -0.0 } else { 0.0 };
    }
    let top = |m: i128| 128 - m.unsigned_abs().leading_zeros() as i32;
    if x == 0 || y != 0 && top(x) + ex < top(y) + ey {
        (x, ex, y, ey) = (y, ey, x, ex);
    }
    let up = 125 - top(x);
    (x, ex) = (x << up, ex - up);
    let d = ex - ey;
    let sum = x + if y == 0 {
        0
    } else if d <= 0 {
        y << -d
    } else if d > 125 {
        y.signum()
    } else {
        let (kept, lost) = (y.abs() >> d, y.abs() & ((1 << d) - 1));
        y.signum() * (kept | i128::from(lost != 0))
    };
    if sum == 0 {
        return if rounding == Rounding::Down {
            -0.0
        } else {
            0.0
        };
    }
    let (negative, mag) = (sum < 0, sum.unsigned_abs());
    let away = match rounding {
        Rounding::Down => negative,
        Rounding::Up => !negative,
        _ => false,
    };
    // Place of the last kept bit: 52 below the lead, or the subnormals' place.
    let last = (top(sum) - 53 + ex).max(-1074) - ex;
    let (mut m, lost) = if last > 126 {
        (0, true)
    } else if last <= 0 {
        (mag << -last, false)
    } else {
        (mag >> last, mag & ((1 << last) - 1) != 0)
    };
    m += u128::from(lost && away);
    let e = last + ex;
    // A carry out of the mantissa goes into the exponent; `m` has at most 54 bits then and a zero at its end.
    let (m, e) = if m >> 53 != 0 {
        (m >> 1, e + 1)
    } else {
        (m, e)
    };
    let sign = u64::from(negative) << 63;
    let bits = if m >> 52 == 0 {
        m as u64
    } else if e + 1075 > 2046 {
        if away { 0x7FF << 52 } else { (0x7FF << 52) - 1 }
    } else {
        ((e + 1075) as u64) << 52 | m as u64 & ((1 << 52) - 1)
    };
    f64::from_bits(sign | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Down and up bracket the exact value: they are neighbours of the nearest, equal exactly when the nearest is exact,
    /// and zero is the one nearer to zero.
    #[test]
    fn directed_roundings_bracket() {
        let mut s = 7u64;
        let mut next = || {
            s = s
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            s ^ s >> 29
        };
        let mut inexact = 0;
        for i in 0..200_000 {
            let mut v = || {
                let (x, range) = (next(), [3, 40, 200, 2040][i % 4]);
                let e = 1023 - range / 2 + next() % range;
                f64::from_bits(x & 0x800F_FFFF_FFFF_FFFF | e.clamp(1, 2045) << 52)
            };
            let (a, b, c) = (v(), v(), v());
            let near = fma(a, b, c, Rounding::Near);
            let (down, up) = (fma(a, b, c, Rounding::Down), fma(a, b, c, Rounding::Up));
            let zero = fma(a, b, c, Rounding::Zero);
            assert!(
                near == down || near == up,
                "{a:e} {b:e} {c:e}: {down:e} {near:e} {up:e}"
            );
            assert!(
                down == up || down.next_up() == up,
                "{a:e} {b:e} {c:e}: {down:e} {up:e}"
            );
            let toward = if near < 0.0 || down < 0.0 { up } else { down };
            assert_eq!(zero, toward, "{a:e} {b:e} {c:e}");
            inexact += usize::from(down != up);
            // The error of the nearest, where it is representable, says which side the exact value lies on.
            let (p, pe) = (a * b, a.mul_add(b, -(a * b)));
            if c == 0.0 && p.abs() > 1e-200 && p.is_finite() && pe != 0.0 {
                assert_eq!(near == down, pe > 0.0);
            }
        }
        assert!(inexact > 100_000);
    }

    #[test]
    fn known_cases() {
        use Rounding::*;
        let one = |a, b, c| [Near, Zero, Down, Up].map(|r| fma(a, b, c, r));
        let tiny = f64::from_bits(1);
        assert_eq!(one(1.0, 1.0, 1e-300), [1.0, 1.0, 1.0, 1.0f64.next_up()]);
        assert_eq!(
            one(1.0, 1.0, -1e-300),
            [1.0, 1.0f64.next_down(), 1.0f64.next_down(), 1.0]
        );
        assert_eq!(
            one(f64::MAX, 2.0, 0.0),
            [f64::INFINITY, f64::MAX, f64::MAX, f64::INFINITY]
        );
        assert_eq!(
            one(-f64::MAX, 2.0, 0.0),
            [-f64::INFINITY, -f64::MAX, -f64::INFINITY, -f64::MAX]
        );
        assert_eq!(one(tiny, 0.25, 0.0), [0.0, 0.0, 0.0, tiny]);
        assert_eq!(one(tiny, -0.25, 0.0), [0.0, 0.0, -tiny, 0.0]);
        assert_eq!(one(tiny, 1.0, tiny), [2.0 * tiny; 4]);
        assert!(
            one(1.0, 1.0, -1.0)
                .iter()
                .map(|x| x.is_sign_negative())
                .eq([false, false, true, false])
        );
        assert!(one(f64::INFINITY, 0.0, 1.0).iter().all(|x| x.is_nan()));
        // A subnormal that rounds up into a normal number.
        let below = f64::MIN_POSITIVE.next_down();
        assert_eq!(fma(below, 1.0, tiny / 2.0 + tiny * 0.0, Up), below);
        assert_eq!(
            fma(f64::MIN_POSITIVE, 1.0 - f64::EPSILON / 2.0, 0.0, Up),
            f64::MIN_POSITIVE
        );
    }
}
