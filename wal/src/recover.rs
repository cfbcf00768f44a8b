//! Where does the log end? The decision table of FORMAT.md section 5, and the walk that feeds it.
//!
//! Not here: making the answer durable (`log` writes the seal), delivering records (`reader`).
//! Invariants: nothing is written here; every combination of findings has exactly one row; an error means that
//! nothing was decided.

use std::path::Path;

use crate::Position;
use crate::dir::segment_number;
use crate::disk::Disk;
use crate::error::{During, WalError};
use crate::format::{BLOCK_BYTES, SegmentHeader};
use crate::window::Segment;

/// A failed write was the last its process made, so it lies in the newest segment, or in the one before if the newest
/// was only prepared. Only there can the page cache hold bytes that it calls clean and the disk does not have.
const SUSPECTS: usize = 2;

/// What is found at the place where the next group should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub sealed: bool,
    pub agrees: bool,
    pub header: bool,
    pub follows: bool,
    pub body: bool,
    pub continued: bool,
    pub below_mark: bool,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// The group counts; go on behind it.
    Keep,
    /// This segment's part is over; go on in the next.
    NextSegment,
    /// The log ends here.
    Cut,
    /// Damage: change nothing.
    Refuse(&'static str),
}

/// A column of the table: yes, no, or either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum P {
    Y,
    N,
    __,
}
use P::{__, N, Y};

const ELSEWHERE: &str = "the log does not end where its seal says";
const ORDER: &str = "a group is not the one that follows its predecessor";
const TWICE: &str = "the same records are in two segments, damaged in the first";
const ROT: &str = "records that were durable are damaged or missing";

/// sealed | agrees | header | follows | body | continued | below mark
const CASES: [([P; 7], Decision); 10] = [
    ([Y, Y, __, __, __, __, __], Decision::NextSegment),
    ([Y, N, __, __, __, __, __], Decision::Refuse(ELSEWHERE)),
    ([N, __, Y, Y, Y, __, __], Decision::Keep),
    ([N, __, Y, N, __, __, __], Decision::Refuse(ORDER)),
    ([N, __, Y, Y, N, Y, __], Decision::Refuse(TWICE)),
    ([N, __, Y, Y, N, N, Y], Decision::Refuse(ROT)),
    ([N, __, Y, Y, N, N, N], Decision::Cut),
    ([N, __, N, __, __, Y, __], Decision::NextSegment),
    ([N, __, N, __, __, N, Y], Decision::Refuse(ROT)),
    ([N, __, N, __, __, N, N], Decision::Cut),
];

impl Found {
    fn matches(&self, row: &[P; 7]) -> bool {
        let f =
            [self.sealed, self.agrees, self.header, self.follows, self.body, self.continued, self.below_mark];
        row.iter().zip(f).all(|(p, f)| *p == __ || (*p == Y) == f)
    }
}

pub(crate) fn decide(found: &Found) -> Decision {
    let row = CASES.iter().find(|(row, _)| found.matches(row));
    // The table is total (a test walks all inputs); were it not, refusing is what loses nothing.
    row.map_or(Decision::Refuse(ROT), |(_, d)| *d)
}

/// What lay behind the last group that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Zeros, or the end of the file.
    Clean,
    /// A group whose header is intact and whose body is not: a write that a crash interrupted.
    Torn {
        /// Records that its header announces; none of them was acknowledged.
        records: u32,
    },
    /// Other bytes: left over in a recycled segment, or the rest of an interrupted write.
    Residue,
}

/// A segment that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub incarnation: u64,
    pub first: Position,
}

/// A segment that holds nothing that counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Void {
    pub incarnation: u64,
    /// Its header may be what makes others void, so it stays until a newer seal is durable.
    pub is_seal: bool,
}

/// The outcome of a walk.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Segments with groups that count, or whose groups were not looked at (below `replay_from`); ascending.
    pub kept: Vec<Kept>,
    /// Files that hold nothing that counts; ascending.
    pub void: Vec<Void>,
    /// Segment and offset behind the last group that counts.
    pub cut: (u64, u64),
    /// Position of the next record.
    pub next: Position,
    pub tail: Tail,
    /// The largest incarnation there is; 0 if there is none.
    pub newest: u64,
}

/// The segments of a directory that are not void, open, with their headers.
pub(crate) struct Segments {
    pub live: Vec<(Segment, SegmentHeader)>,
    pub void: Vec<Void>,
    pub newest: u64,
}

