//! The merge as a whole: files in, `Config` and `Profile` out; and that no row of the key table is idle.

use super::keys::{KEYS, Rule};
use super::*;
use profiles::Durability;
use std::path::Path;

/// A zoo.cfg in a directory of its own, loaded.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Case {
        Case { dir: tempfile::tempdir().unwrap() }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("zoo.cfg")
    }
    fn load_exactly(&self, text: &str) -> Result<Loaded, ConfigError> {
        std::fs::write(self.path(), text).unwrap();
        load(&Sources { file: Some(self.path()), ..Sources::default() })
    }
    /// With the two lines that every zoo.cfg needs in front, so that `text` begins in line 3.
    fn load(&self, text: &str) -> Result<Loaded, ConfigError> {
        self.load_exactly(&format!("dataDir={}\nclientPort=2181\n{text}", self.dir.path().display()))
    }
    fn good(&self, text: &str) -> Loaded {
        self.load(text).unwrap()
    }
    /// The error without the directory in front of `zoo.cfg`.
    fn error(&self, text: &str) -> String {
        let dir = format!("{}/", self.dir.path().display());
        self.load(text).expect_err("must be refused").to_string().replace(&dir, "")
    }
}

fn warnings(l: &Loaded) -> Vec<(usize, &str)> {
    l.warnings.iter().map(|w| (w.place.as_ref().map_or(0, |p| p.1), w.key.as_str())).collect()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn nothing_given_means_loopback_2181_and_serval_data() {
    let l = load(&Sources::default()).unwrap();
    assert_eq!(l.config.client_addrs, [addr("127.0.0.1:2181")]);
    assert_eq!(l.config.data_dir, Path::new("./serval-data"));
    assert_eq!(l.config.data_log_dir, Path::new("./serval-data"));
    assert_eq!(l.config.limits.tick_ms, 2_000);
    assert_eq!(l.profile, Profile::default());
    assert!(l.warnings.is_empty());
}

#[test]
fn the_sample_zoo_cfg_listens_everywhere_with_zookeepers_defaults() {
    let case = Case::new();
    let l = case.good("tickTime=2000\n");
    assert_eq!(l.config.client_addrs, [addr("0.0.0.0:2181"), addr("[::]:2181")]);
    let limits = &l.config.limits;
    assert_eq!((limits.min_session_timeout_ms, limits.max_session_timeout_ms), (4_000, 40_000));
    assert_eq!(limits.max_client_connections, 60);
    assert_eq!(limits.words.as_deref(), Some(&["srvr".into()][..]));
    assert_eq!(limits.jute_max_buffer, 1_048_575);
    assert_eq!(l.config.purge, None);
    assert!(l.warnings.is_empty(), "{:?}", l.warnings);
    assert_eq!(case.good("").config.limits.tick_ms, 3_000, "a zoo.cfg without tickTime");
}

/// A value for each honoured key that must make a difference.
fn sample(name: &str) -> &'static str {
    match name {
        "dataDir" | "dataLogDir" => "/elsewhere",
        "clientPort" => "2182",
        "clientPortAddress" => "127.0.0.9",
        "clientPortListenBacklog" => "77",
        "tickTime" => "2500",
        "minSessionTimeout" => "1000",
        "maxSessionTimeout" => "70000",
        "maxClientCnxns" => "61",
        "maxCnxns" => "9",
        "nio.sessionlessCnxnTimeout" | "sessionlessCnxnTimeout" => "5000",
        "datadir.autocreate" | "db.autocreate" | "digest.enabled" => "false",
        "globalOutstandingLimit" => "5000",
        "jute.maxbuffer" => "0x200000",
        "4lw.commands.whitelist" => "ruok, mntr",
        "readonlymode.enabled" | "enforceQuota" | "extendedTypesEnabled" | "reconfigEnabled" => "true",
        "localSessionsEnabled" | "localSessionsUpgradingEnabled" => "true",
        "observerMasterPort" => "2191",
        "skipACL" => "yes",
        "DigestAuthenticationProvider.superDigest" => "super:D/InIHSb7yEEbrWz8b9l71RjZJU=",
        "znode.container.checkIntervalMs" => "100",
        "znode.container.maxPerMinute" => "7",
        "znode.container.maxNeverUsedIntervalMs" => "300000",
        "snapCount" => "5000",
        "snapSizeLimitInKb" => "10240",
        "preAllocSize" => "131072",
        "txnLogSizeLimitInKb" => "262144",
        "flushDelay" => "3",
        "forceSync" | "leaderServes" => "no",
        "fsync.warningthresholdms" => "20",
        "autopurge.snapRetainCount" => "5",
        "autopurge.purgeInterval" => "24",
        "initLimit" | "syncLimit" | "connectToLearnerMasterLimit" => "7",
        "quorumListenOnAllIPs" | "multiAddress.enabled" => "true",
        "cnxTimeout" | "leader.maxTimeToWaitForEpoch" => "700",
        "fastleader.minNotificationInterval" | "fastleader.maxNotificationInterval" => "300",
        other => panic!("{other}: give a sample"),
    }
}

