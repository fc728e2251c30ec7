//! Whole packets over `SOCK_SEQPACKET`: one version byte and one JSON value each, with descriptors beside them.
//!
//! Used by runner, spawner and keeper alike. Blocking unless told otherwise. A packet that is too long, of an unknown
//! version, or no JSON of the expected type is an error after which the connection is to be closed.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

use crate::protocol::{MAX_PACKET_BYTES, NEWEST_READ, OLDEST_READ, PROTOCOL_VERSION};

/// Room that hardly any packet needs more of.
const USUAL_BYTES: usize = 8 * 1024;
/// Most descriptors that come with one packet.
const MAX_FDS: usize = 4;

/// One end of a packet connection.
#[derive(Debug)]
pub struct Packets {
    fd: OwnedFd,
}

thread_local! {
    /// Where packets arrive, one at a time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why a packet could not be sent or understood. All but `WouldBlock` end the connection.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The socket is non-blocking and there is nothing to read, or no room to write.
    #[error("the local socket is not ready")]
    WouldBlock,
    /// The system refused.
    #[error("the local socket failed")]
    Io(#[source] io::Error),
    /// Longer than [`MAX_PACKET_BYTES`].
    #[error("a local packet of {0} bytes is longer than {MAX_PACKET_BYTES}")]
    TooLong(usize),
    /// Written by a version that this build does not read.
    #[error("a local packet has version {0}; this build reads {OLDEST_READ} to {NEWEST_READ}")]
    Version(u8),
    /// No JSON of the expected form.
    #[error("a local packet does not parse")]
    Parse(#[source] serde_json::Error),
}

impl PacketError {
    fn from_errno(errno: rustix::io::Errno) -> Self {
        if errno == rustix::io::Errno::AGAIN {
            Self::WouldBlock
        } else {
            Self::Io(errno.into())
        }
    }
}

impl Packets {
    /// A connected pair, close-on-exec, blocking.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::from_fd(a), Self::from_fd(b)))
    }

    /// Takes over a connected `SOCK_SEQPACKET` socket and raises its buffers.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        // The kernel doubles the value, and grants at least its own maximum: both give room for the longest packet.
        let _ = net::sockopt::set_socket_send_buffer_size(&fd, MAX_PACKET_BYTES);
        let _ = net::sockopt::set_socket_recv_buffer_size(&fd, MAX_PACKET_BYTES);
        Self { fd }
    }

    /// Gives the descriptor away, for example to an async runtime.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Switches between blocking and non-blocking.
    ///
    /// # Errors
    /// When the system refuses, which it does not for a live socket.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, nonblocking)?)
    }

    /// Sends one packet, with descriptors (at most 4).
    ///
    /// # Errors
    /// `WouldBlock` when the other side does not read; otherwise the connection is over.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), PacketError> {
        // What a task is started with may hold keys: nothing of it stays behind in memory that was given back.
        let mut bytes = Zeroizing::new(Vec::with_capacity(USUAL_BYTES));
        bytes.push(PROTOCOL_VERSION);
        serde_json::to_writer(&mut *bytes, message).map_err(PacketError::Parse)?;
        if bytes.len() > MAX_PACKET_BYTES {
            return Err(PacketError::TooLong(bytes.len()));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(PacketError::Io(io::Error::from(
                io::ErrorKind::InvalidInput,
            )));
        }
        loop {
            match net::sendmsg(
                &self.fd,
                &[IoSlice::new(&bytes)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(PacketError::from_errno(errno)),
            }
        }
    }

    /// Receives one packet with the descriptors that came beside it; `None` when the other side is gone.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; otherwise the connection is to be closed.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, PacketError> {
        let received = self.recv_of_version()?;
        Ok(received.map(|(_, message, fds)| (message, fds)))
    }

    /// The same, with the version that the other side writes.
    pub(crate) fn recv_of_version<T: DeserializeOwned>(
        &self,
    ) -> Result<Option<(u8, T, Vec<OwnedFd>)>, PacketError> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                // Comes from the system as it is: only pages that a packet reaches are ever there.
                *buffer = vec![0; MAX_PACKET_BYTES];
            }
            let (length, fds) = self.recv_into(buffer)?;
            if length > MAX_PACKET_BYTES {
                return Err(PacketError::TooLong(length));
            }
            let Some((version, body)) = buffer.get(..length).and_then(<[u8]>::split_first) else {
                return Ok(None);
            };
            if !(OLDEST_READ..=NEWEST_READ).contains(version) {
                return Err(PacketError::Version(*version));
            }
            let (version, message) = (*version, serde_json::from_slice(body));
            buffer.get_mut(..length).unwrap_or_default().zeroize();
            Ok(Some((version, message.map_err(PacketError::Parse)?, fds)))
        })
    }

    /// Takes one packet; its length, which is more than the buffer's when not all of it fitted.
    fn recv_into(&self, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), PacketError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut into = [IoSliceMut::new(buffer)];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
            match net::recvmsg(&self.fd, &mut into, &mut ancillary, flags) {
                Err(rustix::io::Errno::INTR) => {}
                got => break got.map_err(PacketError::from_errno)?,
            }
        };
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        Ok((got.bytes, fds))
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Packets {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
