//! One file's key, and the numbers of its frames.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::Zeroizing;

use super::{DataKey, FRAME_BYTES, Failed, HEADER_BYTES, Header, TAG_BYTES, WORD_BYTES};

/// A file's key: as many frames as it has had.
pub(super) struct Cipher {
    key: LessSafeKey,
    number: u64,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cipher(frame {})", self.number)
    }
}

/// A key and a check: what is derived for each file.
struct Both;

impl KeyType for Both {
    fn len(&self) -> usize {
        32 + TAG_BYTES
    }
}

impl Cipher {
    /// The key of the file with this header, and the header's bytes.
    pub(super) fn new(
        header: &Header,
        key: &DataKey,
    ) -> Result<(Self, [u8; HEADER_BYTES]), Failed> {
        let checked = header.checked();
        let info: [&[u8]; 2] = [b"outpost sealed file 1", &checked];
        let mut both = Zeroizing::new([0; 32 + TAG_BYTES]);
        let derived = Prk::new_less_safe(HKDF_SHA256, key.bytes());
        let derived = derived.expand(&info, Both).map_err(|_| Failed)?;
        derived.fill(&mut *both).map_err(|_| Failed)?;
        let (key, check) = both.split_at(32);
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| Failed)?;
        let mut bytes = [0; HEADER_BYTES];
        for (to, from) in bytes.iter_mut().zip(checked.iter().chain(check)) {
            *to = *from;
        }
        let cipher = Self {
            key: LessSafeKey::new(key),
            number: 0,
        };
        Ok((cipher, bytes))
    }

    /// Adds a frame to `out`.
    pub(super) fn seal(
        &mut self,
        kind: u8,
        content: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let length: usize = content.iter().map(|part| part.len()).sum();
        if length > FRAME_BYTES {
            return Err(Failed);
        }
        let length = u32::try_from(length).map_err(|_| Failed)?;
        let word = (u32::from(kind) << 24 | length).to_le_bytes();
        out.extend_from_slice(&word);
        let begins = out.len();
        content.iter().for_each(|part| out.extend_from_slice(part));
        let nonce = self.nonce()?;
        let plain = out.get_mut(begins..).unwrap_or_default();
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(word), plain)
            .map_err(|_| Failed)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens the next frame where it lies; `sealed`: content and tag.
    pub(super) fn open<'a>(
        &mut self,
        word: [u8; WORD_BYTES],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Failed> {
        let nonce = self.nonce()?;
        let opened = self.key.open_in_place(nonce, Aad::from(word), sealed);
        opened.map_err(|_| Failed)
    }

    /// The next frame's: no number is used twice.
    fn nonce(&mut self) -> Result<Nonce, Failed> {
        let mut nonce = [0; 12];
        for (to, from) in nonce.iter_mut().skip(4).zip(self.number.to_be_bytes()) {
            *to = from;
        }
        self.number = self.number.checked_add(1).ok_or(Failed)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}