#[test]
fn every_honoured_key_makes_a_difference_and_refuses_nonsense() {
    // What only shows beside another key, or is a rule about members, has tests of its own below.
    let elsewhere = ["standaloneEnabled", "server.*", "dynamicConfigFile", "group.*", "weight.*", "peerType"];
    let base = "autopurge.purgeInterval=1\ninitLimit=5\nsyncLimit=5\nserver.1=a:1:2\nserver.2=b:1:2\n";
    for key in KEYS {
        let Rule::Honoured(_) = key.rule else { continue };
        if elsewhere.contains(&key.name) {
            continue;
        }
        let case = Case::new();
        std::fs::write(case.dir.path().join("myid"), "1\n").unwrap();
        // Another data directory has no myid.
        let base = if key.name == "dataDir" { "autopurge.purgeInterval=1\n" } else { base };
        let shown = |l: &Loaded| format!("{:?} {:?}", l.config, l.profile);
        let plain = shown(&case.good(base));
        let changed = case.good(&format!("{base}{}={}\n", key.name, sample(key.name)));
        assert_ne!(plain, shown(&changed), "{} does nothing", key.name);
        let about_key = changed.warnings.iter().filter(|w| w.place.is_some() && w.key == key.name);
        assert!(about_key.clone().all(|w| w.why.contains("overridden")), "{}", key.name);
        let about_paths = key.name == "dataDir" || key.name == "dataLogDir";
        let nonsense = if about_paths { "" } else { "%$ nonsense" };
        let text = case.error(&format!("{}={nonsense}\n", key.name));
        assert!(text.starts_with(&format!("zoo.cfg:3: {}: ", key.name)), "{text}");
        assert!(text.contains("allowed is "), "{text}");
    }
}

#[test]
fn every_other_key_is_warned_about_exactly_once_or_refused() {
    use super::values::Form;
    for key in KEYS {
        let (form, same, refused) = match key.rule {
            Rule::Honoured(_) => continue,
            Rule::Warned { form, same, .. } => (form, same, false),
            Rule::Refused { form, same, .. } => (form, same, true),
        };
        let name = key.name.replace('*', "x");
        let candidates = ["true", "false", "yes", "no", "7", "3", "0.5", "observer", "gz"];
        let other = candidates.iter().find(|v| form.check(v).is_ok() && !same.contains(v));
        let case = Case::new();
        for value in same {
            assert!(case.good(&format!("{name}={value}\n")).warnings.is_empty(), "{name}={value}");
        }
        let Some(value) = other else {
            assert_eq!(key.name, "electionAlg", "no value of {name} makes a difference");
            continue;
        };
        let line = format!("{name}={value}\n");
        if refused {
            let text = case.error(&line);
            assert!(text.starts_with(&format!("zoo.cfg:3: {name}: refused: ")), "{text}");
        } else {
            assert_eq!(warnings(&case.good(&line)), [(3, name.as_str())]);
        }
        if form != Form::Text {
            assert!(case.error(&format!("{name}=%$\n")).contains("allowed is "), "{name}");
        }
    }
}

