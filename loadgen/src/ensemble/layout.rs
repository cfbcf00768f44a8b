//! Files and command lines of the servers of a local ensemble. Nothing is started here, so all of it can be tested.

use anyhow::{Context, bail};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Whose servers are started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Target {
    /// `serval serve`
    Serval,
    /// Apache ZooKeeper in a JVM, as Debian packages it
    Apache,
}

/// A line `KEY=VALUE` for the servers' zoo.cfg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerOption {
    pub key: String,
    pub value: String,
}

impl std::str::FromStr for ServerOption {
    type Err = String;

    fn from_str(text: &str) -> Result<ServerOption, String> {
        let (key, value) = text.split_once('=').ok_or("give KEY=VALUE, as in snapCount=1000000")?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || value.is_empty() || text.contains(['\n', '\r']) {
            return Err("give KEY=VALUE, as in snapCount=1000000".to_owned());
        }
        Ok(ServerOption { key: key.to_owned(), value: value.to_owned() })
    }
}

/// The ports of one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    pub client: u16,
    pub quorum: u16,
    pub election: u16,
}

/// How many ports a server has.
pub const PORTS: usize = 3;

/// Shares `free` out, [`PORTS`] to a server.
pub fn share_out(free: &[u16]) -> Vec<Ports> {
    free.chunks_exact(PORTS).map(|p| Ports { client: p[0], quorum: p[1], election: p[2] }).collect()
}

/// What all servers of an ensemble have in common.
#[derive(Clone, Debug)]
pub struct Common {
    pub target: Target,
    /// The server's program: `serval`, or `java`.
    pub program: PathBuf,
    /// Tuning profile (Serval).
    pub profile: Option<String>,
    /// Largest heap of each JVM, as its `-Xmx` takes it (Apache).
    pub java_heap: String,
    /// Where the jars are (Apache).
    pub class_path: String,
    pub tick_ms: u32,
    pub options: Vec<ServerOption>,
    /// In order of their ids, which count from 1.
    pub ports: Vec<Ports>,
}

impl Common {
    /// The zoo.cfg of the server with this index. An ensemble of one has no server lines: it stands alone.
    pub fn zoo_cfg(&self, index: usize, data_dir: &Path) -> String {
        let mut text = format!(
            "dataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\ntickTime={}\n",
            data_dir.display(),
            self.ports[index].client,
            self.tick_ms
        );
        let mut lines: Vec<(&str, &str)> = vec![
            ("initLimit", "10"),
            ("syncLimit", "5"),
            ("4lw.commands.whitelist", "*"),
            ("maxClientCnxns", "0"),
            ("admin.enableServer", "false"),
            // A fast server writes gigabytes a minute.
            ("autopurge.purgeInterval", "1"),
            // The default of 1,000 requests would throttle what is to be measured.
            ("globalOutstandingLimit", "100000"),
        ];
        lines.retain(|(key, _)| self.options.iter().all(|o| o.key != *key));
        lines.extend(self.options.iter().map(|o| (o.key.as_str(), o.value.as_str())));
        for (key, value) in lines {
            let _ = writeln!(text, "{key}={value}");
        }
        if self.ports.len() > 1 {
            for (i, p) in self.ports.iter().enumerate() {
                let _ = writeln!(text, "server.{}=127.0.0.1:{}:{}", i + 1, p.quorum, p.election);
            }
        }
        text
    }

