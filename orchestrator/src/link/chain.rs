//! The hash chain over what one session sent: the same as the chain in the agent's ledger, so that both sides can say
//! whether they speak of the same bytes.

use sha2::{Digest, Sha256};

/// Head and length of one session's chain. Begins with 32 zero bytes; each frame makes it
/// `SHA-256(head || length as 4 bytes, big-endian || frame)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Chain {
    /// Of all frames so far.
    pub(super) head: [u8; 32],
    /// How many.
    pub(super) frames: u64,
}

impl Chain {
    /// Adds a frame as it arrived.
    pub(super) fn push(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let digest = Sha256::new()
            .chain_update(self.head)
            .chain_update(length.to_be_bytes())
            .chain_update(frame);
        self.head = digest.finalize().into();
        self.frames += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundaries_of_frames_count() {
        let chain = |frames: &[&[u8]]| {
            let mut chain = Chain::default();
            frames.iter().for_each(|frame| chain.push(frame));
            chain
        };
        assert_eq!(chain(&[]).head, [0; 32]);
        assert_ne!(chain(&[b"ab"]).head, chain(&[b"a", b"b"]).head);
        assert_ne!(chain(&[b""]).head, chain(&[]).head);
        let by_hand = Sha256::digest([&[0; 32][..], &[0, 0, 0, 2], b"ab"].concat());
        assert_eq!(chain(&[b"ab"]).head, <[u8; 32]>::from(by_hand));
    }
}