#[test]
fn unknown_and_doubled_keys_get_one_warning_each() {
    let case = Case::new();
    let l = case.good("colour=blue\ntickTime=1000\ntickTime=2000\nzookeeper.skipACL=yes\n");
    assert_eq!(warnings(&l), [(3, "colour"), (4, "tickTime"), (6, "zookeeper.skipACL")]);
    assert!(
        l.warnings[0].to_string().ends_with("zoo.cfg:3: colour: ignored: no such key"),
        "{}",
        l.warnings[0]
    );
    assert!(l.warnings[1].why.contains("line 5"));
    assert!(l.warnings[2].why.contains("write skipACL="));
    assert_eq!(l.config.limits.tick_ms, 2_000);
    assert!(!l.config.limits.skip_acl, "as in ZooKeeper, the prefixed form has no effect in the file");
    let text = case.error("zookeeper.enforce.auth.enabled=true\n");
    assert!(text.contains("zoo.cfg:3: zookeeper.enforce.auth.enabled: refused"), "{text}");
}

#[test]
fn a_malformed_value_names_file_line_key_and_what_is_allowed() {
    let text = Case::new().error("tickTime=fast\n");
    assert_eq!(text, "zoo.cfg:3: tickTime: \"fast\" is not allowed; allowed is a whole number 1..=107374182");
    assert!(Case::new().error("4lw.commands.whitelist=srvr,Mntr\n").contains("ruok isro srvr"));
}

#[test]
fn session_timeouts_follow_the_tick_and_must_be_in_order() {
    let case = Case::new();
    let l = case.good("maxSessionTimeout=60000\ntickTime=100\n").config.limits;
    assert_eq!((l.min_session_timeout_ms, l.max_session_timeout_ms), (200, 60_000));
    assert!(
        case.error("minSessionTimeout=50000\ntickTime=2000\n")
            .contains("must not be above maxSessionTimeout")
    );
}

#[test]
fn the_command_line_wins_over_the_file() {
    let case = Case::new();
    std::fs::write(case.path(), "dataDir=/a\nclientPort=1\nclientPortAddress=127.0.0.1\n").unwrap();
    let from = Sources {
        file: Some(case.path()),
        profile: Some("small".into()),
        data_dir: Some("/b".into()),
        client_port: Some(0),
    };
    let l = load(&from).unwrap();
    assert_eq!(l.config.data_dir, Path::new("/b"));
    assert_eq!(l.config.data_log_dir, Path::new("/b"));
    assert_eq!(l.config.client_addrs, [addr("127.0.0.1:0")]);
    assert_eq!(l.profile, Profile::load("small").unwrap());
}

#[test]
fn what_is_missing_is_named() {
    let case = Case::new();
    let text = case.load_exactly("clientPort=2181\n").unwrap_err().to_string();
    assert!(text.contains("dataDir is not set"), "{text}");
    let text = case.load_exactly("dataDir=/a\nclientPort=0\n").unwrap_err().to_string();
    assert!(text.contains("clientPort is not set"), "{text}");
    let from = Sources { file: Some(case.dir.path().join("none.cfg")), ..Sources::default() };
    assert!(load(&from).unwrap_err().to_string().contains("none.cfg: "));
}

