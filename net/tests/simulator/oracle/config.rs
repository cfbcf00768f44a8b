//! The members.
//!
//! Source: fact sheet section 11: a reconfiguration is a transaction, and its zxid is the version of the members that it
//! makes; one at a time; what a server activates is committed; who leads is a voter of the newest members that are
//! committed. (By whose quorum something is committed is looked at in `history`.)

use super::history::History;
use engine::ids::{ServerId, Zxid};
use engine::path::CONFIG;
use engine::server::Server;
use engine::zab::members::Members;
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
#[derive(Default)]
pub struct Config {
    by_version: BTreeMap<u64, String>,
}

impl Config {
    /// Agreement: a version is the same list everywhere, and the one in its transaction.
    fn agreed(&mut self, node: usize, members: &Members, history: &History) {
        if members.version == 0 {
            // Each server's own file.
            return;
        }
        let text = members.text();
        let known = self.by_version.entry(members.version).or_insert_with(|| text.clone());
        assert_eq!(known, &text, "{}: other members of version {:x}", node + 1, members.version);
        if Zxid(members.version).counter() > 0 {
            let made = history.reconfig(Zxid(members.version)).map(|m| m.text());
            assert_eq!(made.as_ref(), Some(&text), "{}: no transaction makes these members", node + 1);
        }
    }

    /// A reconfiguration is under way for a member.
    pub fn seen(&mut self, node: usize, next: &Members, history: &History) {
        self.agreed(node, next, history);
    }

    /// These members count for a server from here on; what committed them is in the history by now.
    pub fn activated(&mut self, node: usize, members: &Arc<Members>, history: &History) {
        self.agreed(node, members, history);
        let at = Zxid(members.version);
        if at.counter() > 0 {
            assert!(
                history.get(at).is_some(),
                "{} activates members {at}, which are not committed",
                node + 1
            );
        }
    }

    /// At the end: a member counts by what the history leads to, and shows it to its clients.
    pub fn settled(&self, node: usize, server: &Server, history: &History) {
        let (members, last) = (server.zab().members(), history.members());
        if Zxid(members.version).counter() > 0 || last.version > 0 {
            assert_eq!(**members, **last, "{} counts by other members", node + 1);
        }
        let view = server.db().tree.latest();
        let shown = view.get(CONFIG).and_then(|n| n.data().map(<[u8]>::to_vec));
        let shown = String::from_utf8(shown.unwrap_or_default()).expect("members are text");
        assert_eq!(shown, members.text(), "{} shows other members than count", node + 1);
    }

    /// A leader is established.
    pub fn leads(
        &self,
        node: usize,
        id: ServerId,
        version: u64,
        (epoch, upto): (u32, Zxid),
        history: &History,
    ) {
        if history.last().epoch() > epoch {
            // It does not know yet that another one was elected.
            return;
        }
        let members = history.members_at(upto);
        assert!(
            version >= members.version,
            "{} leads epoch {epoch} with members {version:x}, {:x} are committed",
            node + 1,
            members.version
        );
        assert!(members.can_lead(id), "{} leads epoch {epoch} and is no voter: {}", node + 1, members.text());
    }
}
