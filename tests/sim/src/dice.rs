//! The simulation's only source of chance: SplitMix64 (Steele, Lea, Flood, 2014) from one seed.

/// A seeded generator.
#[derive(Debug, Clone)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        let width = u128::from(high.saturating_sub(low)) + 1;
        let scaled = (u128::from(self.next()) * width) >> 64;
        low.saturating_add(u64::try_from(scaled).unwrap_or(0))
    }

    /// From `low` to `high`, each doubling as likely as the next: for spans of time.
    pub(crate) fn span(&mut self, low: u64, high: u64) -> u64 {
        let doublings = (high / low.max(1)).max(1).ilog2();
        let from = low.saturating_mul(1 << self.between(0, u64::from(doublings)));
        self.between(from, from.saturating_mul(2).min(high).max(from))
    }

    pub(crate) fn percent(&mut self, likely: u64) -> bool {
        self.between(1, 100) <= likely
    }

    /// An index below `count`; 0 when there is nothing to choose from.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        let last = u64::try_from(count.saturating_sub(1)).unwrap_or(u64::MAX);
        usize::try_from(self.between(0, last)).unwrap_or(0)
    }

    /// 32 bytes, for the cores' own generators.
    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        for chunk in seed.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        seed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_numbers_within_their_bounds() {
        let (mut one, mut two) = (Dice::new(7), Dice::new(7));
        for _ in 0..1000 {
            let drawn = one.span(10, 1000);
            assert_eq!(drawn, two.span(10, 1000));
            assert!((10..=1000).contains(&drawn), "{drawn}");
        }
        assert_ne!(Dice::new(1).next(), Dice::new(2).next());
    }
}