#[test]
fn one_voter_serves_alone_and_more_are_an_ensemble() {
    let case = Case::new();
    let alone = case.good("server.1=zoo1:2888:3888\ninitLimit=5\n").config;
    assert_eq!((alone.client_port(), alone.ensemble.is_none()), (2181, true));
    let limits = "initLimit=5\nsyncLimit=2\n";
    let two = format!("{limits}server.1=a:1:2\nserver.2=b:1:2\n");
    assert!(
        case.error(&two)
            .contains("myid: this file is missing; write the number of this server into it, one of 1, 2")
    );
    let id = |text: &str| std::fs::write(case.dir.path().join("myid"), text).unwrap();
    id("3\n");
    assert!(case.error(&two).contains("it says 3, but there is no server.3"));
    id("one\n");
    assert!(case.error(&two).contains("\"one\" is not allowed"));
    id("2\n");
    let e = case.good(&format!("{two}cnxTimeout=100\n")).config.ensemble.unwrap();
    assert_eq!((e.me.0, e.init_limit, e.sync_limit, e.cnx_timeout_ms), (2, 5, 2, 100));
    assert_eq!((e.members.voters().len(), e.connect_to_learner_master_limit), (2, 5));
    assert!(case.error("server.1=a:1:2\nserver.2=b:1:2\n").contains("initLimit is not set"));
    let single = format!("standaloneEnabled=false\n{limits}server.2=a:1:2\n");
    assert_eq!(case.good(&single).config.ensemble.unwrap().members.voters().len(), 1);
    let observer = format!("{limits}server.1=a:1:2\nserver.2=b:1:2:observer\n");
    assert!(case.error(&observer).contains("observers need an ensemble of more than one participant"));
    let grouped = format!("{limits}server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\n");
    let l = case.good(&format!("{grouped}group.1=1:2\ngroup.2=3\nweight.3=0\n"));
    assert!(l.config.ensemble.unwrap().members.is_hierarchical());
    assert!(!case.error(&format!("{grouped}group.1=1:2\n")).is_empty(), "a voter in no group");
    assert!(case.error("server.1=a:1\n").contains("allowed is host:quorumPort:electionPort"));
    assert!(case.error("server.1=a:1:2;;3\n").contains("allowed is host:quorumPort:electionPort"));
    assert!(case.error("server.1=a:1:2;2181;2281\n").contains("TLS"));
}

#[test]
fn contradicting_members_are_refused_with_what_to_do() {
    let case = Case::new();
    std::fs::write(case.dir.path().join("myid"), "1\n").unwrap();
    let error = |text: &str| case.error(&format!("initLimit=5\nsyncLimit=2\n{text}"));
    let twice = error("server.1=a:1:2\nserver.2=b:1:2\nserver.1=c:1:2\n");
    assert!(twice.starts_with("zoo.cfg:5: server.1: refused: line 7 says it again"), "{twice}");
    let clash = error("server.1=a:1:2\nserver.2=a:3:1\n");
    assert!(
        clash.contains("server.2: refused: a:1 is both its election port and the quorum port of server.1"),
        "{clash}"
    );
    assert!(error("server.1=a:1:1\nserver.2=b:1:2\n").contains("both its election port"));
    let several = "server.1=a:1:2|b:1:2\nserver.2=c:1:2\n";
    assert!(error(several).contains("need multiAddress.enabled=true"));
    let l = case.good(&format!("initLimit=5\nsyncLimit=2\nmultiAddress.enabled=true\n{several}"));
    let e = l.config.ensemble.unwrap();
    assert_eq!((e.multi_address, e.members.get(engine::ids::ServerId(1)).unwrap().peers.len()), (true, 2));
    assert!(error("weight.1=2\nserver.1=a:1:2\nserver.2=b:1:2\n").contains("no group.N"));
    assert!(
        error("group.1=1:2\nserver.1=a:1:2\nserver.2=b:1:2\nweight.1=0\nweight.2=0\n").contains("zoo.cfg: ")
    );
    assert!(error("group.x=1:2\nserver.1=a:1:2\nserver.2=b:1:2\n").contains("allowed is group.N=a:b:c"));
}

