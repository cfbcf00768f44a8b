//! What members say to each other, when it leaves.
//!
//! Source: DESIGN section 6 ("a Send may leave only when its ticket is durable"), field notes 3911, 4643, 4646, 4685:
//! LEADERINFO and ACKEPOCH stand for the accepted epoch, NEWLEADER and its ACK for the current epoch and the history
//! before it, every other ACK for its transaction; ACKs ascend, none precedes NEWLEADER's. Field notes 4925, 5088: what a
//! learner is sent has no holes: none ever has to say that something is missing.

use crate::node::Wires;
use crate::ports::{Out, Ports};
use crate::truth::Truth;
use engine::ids::{LinkId, Zxid};
use engine::zab::wire::{self, Kind};
use std::collections::BTreeMap;

/// What was said on a link.
#[derive(Default)]
struct Said {
    history_acked: bool,
    acked: Zxid,
}

/// See the module.
#[derive(Default)]
pub struct Promises {
    links: BTreeMap<(usize, LinkId), Said>,
    pub packets: u64,
}

impl Promises {
    /// What is in a member's buffers leaves from here on.
    pub fn leaving(&mut self, node: usize, ports: &mut Ports, _wires: &mut Wires) {
        let truth = &ports.journal.truth;
        for (link, out) in &mut ports.outs {
            self.read(node, *link, out, truth);
        }
    }

    /// What a member tells its operator.
    pub fn said(&self, node: usize, text: &str) {
        let hole = ["something between is missing", " is next", "which was not proposed here"];
        assert!(
            !hole.iter().any(|h| text.contains(h)),
            "{} was sent a history with a hole: {text}",
            node + 1
        );
    }

    pub fn ended(&mut self, node: usize) {
        self.links.retain(|(n, _), _| *n != node);
    }

    fn read(&mut self, node: usize, link: LinkId, out: &mut Out, truth: &Truth) {
        let end = out.sent + out.bytes.len() as u64;
        while out.read < end {
            let at = out.read;
            out.opaque.retain(|(_, to)| *to > at);
            if let Some((from, to)) = out.opaque.first().copied()
                && from <= at
            {
                out.read = to.min(end);
                continue;
            }
            let until = out.opaque.first().map_or(end, |(from, _)| *from);
            let fresh = &out.bytes[(at - out.sent) as usize..(until - out.sent) as usize];
            out.partial.extend_from_slice(fresh);
            out.read = until;
            let mut used = 0;
            while let Ok(Some((p, n))) = wire::parse(&out.partial[used..], usize::MAX >> 1) {
                used += n;
                self.packet(node, link, p.kind, p.zxid, truth);
            }
            out.partial.drain(..used);
        }
    }

    fn packet(&mut self, node: usize, link: LinkId, kind: Kind, zxid: Zxid, truth: &Truth) {
        self.packets += 1;
        let who = node + 1;
        let said = self.links.entry((node, link)).or_default();
        match kind {
            Kind::LeaderInfo => {
                assert!(
                    truth.epochs.accepted >= zxid.epoch(),
                    "{who}: LEADERINFO of {zxid} before its epoch is durable"
                );
            }
            Kind::AckEpoch => {
                assert!(truth.epochs.accepted >= truth.epochs.current, "{who}: {:?}", truth.epochs);
                assert!(
                    zxid == Zxid::MAX || truth.holds(zxid),
                    "{who}: ACKEPOCH says {zxid}, which is not durable here"
                );
            }
            Kind::NewLeader => {
                assert!(
                    truth.epochs.current >= zxid.epoch(),
                    "{who}: NEWLEADER of {zxid} before its epoch is durable"
                );
            }
            Kind::Ack if zxid.counter() == 0 => {
                assert!(
                    truth.holds_history_of(zxid.epoch()),
                    "{who}: ACK of NEWLEADER {zxid} before history and epoch are durable: {:?}",
                    truth.epochs
                );
                said.history_acked = true;
            }
            Kind::Ack => {
                assert!(said.history_acked, "{who}: ACK of {zxid} before NEWLEADER's");
                assert!(zxid > said.acked, "{who}: ACK of {zxid} behind {}", said.acked);
                assert!(truth.holds(zxid), "{who}: ACK of {zxid}, which is not durable");
                said.acked = zxid;
            }
            _ => {}
        }
    }
}
