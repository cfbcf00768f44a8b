//! Where the next request comes from: an endless mix, or a finite list of set-up steps.

use super::requests::Template;
use super::{KeyPicker, Mix, Operation, Requests, Rng};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What a request in flight is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Belongs to the workload.
    Measured(Operation),
    /// Population, cleanup, sync: not measured.
    Setup,
    /// Given up: its reply is read and forgotten.
    Forgotten,
}

/// Nodes that a session has created (in the order of the requests) and not deleted.
pub type Created = VecDeque<u64>;

/// A supply of requests.
pub trait Source {
    /// Appends the next request, as one frame with this xid, for the session that created `created`; `None` when
    /// the supply has ended.
    fn next(&mut self, created: &mut Created, xid: i32, out: &mut Vec<u8>) -> Option<Job>;
}

/// Draws from a mix without end.
#[derive(Debug)]
pub struct Mixed {
    requests: Arc<Requests>,
    mix: Mix,
    keys: KeyPicker,
    rng: Rng,
    /// Numbers of created nodes: `next_new`, `next_new + step`, ... are this source's own.
    next_new: u64,
    step: u64,
}

impl Mixed {
    /// Source number `index` of `sources`. Their created nodes do not clash.
    pub fn new(
        requests: Arc<Requests>,
        mix: Mix,
        keys: KeyPicker,
        rng: Rng,
        index: u64,
        sources: u64,
    ) -> Mixed {
        Mixed { requests, mix, keys, rng, next_new: index, step: sources }
    }
}

impl Source for Mixed {
    #[inline]
    fn next(&mut self, created: &mut Created, xid: i32, out: &mut Vec<u8>) -> Option<Job> {
        let mut op = self.mix.pick(&mut self.rng);
        if op == Operation::Delete && created.is_empty() {
            op = Operation::Create;
        }
        let r = &*self.requests;
        let mut key = || self.keys.pick(&mut self.rng);
        match op {
            Operation::Get => r.get.put(xid, key(), out),
            Operation::Exists => r.exists.put(xid, key(), out),
            Operation::Watch => r.watch.put(xid, key(), out),
            Operation::Set => r.set.put(xid, key(), out),
            Operation::Children => r.children.put(xid, 0, out),
            Operation::Create => {
                r.create_new.put(xid, self.next_new, out);
                created.push_back(self.next_new);
                self.next_new += self.step;
            }
            Operation::Delete => {
                let oldest = created.pop_front()?;
                r.delete_new.put(xid, oldest, out);
            }
        }
        Some(Job::Measured(op))
    }
}

/// A step of set-up or cleanup: which request, for which nodes.
#[derive(Clone, Debug)]
pub enum Task {
    /// Create the keys with these numbers.
    CreateKeys(Range<u64>),
    /// Give the keys with these numbers the run's value.
    SetKeys(Range<u64>),
    /// Delete the keys with these numbers.
    DeleteKeys(Range<u64>),
    /// Fill the directory that `children` lists.
    CreateDirChildren(Range<u64>),
    /// Empty it.
    DeleteDirChildren(Range<u64>),
    /// Delete what the operation `create` left.
    DeleteCreated(Vec<u64>),
    /// One sync, so that the session's server shows all that was acknowledged to others.
    Sync(usize),
}

/// A finite supply.
#[derive(Debug)]
pub struct Finite {
    requests: Arc<Requests>,
    task: Task,
    at: u64,
}

impl Finite {
    /// The supply for `task`.
    pub fn new(requests: Arc<Requests>, task: Task) -> Finite {
        Finite { requests, task, at: 0 }
    }

    fn nth(&self, n: u64) -> Option<(&Template, u64)> {
        let r = &*self.requests;
        let within = |range: &Range<u64>| Some(range.start + n).filter(|k| *k < range.end);
        match &self.task {
            Task::CreateKeys(range) => Some((&r.create_key, within(range)?)),
            Task::SetKeys(range) => Some((&r.set, within(range)?)),
            Task::DeleteKeys(range) => Some((&r.delete_key, within(range)?)),
            Task::CreateDirChildren(range) => Some((&r.create_dir_child, within(range)?)),
            Task::DeleteDirChildren(range) => Some((&r.delete_dir_child, within(range)?)),
            Task::DeleteCreated(ids) => Some((&r.delete_new, *ids.get(n as usize)?)),
            Task::Sync(times) => (n < *times as u64).then_some((&r.sync, 0)),
        }
    }
}

impl Source for Finite {
    fn next(&mut self, _created: &mut Created, xid: i32, out: &mut Vec<u8>) -> Option<Job> {
        let (template, n) = self.nth(self.at)?;
        template.put(xid, n, out);
        self.at += 1;
        Some(Job::Setup)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AclChoice, Distribution, Layout};
    use super::*;

    fn requests() -> Arc<Requests> {
        let layout = Layout { base: "/b".to_owned() };
        Arc::new(Requests::new(&layout, b"v", AclChoice::Open))
    }

    #[test]
    fn delete_takes_what_the_session_created_and_creates_when_there_is_nothing() {
        let mix = "delete=1".parse().unwrap();
        let keys = KeyPicker::new(Distribution::Uniform, 1, 0);
        let mut source = Mixed::new(requests(), mix, keys, Rng::new(1, 0), 3, 10);
        let (mut created, mut out) = (Created::new(), Vec::new());
        let jobs: Vec<_> = (0..3).filter_map(|xid| source.next(&mut created, xid, &mut out)).collect();
        let expected = [Operation::Create, Operation::Delete, Operation::Create].map(Job::Measured);
        assert_eq!(jobs, expected);
        assert_eq!(created, [13], "numbers go up in steps, the first was deleted");
    }

    #[test]
    fn a_finite_source_ends_after_its_last_node() {
        let count = |task| {
            let mut source = Finite::new(requests(), task);
            let mut out = Vec::new();
            (0..).take_while(|xid| source.next(&mut Created::new(), *xid, &mut out).is_some()).count()
        };
        assert_eq!(count(Task::CreateKeys(5..8)), 3);
        assert_eq!(count(Task::DeleteKeys(5..5)), 0);
        assert_eq!(count(Task::DeleteCreated(vec![9, 4])), 2);
        assert_eq!(count(Task::Sync(4)), 4);
    }
}
