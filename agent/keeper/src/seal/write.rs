//! Making frames. Who writes them somewhere writes each of them whole and in order, or the same bytes again: a frame is
//! never made anew, because two contents under one number would give both away.

use super::cipher::Cipher;
use super::{DataKey, Failed, Frame, HEADER_BYTES, Header, Kind, word};

/// Makes the frames of one file.
#[derive(Debug)]
pub struct Sealer {
    cipher: Cipher,
}

impl Sealer {
    /// Begins a file: its header, and what makes its frames. A header is used once: its salt is fresh, or its part is
    /// another than that of every other file of the same data key.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn begin(header: &Header, key: &DataKey) -> Result<(Self, [u8; HEADER_BYTES]), Failed> {
        let (cipher, bytes) = Cipher::new(header, key)?;
        Ok((Self { cipher }, bytes))
    }

    /// Adds a frame to `out`.
    ///
    /// # Errors
    /// When it is longer than [`super::FRAME_BYTES`].
    pub fn frame(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<(), Failed> {
        match frame {
            Frame::Bytes(bytes) => self.cipher.seal(word::BYTES, &[bytes], out),
            Frame::LeftOut(count) => self
                .cipher
                .seal(word::LEFT_OUT, &[&count.to_le_bytes()], out),
            Frame::Attributes(bytes) => self.cipher.seal(word::ATTRIBUTES, &[bytes], out),
            Frame::Continues => self.cipher.seal(word::CONTINUES, &[], out),
            Frame::End { received, left_out } => {
                let counts = [received.to_le_bytes(), left_out.to_le_bytes()];
                self.cipher.seal(word::END, &[counts.as_flattened()], out)
            }
        }
    }
}

impl super::SealSpec {
    /// The header of one of the attempt's log files.
    #[must_use]
    pub fn log_header(&self, attempt: [u8; 16], number: u64, position: u64) -> Header {
        Header {
            key_id: self.key_id,
            salt: self.salt,
            kind: Kind::Log,
            subject: attempt,
            part: super::log_part(number, position),
        }
    }
}
