//! What makes the record beside an encrypted log as hard to change as the log: each line of it carries a tag that only
//! who has the attempt's key can make. Here are the tags; the lines are those of [`crate::record`].

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use serde::{Deserialize, Serialize};

use super::{DataKey, Failed, KeyId, SealSpec, hex, read_hex, read_id, unhex, write_hex, write_id};

/// Bytes of a tag.
const TAG_BYTES: usize = 16;
/// How a line that carries one ends: this, the tag's hex digits, and what closes the record and its kind.
const BEFORE: &[u8] = b",\"tag\":\"";
const AFTER: &[u8] = b"\"}}";
/// What closes a record without one.
const CLOSES: &[u8] = b"}}";

/// With which key an attempt's log is encrypted; in the open, in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedWith {
    /// Which site key.
    #[serde(serialize_with = "write_id", deserialize_with = "read_id")]
    pub key_id: KeyId,
    /// What the attempt's own key was derived from it with.
    #[serde(serialize_with = "write_hex", deserialize_with = "read_hex")]
    pub salt: [u8; 32],
}

/// Makes and checks the tags of one attempt's record.
#[derive(Debug, Clone)]
pub struct Witness {
    key: DataKey,
    attempt: [u8; 16],
}

struct Tag;

impl KeyType for Tag {
    fn len(&self) -> usize {
        TAG_BYTES
    }
}

impl Witness {
    /// Of this attempt, whose log has this key.
    #[must_use]
    pub fn new(key: DataKey, attempt: [u8; 16]) -> Self {
        Self { key, attempt }
    }

    fn tag(&self, signed: &[u8]) -> Result<[u8; TAG_BYTES], Failed> {
        let mut tag = [0; TAG_BYTES];
        let info: [&[u8]; 3] = [b"outpost record line 1", &self.attempt, signed];
        let derived = Prk::new_less_safe(HKDF_SHA256, self.key.bytes());
        let derived = derived.expand(&info, Tag).map_err(|_| Failed)?;
        derived.fill(&mut tag).map_err(|_| Failed)?;
        Ok(tag)
    }

    /// Puts the tag into a line's JSON, whose last field it becomes: an object in an object.
    ///
    /// # Errors
    /// When the line is no such JSON, or the library refuses.
    pub fn sign(&self, body: &mut Vec<u8>) -> Result<(), Failed> {
        let signed = body.strip_suffix(CLOSES).ok_or(Failed)?;
        let tag = self.tag(signed)?;
        body.truncate(signed.len());
        body.extend_from_slice(BEFORE);
        body.extend_from_slice(hex(&tag).as_bytes());
        body.extend_from_slice(AFTER);
        Ok(())
    }

    /// The digits of the tag that a line carries, whether or not it is right.
    #[must_use]
    pub fn tag_of(body: &[u8]) -> Option<String> {
        parts(body).map(|(_, tag)| hex(&tag).to_string())
    }

    /// Whether a line's JSON is one that was signed, to the byte.
    #[must_use]
    pub fn vouches_for(&self, body: &[u8]) -> bool {
        let Some((signed, tag)) = parts(body) else {
            return false;
        };
        // Whoever could learn the tag from how long this takes has the file before him.
        self.tag(signed).is_ok_and(|expected| expected == tag)
    }
}

/// What was signed of a line, and the tag that it carries.
fn parts(body: &[u8]) -> Option<(&[u8], [u8; TAG_BYTES])> {
    let rest = body.strip_suffix(AFTER)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(2 * TAG_BYTES)?)?;
    let signed = rest.strip_suffix(BEFORE)?;
    let tag = unhex::<TAG_BYTES>(std::str::from_utf8(digits).ok()?)?;
    Some((signed, *tag))
}

impl SealSpec {
    /// What stands in the attempt's record about the encryption of its log.
    #[must_use]
    pub fn sealed_with(&self) -> SealedWith {
        SealedWith {
            key_id: self.key_id,
            salt: self.salt,
        }
    }

    /// What signs the record of this attempt; `None` for what is no attempt's id.
    #[must_use]
    pub fn witness(&self, attempt: &str) -> Option<Witness> {
        let attempt = u128::from_str_radix(attempt, 16).ok()?;
        Some(Witness::new(self.key.clone(), attempt.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn witness(key: u8, attempt: u8) -> Witness {
        Witness::new(DataKey::new(Zeroizing::new([key; 32])), [attempt; 16])
    }

    #[test]
    fn a_line_is_vouched_for_by_who_signed_it_for_its_attempt_and_not_when_a_byte_is_another() {
        let mut body = br#"{"exit":{"version":2,"log_bytes":7}}"#.to_vec();
        assert!(!witness(1, 1).vouches_for(&body));
        witness(1, 1).sign(&mut body).unwrap();
        assert!(body.starts_with(br#"{"exit":{"version":2,"log_bytes":7,"tag":""#));
        let _: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(witness(1, 1).vouches_for(&body));
        assert!(!witness(2, 1).vouches_for(&body));
        assert!(!witness(1, 2).vouches_for(&body));
        for at in 0..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert!(!witness(1, 1).vouches_for(&changed), "{at}");
            assert!(!witness(1, 1).vouches_for(&body[..at]), "{at}");
        }
        assert_eq!(witness(1, 1).sign(&mut b"[]".to_vec()), Err(Failed));
    }
}