impl Segments {
    /// Opens all segments and reads their headers.
    pub fn load(disk: &dyn Disk, dir: &Path, dir_id: u64) -> Result<Segments, WalError> {
        let names = disk.list(dir).during("list", dir)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment_number(n)).collect();
        numbers.sort_unstable();
        let newest = numbers.last().copied().unwrap_or(0);
        let mut live = Vec::with_capacity(numbers.len());
        for n in numbers {
            let mut s = Segment::open(disk, dir, dir_id, n)?;
            let header = s.header(dir_id)?;
            let header = header.map_err(|what| WalError::corrupt(&s.path, 0, Position(0), what))?;
            live.push((s, header));
        }
        let seals: Vec<(u64, u64)> =
            live.iter().filter_map(|(s, h)| Some((h.seal?.cut_segment, s.incarnation))).collect();
        let is_void = |n: u64| seals.iter().any(|&(cut, seal)| cut < n && n < seal);
        let void = live.iter().map(|(s, h)| void(s, h)).filter(|v| is_void(v.incarnation)).collect();
        live.retain(|(s, _)| !is_void(s.incarnation));
        Ok(Segments { live, void, newest })
    }

    /// Syncs what the previous process wrote and drops it from the cache, so that the walk sees what the disk has.
    pub fn settle(&mut self) -> Result<(), WalError> {
        let from = self.live.iter().rposition(|(_, h)| h.seal.is_some()).unwrap_or(0);
        let suspects = self.live.len().saturating_sub(SUSPECTS);
        for (i, (s, _)) in self.live.iter_mut().enumerate().skip(from) {
            s.file.sync().during("sync", &s.path)?;
            if i >= suspects {
                s.refresh()?;
            }
        }
        Ok(())
    }

    /// Position of the oldest record; `None` if there is no segment, or its first group is damaged.
    pub fn oldest(&mut self) -> Result<Option<Position>, WalError> {
        if self.live.is_empty() { Ok(None) } else { self.first(0) }
    }
    /// Position of the first record of segment `i`: from its seal or its first group.
    fn first(&mut self, i: usize) -> Result<Option<Position>, WalError> {
        let (s, h) = &mut self.live[i];
        match h.seal {
            Some(seal) => Ok(Some(seal.first)),
            None => Ok(s.group(BLOCK_BYTES as u64)?.map(|g| g.first)),
        }
    }

    /// Walks from the segment that holds `replay_from` to the end of the log.
    pub fn walk(mut self, replay_from: Position) -> Result<Scan, WalError> {
        let mut firsts = Vec::with_capacity(self.live.len());
        for i in 0..self.live.len() {
            firsts.push(self.first(i)?);
        }
        if self.live.is_empty() {
            let (void, newest) = (self.void, self.newest);
            return Ok(Scan {
                kept: vec![],
                void,
                cut: (0, 0),
                next: Position(0),
                tail: Tail::Clean,
                newest,
            });
        }
        let start = firsts.iter().rposition(|f| f.is_some_and(|f| f <= replay_from));
        let Some(mut start) = start else {
            let path = &self.live[0].0.path;
            let what = match firsts[0] {
                Some(f) => format!(
                    "the log begins at record {f}, replay needs {replay_from}: no snapshot covers the gap"
                ),
                None => "the log's first segment begins with no intact group".into(),
            };
            return Err(WalError::corrupt(path, BLOCK_BYTES as u64, replay_from, what));
        };
        let end = loop {
            let first = firsts[start].unwrap_or(replay_from);
            let end = self.walk_from(start, first)?;
            // Nothing kept and no seal to say where the predecessor ended: walk that one too.
            if end.cut.is_some() || start == 0 {
                break end;
            }
            start -= 1;
            while firsts[start].is_none() && start > 0 {
                start -= 1;
            }
        };
        self.finish(firsts, end)
    }

    fn finish(self, firsts: Vec<Option<Position>>, end: End) -> Result<Scan, WalError> {
        let cut = end.cut.unwrap_or((0, 0));
        let mut voids = self.void;
        let mut kept: Vec<Kept> = Vec::new();
        let mut successor = end.next;
        for ((s, h), first) in self.live.iter().zip(&firsts).rev() {
            if s.incarnation > cut.0 {
                voids.push(void(s, h));
                continue;
            }
            // Unknown only below `start`, where nobody reads: an empty range, which can be purged.
            successor = first.unwrap_or(successor).min(successor);
            kept.push(Kept { incarnation: s.incarnation, first: successor });
        }
        kept.reverse();
        voids.sort_unstable();
        Ok(Scan { kept, void: voids, cut, next: end.next, tail: end.tail, newest: self.newest })
    }

    fn walk_from(&mut self, start: usize, first: Position) -> Result<End, WalError> {
        let mut next = first;
        let seal = self.live[start].1.seal;
        let mut cut = seal.map(|s| (s.cut_segment, s.cut_offset));
        let (mut i, mut offset) = (start, BLOCK_BYTES as u64);
        loop {
            let (found, group) = self.look(i, offset, next)?;
            match decide(&found) {
                Decision::Keep => {
                    let Some(g) = group else { unreachable!("an intact body has a header") };
                    offset += g.total_bytes();
                    next = g.next();
                    cut = Some((self.live[i].0.incarnation, offset));
                }
                Decision::NextSegment => {
                    i += 1;
                    offset = BLOCK_BYTES as u64;
                }
                Decision::Cut => {
                    let tail = match group {
                        Some(g) => Tail::Torn { records: g.records },
                        None => self.residue(i, offset)?,
                    };
                    return Ok(End { next, cut, tail });
                }
                Decision::Refuse(what) => {
                    return Err(WalError::corrupt(&self.live[i].0.path, offset, next, what));
                }
            }
        }
    }

    fn look(
        &mut self,
        i: usize,
        offset: u64,
        next: Position,
    ) -> Result<(Found, Option<crate::format::GroupHeader>), WalError> {
        let incarnation = self.live[i].0.incarnation;
        let seal = self.live.get(i + 1).and_then(|(_, h)| h.seal);
        let sealed = seal.is_some_and(|s| s.cut_segment != incarnation || offset >= s.cut_offset);
        let agrees =
            seal.is_some_and(|s| s.cut_segment == incarnation && s.cut_offset == offset && s.first == next);
        let s = &mut self.live[i].0;
        let group = s.group(offset)?;
        let body = match &group {
            Some(g) => s.records(offset, g)?.is_some(),
            None => false,
        };
        let follows = group.is_some_and(|g| g.first == next);
        let whole = follows && body;
        let mut found = Found {
            sealed,
            agrees,
            header: group.is_some(),
            follows,
            body,
            continued: false,
            below_mark: false,
        };
        if !sealed && !whole {
            found.continued = match self.live.get_mut(i + 1) {
                Some((s, h)) if h.seal.is_none() => {
                    s.group(BLOCK_BYTES as u64)?.is_some_and(|g| g.first == next)
                }
                _ => false,
            };
            found.below_mark = !found.continued && self.mark_from(i, offset)? > next;
        }
        Ok((found, group))
    }

    /// The largest `durable_before` at or behind `offset` of segment `i`.
    fn mark_from(&mut self, i: usize, offset: u64) -> Result<Position, WalError> {
        let mut mark = Position(0);
        let mut from = offset;
        for k in i..self.live.len() {
            let ends = self.live.get(k + 1).and_then(|(_, h)| h.seal).map_or(u64::MAX, |s| s.cut_offset);
            let (s, h) = &mut self.live[k];
            mark = mark.max(h.durable_before);
            let until = s.len().min(ends);
            while from < until {
                if let Some(g) = s.group(from)? {
                    mark = mark.max(g.durable_before);
                }
                from += BLOCK_BYTES as u64;
            }
            from = BLOCK_BYTES as u64;
        }
        Ok(mark)
    }

    fn residue(&mut self, i: usize, offset: u64) -> Result<Tail, WalError> {
        let zeros = self.live[i].0.bytes(offset, BLOCK_BYTES)?.iter().all(|b| *b == 0);
        Ok(if zeros { Tail::Clean } else { Tail::Residue })
    }
}

fn void(s: &Segment, h: &SegmentHeader) -> Void {
    Void { incarnation: s.incarnation, is_seal: h.seal.is_some() }
}

struct End {
    next: Position,
    /// Behind the last group kept; `None` if none was and no seal told.
    cut: Option<(u64, u64)>,
    tail: Tail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_128_inputs_matches_exactly_one_case() {
        for bits in 0u32..128 {
            let b = |i: u32| bits & (1 << i) != 0;
            let found = Found {
                sealed: b(0),
                agrees: b(1),
                header: b(2),
                follows: b(3),
                body: b(4),
                continued: b(5),
                below_mark: b(6),
            };
            let rows = CASES.iter().filter(|(row, _)| found.matches(row)).count();
            assert_eq!(rows, 1, "{found:?}");
            if found.below_mark && !found.sealed && !(found.header && found.body) {
                assert_ne!(decide(&found), Decision::Cut, "below the mark nothing is cut: {found:?}");
            }
        }
    }
}
