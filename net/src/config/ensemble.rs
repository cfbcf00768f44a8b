//! What a member of an ensemble is told, besides what every server is.
//!
//! Not here: what members do with it (`engine::zab`, `peers`).

use engine::ids::ServerId;
use engine::zab::members::Members;
use std::sync::Arc;

/// A server's place in an ensemble (fact sheet section 6). Times are in ms, limits in ticks.
#[derive(Clone, Debug)]
pub struct EnsembleConfig {
    /// The number in `myid`.
    pub me: ServerId,
    /// Every member, with quorums.
    pub members: Arc<Members>,
    /// `tickTime`, at least 1.
    pub tick_ms: u32,
    /// Ticks until a learner must be synchronised (`initLimit`), at least 1.
    pub init_limit: u32,
    /// Ticks that a peer may be silent (`syncLimit`), at least 1.
    pub sync_limit: u32,
    /// Ticks within which a chosen leader must be reached (`connectToLearnerMasterLimit`; not given: `initLimit`).
    pub connect_to_learner_master_limit: u32,
    /// `leader.maxTimeToWaitForEpoch`; `None`: as long as `initLimit` allows.
    pub max_time_to_wait_for_epoch_ms: Option<u64>,
    /// How long a vote with a quorum waits for a better one, unless every voter has voted.
    pub finalize_wait_ms: u64,
    /// Between two notifications while nobody answers: at first, and at most (`fastleader.*NotificationInterval`).
    pub notification_min_ms: u64,
    pub notification_max_ms: u64,
    /// How long a connection to an election or quorum port may take to be set up (`cnxTimeout`).
    pub cnx_timeout_ms: u64,
    /// Peers' ports are bound on all interfaces instead of the address of the own line (`quorumListenOnAllIPs`).
    pub quorum_listen_on_all_ips: bool,
}

impl EnsembleConfig {
    /// A member of an ensemble on one host, for tests and embedding.
    pub fn local(me: ServerId, members: Arc<Members>) -> EnsembleConfig {
        EnsembleConfig {
            me,
            members,
            tick_ms: 2_000,
            init_limit: 10,
            sync_limit: 5,
            connect_to_learner_master_limit: 10,
            max_time_to_wait_for_epoch_ms: None,
            finalize_wait_ms: 20,
            notification_min_ms: 20,
            notification_max_ms: 60_000,
            cnx_timeout_ms: 5_000,
            quorum_listen_on_all_ips: false,
        }
    }
}
