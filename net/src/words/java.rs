//! Text forms of Java that the words' formats are made of: doubles, dates, socket addresses.
//!
//! Not here: the formats themselves. Pure.

#[path = "date.rs"]
mod date;

pub use date::minute_stamp;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A double as `Double.toString` prints it: shortest digits that read back the same, at least one behind the point,
/// an exponent below 1e-3 and from 1e7 on.
pub fn double(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if x == 0.0 || (1e-3..1e7).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let point = if digits.contains('.') { "" } else { ".0" };
    format!("{digits}{point}E{exponent}")
}

/// `total / count` rounded half up to four decimals, as ZooKeeper's averages are; 0 of nothing.
///
/// It rounds the quotient's exact binary value, as `BigDecimal(double).setScale(4, HALF_UP)` does.
pub fn average(total: u64, count: u64) -> f64 {
    if count == 0 {
        return 0.0;
    }
    // 80 decimals are the whole value: below 0.00005, where they might not be, the result is 0 anyway.
    let exact = format!("{:.80}", total as f64 / count as f64);
    let (whole, decimals) = exact.split_once('.').unwrap_or((&exact, "00000"));
    let kept = format!("{whole}{}", &decimals[..4]);
    let up = u128::from(decimals.as_bytes()[4] >= b'5');
    kept.parse::<u128>().map_or(0.0, |n| (n + up) as f64 / 10_000.0)
}

/// A moment as `java.util.Date.toString` prints it on a host in UTC; `ms` since 1970.
pub fn date(ms: i64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let c = date::civil(ms.div_euclid(1_000));
    let (day, month) = (DAYS[c.weekday as usize], MONTHS[c.month as usize - 1]);
    format!("{day} {month} {:02} {:02}:{:02}:{:02} UTC {}", c.day, c.hour, c.minute, c.second, c.year)
}

/// A peer as `InetSocketAddress.toString` prints one without a name: `/1.2.3.4:56`. IPv6 is not shortened.
pub fn peer(addr: SocketAddr) -> String {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => format!("/{ip}:{}", addr.port()),
        IpAddr::V6(ip) => format!("/[{}]:{}", groups(ip), addr.port()),
    }
}

fn groups(ip: Ipv6Addr) -> String {
    ip.segments().map(|s| format!("{s:x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_print_as_in_java() {
        for (x, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (1.8182, "1.8182"),
            (0.001, "0.001"),
            (0.0005, "5.0E-4"),
            (0.00012, "1.2E-4"),
            (9_999_999.5, "9999999.5"),
            (1e7, "1.0E7"),
            (12_345_678.0, "1.2345678E7"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double(x), text);
        }
    }

    #[test]
    fn averages_are_rounded_half_up_to_four_decimals() {
        assert_eq!(average(0, 0), 0.0);
        assert_eq!(average(20, 11), 1.8182);
        assert_eq!(average(1, 32), 0.0313, "0.03125 is exact in binary, so the half goes up");
        assert_eq!(average(3, 32), 0.0938);
        assert_eq!(average(1, 1_000_000), 0.0);
        assert_eq!(average(u64::MAX, 1), 18_446_744_073_709_552_000.0);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "Thu Jan 01 00:00:00 UTC 1970");
        assert_eq!(date(1_795_224_534_000), "Sat Nov 21 01:28:54 UTC 2026");
        assert_eq!(date(951_782_400_000), "Tue Feb 29 00:00:00 UTC 2000");
        assert_eq!(date(-1), "Wed Dec 31 23:59:59 UTC 1969");
        assert_eq!(minute_stamp(1_735_494_840), "2024-12-29 17:54 UTC");
    }

    #[test]
    fn peers_print_without_a_name() {
        assert_eq!(peer("127.0.0.1:42".parse().unwrap()), "/127.0.0.1:42");
        assert_eq!(peer("[::ffff:10.0.0.1]:42".parse().unwrap()), "/10.0.0.1:42");
        assert_eq!(peer("[::1]:42".parse().unwrap()), "/[0:0:0:0:0:0:0:1]:42");
    }
}
