//! Kubernetes quantities (`500m`, `1.5Gi`, `2e3`) as integers
//! (`k8s.io/apimachinery/pkg/api/resource/quantity.go`, "Quantity is a fixed-point representation").

/// Thousandths of the unit, rounded up as Kubernetes does; `None` for what is no quantity or does not fit.
pub(crate) fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// Whole units (bytes, cores), rounded up.
pub(crate) fn whole(text: &str) -> Option<i64> {
    scaled(text, 1)
}

fn scaled(text: &str, scale: i128) -> Option<i64> {
    let text = text.trim();
    let number_end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    // numerator * 10^-decimals, exactly: floats would turn 0.1 into a little more.
    let (mantissa, decimals) = decimal(number)?;
    let (factor, divisor) = suffix_factor(suffix)?;
    let over = mantissa.checked_mul(factor)?.checked_mul(scale)?;
    let under = 10_i128.checked_pow(decimals)?.checked_mul(divisor)?;
    let rounded = over.div_euclid(under) + i128::from(over.rem_euclid(under) != 0);
    i64::try_from(rounded).ok()
}

fn decimal(text: &str) -> Option<(i128, u32)> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    // 18 digits fit an i64; nothing real is longer.
    if (whole.is_empty() && fraction.is_empty())
        || whole.len() + fraction.len() > 18
        || !all_digits(whole)
        || !all_digits(fraction)
    {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some((sign * mantissa, u32::try_from(fraction.len()).ok()?))
}

/// (multiply by, divide by)
fn suffix_factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024_i128.pow(power), 1));
    let metric = |power: u32| Some((1000_i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => metric(1),
        "M" => metric(2),
        "G" => metric(3),
        "T" => metric(4),
        "P" => metric(5),
        "E" => metric(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs().min(30))?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_parse_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("100m", 100),
            ("1", 1000),
            ("0.5", 500),
            ("1.5", 1500),
            ("2e3", 2_000_000),
            ("1n", 1),
            ("-1", -1000),
        ] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for (text, expected) in
            [("32Mi", 33_554_432), ("1k", 1000), ("1.5Gi", 1_610_612_736), ("100m", 1), ("0", 0)]
        {
            assert_eq!(whole(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "m", "1.2.3", "12x", "1KB", "--1", "9999999999999999999", "8Ei8", "."] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_quantity_or_refused(text in ".{0,24}") {
            let _ = milli(&text);
            let _ = whole(&text);
        }
    }
}
