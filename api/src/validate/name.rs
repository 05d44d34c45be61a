//! Names of objects and labels.

/// Whether a text is a DNS label (RFC 1123): at most 63 of `a-z`, `0-9` and `-`, no `-` at its ends.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inside = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (1..=63).contains(&text.len()) && inside && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether a text may name an interface: 1 to 15 of letters, digits, `_`, `.` and `-`.
pub(super) fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Whether a text is a DNS subdomain (RFC 1123): labels joined by dots, at most 253 in all.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        let inside = part
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !part.is_empty() && inside && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether a text is the key of a label: `name` or `prefix/name`.
pub(super) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name_part(name),
        None => is_name_part(text),
    }
}

/// Whether a text is the value of a label: empty, or like the name of a key.
pub(super) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

fn is_name_part(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let octets = text.as_bytes();
    (1..=63).contains(&octets.len())
        && edge(octets.first())
        && edge(octets.last())
        && octets
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether a text names a port in a rule: 1 to 128 of letters, digits, `_`, `.` and `-`.
pub(super) fn is_port_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
