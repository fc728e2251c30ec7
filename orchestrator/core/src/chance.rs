//! The core's only source of chance: xoshiro256** (Blackman and Vigna, 2018), seeded from outside.
//!
//! Ids need to be different, not secret; the same seed gives the same run of a simulation.

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, Nonce, RunId};

/// A seeded generator.
#[derive(Debug, Clone)]
pub struct Chance {
    state: [u64; 4],
}

impl Chance {
    /// Begins at this seed. A seed of zeroes, from which the generator would never move, is replaced.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(seed.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        if state == [0; 4] {
            state = [
                0x9e37_79b9_7f4a_7c15,
                0xbf58_476d_1ce4_e5b9,
                0x94d0_49bb_1331_11eb,
                1,
            ];
        }
        Self { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let width = u128::from(high.saturating_sub(low)) + 1;
        let scaled = (u128::from(self.next_u64()) * width) >> 64;
        low.saturating_add(u64::try_from(scaled).unwrap_or(0))
    }

    /// An id for an attempt that is made now.
    pub fn attempt(&mut self, now: Micros) -> AttemptId {
        AttemptId(self.id(now))
    }

    /// An id for a run that is made now.
    pub fn run(&mut self, now: Micros) -> RunId {
        RunId(self.id(now))
    }

    /// A nonce; never zero, which means none.
    pub fn nonce(&mut self) -> Nonce {
        Nonce(self.next_u64().max(1))
    }

    /// 48 bits of milliseconds since 1970, then 80 bits of chance: what is made together lies together in every index,
    /// so that a store's burst changes a few neighbouring places and not one for each id.
    fn id(&mut self, now: Micros) -> u128 {
        let wide = (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64());
        (u128::from(now.0 / 1000) << 80) | (wide >> 48)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // First outputs of the reference implementation for the state 1, 2, 3, 4.
        let mut seed = [0; 32];
        for (at, byte) in [(0, 1), (8, 2), (16, 3), (24, 4)] {
            seed[at] = byte;
        }
        let mut chance = Chance::new(seed);
        let drawn: Vec<u64> = (0..5).map(|_| chance.next_u64()).collect();
        assert_eq!(
            drawn,
            [
                11520,
                0,
                1_509_978_240,
                1_215_971_899_390_074_240,
                1_216_172_134_540_287_360
            ]
        );
    }

    #[test]
    fn numbers_stay_within_their_bounds_and_reach_both() {
        let mut chance = Chance::new([7; 32]);
        let drawn: Vec<u64> = (0..200).map(|_| chance.between(3, 5)).collect();
        assert!(drawn.iter().all(|n| (3..=5).contains(n)));
        assert!(drawn.contains(&3) && drawn.contains(&5));
        assert_eq!(chance.between(9, 9), 9);
    }

    #[test]
    fn a_seed_of_zeroes_still_moves() {
        let mut chance = Chance::new([0; 32]);
        let now = Micros(5);
        assert_ne!(chance.attempt(now), chance.attempt(now));
    }

    #[test]
    fn ids_are_in_the_order_of_the_milliseconds_they_were_made_in() {
        let mut chance = Chance::new([3; 32]);
        let mut made = |ms: u64| chance.run(Micros(ms * 1000 + 999));
        let ids = [1, 2, 1_763_800_000_000, 1_763_800_000_001].map(&mut made);
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!(ids[3].0 >> 80, 1_763_800_000_001);
    }
}
