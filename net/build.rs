//! Stamps the build: the date behind `built on` in the version that four-letter words print.
//!
//! `SOURCE_DATE_EPOCH` (seconds since 1970) wins over the clock, so that a build can be repeated to the byte.

#[path = "src/words/date.rs"]
mod date;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/words/date.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|v| v.parse::<i64>().ok());
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs() as i64);
    println!("cargo::rustc-env=SERVAL_BUILT_ON={}", date::minute_stamp(given.unwrap_or_else(now)));
}
