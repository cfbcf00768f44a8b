//! What a value may look like: numbers, switches, durations, addresses; each failure says what is allowed.
//!
//! Not here: which key takes which form (`keys`). Pure, but for `socket_addr`, which may ask the resolver.
//! Invariant: nothing malformed is taken for a default; where Java silently falls back, this refuses.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// What is allowed instead of the value that was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allowed(pub String);

/// The form of a value whose meaning does not matter here because nothing acts on it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form {
    Text,
    Bool,
    /// A whole number in this range.
    Int(i64, i64),
    /// A finite decimal fraction.
    Float,
    OneOf(&'static [&'static str]),
}

impl Form {
    /// Is `value` of this form?
    pub fn check(self, value: &str) -> Result<(), Allowed> {
        match self {
            Form::Text => Ok(()),
            Form::Bool => boolean(value).map(drop),
            Form::Int(min, max) => int(value, min, max).map(drop),
            Form::Float => match value.parse::<f64>() {
                Ok(f) if f.is_finite() => Ok(()),
                _ => Err(Allowed("a decimal number".into())),
            },
            Form::OneOf(all) if all.contains(&value) => Ok(()),
            Form::OneOf(all) => Err(Allowed(format!("one of {}", all.join(", ").trim_start_matches(", ")))),
        }
    }
}

/// `true` or `false`, in any case of letters, as Java reads it.
pub fn boolean(value: &str) -> Result<bool, Allowed> {
    if value.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if value.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err(Allowed("true or false".into()))
    }
}

/// `yes` or `no`.
pub fn yes_no(value: &str) -> Result<bool, Allowed> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Allowed("yes or no".into())),
    }
}

/// A whole number in `min..=max`; `0x` starts a hexadecimal one, as `Integer.getInteger` takes it.
pub fn int(value: &str, min: i64, max: i64) -> Result<i64, Allowed> {
    let parsed = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with(['+', '-']) => i64::from_str_radix(hex, 16),
        _ => value.parse(),
    };
    match parsed {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(Allowed(format!("a whole number {min}..={max}"))),
    }
}

/// A port that something can listen on, or 0.
pub fn port(value: &str) -> Result<u16, Allowed> {
    int(value, 0, 65_535).map(|n| n as u16)
}

/// A time span in ms: a whole number, of `unit_ms` unless it ends in ms, s, m, h or d. Zero or less is `None`: off.
pub fn span(value: &str, unit_ms: u64) -> Result<Option<u64>, Allowed> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let unit = match &digits[end..] {
        "" => unit_ms,
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let number = digits[..end].parse::<u64>().ok().filter(|_| unit > 0);
    match number.and_then(|n| n.checked_mul(unit)).filter(|&ms| ms <= i64::MAX as u64) {
        Some(ms) if ms > 0 && !value.starts_with('-') => Ok(Some(ms)),
        Some(_) => Ok(None),
        None => Err(Allowed("a whole number, with ms, s, m, h or d behind it if wanted".into())),
    }
}

/// An address, or a name that the resolver knows, to listen on. IPv6 may stand in brackets.
pub fn ip_addr(value: &str) -> Result<IpAddr, Allowed> {
    let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
    if let Ok(ip) = bare.parse() {
        return Ok(ip);
    }
    let found =
        if bare.is_empty() { None } else { (bare, 0).to_socket_addrs().ok().and_then(|mut a| a.next()) };
    found
        .map(|a: SocketAddr| a.ip())
        .ok_or_else(|| Allowed("an IP address, or a host name that resolves to one".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_and_halves_of_numbers_are_refused() {
        assert_eq!(int("0x10", 0, 100), Ok(16));
        assert_eq!(int("-1", -1, 5), Ok(-1));
        for bad in ["", "x", "6", "-2", "1.5", "0x-1", "5 ", "9999999999999999999"] {
            assert_eq!(int(bad, -1, 5), Err(Allowed("a whole number -1..=5".into())), "{bad:?}");
        }
    }

    #[test]
    fn switches_take_only_their_two_words() {
        assert_eq!(boolean("TRUE"), Ok(true));
        assert!(boolean("yes").is_err() && boolean("").is_err());
        assert_eq!(yes_no("no"), Ok(false));
        assert!(yes_no("true").is_err());
    }

    #[test]
    fn spans_have_units() {
        assert_eq!(span("2", 3_600_000), Ok(Some(7_200_000)));
        assert_eq!(span("90s", 3_600_000), Ok(Some(90_000)));
        assert_eq!(span("0", 1), Ok(None));
        assert_eq!(span("-1", 1), Ok(None));
        for bad in ["", "-", "h", "1w", "1.5h", "99999999999999999999d", "9999999999999999d"] {
            assert!(span(bad, 1).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_may_be_bracketed() {
        assert_eq!(ip_addr("[::1]").unwrap(), "::1".parse::<IpAddr>().unwrap());
        assert_eq!(ip_addr("0.0.0.0").unwrap(), "0.0.0.0".parse::<IpAddr>().unwrap());
        assert!(ip_addr("").is_err());
        assert!(ip_addr("no such host.invalid").is_err());
    }

    #[test]
    fn each_form_refuses_something() {
        assert!(Form::Float.check("0.33").is_ok() && Form::Float.check("-1").is_ok());
        assert!(Form::Float.check("NaN").is_err());
        assert!(Form::Bool.check("1").is_err());
        assert!(Form::Int(0, 1).check("2").is_err());
        assert_eq!(Form::OneOf(&["", "gz"]).check("zip"), Err(Allowed("one of gz".into())));
    }
}
