//! What a plain scalar is: as `kubectl` reads it, which is YAML 1.1 of go-yaml.

use serde_json::{Number, Value};

/// Reads a scalar without quotes.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let digits = text.replace('_', "");
    whole(&digits)
        .or_else(|| fraction(&digits))
        .map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// A whole number: decimal, `0x`, `0b`, `0o`, and octal by a leading zero.
fn whole(text: &str) -> Option<Number> {
    let (is_negative, magnitude) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if !magnitude.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    let lower = magnitude.to_ascii_lowercase();
    let (digits, radix) = if let Some(digits) = lower.strip_prefix("0x") {
        (digits, 16)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (digits, 2)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (digits, 8)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (lower.get(1..)?, 8)
    } else {
        (lower.as_str(), 10)
    };
    let sign = if is_negative { "-" } else { "" };
    let signed = format!("{sign}{digits}");
    i64::from_str_radix(&signed, radix)
        .map(Number::from)
        .ok()
        .or_else(|| u64::from_str_radix(&signed, radix).map(Number::from).ok())
}

/// A number with a point or an exponent. Infinities cannot be written in JSON and stay texts.
fn fraction(text: &str) -> Option<Number> {
    let is_number = text.bytes().any(|b| b.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !is_number || !text.ends_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    Number::from_f64(text.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let cases = [
            ("", json!(null)),
            ("~", json!(null)),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("10", json!(10)),
            ("-1", json!(-1)),
            ("010", json!(8)),
            ("0x10", json!(16)),
            ("1_000", json!(1000)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            (
                "18446744073709551615",
                json!(18_446_744_073_709_551_615_u64),
            ),
            ("10.0.0.0/8", json!("10.0.0.0/8")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("80:90", json!("80:90")),
            ("1m30s", json!("1m30s")),
            ("08", json!(8.0)),
            (".inf", json!(".inf")),
            ("app == 'a'", json!("app == 'a'")),
            ("fd00::/8", json!("fd00::/8")),
            ("-", json!("-")),
            ("e", json!("e")),
        ];
        for (text, value) in cases {
            assert_eq!(resolve(text), value, "{text:?}");
        }
    }
}
