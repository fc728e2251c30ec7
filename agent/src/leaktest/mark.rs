//! The marked string of a leak test, and every dress in which it is looked for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use miniz_oxide::deflate::{compress_to_vec, compress_to_vec_zlib};
use serde::{Deserialize, Serialize};

/// What every mark begins with, so that a person who meets one knows what it is.
const BEGINNING: &str = "leakmark";
/// Random characters behind it.
const RANDOM: usize = 16;
/// Of the random characters: letters and digits, so that base64 is the same in both alphabets.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Between the mark and the name of the place where a canary left it.
const DOT: &[u8] = b".";
/// Bytes of such a name, at most.
const PLACE_BYTES: usize = 16;

/// A random string that is nowhere but where a canary left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(String);

impl Mark {
    /// A new one, from the system's randomness.
    ///
    /// # Errors
    /// When the system has none.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; RANDOM];
        getrandom::fill(&mut bytes)?;
        let random = bytes
            .iter()
            .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
        Ok(Self(BEGINNING.chars().chain(random).collect()))
    }

    /// As it is.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Its random characters in two halves: wherever it is cut in two, one of them stays whole.
    pub(super) fn halves(&self) -> [&str; 2] {
        let (rest, second) = self.0.split_at(self.0.len() - RANDOM / 2);
        [&rest[rest.len() - RANDOM / 2..], second]
    }

    /// The mark with the name of a place behind it.
    #[must_use]
    pub fn of(&self, place: &str) -> String {
        format!("{}.{place}", self.0)
    }
}

/// A way to write a string down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// As it is.
    Raw,
    /// UTF-16, little end first.
    Utf16Le,
    /// UTF-16, big end first.
    Utf16Be,
    /// Hex digits, small letters.
    HexLower,
    /// Hex digits, capital letters.
    HexUpper,
    /// Base64, of either alphabet, beginning with the mark's first byte.
    Base64,
    /// The same, where one byte comes before.
    Base64After1,
    /// The same, where two bytes come before.
    Base64After2,
    /// A gzip member, by its header.
    Gzip,
    /// A zlib stream, by its header.
    Zlib,
    /// A gzip member in base64.
    GzipBase64,
    /// A gzip member in hex digits.
    GzipHex,
    /// Half of its random characters, in any form that is looked for byte for byte: one of a mark that was cut in two.
    Half,
}

