//! Sessions, as clients are told of them.
//!
//! Source: fact sheet 3.2, 3.3: a session that a client was granted is in the committed history; one that is refused has
//! ended there, or ends by what is on its way; ephemerals go with it and only then (the model sees to that).

use super::model::Model;
use engine::ids::SessionId;
use std::collections::BTreeSet;

/// See the module.
#[derive(Default)]
pub struct Sessions {
    granted: BTreeSet<SessionId>,
    refused: BTreeSet<SessionId>,
}

impl Sessions {
    pub fn granted(&mut self, session: SessionId) {
        assert!(self.granted.insert(session), "session {session} is given out twice");
    }
    pub fn refused(&mut self, session: SessionId) {
        if session != SessionId::NONE {
            self.refused.insert(session);
        }
    }

    /// At the end: nothing is on its way any more.
    pub fn settled(&self, model: &Model) {
        for s in &self.granted {
            assert!(model.sessions.contains_key(s), "session {s} was granted and never made");
        }
        for s in &self.refused {
            assert!(!model.is_live(*s), "session {s} was refused and lives");
        }
    }
}
