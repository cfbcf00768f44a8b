//! What goes wrong, and when, drawn from the plan's rates.
//!
//! Not here: what a fault does to bytes and files (`network`, `wal::testing`).
//! Invariant: behind [`World::heal_all`] nothing goes wrong any more.

use crate::say;
use crate::world::{Death, Ev, World};

/// Something that goes wrong.
type Fault = fn(&mut World);

/// Between two draws, virtual ms.
const DRAW_MS: u64 = 50;

impl World {
    /// Faults from here on.
    pub fn let_loose(&mut self) {
        self.chaos_on = true;
        let at = self.at_us + DRAW_MS * 1000;
        self.push(at, Ev::Chaos);
        self.operate_later();
    }

    /// One draw of everything.
    pub fn chaos_event(&mut self) {
        if !self.chaos_on {
            return;
        }
        let r = self.plan.rates;
        let draws: [(u64, Fault); 9] = [
            (r.kill, |w| w.kill_one(Death::Kill)),
            (r.power_cut, |w| w.kill_one(Death::PowerCut)),
            (r.power_cut_all, World::kill_many),
            (r.partition, World::partition),
            (r.reset, World::reset_something),
            (r.pause, World::pause_one),
            (r.disk_error, World::break_a_disk),
            (r.client_cut, World::cut_a_client),
            (r.clock_jump, World::jump_a_clock),
        ];
        for (per_minute, act) in draws {
            // Millionths per draw.
            let odds = per_minute * DRAW_MS * 1_000_000 / 60_000;
            if self.dice.between(0, 999_999) < odds {
                act(self);
            }
        }
        let at = self.at_us + DRAW_MS * 1000;
        self.push(at, Ev::Chaos);
    }

    fn any_running(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|n| self.nodes[*n].running.is_some()).collect();
        // The leader is worth most.
        match self.leader() {
            Some(l) if self.dice.permille(400) => Some(l),
            _ => (!up.is_empty()).then(|| *self.dice.pick(&up)),
        }
    }

    fn kill_one(&mut self, death: Death) {
        let Some(node) = self.any_running() else { return };
        if death == Death::PowerCut && self.dice.permille(700) {
            // In the middle of one of the next operations of its disk.
            let n = self.dice.between(1, 40);
            say!(self.trace, "{}: power will fail in operation {n} of its disk", node + 1);
            self.nodes[node].disk.fail_power_in(n);
            return;
        }
        self.crash(node, death);
        self.start_later(node);
    }

    /// All at once; or nearly all, and then it is a cut of each.
    fn kill_many(&mut self) {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|n| self.nodes[*n].running.is_some()).collect();
        if self.dice.permille(750) {
            self.cut_all();
        } else {
            say!(self.trace, "power fails nearly everywhere");
            for node in &up {
                if self.dice.permille(800) {
                    self.crash(*node, Death::PowerCut);
                }
            }
        }
        for node in up {
            self.start_later(node);
        }
    }

    fn partition(&mut self) {
        let count = self.nodes.len();
        if count < 2 {
            return;
        }
        let mut cut = Vec::new();
        let odd = self.dice.below(count);
        match self.dice.below(4) {
            // One member alone.
            0 => cut.extend((0..count).filter(|n| *n != odd).flat_map(|n| [(odd, n), (n, odd)])),
            // Two halves.
            1 => {
                let half: Vec<bool> = (0..count).map(|_| self.dice.permille(500)).collect();
                let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
                cut.extend(pairs.filter(|(a, b)| half[*a] != half[*b]));
            }
            // One way.
            2 => {
                let to = self.dice.below(count);
                cut.push((odd, to));
            }
            // Two halves that only one member sees both of.
            _ => {
                let half: Vec<bool> = (0..count).map(|_| self.dice.permille(500)).collect();
                let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
                cut.extend(pairs.filter(|(a, b)| *a != odd && *b != odd && half[*a] != half[*b]));
            }
        }
        for (from, to) in &cut {
            self.set_blocked(*from, *to, true);
            if self.dice.permille(300) {
                self.election_reset(*from.min(to), *from.max(to));
            }
        }
        let token = self.heal_tokens.len() as u64;
        self.heal_tokens.insert(token, cut);
        let at = self.at_us + self.dice.between(50_000, 8_000_000);
        self.push(at, Ev::Heal { token });
    }

    pub fn heal(&mut self, token: u64) {
        for (from, to) in self.heal_tokens.get(&token).cloned().unwrap_or_default() {
            self.set_blocked(from, to, false);
        }
    }

    fn reset_something(&mut self) {
        let count = self.nodes.len();
        if count < 2 {
            return;
        }
        if self.dice.permille(400) {
            let (a, b) = (self.dice.below(count), self.dice.below(count));
            if a != b {
                self.election_reset(a.min(b), a.max(b));
            }
            return;
        }
        let open: Vec<usize> = (0..self.net.links.len())
            .filter(|l| self.net.links[*l].open && self.net.links[*l].ends.iter().all(|e| !e.closed))
            .collect();
        if !open.is_empty() {
            let link = *self.dice.pick(&open);
            say!(self.trace, "a link of {} is reset", self.net.links[link].ends[0].node + 1);
            self.reset_link(link);
        }
    }

    fn pause_one(&mut self) {
        let Some(node) = self.any_running() else { return };
        let ms = self.dice.between(10, 6_000);
        say!(self.trace, "{}: stopped for {ms} ms", node + 1);
        self.nodes[node].paused_until_us = self.at_us + ms * 1000;
    }

    fn break_a_disk(&mut self) {
        let Some(node) = self.any_running() else { return };
        let n = self.dice.between(1, 20);
        self.nodes[node].disk_fails = true;
        if self.dice.permille(500) {
            say!(self.trace, "{}: write {n} of its disk will fail", node + 1);
            self.nodes[node].disk.fail_write_in(n);
        } else {
            say!(self.trace, "{}: sync {n} of its disk will fail", node + 1);
            self.nodes[node].disk.fail_sync_in(n);
        }
    }

    fn cut_a_client(&mut self) {
        let client = self.dice.below(self.clients.len());
        if self.dice.permille(300) {
            let ms = self.dice.between(100, 2 * self.plan.session_ms as u64);
            self.clients[client].silent_until_us = self.at_us + ms * 1000;
        }
        if let Some(conn) = self.clients[client].conn
            && self.dice.permille(700)
        {
            self.clients[client].lost();
            self.close_at_client(conn);
            if self.dice.permille(500) {
                self.close_at_server(conn);
            }
        }
    }

    fn jump_a_clock(&mut self) {
        let node = self.dice.below(self.nodes.len());
        let by = self.dice.between(0, 20_000) as i64 - 10_000;
        say!(self.trace, "{}: its calendar jumps by {by} ms", node + 1);
        self.nodes[node].clock.wall_base_ms += by;
    }

    /// The end of all faults: everybody is started, every way is free.
    pub fn heal_all(&mut self) {
        say!(self.trace, "---- no faults from here on");
        self.chaos_on = false;
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                self.set_blocked(from, to, false);
            }
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.clear_faults();
            self.nodes[node].held = false;
            self.nodes[node].paused_until_us = 0;
            self.wake_core(node);
            for seat in 0..self.plan.shards {
                self.wake_seat(node, seat);
            }
            if self.nodes[node].running.is_none() {
                self.push(self.at_us, Ev::Start { node, life: self.nodes[node].life });
            }
        }
        for c in &mut self.clients {
            c.silent_until_us = 0;
        }
    }
}
