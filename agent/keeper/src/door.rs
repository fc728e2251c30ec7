//! What opens the sockets of spawner and keepers: a token in a file of the state directory, which tasks of the agent's own
//! account cannot read. It is the first thing that a connection says. Who a peer is by its ancestry ([`crate::socket`]) is
//! looked at besides.
//!
//! Made by the first spawner of a state directory and kept: keepers outlive their spawner, and each takes the token that
//! it was forked with. Shown by the runner's side whenever it connects.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::packets::{PacketError, Packets};
use crate::record;

/// In the state directory.
const FILE: &str = "keepers.token";
/// Hex digits of a token.
const DIGITS: usize = 64;

/// What who connects shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    token: String,
}

/// What became of a connection's first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The token: what follows counts.
    Token,
    /// Nothing yet.
    Nothing,
    /// Something else, or its end.
    Other,
}

impl Token {
    /// The one of a state directory, made if there is none.
    pub(crate) fn make(state: &Path) -> io::Result<Self> {
        if let Some(token) = Self::of(state)? {
            return Ok(token);
        }
        let mut bytes = [0; DIGITS / 2];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        let token = digits.collect::<String>();
        write(&state.join(FILE), &token)?;
        Ok(Self { token })
    }

    /// The one of a state directory; `None`: its spawner asks for none. A file that a power cut left empty is none.
    fn of(state: &Path) -> io::Result<Option<Self>> {
        // One more than it has, so that what is longer is none.
        let bytes = record::read_plain(&state.join(FILE), DIGITS as u64 + 1)?;
        let token = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let token = token.filter(|token| token.len() == DIGITS);
        Ok(token.map(|token| Self { token }))
    }

    /// Shows it, if there is one, to who was just connected to.
    pub(crate) fn show(state: &Path, to: &Packets) -> io::Result<()> {
        let Some(token) = Self::of(state)? else {
            return Ok(());
        };
        to.send(&token, &[]).map_err(io::Error::other)
    }

    /// Looks at the first word of a connection that does not block.
    pub(crate) fn look(&self, guest: &Packets) -> Shown {
        match guest.recv::<Self>() {
            Ok(Some((shown, _))) if self.is(&shown) => Shown::Token,
            Err(PacketError::WouldBlock) => Shown::Nothing,
            Ok(_)
            | Err(
                PacketError::Io(_)
                | PacketError::TooLong(_)
                | PacketError::Version(_)
                | PacketError::Parse(_),
            ) => Shown::Other,
        }
    }

    /// Takes as long wherever they differ.
    fn is(&self, shown: &Self) -> bool {
        let (own, shown) = (self.token.as_bytes(), shown.token.as_bytes());
        let pairs = own.iter().zip(shown);
        own.len() == shown.len() && pairs.fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
    }
}

/// Whole or not at all: only the spawner that holds the lock makes one.
fn write(path: &Path, token: &str) -> io::Result<()> {
    let draft = path.with_extension("token.new");
    let _ = std::fs::remove_file(&draft);
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&draft)?;
    file.write_all(token.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_state_directory_has_one_token_for_its_account_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Token::of(dir.path()).unwrap(), None);
        let token = Token::make(dir.path()).unwrap();
        assert_eq!(token.token.len(), DIGITS);
        assert_eq!(Token::make(dir.path()).unwrap(), token);
        let mode = dir.path().join(FILE).metadata().unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Token::make(other.path()).unwrap(), token);
        // A file without a token is none.
        let file = dir.path().join(FILE);
        for other in [String::new(), format!("{}0", token.token)] {
            std::fs::write(&file, other).unwrap();
            assert_ne!(Token::make(dir.path()).unwrap(), token);
        }
        // What is no file is neither waited for nor read without end.
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        assert!(Token::of(dir.path()).is_err());
        std::fs::remove_file(&file).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &file, kind, rustix::fs::Mode::RWXU, 0).unwrap();
        assert!(Token::of(dir.path()).is_err());
    }

    #[test]
    fn nothing_but_the_token_opens() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::make(dir.path()).unwrap();
        let shown = |say: &dyn Fn(Packets)| {
            let (own, guest) = Packets::pair().unwrap();
            own.set_nonblocking(true).unwrap();
            say(guest);
            token.look(&own)
        };
        let part = Token {
            token: token.token[1..].to_owned(),
        };
        let longer = Token {
            token: format!("{}0", token.token),
        };
        assert_eq!(
            shown(&|guest| guest.send(&token, &[]).unwrap()),
            Shown::Token
        );
        for wrong in [part, longer] {
            assert_eq!(
                shown(&|guest| guest.send(&wrong, &[]).unwrap()),
                Shown::Other
            );
        }
        assert_eq!(
            shown(&|guest| guest.send(&"status", &[]).unwrap()),
            Shown::Other
        );
        assert_eq!(shown(&drop), Shown::Other);
        let (own, _guest) = Packets::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        assert_eq!(token.look(&own), Shown::Nothing);
    }
}
