//! The form of a file that is encrypted at rest: a header, then frames, each of them AES-256-GCM.
//!
//! The keeper writes logs in this form with a key that is one attempt's alone ([`SealSpec`]); the runner does the same
//! with the files of a run, and the site's commands read both. Here is no site key and no file is opened: keys and bytes
//! come in, frames go out.
//!
//! ```text
//! header   magic 8 | key id 8 | salt 32 | kind 8 | subject 16 | part 16 | check 16
//! frame    word 4 (kind << 24 | length, little endian) | ciphertext | tag 16
//! ```
//!
//! The site's key and the salt give the data key (the runner's part); the data key and everything in the header before
//! `check` give the file's key and the check, by HKDF-SHA-256. So a header that was changed, and a file that was put in
//! another's place, is known before any frame is looked at. The nonce is the frame's number, the word is authenticated:
//! frames cannot be changed, left out, repeated or exchanged. The last frame says so itself, whatever ends without one was
//! cut. What stands beside a log about it, and its end, is authenticated as well (`witness`).

mod cipher;
mod read;
mod witness;
mod write;

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

pub use read::{Next, ReadError, Reader};
pub use witness::{SealedWith, Witness};
pub use write::Sealer;

/// How a sealed file begins; the last byte is the form's version.
pub const MAGIC: [u8; 8] = *b"OPSEAL\0\x01";
/// Bytes of a header.
pub const HEADER_BYTES: usize = 104;
/// Most bytes of content in one frame.
pub const FRAME_BYTES: usize = 64 * 1024;
/// What a frame takes besides its content.
pub const OVERHEAD_BYTES: usize = WORD_BYTES + TAG_BYTES;

const WORD_BYTES: usize = 4;
const TAG_BYTES: usize = 16;
/// Bytes of a header that its check is about.
const CHECKED_BYTES: usize = HEADER_BYTES - TAG_BYTES;

/// Which site key: tells it from others, and nothing else about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of one attempt's log, or of one file: derived from the site's key, which cannot be found from it.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// Takes the bytes that were derived.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(not shown)")
    }
}

/// What a keeper needs to write an attempt's log in this form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealSpec {
    /// The key, of this attempt alone.
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub key: DataKey,
    /// Which site key it was derived from.
    #[serde(serialize_with = "write_id", deserialize_with = "read_id")]
    pub key_id: KeyId,
    /// And with what.
    #[serde(serialize_with = "write_hex", deserialize_with = "read_hex")]
    pub salt: [u8; 32],
}

/// What is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A part of an attempt's log; the subject is the attempt.
    Log,
    /// A file of a run; the subject is the run.
    RunFile,
    /// The list of the files of a run that were encrypted together; the subject is the run.
    RunList,
}

const KINDS: [(Kind, [u8; 8]); 3] = [
    (Kind::Log, *b"log\0\0\0\0\0"),
    (Kind::RunFile, *b"runfile\0"),
    (Kind::RunList, *b"runlist\0"),
];

/// What a sealed file says of itself in the open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which site key opens it.
    pub key_id: KeyId,
    /// What the data key was derived with.
    pub salt: [u8; 32],
    /// What is in it.
    pub kind: Kind,
    /// The attempt's or the run's id.
    pub subject: [u8; 16],
    /// Which part of it: see [`log_part`]; of a run's file, its path's hash.
    pub part: [u8; 16],
}

/// Which part of a log a file is: its number, and how many bytes of output came before it.
#[must_use]
pub fn log_part(number: u64, position: u64) -> [u8; 16] {
    ((u128::from(number) << 64) | u128::from(position)).to_be_bytes()
}

/// The same, read.
#[must_use]
pub fn part_of_log(part: [u8; 16]) -> (u64, u64) {
    let both = u128::from_be_bytes(part);
    let low = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    (low(both >> 64), low(both))
}

