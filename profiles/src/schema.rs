//! The knobs. Each states its unit and what it costs; default and range stand beside it and are checked.
//!
//! Not here: parsing of files (`lib`), what the server does with a knob (`net`, `wal`).

use crate::value::{Problem, Value, choice, nearest};

choice! {
    /// How a shard waits for its sockets.
    Reactor {
        /// io_uring where a probe finds that it works and helps, mio otherwise.
        Auto = "auto",
        /// epoll through mio; works everywhere.
        Mio = "mio",
        /// io_uring, or a refusal to start where the kernel or a sandbox forbids it.
        IoUring = "io_uring",
    }
}

choice! {
    /// Which thread runs the core (the order of writes).
    Placement {
        /// A thread of its own where there are more than two usable CPUs, else that of shard 0.
        Auto = "auto",
        /// A thread of its own: writes do not delay reads; each write crosses threads twice.
        Own = "own",
        /// The thread of shard 0: no wake-up between them; writes and that shard's reads share a CPU.
        WithShard = "with_shard",
    }
}

choice! {
    /// What an acknowledgement of a write means.
    Durability {
        /// The write survives a power cut.
        Sync = "sync",
        /// Acknowledged before the sync: the last moments' writes are lost in a power cut. For scratch data only.
        AsyncUnsafeLosesAcknowledgedWrites = "async_unsafe_loses_acknowledged_writes",
    }
}

choice! {
    /// How the log is written.
    WalIo {
        /// Direct where the file system takes it, buffered otherwise.
        Auto = "auto",
        /// O_DIRECT and O_DSYNC on preallocated blocks; refused at start where it is not supported.
        Direct = "direct",
        /// Buffered writes and fdatasync.
        Buffered = "buffered",
    }
}

choice! {
    /// Who waits for the disk.
    WalAsync {
        /// The faster of the two where a probe allows io_uring, the thread otherwise.
        Auto = "auto",
        /// A thread that writes and syncs.
        Thread = "thread",
        /// io_uring, driven by the core; refused at start where the kernel or a sandbox forbids it.
        Uring = "uring",
    }
}

/// A knob as documentation and tools see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knob {
    /// Its key in a profile.
    pub key: &'static str,
    /// Its default, as a file would give it.
    pub default: String,
    /// What may be given.
    pub allowed: String,
    /// What it does, its unit and what it costs.
    pub doc: &'static str,
}

