//! What a member has in every phase: its history, its epochs, its tickets.
//!
//! Not here: how phases follow each other (`member`), what they say to whom (`leader`, `learner`).
//! Invariants:
//! - `committed` never falls, except when the history itself is replaced by a snapshot or cut below it;
//! - what was taken for applying is committed, and is taken in order, once.

use super::counters::Counters;
use super::members::Members;
use super::reconfig;
use super::window::{Entry, Place, Window};
use super::wire::Kind;
use super::{Epochs, Event, Knobs, Mark, Persist, Persistence};
use crate::ids::{ServerId, Ticket, Zxid};
use std::collections::VecDeque;
use std::sync::Arc;

/// No ensemble has had so many leaders; the next epoch must still be a positive number on the wire.
pub(super) const EPOCH_MAX: u32 = i32::MAX as u32 - 1;

/// How long a candidate and its voters look for each other before there is a new vote, ms; or two ticks, if that is
/// longer.
const DISCOVERY_MS: u64 = 4_000;

/// What a member is told once.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub me: ServerId,
    /// Follows without a voice.
    pub observer: bool,
    /// `tickTime`, ms.
    pub tick_ms: u64,
    /// Ticks until a learner must be synchronised (`initLimit`).
    pub init_limit: u64,
    /// Ticks that a peer may be silent (`syncLimit`).
    pub sync_limit: u64,
    /// `leader.maxTimeToWaitForEpoch`, ms; `None`: as long as `init_limit` allows.
    pub epoch_wait_ms: Option<u64>,
    pub knobs: Knobs,
    /// The longest data of a packet, bytes.
    pub packet_max: usize,
    /// This server has no history of its own, and nobody said that it may begin one: it votes when it was synchronised,
    /// or when no voter has one.
    pub empty: bool,
    /// `db.autocreate`: when no voter has a history, all of them begin one. Otherwise only those do that were told so.
    pub begins: bool,
}

impl Settings {
    /// Of a lone server: nothing of it is used.
    pub fn alone() -> Settings {
        Settings {
            me: ServerId(1),
            observer: false,
            tick_ms: 2000,
            init_limit: 10,
            sync_limit: 5,
            epoch_wait_ms: None,
            knobs: Knobs::default(),
            packet_max: 0,
            empty: false,
            begins: true,
        }
    }

    pub(super) fn init_ms(&self) -> u64 {
        self.tick_ms * self.init_limit
    }
    pub(super) fn discovery_ms(&self) -> u64 {
        self.init_ms().min(DISCOVERY_MS.max(2 * self.tick_ms))
    }
    pub(super) fn sync_ms(&self) -> u64 {
        self.tick_ms * self.sync_limit
    }
}

/// A leader could not place this history, which ends at `last`: it has nothing of the epochs behind `end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unplaced {
    leader: ServerId,
    epoch: u32,
    last: Zxid,
    end: Zxid,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Base {
    pub settings: Settings,
    /// Those that count: of the last reconfiguration that is committed.
    pub members: Arc<Members>,
    /// Those of a reconfiguration that is proposed, or that a new leader still has to agree on with its followers.
    pub next: Option<Arc<Members>>,
    /// Those of a reconfiguration that is committed, as the one under way was proposed behind it, and not active here yet.
    pub passed: Option<Arc<Members>>,
    /// `reconfigEnabled`; without it the members never change here.
    pub reconfigurable: bool,
    /// `members` or `next` were changed, and not everybody was told.
    pub changed: bool,
    /// Whom to follow when the present role ends: a reconfiguration has designated it.
    pub heir: Option<ServerId>,
    pub epochs: Epochs,
    /// A member has promised this epoch: the next one led from here is later.
    pub epoch_floor: u32,
    /// The state holds what the log has made void, all behind this zxid: it must be loaded again, or replaced, before it is
    /// used.
    pub dirty: Option<Zxid>,
    pub unplaced: Option<Unplaced>,
    pub window: Window,
    pub committed: Zxid,
    /// The next entry to be applied.
    pub apply_at: Place,
    /// The first entry that is not durable here.
    pub volatile_at: Place,
    /// The ticket behind which the log goes on for the state that is applied.
    pub applied_ticket: Ticket,
    pub ticket: Ticket,
    pub durable: Ticket,
    pub events: VecDeque<Event>,
    /// The zxid of a transaction that can be applied.
    pub check: fn(&[u8]) -> Option<Zxid>,
    pub counts: Counters,
}

