//! Chance, from the seed alone.

use wal::testing::Rng;

/// What a run draws from. Each part of it has its own, so that one part's draws do not move another's.
#[derive(Clone, Debug)]
pub struct Dice(Rng);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Rng::new(seed ^ 0x5e1f_5a1e_0000_0000))
    }
    /// Dice for a part of the run.
    pub fn fork(&mut self) -> Dice {
        Dice(Rng::new(self.0.next_u64()))
    }
    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }
    /// From `low` to `high`, both possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.below(high.max(low) - low + 1)
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }
    /// True in so many of 1000 cases.
    pub fn permille(&mut self, n: u64) -> bool {
        self.0.below(1000) < n
    }
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
    /// Mostly near `usual`, at times up to fifty times as long.
    pub fn delay_us(&mut self, usual: u64) -> u64 {
        let usual = usual.max(1);
        match self.0.below(100) {
            0 => self.between(usual, usual * 50),
            1..10 => self.between(usual, usual * 5),
            _ => self.between(usual / 4, usual + usual / 2),
        }
    }
}