    /// The arguments of the program, given the path of its zoo.cfg.
    pub fn arguments(&self, zoo_cfg: &str) -> Vec<String> {
        let arguments: Vec<&str> = match self.target {
            Target::Serval => {
                let profile = self.profile.iter().flat_map(|p| ["--profile", p]);
                ["serve", "--config", zoo_cfg].into_iter().chain(profile).collect()
            }
            Target::Apache => {
                let heap = format!("-Xmx{}", self.java_heap);
                let flags = [
                    heap.as_str(),
                    "-XX:-UsePerfData",
                    "-Djava.awt.headless=true",
                    "-Dzookeeper.admin.enableServer=false",
                    "-cp",
                    &self.class_path,
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                    zoo_cfg,
                ];
                return flags.map(str::to_owned).to_vec();
            }
        };
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// What runs, in a few words.
    pub fn describe(&self) -> String {
        let n = self.ports.len();
        let mut text = match self.target {
            Target::Serval => {
                format!("{n} x serval (profile {})", self.profile.as_deref().unwrap_or("balanced"))
            }
            Target::Apache => format!("{n} x Apache ZooKeeper (java -Xmx{}, logging off)", self.java_heap),
        };
        let _ = write!(text, ", tickTime {}", self.tick_ms);
        for o in &self.options {
            let _ = write!(text, ", {}={}", o.key, o.value);
        }
        text
    }
}

/// Debian's place of the jar; `ZOOKEEPER_JAR` names another.
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// What that jar needs of its neighbours. The logger is the one that says nothing.
const JARS_BESIDE: [&str; 11] = [
    "zookeeper-jute",
    "slf4j-api",
    "slf4j-nop",
    "netty-handler",
    "netty-transport",
    "netty-buffer",
    "netty-common",
    "netty-transport-native-epoll",
    "metrics-core",
    "snappy-java",
    "commons-cli",
];

/// The class path of Apache ZooKeeper.
///
/// # Errors
/// It is not installed.
pub fn apache_class_path() -> anyhow::Result<String> {
    let jar = PathBuf::from(std::env::var("ZOOKEEPER_JAR").unwrap_or_else(|_| JAR.to_owned()));
    if !jar.exists() {
        bail!("there is no {}: install Debian's package zookeeper, or set ZOOKEEPER_JAR", jar.display());
    }
    let directory = jar.parent().context("ZOOKEEPER_JAR names no file")?;
    let beside = JARS_BESIDE.iter().map(|name| directory.join(format!("{name}.jar"))).filter(|p| p.exists());
    let all: Vec<String> =
        std::iter::once(jar.clone()).chain(beside).map(|p| p.display().to_string()).collect();
    Ok(all.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(target: Target, n: u16) -> Common {
        let port = |i: u16| Ports { client: 2181 + i, quorum: 2888 + i, election: 3888 + i };
        Common {
            target,
            program: "program".into(),
            profile: None,
            java_heap: "1g".to_owned(),
            class_path: "a.jar:b.jar".to_owned(),
            tick_ms: 2000,
            options: vec!["snapCount=7".parse().unwrap(), "syncLimit=9".parse().unwrap()],
            ports: (0..n).map(port).collect(),
        }
    }

    #[test]
    fn every_server_knows_all_and_serves_its_own_port() {
        let text = common(Target::Apache, 3).zoo_cfg(1, Path::new("d"));
        for line in [
            "dataDir=d",
            "clientPort=2182",
            "clientPortAddress=127.0.0.1",
            "tickTime=2000",
            "initLimit=10",
            "syncLimit=9",
            "snapCount=7",
            "maxClientCnxns=0",
            "autopurge.purgeInterval=1",
            "server.1=127.0.0.1:2888:3888",
            "server.3=127.0.0.1:2890:3890",
        ] {
            assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{line} in\n{text}");
        }
        assert!(!text.contains("syncLimit=5"), "an option replaces the default:\n{text}");
    }

    #[test]
    fn one_server_stands_alone() {
        assert!(!common(Target::Serval, 1).zoo_cfg(0, Path::new("d")).contains("server."));
    }

    #[test]
    fn commands_name_configuration_heap_and_profile() {
        let mut c = common(Target::Serval, 3);
        assert_eq!(c.arguments("z"), ["serve", "--config", "z"]);
        c.profile = Some("small".to_owned());
        assert_eq!(c.arguments("z"), ["serve", "--config", "z", "--profile", "small"]);
        let java = common(Target::Apache, 3).arguments("z");
        assert!(java.contains(&"-Xmx1g".to_owned()) && java.contains(&"a.jar:b.jar".to_owned()));
        assert_eq!(java.last().unwrap(), "z");
        assert!(common(Target::Apache, 3).describe().contains("3 x Apache ZooKeeper (java -Xmx1g"));
    }

    #[test]
    fn options_are_lines_of_key_and_value() {
        for bad in ["snapCount", "=1", "a=", "a=b\nserver.9=x"] {
            assert!(bad.parse::<ServerOption>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_server_has_its_own_ports() {
        let shared = share_out(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(shared[1], Ports { client: 4, quorum: 5, election: 6 });
        assert_eq!(shared.len(), 2);
    }
}
