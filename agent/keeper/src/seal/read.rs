//! Reading a sealed file frame by frame, also while it grows. Nothing is handed over that was not checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::cipher::Cipher;
use super::{
    DataKey, FRAME_BYTES, Failed, Frame, HEADER_BYTES, Header, OVERHEAD_BYTES, TAG_BYTES,
    WORD_BYTES, word,
};

/// Reads the frames of one file.
#[derive(Debug)]
pub struct Reader {
    cipher: Cipher,
    /// Where the next frame begins.
    offset: u64,
    buffer: Vec<u8>,
    /// What of the buffer was not used yet.
    left: std::ops::Range<usize>,
    is_over: bool,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// The file ends between two frames: nothing more is there, or not yet.
    Nothing,
    /// It ends in the middle of one.
    Torn,
}

/// Why it cannot be read on. What was read before is as it was written.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system refused.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// The header is not as it was written, or the key is another.
    #[error("its header was changed, or is another file's")]
    Header,
    /// Not what was written.
    #[error("{what} at byte {offset}")]
    Damaged {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Reader {
    /// Begins behind the header. `bytes`: the header as it lies in the file, `header` as it was parsed from it.
    ///
    /// # Errors
    /// [`ReadError::Header`] when it is not what was written with this key.
    pub fn begin(
        bytes: &[u8; HEADER_BYTES],
        header: &Header,
        key: &DataKey,
    ) -> Result<Self, ReadError> {
        let (cipher, expected) = Cipher::new(header, key).map_err(|Failed| ReadError::Header)?;
        // Whoever could learn the check from how long this takes has the file before him.
        if expected != *bytes {
            return Err(ReadError::Header);
        }
        Ok(Self {
            cipher,
            offset: HEADER_BYTES as u64,
            buffer: Vec::new(),
            left: 0..0,
            is_over: false,
        })
    }

    /// Where the next frame begins, from the beginning of the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the last frame was read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next frame.
    ///
    /// # Errors
    /// See [`ReadError`]; nothing comes after one.
    pub fn next(&mut self, file: &File) -> Result<Next<'_>, ReadError> {
        let damaged = |offset, what| Err(ReadError::Damaged { offset, what });
        let mut whole = self.whole()?;
        if whole.is_none() {
            self.refill(file)?;
            whole = self.whole()?;
        }
        if self.is_over {
            return if self.left.is_empty() {
                Ok(Next::Nothing)
            } else {
                damaged(self.offset, "something follows the last frame")
            };
        }
        let Some((word, length)) = whole else {
            return Ok(if self.left.is_empty() {
                Next::Nothing
            } else {
                Next::Torn
            });
        };
        let begins = self.left.start + WORD_BYTES;
        let ends = begins + length + TAG_BYTES;
        self.left.start = ends;
        let offset = self.offset;
        self.offset += (length + OVERHEAD_BYTES) as u64;
        let sealed = self.buffer.get_mut(begins..ends).unwrap_or_default();
        let Ok(content) = self.cipher.open(word, sealed) else {
            return damaged(offset, "a frame was changed, moved or exchanged");
        };
        let Some(frame) = frame(word[3], content) else {
            return damaged(offset, "a frame says what no frame says");
        };
        self.is_over = matches!(frame, Frame::Continues | Frame::End { .. });
        Ok(Next::Frame(frame))
    }

    /// The word and the length of the next frame, if all of it is in the buffer.
    fn whole(&self) -> Result<Option<([u8; WORD_BYTES], usize)>, ReadError> {
        if self.is_over {
            return Ok(None);
        }
        let left = self.buffer.get(self.left.clone()).unwrap_or_default();
        let Some(word) = left.first_chunk::<WORD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*word) & 0x00ff_ffff;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FRAME_BYTES || !(word::BYTES..=word::END).contains(&word[3]) {
            return Err(ReadError::Damaged {
                offset: self.offset,
                what: "there is no frame",
            });
        }
        Ok((left.len() >= length + OVERHEAD_BYTES).then_some((*word, length)))
    }

    /// Reads from the next frame on what there is, one whole frame at least.
    fn refill(&mut self, file: &File) -> io::Result<()> {
        self.buffer.resize(FRAME_BYTES + OVERHEAD_BYTES, 0);
        self.left = 0..0;
        while let Some(room) = self.buffer.get_mut(self.left.end..)
            && !room.is_empty()
        {
            match file.read_at(room, self.offset + self.left.end as u64) {
                Ok(0) => break,
                Ok(length) => self.left.end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn frame(kind: u8, content: &[u8]) -> Option<Frame<'_>> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
    match (kind, content.len()) {
        (word::BYTES, _) => Some(Frame::Bytes(content)),
        (word::LEFT_OUT, 8) => number(content).map(Frame::LeftOut),
        (word::ATTRIBUTES, _) => Some(Frame::Attributes(content)),
        (word::CONTINUES, 0) => Some(Frame::Continues),
        (word::END, 16) => {
            let (received, left_out) = content.split_at(8);
            Some(Frame::End {
                received: number(received)?,
                left_out: number(left_out)?,
            })
        }
        _ => None,
    }
}
