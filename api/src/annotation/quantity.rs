//! Quantities in the text form of Kubernetes.

use std::str::FromStr;

/// A quantity that counts something whole: `10M`, `1Gi`, `1e3`, `1500`. Fractions are rounded up, as Kubernetes does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(pub u64);

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a suffix.
    #[error("{0:?} is not a quantity, write for instance 10M, 1Gi or 1500")]
    Syntax(String),
    /// Below zero.
    #[error("{0:?} is below zero")]
    Negative(String),
    /// More than 2^64 - 1.
    #[error("{0:?} is larger than any quantity can be")]
    TooLarge(String),
}

/// Most digits that are read: more than any quantity has.
const MAX_DIGITS: usize = 40;

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || QuantityError::Syntax(text.to_owned());
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let length = unsigned
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (number, suffix) = unsigned.split_at(length);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !plain || digits.len() > MAX_DIGITS {
            return Err(syntax());
        }
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let mut value: u128 = digits.parse().map_err(|_why| too_large())?;
        let (binary, exponent) = scale(suffix).ok_or_else(syntax)?;
        let places = i32::try_from(fraction.len()).map_err(|_why| syntax())?;
        let tens = exponent - places;
        value = value
            .checked_shl(binary)
            .filter(|shifted| shifted >> binary == value)
            .ok_or_else(too_large)?;
        let power = 10_u128
            .checked_pow(tens.unsigned_abs())
            .ok_or_else(too_large)?;
        value = if tens >= 0 {
            value.checked_mul(power).ok_or_else(too_large)?
        } else {
            value.div_ceil(power)
        };
        if is_negative && value > 0 {
            return Err(QuantityError::Negative(text.to_owned()));
        }
        u64::try_from(value).map(Self).map_err(|_why| too_large())
    }
}

/// The power of two and the power of ten of a suffix.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            (0, Some(exponent).filter(|tens| tens.abs() <= 30)?)
        }
    })
}
