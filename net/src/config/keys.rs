//! The key table: one row for every key of ZooKeeper's configuration, and what becomes of it here.
//!
//! Not here: how rows are run over a file (`resolve`), what values look like (`values`).
//! Invariants: a key is honoured, or warned about with the reason, or refused; a value that asks for what Serval does
//! anyway (`same`) is none of these. A refusal is for keys that, ignored, would weaken security, durability or
//! membership. A name that ends in `*` stands for all keys that begin so and have no row of their own.

use super::ensemble;
use super::properties::Entry;
use super::resolve::Draft;
use super::values::{Allowed, Form};
use super::{set, values};

/// Takes an entry's value into the draft.
pub type Set = fn(&mut Draft, &Entry) -> Result<(), Allowed>;

/// What becomes of a key.
#[derive(Clone, Copy)]
pub enum Rule {
    /// It does here what it does in ZooKeeper.
    Honoured(Set),
    /// Checked, then accepted with one warning that says why it does nothing.
    Warned { form: Form, same: &'static [&'static str], why: &'static str },
    /// Checked, then refused at start.
    Refused { form: Form, same: &'static [&'static str], why: &'static str },
}

/// One row.
#[derive(Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub rule: Rule,
}

/// The row of a key as a file spells it.
pub fn lookup(key: &str) -> Option<&'static Key> {
    let exact = KEYS.iter().find(|k| k.name == key);
    let begins =
        |k: &&Key| k.name.strip_suffix('*').is_some_and(|p| key.starts_with(p) && key.len() > p.len());
    exact.or_else(|| KEYS.iter().filter(begins).max_by_key(|k| k.name.len()))
}

