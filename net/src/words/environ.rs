//! What `envi` says about this process and its host.
//!
//! The only module of `words` that asks the system. Java's own properties have no meaning here and are given as `<NA>`,
//! which is what ZooKeeper prints for a property that is not set.

use super::VERSION;
use std::fs;

const JAVA_ONLY: [&str; 7] = [
    "java.version",
    "java.vendor",
    "java.home",
    "java.class.path",
    "java.library.path",
    "java.io.tmpdir",
    "java.compiler",
];

/// The variables of `envi` in ZooKeeper's order. Reads a few files of `/proc`; what cannot be read is `<NA>`.
pub fn variables() -> Vec<(&'static str, String)> {
    let file = |path| fs::read_to_string(path).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let known = |value: Option<String>| value.unwrap_or_else(|| "<NA>".to_owned());
    let env = |name| std::env::var(name).ok();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let megabytes = |name: &str| known(meminfo_kib(&memory, name).map(|kib| format!("{}MB", kib / 1024)));
    let mut all = vec![
        ("zookeeper.version", VERSION.to_owned()),
        ("host.name", known(file("/proc/sys/kernel/hostname"))),
    ];
    all.extend(JAVA_ONLY.map(|name| (name, "<NA>".to_owned())));
    all.extend([
        ("os.name", "Linux".to_owned()),
        ("os.arch", arch()),
        ("os.version", known(file("/proc/sys/kernel/osrelease"))),
        ("user.name", known(env("USER").or_else(|| env("LOGNAME")).or_else(user_of_passwd))),
        ("user.home", known(env("HOME"))),
        ("user.dir", known(std::env::current_dir().ok().map(|d| d.display().to_string()))),
        ("os.memory.free", megabytes("MemAvailable")),
        ("os.memory.max", megabytes("MemTotal")),
        ("os.memory.total", megabytes("MemTotal")),
    ]);
    all
}

/// The name of the user that this process runs as.
fn user_of_passwd() -> Option<String> {
    let all = fs::read_to_string("/etc/passwd").ok()?;
    passwd_name(&all, rustix::process::getuid().as_raw()).map(str::to_owned)
}

fn passwd_name(text: &str, uid: u32) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// Open file descriptors of this process and its limit (`open_file_descriptor_count` and `max_...` of `mntr`).
pub fn file_descriptors() -> (u64, u64) {
    let open = fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    (open, open_files_limit(&limits).unwrap_or(0))
}

/// Java's name of the processor architecture.
fn arch() -> String {
    if std::env::consts::ARCH == "x86_64" { "amd64" } else { std::env::consts::ARCH }.to_owned()
}

fn meminfo_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files_limit(text: &str) -> Option<u64> {
    let soft = text.lines().find_map(|l| l.strip_prefix("Max open files"))?.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_host_and_open_files() {
        let all = variables();
        assert_eq!(all[0], ("zookeeper.version", VERSION.to_owned()));
        assert!(all.iter().any(|(n, v)| *n == "os.memory.total" && v.ends_with("MB")));
        let (open, max) = file_descriptors();
        assert!(open >= 3 && max >= open, "{open} of {max}");
    }

    #[test]
    fn files_of_proc_are_read_by_name() {
        assert_eq!(meminfo_kib("MemTotal:  2048 kB\nMemAvailable:   1024 kB\n", "MemAvailable"), Some(1024));
        assert_eq!(meminfo_kib("MemTotal:  2048 kB\n", "Mem"), None);
        assert_eq!(
            open_files_limit("Max open files            1024                 20000  files\n"),
            Some(1024)
        );
    }
}