#[test]
fn a_data_directory_that_looks_like_a_slip_is_told() {
    let case = Case::new();
    for slip in ["zk/data", "\"/var/lib/zk\"", "${DATA}", "~/zk", "/var/lib/zk # ours"] {
        let l = case.load_exactly(&format!("clientPort=1\ndataDir={slip}\ndataLogDir={slip}\n")).unwrap();
        assert_eq!(warnings(&l), [(2, "dataDir"), (3, "dataLogDir")], "{slip}");
    }
    let l = case.load_exactly("clientPort=1\ndataDir=./zk\ndataLogDir=/var/lib/zk#1\n").unwrap();
    assert!(l.warnings.is_empty(), "{:?}", l.warnings);
}

#[test]
fn warnings_about_members_name_their_lines() {
    let case = Case::new();
    let id = |text: &str| std::fs::write(case.dir.path().join("myid"), text).unwrap();
    let lines = "initLimit=5\nsyncLimit=2\nserver.1=a:1:2\nserver.257=b:1:2\nserver.3=c:1:2;2181;2281\n";
    id("1");
    let l = case.good(&format!("peerType=observer\n{lines}"));
    assert_eq!(warnings(&l), [(7, "server.257"), (3, "peerType")], "{:?}", l.warnings);
    // A TLS address matters to the server that has it; the others pass it on.
    let secure = l.config.ensemble.unwrap().members.get(engine::ids::ServerId(3)).unwrap().secure.clone();
    assert_eq!(secure, Some(("0.0.0.0".into(), 2281)));
    id("3");
    assert!(case.error(lines).contains("server.3: refused: TLS"));
    id("257");
    assert!(case.error(&format!("extendedTypesEnabled=true\n{lines}")).contains("254 at most"));
}

#[test]
fn a_dynamic_file_holds_the_members_and_their_version() {
    let case = Case::new();
    std::fs::write(case.dir.path().join("myid"), "2\n").unwrap();
    let members =
        "server.1=a:1:2:participant;2181\nserver.2=b:1:2:participant;2182\ngroup.1=1:2\nweight.2=3\n";
    let load = |name: &str, dynamic: &str, main: &str| {
        let path = case.dir.path().join(name);
        std::fs::write(&path, dynamic).unwrap();
        let text = format!(
            "dataDir={}\ninitLimit=5\nsyncLimit=2\ndynamicConfigFile={}\n{main}",
            case.dir.path().display(),
            path.display()
        );
        case.load_exactly(&text)
    };
    let l = load("zoo.cfg.dynamic.100000000", members, "").unwrap();
    let e = l.config.ensemble.clone().unwrap();
    assert_eq!((e.members.version, l.config.client_port()), (0x1_0000_0000, 2182));
    assert_eq!(
        e.members.text(),
        "server.1=a:1:2:participant;0.0.0.0:2181\nserver.2=b:1:2:participant;0.0.0.0:2182\ngroup.1=1:2\nweight.1=1\n\
         weight.2=3\nversion=100000000"
    );
    let version =
        |name: &str, text: &str| load(name, text, "").unwrap().config.ensemble.unwrap().members.version;
    assert_eq!(version("zoo.cfg.dynamic", members), 0);
    assert_eq!(version("members", &format!("{members}version=2a\n")), 0x2a);
    let both = load("zoo.cfg.dynamic", members, "server.3=c:1:2\n").unwrap_err().to_string();
    assert!(both.contains("zoo.cfg:5: server.3: refused: with a dynamicConfigFile"), "{both}");
}

#[test]
fn the_own_server_line_may_say_where_clients_connect() {
    let case = Case::new();
    std::fs::write(case.dir.path().join("myid"), "4\n").unwrap();
    let dynamic = case.dir.path().join("zoo.cfg.dynamic.100000000");
    std::fs::write(&dynamic, "server.4=localhost:2888:3888:participant;127.0.0.1:2199\nversion=0\n").unwrap();
    let head = format!("dataDir={}\ndynamicConfigFile={}\n", case.dir.path().display(), dynamic.display());
    let l = case.load_exactly(&head).unwrap();
    assert_eq!((l.config.client_addrs.clone(), l.config.my_id), (vec![addr("127.0.0.1:2199")], Some(4)));
    assert!(l.warnings.is_empty(), "{:?}", l.warnings);
    let text = case.load_exactly(&format!("{head}clientPort=2181\n")).unwrap_err().to_string();
    assert!(text.contains("contradicts the client address in server.4"), "{text}");
    std::fs::write(&dynamic, "tickTime=2000\n").unwrap();
    let text = case.load_exactly(&head).unwrap_err().to_string();
    assert!(text.contains("dynamic.100000000:1: tickTime: refused"), "{text}");
}

