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
