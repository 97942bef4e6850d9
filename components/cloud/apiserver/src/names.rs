//! The grammars of names, labels and quantities (`apimachinery/pkg/util/validation`, `pkg/api/resource`). Each check
//! returns Kubernetes' description of what is allowed.

/// RFC 1123 label, at most 63 bytes.
pub(crate) fn dns_label(name: &str) -> Result<(), &'static str> {
    if name.len() <= 63 && is_label(name) {
        return Ok(());
    }
    Err(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
         with an alphanumeric character (at most 63 characters)",
    )
}

/// RFC 1035 label: like RFC 1123, but starts with a letter. Services are named so.
pub(crate) fn dns_label_1035(name: &str) -> Result<(), &'static str> {
    if name.len() <= 63 && is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Ok(());
    }
    Err(
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
         character, and end with an alphanumeric character (at most 63 characters)",
    )
}

/// RFC 1123 subdomain, at most 253 bytes.
pub(crate) fn dns_subdomain(name: &str) -> Result<(), &'static str> {
    if name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
         and end with an alphanumeric character (at most 253 characters)",
    )
}

fn is_label(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}

fn is_qualified_part(part: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = part.as_bytes();
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// `[prefix/]name`, as keys of labels and annotations.
pub(crate) fn label_key(key: &str) -> Result<(), &'static str> {
    let ok = match key.split_once('/') {
        Some((prefix, name)) => dns_subdomain(prefix).is_ok() && is_qualified_part(name),
        None => is_qualified_part(key),
    };
    if ok {
        return Ok(());
    }
    Err("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
         alphanumeric character (at most 63 characters), with an optional DNS subdomain prefix and '/'")
}

pub(crate) fn label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || is_qualified_part(value) {
        return Ok(());
    }
    Err(
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
         and end with an alphanumeric character (at most 63 characters)",
    )
}

/// A key of a ConfigMap or Secret: it becomes a file name.
pub(crate) fn config_key(key: &str) -> Result<(), &'static str> {
    let ok = !key.is_empty()
        && key.len() <= 253
        && key != "."
        && !key.starts_with("..")
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if ok {
        return Ok(());
    }
    Err(
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.', and not start with '..' \
         (at most 253 characters)",
    )
}

/// Printable ASCII without `=`, as Kubernetes 1.32 and later allow.
pub(crate) fn environment_name(name: &str) -> Result<(), &'static str> {
    if !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Ok(());
    }
    Err("a valid environment variable name must consist only of printable ASCII characters other than '='")
}

/// A quantity's value in thousandths, for comparing. `None`: not a quantity. Values too large for it saturate.
pub(crate) fn quantity_milli(text: &str) -> Option<i128> {
    let end = text
        .bytes()
        .position(|b| !(b.is_ascii_digit() || matches!(b, b'.' | b'+' | b'-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, digits) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if digits.len() > 30
        || !all_digits(whole)
        || !all_digits(fraction)
        || (whole.is_empty() && fraction.is_empty())
    {
        return None;
    }
    let (multiplier, exponent): (i128, i32) = match suffix {
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "" => (1, 0),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        other => (1, other.strip_prefix(['e', 'E'])?.parse().ok().filter(|e: &i32| e.abs() <= 18)?),
    };
    let places = i32::try_from(fraction.len()).ok()?;
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mantissa = mantissa.saturating_mul(multiplier);
    // Thousandths, rounded up as Kubernetes does.
    let shift = exponent - places + 3;
    let power = 10_i128.checked_pow(shift.unsigned_abs()).unwrap_or(i128::MAX);
    let value = if shift >= 0 {
        mantissa.saturating_mul(power)
    } else {
        mantissa / power + i128::from(mantissa % power != 0)
    };
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_follow_their_grammars() {
        assert!(dns_label("web-0").is_ok());
        assert!(dns_label("web.0").is_err());
        assert!(dns_subdomain("web.0").is_ok());
        assert!(dns_subdomain("web..0").is_err());
        assert!(dns_label_1035("0web").is_err());
        assert!(label_key("node-role.kubernetes.io/edge").is_ok());
        assert!(label_key("a/b/c").is_err());
        assert!(label_value("").is_ok());
        assert!(label_value("a b").is_err());
        assert!(config_key("..x").is_err());
    }

    #[test]
    fn quantities_compare_by_value() {
        assert_eq!(quantity_milli("100m"), Some(100));
        assert_eq!(quantity_milli("0.1"), Some(100));
        assert_eq!(quantity_milli("1Ki"), Some(1_024_000));
        assert_eq!(quantity_milli("1e3"), quantity_milli("1k"));
        assert_eq!(quantity_milli("1n"), Some(1));
        for bad in ["", "abc", "1x", "1.2.3", "--1", "1e99", "Mi"] {
            assert_eq!(quantity_milli(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn quantity_never_panics(text in ".{0,40}") {
            let _ = quantity_milli(&text);
        }
    }
}
