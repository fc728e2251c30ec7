//! Chance from a seed: the same seed draws the same numbers, so that a simulated run can be repeated.
//!
//! Used for waiting times only, never for anything that must not be guessed.

/// The xoshiro256** generator (Blackman and Vigna).
#[derive(Debug, Clone)]
pub(crate) struct Chance {
    state: [u64; 4],
}

impl Chance {
    /// From 32 bytes. All zeroes, which the generator cannot leave, count as one.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(8)) {
            *word = bytes
                .iter()
                .fold(0, |word, byte| (word << 8) | u64::from(*byte));
        }
        if state == [0; 4] {
            state[3] = 1;
        }
        let mut chance = Self { state };
        // A seed of few set bits needs some rounds before its draws look even.
        for _ in 0..16 {
            chance.next();
        }
        chance
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let drawn = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        drawn
    }

    /// Evenly from 0 to `bound`, both included.
    pub(crate) fn up_to(&mut self, bound: u64) -> u64 {
        let range = u128::from(bound) + 1;
        let scaled = (u128::from(self.next()) * range) >> 64;
        u64::try_from(scaled).unwrap_or(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_bounded_and_repeatable() {
        let (mut one, mut two) = (Chance::new([7; 32]), Chance::new([7; 32]));
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            let drawn = one.up_to(9);
            assert_eq!(drawn, two.up_to(9));
            seen[usize::try_from(drawn).unwrap()] += 1;
        }
        assert!(
            seen.iter().all(|count| (850..1150).contains(count)),
            "{seen:?}"
        );
        assert_eq!(Chance::new([0; 32]).up_to(0), 0);
    }

    #[test]
    fn different_seeds_draw_differently() {
        let mut other = [0; 32];
        other[31] = 2;
        let draws = |seed| {
            let mut chance = Chance::new(seed);
            [0; 4].map(|_| chance.up_to(u64::MAX))
        };
        assert_ne!(draws([0; 32]), draws(other));
    }
}
