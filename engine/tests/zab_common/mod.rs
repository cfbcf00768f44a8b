//! What the tests of single members share: settings, transactions, and the zxid that one states.
#![allow(dead_code)] // Not every test needs all of it.

use engine::ids::{ServerId, Zxid};
use engine::proto::{Encode, Op};
use engine::zab::{Knobs, Settings};
use std::sync::Arc;

/// A voter with a history, ticks of 100 ms, ten of them to begin and five to stay.
pub fn settings(me: i64) -> Settings {
    Settings {
        me: ServerId(me),
        observer: false,
        tick_ms: 100,
        init_limit: 10,
        sync_limit: 5,
        epoch_wait_ms: None,
        knobs: Knobs::default(),
        packet_max: 1 << 20,
        empty: false,
        begins: true,
    }
}

/// One of the members' node; of the kind `Op::Reconfig`, a reconfiguration.
pub fn txn(zxid: Zxid, op: Op, body: impl AsRef<[u8]>) -> Arc<[u8]> {
    let mut out = Vec::new();
    out.put_long(1);
    out.put_int(1);
    out.put_long(zxid.0 as i64);
    out.put_long(0);
    out.put_int(op.wire());
    out.put_string("/zookeeper/config");
    out.put_buffer(Some(body.as_ref()));
    out.put_int(-1);
    out.into()
}

/// What the members check transactions by.
pub fn zxid_of(txn: &[u8]) -> Option<Zxid> {
    Some(Zxid(u64::from_be_bytes(txn.get(12..20)?.try_into().ok()?)))
}