/// Why these bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It does not begin as one.
    #[error("it does not begin as an encrypted file does")]
    Magic,
    /// Of another version of the form.
    #[error(
        "it is of form {0}, which this build does not know: read it with the build that wrote it, or a newer one"
    )]
    Version(u8),
    /// Something that this version does not say.
    #[error("its header says what no header says")]
    Kind,
}

impl Header {
    /// Reads a header; whether anything of it is true is known when a [`Reader`] is made of it.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let magic = field::<8>(bytes, 0);
        if magic[..7] != MAGIC[..7] {
            return Err(HeaderError::Magic);
        }
        if magic != MAGIC {
            return Err(HeaderError::Version(magic[7]));
        }
        let word = field::<8>(bytes, 48);
        let kind = KINDS.iter().find(|(_, name)| *name == word);
        let (kind, _) = kind.ok_or(HeaderError::Kind)?;
        Ok(Self {
            key_id: KeyId(field(bytes, 8)),
            salt: field(bytes, 16),
            kind: *kind,
            subject: field(bytes, 56),
            part: field(bytes, 72),
        })
    }

    /// Everything but the check.
    fn checked(&self) -> [u8; CHECKED_BYTES] {
        let kind = KINDS.iter().find(|(kind, _)| *kind == self.kind);
        let kind = kind.map_or([0; 8], |(_, name)| *name);
        let fields: [&[u8]; 6] = [
            &MAGIC,
            &self.key_id.0,
            &self.salt,
            &kind,
            &self.subject,
            &self.part,
        ];
        let mut bytes = [0; CHECKED_BYTES];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

/// `N` bytes at a place that is inside.
fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    field
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Content.
    Bytes(&'a [u8]),
    /// So many bytes of content are not here, because the disk did not take them.
    LeftOut(u64),
    /// What the file was before: owner, mode, times, in the words of whoever seals files.
    Attributes(&'a [u8]),
    /// The last frame of a file that another one follows.
    Continues,
    /// The last frame of all: how many bytes of content there were, and how many of them are not here.
    End {
        /// All of them.
        received: u64,
        /// Those that are not here.
        left_out: u64,
    },
}

/// The kinds of frames, as their words say them.
mod word {
    pub(super) const BYTES: u8 = 1;
    pub(super) const LEFT_OUT: u8 = 2;
    pub(super) const ATTRIBUTES: u8 = 3;
    pub(super) const CONTINUES: u8 = 4;
    pub(super) const END: u8 = 5;
}

/// A sealing or opening that the library refused, which it does not for lengths and keys that are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the encryption failed")]
pub struct Failed;

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

fn unhex<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = Zeroizing::new([0; N]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let mut value = 0;
        for digit in pair {
            value = value * 16 + u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
        }
        *byte = value;
    }
    Some(bytes)
}

/// Takes the digits where they lie, so that no other copy of them is left behind.
struct Digits<const N: usize>;

impl<const N: usize> serde::de::Visitor<'_> for Digits<N> {
    type Value = Zeroizing<[u8; N]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hex digits", 2 * N)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        unhex(text).ok_or_else(|| E::custom("not the hex digits that are expected"))
    }
}

fn write_key<S: Serializer>(key: &DataKey, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex(key.bytes()))
}

fn read_key<'de, D: Deserializer<'de>>(from: D) -> Result<DataKey, D::Error> {
    from.deserialize_str(Digits::<32>).map(DataKey)
}

fn write_id<S: Serializer>(id: &KeyId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex(&id.0))
}

fn read_id<'de, D: Deserializer<'de>>(from: D) -> Result<KeyId, D::Error> {
    let bytes = from.deserialize_str(Digits::<8>)?;
    Ok(KeyId(*bytes))
}

fn write_hex<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex(bytes))
}

fn read_hex<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
    let bytes = from.deserialize_str(Digits::<32>)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(D::Error::custom("a salt of zeros is none"));
    }
    Ok(*bytes)
}

#[cfg(test)]
mod tests;
