//! A queue that never moves what it holds: it grows and shrinks by blocks.
//!
//! Not here: anything concurrent.

use std::collections::VecDeque;

const BLOCK: usize = 1024;

pub(super) struct Queue<T> {
    blocks: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Queue<T> {
        Queue { blocks: VecDeque::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, item: T) {
        if self.blocks.back().is_none_or(|b| b.len() == BLOCK) {
            self.blocks.push_back(VecDeque::with_capacity(BLOCK));
        }
        self.blocks.back_mut().expect("just made").push_back(item);
        self.len += 1;
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.blocks.front()?.front()
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let block = self.blocks.front_mut()?;
        let item = block.pop_front()?;
        self.len -= 1;
        // The last block stays, so that a queue that is filled and emptied in turn does not allocate.
        if block.is_empty() && self.blocks.len() > 1 {
            self.blocks.pop_front();
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out_over_blocks() {
        let mut q = Queue::new();
        let (mut next, mut seen) = (0, 0);
        for round in 0..if cfg!(miri) { 12 } else { 50 } {
            for _ in 0..round * 37 {
                q.push(next);
                next += 1;
            }
            for _ in 0..round * 31 {
                assert_eq!(q.pop(), Some(seen));
                seen += 1;
            }
            assert_eq!(q.len(), next - seen);
            assert_eq!(q.front().copied(), (seen < next).then_some(seen));
        }
        while let Some(x) = q.pop() {
            assert_eq!(x, seen);
            seen += 1;
        }
        assert!(q.is_empty() && seen == next);
    }
}
