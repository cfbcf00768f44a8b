//! Limits and switches of one server, resolved from configuration and profile before anything starts.
//!
//! Not here: where they come from (`net::config`, `profiles`). Every field states unit, range and effect.

/// What a client connection and a request may cost. Shared read-only by the core and every shard.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest client frame, bytes (`jute.maxbuffer`). A longer one closes the connection without a reply.
    pub jute_max_buffer: usize,
    /// Shortest session timeout granted, ms (`minSessionTimeout`).
    pub min_session_timeout_ms: i32,
    /// Longest session timeout granted, ms (`maxSessionTimeout`).
    pub max_session_timeout_ms: i32,
    /// Bucket width of session expiry, ms (`tickTime`).
    pub tick_ms: u32,
    /// Connections per client address and listener; 0 = no limit (`maxClientCnxns`).
    pub max_client_connections: u32,
    /// Connections in all; 0 = no limit (`maxCnxns`).
    pub max_connections: u32,
    /// A connection without a session is closed after this, ms (`sessionlessCnxnTimeout`).
    pub sessionless_timeout_ms: u32,
    /// Writes in flight over all shards above which a connection is no longer read once it has its share of them in
    /// flight: the limit divided by the sessions of its shard, at least one (`globalOutstandingLimit`). At least 1.
    pub outstanding_writes: usize,
    /// Unsent bytes above which a connection is neither read nor answered.
    pub conn_soft_limit_bytes: usize,
    /// Unsent bytes above which events close the connection.
    pub conn_hard_limit_bytes: usize,
    /// Unsent bytes of all connections of one shard above which none is read.
    pub shard_out_limit_bytes: usize,
    /// `skipACL=yes`: every access check passes.
    pub skip_acl: bool,
    /// `extendedTypesEnabled`: TTL nodes.
    pub extended_types: bool,
    /// `reconfigEnabled`: members of an ensemble may change. A lone server then says that it cannot, instead of that it
    /// may not.
    pub reconfig_enabled: bool,
    /// `standaloneEnabled=false`: a reconfiguration may leave a single voter.
    pub lone_voter: bool,
    /// `enforceQuota`: hard limits reject.
    pub enforce_quota: bool,
    /// `zookeeper.DigestAuthenticationProvider.superDigest`, `user:base64(sha1(user:password))`.
    pub super_digest: Option<Box<str>>,
    /// `digest.enabled`: transactions carry the tree digest.
    pub digest: bool,
    /// Container and TTL reaper: period, ms (`znode.container.checkIntervalMs`).
    pub reap_interval_ms: u64,
    /// Reaper: deletions per minute at most (`znode.container.maxPerMinute`).
    pub reap_per_minute: u32,
    /// A container that never had a child is reaped after this, ms; 0 = never
    /// (`znode.container.maxNeverUsedIntervalMs`).
    pub reap_never_used_ms: u64,
    /// `readonlymode.enabled`: a member that finds no quorum serves clients that only read.
    pub read_only_mode: bool,
    /// `leaderServes`: a leader takes clients. Its four-letter words answer either way.
    pub leader_serves: bool,
    /// `localSessionsEnabled`: new sessions are known to the server that makes them only. To be the same on all members.
    pub local_sessions: bool,
    /// `localSessionsUpgradingEnabled`: a local session that creates an ephemeral node becomes one that all know.
    pub local_session_upgrades: bool,
    /// Zxids of one epoch at most: a leader that has given out so many lets another epoch begin, in order. The default is
    /// what the counter holds, less some for what is under way by then; fewer are for tests.
    pub zxids_per_epoch: u32,
    /// First four-letter words that may run; `None` = all (`4lw.commands.whitelist=*`).
    pub words: Option<Vec<Box<str>>>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            jute_max_buffer: 0xfffff,
            min_session_timeout_ms: 4_000,
            max_session_timeout_ms: 40_000,
            tick_ms: 2_000,
            max_client_connections: 60,
            max_connections: 0,
            sessionless_timeout_ms: 10_000,
            outstanding_writes: 1_000,
            conn_soft_limit_bytes: 1 << 20,
            conn_hard_limit_bytes: 16 << 20,
            shard_out_limit_bytes: 1 << 30,
            skip_acl: false,
            extended_types: false,
            reconfig_enabled: false,
            lone_voter: false,
            enforce_quota: false,
            super_digest: None,
            digest: true,
            reap_interval_ms: 60_000,
            reap_per_minute: 10_000,
            reap_never_used_ms: 0,
            read_only_mode: false,
            leader_serves: true,
            local_sessions: false,
            local_session_upgrades: false,
            zxids_per_epoch: u32::MAX - 16,
            words: Some(vec!["srvr".into()]),
        }
    }
}