impl Base {
    pub fn new(settings: Settings, members: Arc<Members>, epochs: Epochs, window: Window) -> Base {
        let (committed, end) = (window.last(), window.end());
        Base {
            settings,
            members,
            next: None,
            passed: None,
            reconfigurable: false,
            changed: false,
            heir: None,
            epochs,
            epoch_floor: 0,
            dirty: None,
            unplaced: None,
            window,
            committed,
            apply_at: end,
            volatile_at: end,
            applied_ticket: Ticket(0),
            ticket: Ticket(0),
            durable: Ticket(0),
            events: VecDeque::new(),
            check: |_| None,
            counts: Counters::default(),
        }
    }

    /// The window holds another history, all of it durable and in the state.
    pub fn restarted(&mut self, committed: Zxid) {
        self.committed = committed;
        self.apply_at = self.window.end();
        self.volatile_at = self.apply_at;
        self.applied_ticket = self.ticket;
    }

    pub fn persist(&mut self, what: Persist<'_>, out: &mut dyn Persistence) -> Ticket {
        self.ticket = Ticket(self.ticket.0 + 1);
        out.persist(self.ticket, what);
        self.ticket
    }

    pub fn append(&mut self, zxid: Zxid, txn: Arc<[u8]>, out: &mut dyn Persistence) -> Ticket {
        let ticket = self.persist(Persist::Append(&txn), out);
        let found = if self.reconfigurable { reconfig::members_of(&txn) } else { None };
        self.window.push(Entry { zxid, txn, ticket });
        if let Some(members) = found {
            self.see_proposed(members);
        }
        ticket
    }

    pub fn set_epochs(&mut self, epochs: Epochs, out: &mut dyn Persistence) -> Ticket {
        debug_assert!(epochs.current <= epochs.accepted && epochs.accepted >= self.epochs.accepted);
        self.epochs = epochs;
        self.persist(Persist::Epochs(epochs), out)
    }

    pub fn truncate(&mut self, to: Zxid, out: &mut dyn Persistence) {
        self.persist(Persist::Mark(Mark::Truncate(to)), out);
        self.window.truncate(to);
        self.volatile_at = self.volatile_at.min(self.window.end());
        self.review_next();
    }

    pub fn now_durable(&mut self, ticket: Ticket) {
        self.durable = self.durable.max(ticket);
        while self.window.get(self.volatile_at).is_some_and(|e| e.ticket <= self.durable) {
            self.volatile_at += 1;
        }
    }

    /// The last zxid up to which this server's own log is durable.
    pub fn durable_zxid(&self) -> Zxid {
        self.window.before(self.volatile_at)
    }

    /// The end of the history as votes and promises state it. -1: there is none, and this server does not count (fact
    /// sheet 8.3 step 6, 9.4 step 3).
    pub fn history_end(&self) -> Zxid {
        if self.settings.empty { Zxid::MAX } else { self.window.last() }
    }

    /// A leader of this epoch was told that this history ends at `told`, and sends a snapshot of `zxid`. If that holds less
    /// than they may have in common, it is remembered where that ends at most.
    pub fn keep_from(&mut self, (leader, epoch): (ServerId, u32), told: Zxid, zxid: Zxid) -> Option<Zxid> {
        let w = &self.window;
        let earlier = Zxid(Zxid::new(told.epoch(), 0).0.checked_sub(1)?);
        let end = w.before(w.after(earlier)?);
        // Where it holds what was never here, what they have in common ends before it.
        let within = zxid < w.base() || w.holds(zxid);
        if self.settings.empty || end <= zxid || !within {
            return None;
        }
        self.unplaced = Some(Unplaced { leader, epoch, last: w.last(), end });
        Some(end)
    }

    /// Where this history ends for a leader that could not place the true end. It has had an epoch since that this server
    /// has no history of, so whose history is more recent does not depend on it.
    pub fn end_for(&self, leader: ServerId) -> Option<Zxid> {
        let still = |u: &Unplaced| {
            u.leader == leader && self.epochs.current < u.epoch && u.last == self.window.last()
        };
        self.unplaced.filter(|u| still(u) && !self.settings.empty).map(|u| u.end)
    }

    /// The last zxid that was taken for applying.
    pub fn applied(&self) -> Zxid {
        self.window.before(self.apply_at)
    }

    pub fn commit(&mut self, upto: Zxid) {
        self.committed = self.committed.max(upto);
    }

    pub fn trim(&mut self) {
        self.window.trim(self.apply_at.min(self.volatile_at));
    }

    pub fn tell(&mut self, e: Event) {
        self.events.push_back(e);
    }
}

/// Why a role, or a link, is given up: for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Why(pub String);

impl Why {
    pub fn new(text: impl Into<String>) -> Why {
        Why(text.into())
    }
    pub(super) fn unexpected(kind: Kind, when: &str) -> Why {
        Why(format!("a packet of kind {kind:?} came {when}"))
    }
}