macro_rules! knobs {
    ($($(#[doc = $doc:literal])* $key:ident: $t:ty = $default:expr, $limits:expr;)*) => {
        /// A tuning profile: how much of what the server uses. It never changes what clients see, but for `durability`.
        #[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
        pub struct Profile {
            $(
                $(#[doc = $doc])*
                #[doc = concat!(" Default `", stringify!($default), "`, limits `", stringify!($limits), "`.")]
                pub $key: $t,
            )*
        }

        impl Default for Profile {
            fn default() -> Self {
                Profile { $($key: $default,)* }
            }
        }

        impl Profile {
            /// All knobs, in the order of the schema.
            pub fn knobs() -> Vec<Knob> {
                vec![$(Knob {
                    key: stringify!($key),
                    default: <$t as Value>::shown(&$default),
                    allowed: <$t as Value>::allowed(&$limits),
                    doc: concat!($($doc, "\n"),*),
                },)*]
            }

            /// Sets one knob from a file's value. Relations between knobs are checked by `check_relations`.
            pub(crate) fn set(&mut self, key: &str, value: &toml::Value) -> Result<(), Problem> {
                match key {
                    $(stringify!($key) => match <$t as Value>::from_toml(value, &$limits) {
                        Some(v) => self.$key = v,
                        None => return Err(Problem::NotAllowed {
                            value: value.to_string(),
                            allowed: <$t as Value>::allowed(&$limits),
                        }),
                    },)*
                    _ => return Err(Problem::Unknown {
                        nearest: nearest(key, [$(stringify!($key)),*].into_iter()),
                    }),
                }
                Ok(())
            }

            #[cfg(test)]
            fn defaults_are_within_limits() {
                $(
                    let text = format!("v = {}", <$t as Value>::shown(&$default));
                    let table: toml::Table = text.parse().unwrap();
                    assert_eq!(<$t as Value>::from_toml(&table["v"], &$limits), Some($default), stringify!($key));
                )*
            }
        }
    };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The smallest segment must hold two of the largest groups, so that a group touches two segments at most.
const SEGMENT_BYTES_MIN: u64 = 8 * MIB;
const GROUP_BYTES_MAX: u64 = 64 * MIB;
const GROUP_BYTES_MIN: u64 = 4 * KIB;
const _: () = assert!(SEGMENT_BYTES_MIN >= 2 * GROUP_BYTES_MIN);

knobs! {
    /// How shards wait for their sockets.
    reactor: Reactor = Reactor::Auto, ();
    /// Reactor threads. Unit: threads; 0 takes usable CPUs minus one, at least one, under the cgroup's quota. More
    /// than there are CPUs costs context switches.
    shards: u32 = 0, 0..=1024;
    /// Which thread runs the core.
    core_thread: Placement = Placement::Auto, ();
    /// Binds core and shards to one CPU each, in order of the usable CPUs. Steadier tails on a dedicated host; on a
    /// shared one a pinned thread waits for its CPU while others idle.
    pin_threads: bool = false, ();
    /// How long a thread polls before it sleeps. Unit: microseconds; 0 sleeps at once. Saves a wake-up (5-30 us) per
    /// lone request, costs up to a whole CPU per thread.
    busy_poll_us: u32 = 0, 0..=1_000_000;
    /// Receive buffer that a shard reads into, and with it the share of a turn that one connection gets. Unit: bytes.
    /// Larger: fewer system calls under pipelining; smaller: less memory per busy connection and fairer turns.
    recv_buffer_bytes: u64 = 64 * KIB, 4 * KIB..=16 * MIB;
    /// Unsent bytes beyond which a connection is neither read nor answered. Unit: bytes. Larger lets a slow reader
    /// hold more memory, smaller stalls pipelines of large replies.
    conn_soft_limit_bytes: u64 = MIB, 16 * KIB..=GIB;
    /// Unsent bytes (one reply on top) beyond which a connection is closed, since watch events cannot wait. Unit:
    /// bytes. At least `conn_soft_limit_bytes`.
    conn_hard_limit_bytes: u64 = 16 * MIB, 64 * KIB..=4 * GIB;
    /// Unsent bytes of all connections together; beyond it every connection counts as over its soft limit. Unit:
    /// bytes. At least `conn_hard_limit_bytes`. Bounds the server's memory beside the tree.
    total_out_limit_bytes: u64 = 512 * MIB, MIB..=1024 * GIB;
    /// Slots of each shard's ring to the core. Unit: requests, rounded up to a power of two. A full ring makes its
    /// shard stop reading writers; 64 bytes each.
    request_ring_entries: u32 = 8192, 1..=1 << 20;
    /// Slots of the broadcast ring from core to shards. Unit: batches, rounded up to a power of two. A full ring
    /// makes the core wait with applying; a batch stays in memory until all shards have passed it.
    change_ring_entries: u32 = 4096, 1..=1 << 20;
    /// Bytes beyond which a group of txns is closed and written. Unit: bytes. Larger: fewer syncs under load;
    /// smaller: the first write of a group waits less. A single larger txn makes a group of its own.
    group_max_bytes: u64 = 4 * MIB, GROUP_BYTES_MIN..=GROUP_BYTES_MAX;
    /// How long an idle log waits for company before it syncs. Unit: microseconds; 0 syncs at once (while a sync is
    /// in flight the next group fills anyway). Saves syncs on slow disks, adds at most this much to write latency.
    group_wait_us: u32 = 0, 0..=100_000;
    /// What an acknowledgement means.
    durability: Durability = Durability::Sync, ();
    /// How the log is written.
    wal_io: WalIo = WalIo::Auto, ();
    /// Who waits for the disk.
    wal_async: WalAsync = WalAsync::Auto, ();
    /// Size of a log segment. Unit: bytes. At least twice `group_max_bytes`. Larger: fewer file changes; costs disk
    /// space, and purging frees space in larger steps.
    segment_bytes: u64 = 64 * MIB, SEGMENT_BYTES_MIN..=16 * GIB;
    /// Txns in the log behind the last snapshot after which the next is taken. Unit: txns. Larger: less background
    /// work, longer replay at start (about 1 us per txn).
    snapshot_txns: u64 = 1_000_000, 1_000..=1_000_000_000;
    /// Log bytes behind the last snapshot after which the next is taken. Unit: bytes. Larger: less background work,
    /// more log to keep and to replay.
    snapshot_log_bytes: u64 = 4 * GIB, 8 * MIB..=1024 * GIB;
    /// TCP_NODELAY on client sockets. Off saves packets for clients that pipeline badly and costs up to 40 ms for
    /// a lone reply.
    nodelay: bool = true, ();
    /// SO_SNDBUF of client sockets. Unit: bytes; 0 leaves it to the kernel, which then grows it by itself.
    sndbuf_bytes: u32 = 0, 0..=1 << 30;
    /// SO_RCVBUF of client sockets. Unit: bytes; 0 leaves it to the kernel, which then grows it by itself.
    rcvbuf_bytes: u32 = 0, 0..=1 << 30;
    /// Connections that may wait to be accepted, per listener (the kernel's somaxconn caps it). Unit: connections.
    /// Larger rides out reconnect storms.
    backlog: u32 = 4096, 1..=65_535;
}

impl Profile {
    /// Limits that must stand in order. The key to blame comes with the problem.
    pub(crate) fn check_relations(&self) -> Result<(), (&'static str, Problem)> {
        let at_least = |key, value: u64, other, least: u64| {
            if value >= least {
                return Ok(());
            }
            let rule = format!("{value} is below {other} ({least}); allowed is at least that");
            Err((key, Problem::Relation { rule }))
        };
        let soft = self.conn_soft_limit_bytes;
        let hard = self.conn_hard_limit_bytes;
        at_least("conn_hard_limit_bytes", hard, "conn_soft_limit_bytes", soft)?;
        at_least("total_out_limit_bytes", self.total_out_limit_bytes, "conn_hard_limit_bytes", hard)?;
        at_least("segment_bytes", self.segment_bytes, "twice group_max_bytes", 2 * self.group_max_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_default_is_allowed() {
        Profile::defaults_are_within_limits();
        assert_eq!(Profile::default().check_relations(), Ok(()));
    }

    #[test]
    fn each_knob_says_what_it_does_and_numbers_say_their_unit() {
        for knob in Profile::knobs() {
            assert!(knob.doc.len() > 20, "{}", knob.key);
            let number = knob.allowed.starts_with("a whole number");
            assert_eq!(number, knob.doc.contains("Unit:"), "{}", knob.key);
        }
    }

    #[test]
    fn each_relation_is_checked() {
        let with = |f: fn(&mut Profile)| {
            let mut p = Profile::default();
            f(&mut p);
            p.check_relations().map_err(|(key, _)| key)
        };
        assert_eq!(with(|p| p.conn_hard_limit_bytes = 70_000), Err("conn_hard_limit_bytes"));
        assert_eq!(with(|p| p.total_out_limit_bytes = MIB), Err("total_out_limit_bytes"));
        assert_eq!(with(|p| p.group_max_bytes = 33 * MIB), Err("segment_bytes"));
    }
}