impl Form {
    /// All that a whole mark is looked for in.
    pub const ALL: [Self; 12] = [
        Self::Raw,
        Self::Utf16Le,
        Self::Utf16Be,
        Self::HexLower,
        Self::HexUpper,
        Self::Base64,
        Self::Base64After1,
        Self::Base64After2,
        Self::Gzip,
        Self::Zlib,
        Self::GzipBase64,
        Self::GzipHex,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Utf16Le => "utf-16le",
            Self::Utf16Be => "utf-16be",
            Self::HexLower => "hex",
            Self::HexUpper => "HEX",
            Self::Base64 => "base64",
            Self::Base64After1 => "base64+1",
            Self::Base64After2 => "base64+2",
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
            Self::GzipBase64 => "base64(gzip)",
            Self::GzipHex => "hex(gzip)",
            Self::Half => "half of it",
        }
    }

    /// A text in this dress.
    #[must_use]
    pub fn dress(self, text: &str) -> Vec<u8> {
        match self {
            Self::Raw => text.into(),
            Self::Utf16Le => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Self::Utf16Be => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            Self::HexLower => hex(text.as_bytes()).into(),
            Self::HexUpper => hex(text.as_bytes()).to_uppercase().into(),
            Self::Base64 => STANDARD_NO_PAD.encode(text).into(),
            Self::Base64After1 => STANDARD_NO_PAD.encode(format!("x{text}")).into(),
            Self::Base64After2 => STANDARD_NO_PAD.encode(format!("xy{text}")).into(),
            Self::Gzip => gzip(text.as_bytes()),
            Self::Zlib => compress_to_vec_zlib(text.as_bytes(), 6),
            Self::GzipBase64 => STANDARD_NO_PAD.encode(gzip(text.as_bytes())).into(),
            Self::GzipHex => hex(&gzip(text.as_bytes())).into(),
            Self::Half => text
                .as_bytes()
                .iter()
                .take(text.len() / 2)
                .copied()
                .collect(),
        }
    }

    /// What is looked for, byte for byte; `None` for forms whose beginning is looked for and then undone.
    pub(super) fn needle(self, text: &str) -> Option<Vec<u8>> {
        let dressed = || self.dress(text);
        match self {
            Self::Raw | Self::Utf16Le | Self::Utf16Be | Self::HexLower | Self::HexUpper => {
                Some(dressed())
            }
            // The first characters hold bits of what comes before, the last ones of what follows.
            Self::Base64 => Some(inner(&dressed(), 0, 0, text)),
            Self::Base64After1 => Some(inner(&dressed(), 2, 1, text)),
            Self::Base64After2 => Some(inner(&dressed(), 3, 2, text)),
            Self::Gzip | Self::Zlib | Self::GzipBase64 | Self::GzipHex | Self::Half => None,
        }
    }

    /// The name of the place that stands behind the mark, if it can be read: `found` begins where the needle does.
    pub(super) fn place(self, found: &[u8], mark: &Mark) -> Option<String> {
        // The mark is 24 bytes: 48 digits or 32 characters, and a few more for the place.
        let most = 2 * (mark.text().len() + PLACE_BYTES + 1);
        let found = &found[..found.len().min(most)];
        let undone = match self {
            Self::Raw => found.to_vec(),
            Self::Utf16Le => found.iter().step_by(2).copied().collect(),
            Self::Utf16Be => found.iter().skip(1).step_by(2).copied().collect(),
            Self::HexLower | Self::HexUpper => unhex(found),
            // Needles of shifted forms begin inside a group of four.
            Self::Base64 => unbase64(found),
            Self::Base64After1 => unbase64(&[b"AA", found].concat()),
            Self::Base64After2 => unbase64(&[b"AAA", found].concat()),
            Self::Gzip | Self::Zlib | Self::GzipBase64 | Self::GzipHex | Self::Half => return None,
        };
        place_after(&undone, mark)
    }
}

fn inner(dressed: &[u8], from: usize, before: usize, text: &str) -> Vec<u8> {
    let whole = (before + text.len()) * 8 / 6;
    dressed[from..whole].to_vec()
}

/// What stands behind the mark's last characters and a dot.
pub(super) fn place_after(bytes: &[u8], mark: &Mark) -> Option<String> {
    let tail = &mark.text().as_bytes()[mark.text().len() - 8..];
    let at = memchr::memmem::find(bytes, tail)?;
    let rest = bytes[at + tail.len()..].strip_prefix(DOT)?;
    let name = rest
        .iter()
        .take(PLACE_BYTES)
        .take_while(|byte| byte.is_ascii_lowercase());
    Some(name.map(|byte| char::from(*byte)).collect()).filter(|name: &String| !name.is_empty())
}

/// Small letters.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As many pairs of digits as there are.
pub(super) fn unhex(digits: &[u8]) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    digits
        .chunks_exact(2)
        .map_while(|pair| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok())
        .collect()
}

/// As many groups of characters, of either alphabet, as there are.
pub(super) fn unbase64(run: &[u8]) -> Vec<u8> {
    let standard = run.iter().map(|byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    });
    let run: Vec<u8> = standard
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
        .collect();
    let whole = &run[..run.len() / 4 * 4];
    STANDARD_NO_PAD.decode(whole).unwrap_or_default()
}

/// One member (RFC 1952) without name and time.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    member.extend(compress_to_vec(bytes, 6));
    member.extend(crc32fast::hash(bytes).to_le_bytes());
    member.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    member
}
