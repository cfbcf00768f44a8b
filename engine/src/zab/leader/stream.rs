//! Learners that the window cannot serve: the driver streams to them, first whatever the decision was (DIFF or SNAP), then,
//! as often as the window has moved on meanwhile, the log from where they are.
//!
//! Not here: reading the log, walking the tree (the driver).
//! Invariants:
//! - a stream begins right behind the last COMMIT that the learner was sent, and ends at what is applied here when it began,
//!   so nothing is missing and nothing uncommitted is in it; what is proposed already is not proposed again;
//! - while one is due or runs, nothing else of the history is appended to the link (the driver's pieces are whole packets
//!   behind a SNAP, so a PING may stand between them);
//! - a learner waits for its turn as long as it takes; once it is its turn, it has to take bytes.

use super::pump::heir_at;
use super::{Handled, Leader, Peer, Stage, Step, Streaming};
use crate::ids::{LinkId, ServerId, Ticket, Zxid};
use crate::proto::Encode;
use crate::time::MonoMs;
use crate::zab::base::{Base, Why};
use crate::zab::member::Event;
use crate::zab::reconfig::is_reconfig;
use crate::zab::wire::{Kind, put_packet, put_packet_with};

/// What the driver sends: the state as it is now at `upto`, or, with `behind`, the log alone.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub upto: Zxid,
    pub behind: Option<Behind>,
}

/// The learner goes on from the log, in the middle of its synchronisation: no header, and no snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// The ticket of the last that it was told to commit, if it was given out since the start: the log goes on behind it.
    pub ticket: Option<Ticket>,
    /// Of what is not above this it lacks the COMMIT only.
    proposed: Zxid,
    /// An observer behind its NEWLEADER.
    informs: bool,
    /// Behind NEWLEADER a reconfiguration is told with who leads behind it: this server, but for that one.
    activates: bool,
    leader: ServerId,
    activated: Option<(Zxid, ServerId)>,
}

impl Behind {
    /// Appends what the learner lacks of one transaction.
    pub fn put(&self, out: &mut Vec<u8>, zxid: Zxid, txn: &[u8]) {
        let heir = heir_at(self.activated, self.leader, zxid).0;
        let activates = self.activates && is_reconfig(txn);
        if self.informs {
            if activates {
                put_packet_with(out, Kind::InformAndActivate, zxid, None, |out| {
                    out.put_long(heir);
                    out.extend_from_slice(txn);
                });
            } else {
                put_packet(out, Kind::Inform, zxid, Some(txn));
            }
            return;
        }
        if zxid > self.proposed {
            put_packet(out, Kind::Proposal, zxid, Some(txn));
        }
        if activates {
            put_packet(out, Kind::CommitAndActivate, zxid, Some(&heir.to_be_bytes()));
        } else {
            put_packet(out, Kind::Commit, zxid, None);
        }
    }
}

impl Peer {
    /// The last zxid that it was sent, as far as this server has it in hand.
    pub(super) fn sent(&self, base: &Base) -> Zxid {
        if self.stream == Streaming::No { base.window.before(self.cursor) } else { self.proposed }
    }

    /// Remembers where it is, for when the window has moved on. Both cursors are in the window.
    pub(super) fn note_place(&mut self, base: &Base) {
        if self.step < Step::Live {
            let told = self.commit_at.checked_sub(1).and_then(|p| base.window.get(p));
            self.told = told.map_or((base.window.base(), Ticket(0)), |e| (e.zxid, e.ticket));
            self.proposed = base.window.before(self.cursor);
        }
    }

    /// Asks the driver for what the window no longer holds. `last`: where the learner's history ends.
    pub(super) fn ask_stream(&mut self, base: &mut Base, link: LinkId, last: Zxid) {
        self.stream = Streaming::Due;
        let voter = self.voter && !self.observer;
        base.tell(Event::Stream { link, to: self.id, last, voter, goes_on: self.step > Step::Streaming });
    }
}

/// Why a learner that is streamed to is given up: it has taken nothing for so long.
pub(super) fn stalled(base: &Base, peer: &Peer, silent_ms: u64) -> Option<Why> {
    // Behind a snapshot it may be writing that to its disk.
    let storing = peer.step > Step::Streaming;
    let limit = base.settings.init_ms() + if storing { base.settings.sync_ms() } else { 0 };
    (silent_ms > limit).then(|| {
        Why::new(format!(
            "it has taken not a byte of what it lacks for {silent_ms} ms; does that server stand still?"
        ))
    })
}

impl Leader {
    /// It is a learner's turn. `None`: it is gone.
    pub fn stream_begins(&mut self, base: &Base, link: LinkId, now: MonoMs) -> Option<Stream> {
        let leader = if let Stage::Relay { leader } = self.stage { leader } else { base.settings.me };
        let activated = self.activated;
        let peer = self.peers.get_mut(&link).filter(|p| p.stream == Streaming::Due)?;
        let upto = base.applied();
        let behind = (peer.step > Step::Streaming).then(|| Behind {
            ticket: Some(peer.told.1).filter(|t| t.0 > 0),
            proposed: peer.proposed,
            informs: peer.observer && peer.step > Step::Syncing,
            activates: peer.step > Step::Syncing,
            leader,
            activated,
        });
        peer.stream = Streaming::Runs;
        peer.heard_at = now;
        // So far it is told, and sent, when this stream has ended.
        peer.told = (upto, base.applied_ticket);
        peer.proposed = peer.proposed.max(upto);
        Some(Stream { upto, behind })
    }

    /// The learner has taken something of its stream, or nothing waits for it.
    pub fn stream_took(&mut self, link: LinkId, now: MonoMs) {
        if let Some(peer) = self.peers.get_mut(&link).filter(|p| p.stream == Streaming::Runs) {
            peer.heard_at = now;
        }
    }

    /// The whole stream is in the link's buffer: the history behind it follows, from the window, or, where that has moved on,
    /// from the log again. That converges: a log is read faster than it is written.
    pub fn stream_ended(&mut self, base: &mut Base, link: LinkId, zxid: Zxid, now: MonoMs) -> Handled {
        let committed = self.effective(base);
        let Some(peer) = self.peers.get_mut(&link).filter(|p| p.stream == Streaming::Runs) else {
            return Ok(());
        };
        (peer.heard_at, peer.progress_at) = (now, now);
        let place = base.window.after(zxid);
        if peer.step == Step::Streaming {
            peer.step = Step::Syncing;
            let begin = place.unwrap_or(base.window.first());
            peer.sync_end = if peer.observer {
                base.window.after(committed).unwrap_or(begin).max(begin)
            } else {
                base.window.end()
            };
        }
        let Some(place) = place else {
            peer.ask_stream(base, link, zxid);
            return Ok(());
        };
        peer.stream = Streaming::No;
        peer.commit_at = place;
        peer.cursor = peer.cursor.max(place);
        Ok(())
    }
}
