//! Watches.
//!
//! Source: DESIGN section 4, R2 and R3: a watch fires once, with the first change behind the horizon at which it was set,
//! and before anything that shows that change.

use super::model::Model;
use crate::client::ROOT;
use engine::ids::Zxid;
use engine::proto::EventKind;
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub struct Watches {
    pub fired: u64,
}

impl Watches {
    /// An event has come. The watch that it belongs to is used up.
    pub fn fired(
        &mut self,
        client: usize,
        data: &mut BTreeMap<String, Zxid>,
        child: &mut Option<Zxid>,
        (kind, path): (i32, &str),
        at: Zxid,
        model: &Model,
    ) {
        self.fired += 1;
        if kind == EventKind::NodeChildrenChanged as i32 {
            assert_eq!(path, ROOT);
            let set = child
                .take()
                .unwrap_or_else(|| panic!("client {client}: an event of {path} that it does not watch"));
            assert_eq!(
                model.child_change_after(ROOT, set),
                Some(at),
                "client {client}: children, set at {set}"
            );
            return;
        }
        let set = data
            .remove(path)
            .unwrap_or_else(|| panic!("client {client}: an event of {path} that it does not watch"));
        let due = model.change_after(path, set).map(|(z, k)| (z, k as i32));
        assert_eq!(due, Some((at, kind)), "client {client}: the watch of {path} that was set at {set}");
    }

    /// The client is shown a horizon: nothing that it watches may have changed up to there.
    pub fn passed(
        &self,
        client: usize,
        data: &BTreeMap<String, Zxid>,
        child: Option<Zxid>,
        h: Zxid,
        model: &Model,
    ) {
        for (path, set) in data {
            if let Some((z, kind)) = model.change_after(path, *set) {
                assert!(z > h, "client {client} is shown {h} before the event {kind:?} of {path} at {z}");
            }
        }
        if let Some(z) = child.and_then(|set| model.child_change_after(ROOT, set)) {
            assert!(z > h, "client {client} is shown {h} before the children's event at {z}");
        }
    }
}