const fn honoured(name: &'static str, set: Set) -> Key {
    Key { name, rule: Rule::Honoured(set) }
}
const fn warned(name: &'static str, form: Form, same: &'static [&'static str], why: &'static str) -> Key {
    Key { name, rule: Rule::Warned { form, same, why } }
}
const fn refused(name: &'static str, form: Form, same: &'static [&'static str], why: &'static str) -> Key {
    Key { name, rule: Rule::Refused { form, same, why } }
}

const ENSEMBLE: &str = "not built yet for ensembles, and without effect on a standalone server";
const PACE: &str =
    "Serval's peers keep their own pace: nothing waits for a peer, and a dead one is noticed by the kernel";
const REACHABLE: &str =
    "the addresses of a peer are tried in turn, each for a limited time, without probing them before";
const JAVA: &str = "tunes ZooKeeper's Java threads, buffers or caches; here the profile tunes the server";
const ADMIN: &str = "Serval has no AdminServer yet; use the four-letter words";
const METRICS: &str = "Serval has no metrics endpoint yet; use the four-letter word mntr";
const THROTTLE: &str = "Serval has no such throttle; socket back-pressure bounds what is in flight";
const OWN_FORMAT: &str = "Serval has its own snapshot and log format";
const TLS: &str = "TLS is not built yet, and serving plain text instead would be less secure than configured";
const SASL: &str = "SASL is not built yet, and serving without it would be less secure than configured";
const SASL_DETAIL: &str = "only used with SASL, which is not built yet";
const AUTH: &str = "enforced authentication is not built yet, and serving without it would be less secure";

const FALSE: &[&str] = &["false"];
const ANY_INT: Form = Form::Int(i32::MIN as i64, i32::MAX as i64);
const COUNT: Form = Form::Int(0, i32::MAX as i64);
const ANY_LONG: Form = Form::Int(i64::MIN, i64::MAX);
const PORT: Form = Form::Int(0, 65_535);

/// All rows: first what is honoured, then the ensemble's keys, security, storage, throttles and Java's own.
pub const KEYS: &[Key] = &[
    // Directories, addresses, time.
    honoured("dataDir", set::data_dir),
    honoured("dataLogDir", set::data_log_dir),
    honoured("clientPort", set::client_port),
    honoured("clientPortAddress", set::client_port_address),
    honoured("clientPortListenBacklog", set::listen_backlog),
    honoured("tickTime", set::tick_time),
    honoured("minSessionTimeout", set::min_session_timeout),
    honoured("maxSessionTimeout", set::max_session_timeout),
    honoured("maxClientCnxns", |d, e| count(e).map(|n| d.limits.max_client_connections = n)),
    honoured("maxCnxns", |d, e| count(e).map(|n| d.limits.max_connections = n)),
    honoured("nio.sessionlessCnxnTimeout", set::sessionless_timeout),
    honoured("sessionlessCnxnTimeout", set::sessionless_timeout),
    honoured("datadir.autocreate", |d, e| flag(e).map(|b| d.create_dirs = b)),
    honoured("standaloneEnabled", |d, e| flag(e).map(|b| d.standalone_enabled = b)),
    honoured("server.*", set::server),
    honoured("dynamicConfigFile", set::dynamic_config_file),
    // Requests and the tree.
    honoured("globalOutstandingLimit", set::outstanding),
    honoured("jute.maxbuffer", set::jute_maxbuffer),
    honoured("4lw.commands.whitelist", set::words),
    honoured("readonlymode.enabled", |d, e| flag(e).map(|b| d.limits.read_only_mode = b)),
    honoured("skipACL", |d, e| values::yes_no(&e.value).map(|b| d.limits.skip_acl = b)),
    honoured("reconfigEnabled", |d, e| flag(e).map(|b| d.limits.reconfig_enabled = b)),
    honoured("enforceQuota", |d, e| flag(e).map(|b| d.limits.enforce_quota = b)),
    honoured("extendedTypesEnabled", |d, e| flag(e).map(|b| d.limits.extended_types = b)),
    honoured("digest.enabled", |d, e| flag(e).map(|b| d.limits.digest = b)),
    honoured("DigestAuthenticationProvider.superDigest", set::super_digest),
    honoured("znode.container.checkIntervalMs", set::reap_interval),
    honoured("znode.container.maxPerMinute", set::reap_per_minute),
    honoured("znode.container.maxNeverUsedIntervalMs", set::reap_never_used),
    // Durability.
    honoured("snapCount", set::snap_count),
    honoured("snapSizeLimitInKb", set::snap_size),
    honoured("preAllocSize", set::prealloc),
    honoured("txnLogSizeLimitInKb", set::txn_log_size),
    honoured("flushDelay", set::flush_delay),
    honoured("forceSync", |d, e| values::yes_no(&e.value).map(|b| d.force_sync = b)),
    honoured("fsync.warningthresholdms", set::fsync_warning),
    honoured("autopurge.snapRetainCount", set::purge_retain),
    honoured("autopurge.purgeInterval", set::purge_interval),
    // The ensemble's.
    honoured("initLimit", |d, e| ensemble::ticks(e).map(|n| d.ensemble.init_limit = Some(n))),
    honoured("syncLimit", |d, e| ensemble::ticks(e).map(|n| d.ensemble.sync_limit = Some(n))),
    honoured("connectToLearnerMasterLimit", ensemble::connect_limit),
    honoured("group.*", ensemble::group),
    honoured("weight.*", ensemble::weight),
    honoured("peerType", ensemble::peer_type),
    warned("electionAlg", Form::Int(3, 3), &["3"], ENSEMBLE),
    honoured("leaderServes", |d, e| values::yes_no(&e.value).map(|b| d.limits.leader_serves = b)),
    warned("syncEnabled", Form::Bool, &["true"], ENSEMBLE),
    honoured("observerMasterPort", ensemble::observer_master_port),
    warned("observer.*", Form::Text, &[], PACE),
    // On a lone server every session is known to all.
    honoured("localSessionsEnabled", |d, e| flag(e).map(|b| d.limits.local_sessions = b)),
    honoured("localSessionsUpgradingEnabled", |d, e| flag(e).map(|b| d.limits.local_session_upgrades = b)),
    honoured("quorumListenOnAllIPs", |d, e| flag(e).map(|b| d.ensemble.listen_on_all_ips = b)),
    warned("quorum.cnxn.threads.size", COUNT, &[], SASL_DETAIL),
    honoured("multiAddress.enabled", |d, e| flag(e).map(|b| d.ensemble.multi_address = b)),
    warned("multiAddress.reachabilityCheckEnabled", Form::Bool, FALSE, REACHABLE),
    warned("multiAddress.reachabilityCheckTimeoutMs", COUNT, &["1000"], REACHABLE),
    warned("oraclePath", Form::Text, &[], ENSEMBLE),
    warned("commitLogCount", COUNT, &["500"], ENSEMBLE),
    warned("snapshotSizeFactor", Form::Float, &["0.33"], ENSEMBLE),
    honoured("cnxTimeout", |d, e| ensemble::millis(e).map(|n| d.ensemble.cnx_timeout_ms = Some(n))),
    warned("quorumCnxnTimeoutMs", ANY_INT, &["-1"], PACE),
    honoured("fastleader.minNotificationInterval", |d, e| {
        ensemble::millis(e).map(|n| d.ensemble.notification_min_ms = Some(n))
    }),
    honoured("fastleader.maxNotificationInterval", |d, e| {
        ensemble::millis(e).map(|n| d.ensemble.notification_max_ms = Some(n))
    }),
    honoured("leader.maxTimeToWaitForEpoch", ensemble::epoch_wait),
    warned("leader.maxConcurrentSnapSyncs", COUNT, &["10"], ENSEMBLE),
    warned("leader.maxConcurrentDiffSyncs", COUNT, &["100"], ENSEMBLE),
    warned("leader.*", Form::Text, &[], PACE),
    warned("learner.*", Form::Text, &[], PACE),
    warned("electionPortBindRetry", COUNT, &[], PACE),
    warned("tcpKeepAlive", Form::Bool, &["true"], "connections between servers always have keepalive"),
    warned("enableEagerACLCheck", Form::Bool, FALSE, ENSEMBLE),
    warned("ensembleAuthName", Form::Text, &[""], "clients that send the auth scheme `ensemble` are refused"),
    // TLS, SASL, authentication: nothing here may be weaker than configured.
    refused("secureClientPort", PORT, &["0"], TLS),
    refused("secureClientPortAddress", Form::Text, &[], TLS),
    refused("ssl.*", Form::Text, &[], TLS),
    refused("sslQuorum", Form::Bool, FALSE, TLS),
    refused("sslQuorumReloadCertFiles", Form::Bool, FALSE, TLS),
    refused("portUnification", Form::Bool, FALSE, TLS),
    refused("client.portUnification", Form::Bool, FALSE, TLS),
    refused("client.certReload", Form::Bool, FALSE, TLS),
    warned("fips-mode", Form::Bool, &[], "only used with TLS, which is not built yet"),
    refused("X509AuthenticationProvider.*", Form::Text, &[], TLS),
    refused("quorum.auth.enableSasl", Form::Bool, FALSE, SASL),
    refused("quorum.auth.serverRequireSasl", Form::Bool, FALSE, SASL),
    refused("quorum.auth.learnerRequireSasl", Form::Bool, FALSE, SASL),
    warned("quorum.auth.*", Form::Text, &[], SASL_DETAIL),
    refused("sessionRequireClientSASLAuth", Form::Bool, FALSE, SASL),
    refused("requireClientAuthScheme", Form::Text, &[""], SASL),
    refused(
        "authProvider.*",
        Form::Text,
        BUILT_IN_PROVIDERS,
        "authentication providers are Java classes, and serving without one that is configured would be less secure",
    ),
    refused("enforce.auth.enabled", Form::Bool, FALSE, AUTH),
    warned("enforce.auth.schemes", Form::Text, &[], "only used with enforce.auth.enabled"),
    refused(
        "DigestAuthenticationProvider.enabled",
        Form::Bool,
        &["true"],
        "the digest scheme cannot be switched off",
    ),
    refused(
        "DigestAuthenticationProvider.digestAlg",
        Form::Text,
        &["SHA1", "SHA-1"],
        "only SHA1 digests are built, and ACLs made with another would match nobody",
    ),
    warned("allowSaslFailedClients", Form::Bool, FALSE, SASL_DETAIL),
    warned("letAnySaslUserDoX", Form::Text, &[], SASL_DETAIL),
    warned("superUser", Form::Text, &[], SASL_DETAIL),
    warned("superUser.*", Form::Text, &[], SASL_DETAIL),
    warned("jaasLoginRenew", COUNT, &[], SASL_DETAIL),
    warned("kerberos.*", Form::Text, &[], SASL_DETAIL),
    refused(
        "audit.enable",
        Form::Bool,
        FALSE,
        "there is no audit log yet, and an audit that is asked for must not be missing silently",
    ),
    // Storage.
    honoured("db.autocreate", |d, e| flag(e).map(|b| d.create_db = b)),
    warned("snapshot.compression.method", Form::OneOf(&["", "gz", "snappy"]), &[""], OWN_FORMAT),
    warned("snapshot.trust.empty", Form::Bool, FALSE, OWN_FORMAT),
    warned("serializeLastProcessedZxid.enabled", Form::Bool, &["true"], OWN_FORMAT),
    warned(
        "emulate353TTLNodes",
        Form::Bool,
        FALSE,
        "only reads what a ZooKeeper 3.5.3 left behind; Serval starts from its own data",
    ),
    warned("maxBatchSize", COUNT, &["1000"], "groups of writes are bounded by the profile's group_max_bytes"),
    warned(
        "maxWriteQueuePollTime",
        ANY_LONG,
        &[],
        "the wait for a group of writes is the profile's group_wait_us, or flushDelay",
    ),
    warned(
        "closeSessionTxn.enabled",
        Form::Bool,
        &["true"],
        "Serval always logs which ephemeral nodes a session leaves",
    ),
    // Throttles.
    warned("request_throttle_*", Form::Text, &["0"], THROTTLE),
    warned("throttled_op_wait_time", COUNT, &["0"], THROTTLE),
    warned("largeRequestThreshold", ANY_INT, &["-1"], THROTTLE),
    warned("largeRequestMaxBytes", ANY_INT, &[], THROTTLE),
    warned("connection_throttle_*", Form::Text, &["0"], THROTTLE),
    // Admin and metrics.
    warned("admin.enableServer", Form::Bool, FALSE, ADMIN),
    warned("admin.serverPort", PORT, &[], ADMIN),
    warned("admin.serverAddress", Form::Text, &[], ADMIN),
    warned("admin.idleTimeout", COUNT, &[], ADMIN),
    warned("admin.commandURL", Form::Text, &[], ADMIN),
    warned("admin.*", Form::Text, &[], ADMIN),
    warned(
        "metricsProvider.className",
        Form::Text,
        &["org.apache.zookeeper.metrics.impl.DefaultMetricsProvider"],
        METRICS,
    ),
    warned("metricsProvider.httpPort", PORT, &[], METRICS),
    warned("metricsProvider.*", Form::Text, &[], METRICS),
    // Java's own.
    warned(
        "maxResponseCacheSize",
        ANY_INT,
        &["0"],
        "Serval needs no response cache: replies are copied from the tree",
    ),
    warned(
        "maxGetChildrenResponseCacheSize",
        ANY_INT,
        &["0"],
        "Serval needs no response cache: replies are copied from the tree",
    ),
    warned("jvm.pause.monitor", Form::Bool, FALSE, "there is no JVM whose pauses could be watched"),
    warned("jvm.pause.warn-threshold.ms", COUNT, &[], "there is no JVM whose pauses could be watched"),
    warned("jvm.pause.info-threshold.ms", COUNT, &[], "there is no JVM whose pauses could be watched"),
    warned("jvm.pause.sleep.time.ms", COUNT, &[], "there is no JVM whose pauses could be watched"),
    warned("serverCnxnFactory", Form::Text, &["org.apache.zookeeper.server.NIOServerCnxnFactory"], JAVA),
    warned("jute.maxbuffer.extrasize", COUNT, &[], "transactions are bounded by what their requests may be"),
    warned("nio.*", Form::Text, &[], JAVA),
    warned("netty.*", Form::Text, &[], JAVA),
    warned("commitProcessor.*", Form::Text, &[], JAVA),
    warned("watchManagerName", Form::Text, &[], JAVA),
    warned("watcherClean*", Form::Text, &[], JAVA),
    warned("bitHashCacheSize", COUNT, &[], JAVA),
    warned("intBufferStartingSizeBytes", COUNT, &[], JAVA),
    warned("advancedFlowControlEnabled", Form::Bool, FALSE, JAVA),
];

/// Classes that ZooKeeper has built in and whose schemes are served here without being named.
const BUILT_IN_PROVIDERS: &[&str] = &[
    "org.apache.zookeeper.server.auth.DigestAuthenticationProvider",
    "org.apache.zookeeper.server.auth.IPAuthenticationProvider",
];

fn flag(e: &Entry) -> Result<bool, Allowed> {
    values::boolean(&e.value)
}
fn count(e: &Entry) -> Result<u32, Allowed> {
    values::int(&e.value, 0, i32::MAX as i64).map(|n| n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the fact sheet's section 6, and those of section 3 that are written in zoo.cfg.
    const FACT_SHEET: &str = "dataDir dataLogDir clientPort clientPortAddress secureClientPort secureClientPortAddress \
        tickTime initLimit syncLimit connectToLearnerMasterLimit minSessionTimeout maxSessionTimeout maxClientCnxns \
        clientPortListenBacklog server.1 group.1 weight.1 peerType electionAlg leaderServes standaloneEnabled \
        reconfigEnabled dynamicConfigFile syncEnabled observerMasterPort localSessionsEnabled \
        localSessionsUpgradingEnabled quorumListenOnAllIPs quorum.auth.enableSasl quorum.auth.serverRequireSasl \
        quorum.auth.learnerRequireSasl quorum.auth.server.saslLoginContext quorum.auth.learner.saslLoginContext \
        quorum.auth.kerberos.servicePrincipal quorum.cnxn.threads.size sslQuorum portUnification \
        sslQuorumReloadCertFiles multiAddress.enabled multiAddress.reachabilityCheckEnabled \
        multiAddress.reachabilityCheckTimeoutMs oraclePath autopurge.snapRetainCount autopurge.purgeInterval \
        metricsProvider.className metricsProvider.httpPort metricsProvider.exportJvmInfo jvm.pause.monitor \
        jvm.pause.warn-threshold.ms jvm.pause.info-threshold.ms jvm.pause.sleep.time.ms snapCount snapSizeLimitInKb \
        preAllocSize txnLogSizeLimitInKb commitLogCount snapshotSizeFactor flushDelay maxBatchSize \
        maxWriteQueuePollTime forceSync fsync.warningthresholdms globalOutstandingLimit 4lw.commands.whitelist \
        extendedTypesEnabled enforceQuota skipACL digest.enabled snapshot.compression.method snapshot.trust.empty \
        serializeLastProcessedZxid.enabled db.autocreate datadir.autocreate audit.enable cnxTimeout \
        quorumCnxnTimeoutMs fastleader.minNotificationInterval fastleader.maxNotificationInterval \
        leader.maxTimeToWaitForEpoch leader.maxConcurrentSnapSyncs leader.maxConcurrentDiffSyncs \
        maxResponseCacheSize maxGetChildrenResponseCacheSize admin.enableServer admin.serverPort admin.serverAddress \
        admin.idleTimeout admin.commandURL serverCnxnFactory ssl.keyStore.location ssl.keyStore.password \
        ssl.keyStore.type ssl.keyStore.passwordPath ssl.trustStore.location ssl.quorum.keyStore.location ssl.protocol \
        ssl.enabledProtocols ssl.ciphersuites ssl.clientAuth ssl.hostnameVerification ssl.crl ssl.ocsp \
        client.portUnification client.certReload jute.maxbuffer readonlymode.enabled znode.container.checkIntervalMs \
        znode.container.maxPerMinute znode.container.maxNeverUsedIntervalMs maxCnxns enforce.auth.enabled \
        enforce.auth.schemes sessionRequireClientSASLAuth allowSaslFailedClients superUser superUser.1 \
        letAnySaslUserDoX DigestAuthenticationProvider.superDigest DigestAuthenticationProvider.digestAlg \
        enableEagerACLCheck ensembleAuthName emulate353TTLNodes request_throttle_max_requests \
        throttled_op_wait_time largeRequestThreshold largeRequestMaxBytes connection_throttle_tokens";

    #[test]
    fn every_key_of_the_fact_sheet_has_a_row() {
        for key in FACT_SHEET.split_whitespace() {
            assert!(lookup(key).is_some(), "{key} has no row");
        }
        assert!(lookup("noSuchKey").is_none());
        assert!(lookup("server.").is_none(), "a prefix alone is no key");
    }

    #[test]
    fn no_key_has_two_rows_and_the_longest_prefix_wins() {
        let mut names: Vec<_> = KEYS.iter().map(|k| k.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        assert_eq!(lookup("leader.maxConcurrentSnapSyncs").unwrap().name, "leader.maxConcurrentSnapSyncs");
        assert_eq!(lookup("leader.closeSocketAsync").unwrap().name, "leader.*");
        assert_eq!(lookup("quorum.auth.enableSasl").unwrap().name, "quorum.auth.enableSasl");
    }

    #[test]
    fn what_a_row_calls_the_same_has_the_rows_form() {
        for key in KEYS {
            if let Rule::Warned { form, same, why } | Rule::Refused { form, same, why } = key.rule {
                assert!(why.len() > 20, "{}: a reason is a sentence", key.name);
                for value in same {
                    assert_eq!(form.check(value), Ok(()), "{}={value}", key.name);
                }
            }
        }
    }
}
