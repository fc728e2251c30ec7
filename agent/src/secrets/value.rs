//! A secret's value in memory: wiped when it is let go of, and shown by nothing.

use std::fmt;

use zeroize::Zeroizing;

use super::VALUE_BYTES;

/// A value. It cannot be printed, compared or cloned.
pub(crate) struct Value(Zeroizing<Vec<u8>>);

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value(…)")
    }
}

/// Room for the longest value and a line's end, and for seeing that there is more. A buffer that grows leaves copies
/// behind, so it never does.
const ROOM: usize = VALUE_BYTES + 3;

impl Value {
    /// `bytes` are wiped in the end; copies that were made on the way are not.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads to the end, into memory that is wiped.
    ///
    /// # Errors
    /// What reading said, and when there is more than a value can have.
    pub(crate) fn read(
        mut more: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
    ) -> std::io::Result<Self> {
        let mut buffer = Zeroizing::new(vec![0; ROOM]);
        let mut len = 0;
        loop {
            let room = buffer.get_mut(len..).unwrap_or_default();
            if room.is_empty() {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            match more(room) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // What is cut off is nothing but zeros.
        buffer.truncate(len);
        Ok(Self(buffer))
    }

    /// Without one line's end, which editors and `echo` put behind what a person writes.
    pub(crate) fn without_newline(mut self) -> Self {
        let text = self.0.strip_suffix(b"\n");
        let text = text.map(|text| text.strip_suffix(b"\r").unwrap_or(text));
        if let Some(len) = text.map(<[u8]>::len) {
            self.0.truncate(len);
        }
        self
    }

    /// One that can be handed over.
    ///
    /// # Errors
    /// What is wrong with it, without anything of it.
    pub(crate) fn checked(self) -> Result<Self, &'static str> {
        if self.0.is_empty() {
            Err("it is empty")
        } else if self.0.len() > VALUE_BYTES {
            Err("it is longer than 64 KiB")
        } else {
            Ok(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut from: &[u8]) -> std::io::Result<Value> {
        Value::read(|into| std::io::Read::read(&mut from, into))
    }

    #[test]
    fn one_line_end_goes_and_the_rest_stays() {
        for (text, left) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a\r", "a\r"),
            ("\n", ""),
            ("", ""),
        ] {
            let value = read(text.as_bytes()).unwrap().without_newline();
            assert_eq!(value.bytes(), left.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn the_longest_is_read_and_a_longer_one_refused_without_reading_on() {
        let longest = vec![b'x'; VALUE_BYTES];
        assert!(read(&longest).unwrap().checked().is_ok());
        let longer = vec![b'x'; VALUE_BYTES + 1];
        assert!(read(&longer).unwrap().checked().is_err());
        let endless = Value::read(|into| Ok(into.len()));
        assert!(endless.is_err());
        assert!(read(b"").unwrap().checked().is_err());
    }

    #[test]
    fn it_shows_nothing() {
        assert_eq!(format!("{:?}", Value::new(b"canary".to_vec())), "Value(…)");
    }
}
