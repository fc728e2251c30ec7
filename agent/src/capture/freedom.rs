//! What nobody can check: how many bits each kind of byte leaves to whoever says it, although everything that can be checked
//! was found as it must be. The most that a link which was taken over could have said by it, without when it said it.
//!
//! Used by the report; `docs/audit.md` has the same numbers, and a test compares both.

use super::account::{Kind, Tally};
use super::{handshake, hello, http2};

/// Bits that are needed for one of so many.
const fn bits_of(choices: u64) -> u64 {
    (u64::BITS - (choices - 1).leading_zeros()) as u64
}

/// A record holds at most so many bytes; where it ends is free.
const RECORD_BYTES: u64 = 16 * 1024;

const fn factorial(n: u64) -> u64 {
    if n == 0 { 1 } else { n * factorial(n - 1) }
}

impl Kind {
    /// Bits of each of them that are free, beside the bytes that are random by nature.
    #[must_use]
    pub fn free_bits(self) -> u64 {
        match self {
            // The order of the extensions.
            Self::ClientHello => bits_of(factorial(hello::EXTENSIONS)),
            // How long the signature is.
            Self::CertificateVerify => bits_of(handshake::SIGNATURE_BYTES + 1),
            // One of the reasons, and the goodbye.
            Self::Alert => bits_of(handshake::REASONS.len() as u64 + 1),
            // Whether it is there.
            Self::ChangeCipherSpec => 1,
            // How long it is.
            Self::TlsRecord => bits_of(RECORD_BYTES),
            // Which of the four requests.
            Self::Headers => bits_of(http2::IDENTITY.len() as u64 + 1),
            // Whether the next message is in it, too; and as many cuts within messages as windows came, and one.
            Self::DataFrame => 1 + bits_of(http2::FULL_FRAME),
            // By how much, and of the request or of all.
            Self::WindowUpdate => 1 + bits_of(http2::WINDOW),
            // Which of those that wait is answered.
            Self::PingAnswer => bits_of(http2::PINGS as u64),
            // Which reason.
            Self::Reset => bits_of(http2::RESETS.len() as u64),
            // The reserved bit, which tshark does not show.
            Self::Goodbye => 1,
            Self::LedgerFrame
            | Self::IdentityCall
            | Self::MessagePrefix
            | Self::Preface
            | Self::Settings
            | Self::Ping
            | Self::Certificate
            | Self::Finished
            | Self::KeyUpdate => 0,
            // All of their bytes are.
            Self::Random | Self::Unreadable | Self::Unaccounted => 0,
        }
    }

    /// Bits of so many of them that nobody can check.
    pub(super) fn free_bits_of(self, tally: Tally) -> u64 {
        if matches!(self, Self::Random | Self::Unreadable | Self::Unaccounted) {
            return tally.bytes.saturating_mul(8);
        }
        self.free_bits().saturating_mul(tally.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind whose bytes are accounted for, with what it leaves free.
    const ALL: [(Kind, u64); 20] = [
        (Kind::LedgerFrame, 0),
        (Kind::IdentityCall, 0),
        (Kind::MessagePrefix, 0),
        (Kind::DataFrame, 15),
        (Kind::Headers, 2),
        (Kind::Preface, 0),
        (Kind::Settings, 0),
        (Kind::WindowUpdate, 20),
        (Kind::Ping, 0),
        (Kind::PingAnswer, 6),
        (Kind::Reset, 2),
        (Kind::Goodbye, 1),
        (Kind::ClientHello, 22),
        (Kind::Certificate, 0),
        (Kind::CertificateVerify, 7),
        (Kind::Finished, 0),
        (Kind::KeyUpdate, 0),
        (Kind::ChangeCipherSpec, 1),
        (Kind::Alert, 5),
        (Kind::TlsRecord, 14),
    ];

    fn page() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/audit.md");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_page_has_every_kind_with_the_bits_that_it_leaves_free() {
        let page = page();
        for (kind, bits) in ALL {
            assert_eq!(kind.free_bits(), bits, "{kind:?}");
            let name = serde_json::to_value(kind).unwrap();
            let name = name.as_str().unwrap();
            let row = format!("| `{name}` | {bits} |");
            assert!(page.contains(&row), "{row}");
        }
        assert!(page.contains("| `random` | 8 for each byte |"));
    }

    #[test]
    fn the_page_has_the_bytes_that_are_random_by_nature() {
        let first = hello::random_bytes(false);
        let second = hello::random_bytes(true);
        let hash = handshake::HASH_BYTES;
        assert_eq!((first, second, hash), (1312, 65, [32, 48]));
        let most = first + handshake::SIGNATURE_BYTES + hash[1];
        assert_eq!(most, 1432);
        let page = page().split_whitespace().collect::<Vec<_>>().join(" ");
        for said in [
            "1,312 bytes in a first hello",
            "65 more in a second one",
            "up to 72 of a signature",
            "32 or 48 at the end of the handshake",
            "1,432 bytes for each connection",
        ] {
            assert!(page.contains(said), "{said}");
        }
    }

    #[test]
    fn what_is_random_counts_by_its_bytes_and_everything_else_by_its_number() {
        let tally = Tally {
            count: 3,
            bytes: 100,
        };
        assert_eq!(Kind::Random.free_bits_of(tally), 800);
        assert_eq!(Kind::Reset.free_bits_of(tally), 6);
        assert_eq!(Kind::LedgerFrame.free_bits_of(tally), 0);
        assert_eq!(Kind::Unaccounted.free_bits_of(tally), 800);
        assert_eq!([1, 2, 3, 4, 5].map(bits_of), [0, 1, 2, 2, 3]);
    }
}