#[test]
fn switched_off_syncs_are_a_durability_warning() {
    let l = Case::new().good("forceSync=no\n");
    assert_eq!(l.profile.durability, Durability::AsyncUnsafeLosesAcknowledgedWrites);
    assert_eq!(warnings(&l), [(0, "forceSync")]);
    assert!(l.warnings[0].why.contains("loses the last acknowledged writes"), "{}", l.warnings[0]);
}

#[test]
fn sizes_of_the_log_become_the_profiles_and_are_brought_into_its_range() {
    let case = Case::new();
    let l =
        case.good("preAllocSize=1024\nflushDelay=500\nsnapSizeLimitInKb=-1\nautopurge.snapRetainCount=1\n");
    assert_eq!(l.profile.segment_bytes, 8 << 20);
    assert_eq!(l.profile.group_wait_us, 100_000);
    assert_eq!(l.profile.snapshot_log_bytes, u64::MAX);
    assert_eq!(
        warnings(&l),
        [(6, "autopurge.snapRetainCount"), (3, "preAllocSize"), (4, "flushDelay")],
        "each adjustment is told once"
    );
    let l = case.good("preAllocSize=16384\ntxnLogSizeLimitInKb=32768\n");
    assert_eq!((l.profile.segment_bytes, l.warnings.len()), (32 << 20, 0));
}

#[test]
fn the_list_of_words_always_has_srvr_and_with_read_only_mode_isro() {
    let case = Case::new();
    let words = |text: &str| case.good(text).config.limits.words.map(|w| w.join(","));
    assert_eq!(words("4lw.commands.whitelist=ruok\nreadonlymode.enabled=true\n").unwrap(), "ruok,srvr,isro");
    assert_eq!(words("4lw.commands.whitelist=stat, *\n"), None);
    assert_eq!(words("4lw.commands.whitelist=\n").unwrap(), "srvr");
    let l = case.good("4lw.commands.whitelist=reqs, mntr,kill\n");
    assert_eq!(l.config.limits.words.unwrap().join(","), "mntr,srvr");
    assert_eq!((l.warnings.len(), l.warnings[0].why.as_str()), (1, "no such word: reqs kill"));
}

#[test]
fn an_embedded_server_is_on_loopback_only() {
    let config = Config::embedded("data", &Profile::default());
    assert!(config.client_addrs.iter().all(|a| a.ip().is_loopback()));
    assert_eq!(config.client_port(), 0);
}

#[test]
fn no_bytes_make_the_reader_panic() {
    // Pieces that mean something, glued at random: a xorshift generator, so that a failure repeats itself.
    let pieces: [&[u8]; 16] = [
        b"=",
        b":",
        b"\\",
        b"\n",
        b"\r\n",
        b"#",
        b"!",
        b" ",
        b"\\u",
        b"00e9",
        b"\xff",
        b"\0",
        b"server.1",
        b"a:1:2;3",
        b"4lw.commands.whitelist",
        b"clientPortAddress=[::",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let (mut good, mut refused) = (0, 0);
    for _ in 0..2_000 {
        let text: Vec<u8> = (0..next() % 20).flat_map(|_| pieces[next() % pieces.len()].to_vec()).collect();
        match super::properties::parse(&text, Path::new("x")) {
            Ok(entries) => {
                good += 1;
                super::resolve::try_entries(&entries);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(good > 100 && refused > 100, "{good} read, {refused} refused");
}
