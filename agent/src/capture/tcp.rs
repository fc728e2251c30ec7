//! One direction of a TCP connection: which of its bytes the capture has.

use std::collections::BTreeMap;

/// What was captured of one direction.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// Bytes from the beginning on that are there without a gap.
    next: u64,
    /// Pieces behind a gap: where each begins and ends, and the packet that brought it.
    later: BTreeMap<u64, (u64, u64)>,
    /// Bytes that came a second time.
    pub(super) repeated: u64,
}

impl Coverage {
    /// Adds a segment; answers where it begins in the direction's bytes, from 0 on.
    pub(super) fn add(&mut self, relative: u32, length: u64, packet: u64) -> u64 {
        let begin = self.unwrapped(relative).saturating_sub(1);
        let end = begin + length;
        if length == 0 {
            return begin;
        }
        if begin > self.next {
            let piece = self.later.entry(begin).or_insert((end, packet));
            piece.0 = piece.0.max(end);
            return begin;
        }
        self.repeated += self.next.min(end) - begin;
        self.next = self.next.max(end);
        while let Some(piece) = self.later.first_entry() {
            if *piece.key() > self.next {
                break;
            }
            let (begin, (end, _)) = piece.remove_entry();
            self.repeated += self.next.min(end) - begin;
            self.next = self.next.max(end);
        }
        begin
    }

    /// Numbers go round after 4 GiB.
    fn unwrapped(&self, relative: u32) -> u64 {
        const ROUND: u64 = 1 << 32;
        let near = self.next + 1;
        let candidate = near / ROUND * ROUND + u64::from(relative);
        if candidate + ROUND / 2 < near {
            candidate + ROUND
        } else if candidate > near + ROUND / 2 {
            candidate.saturating_sub(ROUND)
        } else {
            candidate
        }
    }

    /// Bytes that are there without a gap before them.
    pub(super) fn whole(&self) -> u64 {
        self.next
    }

    /// The first gap: how many bytes are missing before which packet, and how many there are behind it.
    pub(super) fn gap(&self) -> Option<Gap> {
        let (begin, (_, packet)) = self.later.first_key_value()?;
        let behind = self.later.iter().map(|(begin, (end, _))| end - begin).sum();
        Some(Gap {
            at: self.next,
            missing: begin - self.next,
            packet: *packet,
            behind,
        })
    }
}

/// Bytes that the capture lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) at: u64,
    pub(super) missing: u64,
    /// The packet behind it.
    pub(super) packet: u64,
    /// Bytes behind it, which cannot be checked.
    pub(super) behind: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_or_out_of_order_is_counted_once_and_what_is_missing_is_told() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.add(1, 10, 1), 0);
        assert_eq!(coverage.add(21, 5, 2), 20);
        assert_eq!(coverage.gap().map(|gap| gap.missing), Some(10));
        assert_eq!(coverage.add(6, 15, 3), 5);
        assert_eq!((coverage.whole(), coverage.repeated), (25, 5));
        assert_eq!(coverage.gap(), None);
        let _ = coverage.add(31, 1, 9);
        let gap = coverage.gap().unwrap();
        assert_eq!((gap.at, gap.missing, gap.packet, gap.behind), (25, 5, 9, 1));
    }

    #[test]
    fn numbers_go_round() {
        let mut coverage = Coverage {
            next: (1 << 32) - 11,
            ..Coverage::default()
        };
        let begin = coverage.add(u32::MAX - 9, 20, 1);
        assert_eq!(begin, (1 << 32) - 11);
        assert_eq!(coverage.add(10, 5, 2), (1 << 32) + 9);
        assert_eq!(coverage.whole(), (1 << 32) + 14);
        assert_eq!(coverage.gap(), None);
    }
}
