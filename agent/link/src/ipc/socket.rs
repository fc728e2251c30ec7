//! SOCK_SEQPACKET ends: whole packets in and out on an `AsyncFd`, and descriptors from dial.
//!
//! Both halves of an end may be used at once from different tasks: a process that only sends while its peer only
//! sends would block both, so whoever sends must keep receiving.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    send, sendmsg, socketpair, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::fd::watch;

use super::{Conn, FromLink, IpcError, MAX_FRAME_BYTES, MAX_PACKET_BYTES, ToLink};

/// Makes a SOCK_SEQPACKET pair, both ends close-on-exec and able to carry [`MAX_PACKET_BYTES`].
///
/// # Errors
/// The operating system's error when the pair cannot be made.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    for end in [&a, &b] {
        // The kernel charges a packet's bookkeeping too; twice the packet fits into the default system-wide maximum.
        sockopt::set_socket_send_buffer_size(end, 2 * MAX_PACKET_BYTES)?;
        sockopt::set_socket_recv_buffer_size(end, 2 * MAX_PACKET_BYTES)?;
    }
    Ok((a, b))
}

/// The runner's end of the pair with link.
#[derive(Debug)]
pub struct LinkSocket(PacketSocket);

impl LinkSocket {
    /// Takes one end of [`socket_pair`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The operating system's error when the descriptor cannot be watched.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        PacketSocket::new(fd).map(Self)
    }

    /// Sends one message; waits while link does not read (back-pressure). Cancel-safe: sent whole or not at all.
    ///
    /// # Errors
    /// [`IpcError::Gone`] when link has ended, [`IpcError::TooLarge`] (not sent; the pair is unharmed), [`IpcError::Io`].
    pub async fn send(&self, message: &ToLink) -> Result<(), IpcError> {
        if let ToLink::Frame { bytes, .. } | ToLink::Unary { bytes, .. } = message
            && bytes.len() > MAX_FRAME_BYTES
        {
            return Err(IpcError::TooLarge);
        }
        self.0.send(&message.encode()).await
    }

    /// Receives one message; `None` when link has ended. Cancel-safe.
    ///
    /// # Errors
    /// [`IpcError::Malformed`] or [`IpcError::TooLarge`] for a packet that must end the pair, [`IpcError::Io`].
    pub async fn recv(&self) -> Result<Option<FromLink>, IpcError> {
        self.0.recv(FromLink::decode).await
    }
}

/// Link's end of the pair with the runner.
#[derive(Debug)]
pub struct RunnerSocket(PacketSocket);

impl RunnerSocket {
    /// Takes one end of [`socket_pair`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The operating system's error when the descriptor cannot be watched.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        PacketSocket::new(fd).map(Self)
    }

    /// Sends one message; waits while the runner does not read (back-pressure). Cancel-safe.
    ///
    /// # Errors
    /// [`IpcError::Gone`] when the runner has ended, [`IpcError::TooLarge`], [`IpcError::Io`].
    pub async fn send(&self, message: &FromLink) -> Result<(), IpcError> {
        self.0.send(&message.encode()).await
    }

    /// Receives one message; `None` when the runner has ended. Cancel-safe.
    ///
    /// # Errors
    /// [`IpcError::Malformed`] or [`IpcError::TooLarge`] for a packet that must end the pair, [`IpcError::Io`].
    pub async fn recv(&self) -> Result<Option<ToLink>, IpcError> {
        self.0.recv(ToLink::decode).await
    }

    /// Resolves when the runner has ended, without taking any packet: for the time when link does not read.
    ///
    /// # Errors
    /// The operating system's error when the descriptor cannot be watched.
    pub async fn hung_up(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.fd.ready(Interest::READABLE).await?;
            if guard.ready().is_read_closed() {
                return Ok(());
            }
            // Receiving always tries first and waits second, so that clearing here loses no packet.
            guard.clear_ready();
        }
    }
}

#[derive(Debug)]
struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
    // Holds one packet while it is decoded, never across an await.
    scratch: Mutex<Vec<u8>>,
}

impl PacketSocket {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // One byte more than the largest packet tells a cut packet from a full one.
        Ok(Self {
            fd: watch(fd)?,
            scratch: Mutex::new(vec![0; MAX_PACKET_BYTES + 1]),
        })
    }

    async fn send(&self, packet: &[u8]) -> Result<(), IpcError> {
        if packet.len() > MAX_PACKET_BYTES {
            return Err(IpcError::TooLarge);
        }
        loop {
            let mut guard = self.fd.ready(Interest::WRITABLE).await?;
            match send(self.fd.get_ref(), packet, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(IpcError::Gone),
                Err(other) => return Err(IpcError::Io(other.into())),
            }
        }
    }

    async fn recv<T>(
        &self,
        decode: impl Fn(&[u8]) -> Result<T, IpcError>,
    ) -> Result<Option<T>, IpcError> {
        loop {
            match self.try_recv(&decode) {
                Err(IpcError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            let mut guard = self.fd.ready(Interest::READABLE).await?;
            match self.try_recv(&decode) {
                Err(IpcError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready()
                }
                done => return done,
            }
        }
    }

    fn try_recv<T>(
        &self,
        decode: impl Fn(&[u8]) -> Result<T, IpcError>,
    ) -> Result<Option<T>, IpcError> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match recv(
                self.fd.get_ref(),
                scratch.as_mut_slice(),
                RecvFlags::empty(),
            ) {
                // Nobody sends empty packets: zero bytes are the end.
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(None),
                Ok((_, length)) if length > MAX_PACKET_BYTES => return Err(IpcError::TooLarge),
                Ok((_, length)) => {
                    return decode(scratch.get(..length).unwrap_or_default()).map(Some);
                }
                Err(Errno::INTR) => {}
                Err(other) => return Err(IpcError::Io(other.into())),
            }
        }
    }
}

/// Sends a connected socket and its connection number; blocks until the packet is taken.
pub(crate) fn send_descriptor(socket: impl AsFd, conn: Conn, stream: &TcpStream) -> io::Result<()> {
    let number = conn.to_be_bytes();
    let fds = [stream.as_fd()];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for the descriptor"));
        }
        match sendmsg(
            &socket,
            &[IoSlice::new(&number)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut wait = [PollFd::new(&socket, PollFlags::OUT)];
                poll(&mut wait, None)?;
            }
            Err(other) => return Err(other.into()),
        }
    }
}

/// Receives a connected TCP socket and its connection number; `None` when nobody holds the other end any more.
/// Cancel-safe. A bad packet costs nothing but itself: its descriptors are closed.
pub(crate) async fn receive_descriptor(
    fd: &AsyncFd<OwnedFd>,
) -> Result<Option<(Conn, TcpStream)>, IpcError> {
    loop {
        let mut guard = fd.ready(Interest::READABLE).await?;
        match try_receive_descriptor(fd.get_ref()) {
            Err(IpcError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                guard.clear_ready()
            }
            Err(IpcError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn try_receive_descriptor(fd: &OwnedFd) -> Result<Option<(Conn, TcpStream)>, IpcError> {
    let mut number = [0; 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        fd,
        &mut [IoSliceMut::new(&mut number)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(|error| IpcError::Io(error.into()))?;
    let mut descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                Some(fds)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    if got.bytes == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(IpcError::Descriptor("packet cut short"));
    }
    let number = number
        .first_chunk::<8>()
        .filter(|_| got.bytes == 8)
        .ok_or(IpcError::Descriptor("wrong length"))?;
    let (Some(descriptor), true) = (descriptors.pop(), descriptors.is_empty()) else {
        return Err(IpcError::Descriptor("not exactly one descriptor"));
    };
    if sockopt::socket_type(&descriptor).ok() != Some(SocketType::STREAM) {
        return Err(IpcError::Descriptor("not a stream socket"));
    }
    let stream = TcpStream::from(descriptor);
    if stream.peer_addr().is_err() {
        return Err(IpcError::Descriptor("not a connected TCP socket"));
    }
    Ok(Some((Conn::from_be_bytes(*number), stream)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    fn pair() -> (LinkSocket, RunnerSocket) {
        let (a, b) = socket_pair().unwrap();
        (LinkSocket::new(a).unwrap(), RunnerSocket::new(b).unwrap())
    }

    #[tokio::test]
    async fn largest_frames_pass_both_ways_in_order() {
        let (runner, link) = pair();
        let bytes = Bytes::from(vec![9; MAX_FRAME_BYTES]);
        let send = async {
            for conn in 0..50 {
                runner
                    .send(&ToLink::Frame {
                        conn,
                        bytes: bytes.clone(),
                    })
                    .await
                    .unwrap();
            }
        };
        let recv = async {
            for conn in 0..50 {
                assert_eq!(
                    link.recv().await.unwrap(),
                    Some(ToLink::Frame {
                        conn,
                        bytes: bytes.clone()
                    })
                );
            }
        };
        tokio::join!(send, recv);
        link.send(&FromLink::Frame {
            conn: 1,
            bytes: bytes.clone(),
        })
        .await
        .unwrap();
        assert_eq!(
            runner.recv().await.unwrap(),
            Some(FromLink::Frame { conn: 1, bytes })
        );
        let over = Bytes::from(vec![9; MAX_FRAME_BYTES + 1]);
        assert!(matches!(
            runner
                .send(&ToLink::Frame {
                    conn: 1,
                    bytes: over
                })
                .await,
            Err(IpcError::TooLarge)
        ));
    }

    #[tokio::test]
    async fn hang_up_is_seen_behind_unread_packets_and_loses_none() {
        let (runner, link) = pair();
        runner.send(&ToLink::Open { conn: 1 }).await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(50), link.hung_up())
                .await
                .is_err()
        );
        assert_eq!(link.recv().await.unwrap(), Some(ToLink::Open { conn: 1 }));
        runner.send(&ToLink::Open { conn: 2 }).await.unwrap();
        drop(runner);
        link.hung_up().await.unwrap();
        assert_eq!(link.recv().await.unwrap(), Some(ToLink::Open { conn: 2 }));
        assert_eq!(link.recv().await.unwrap(), None);
        assert!(matches!(
            link.send(&FromLink::Opened { conn: 1 }).await,
            Err(IpcError::Gone)
        ));
    }

    #[tokio::test]
    async fn a_full_socket_makes_the_sender_wait() {
        let (runner, link) = pair();
        let frame = FromLink::Frame {
            conn: 1,
            bytes: Bytes::from(vec![1; MAX_FRAME_BYTES]),
        };
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(100), link.send(&frame))
            .await
            .is_ok()
        {
            sent += 1;
            assert!(sent < 64, "the socket buffers without bound");
        }
        for _ in 0..sent {
            assert_eq!(runner.recv().await.unwrap().as_ref(), Some(&frame));
        }
        link.send(&frame).await.unwrap();
    }

    #[tokio::test]
    async fn descriptors_arrive_and_impostors_are_refused() {
        let (dial, link) = socket_pair().unwrap();
        rustix::io::ioctl_fionbio(&link, true).unwrap();
        let link = watch(link).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        send(&dial, b"12345678", SendFlags::empty()).unwrap();
        assert!(matches!(
            receive_descriptor(&link).await,
            Err(IpcError::Descriptor(_))
        ));
        let unconnected = TcpStream::from(OwnedFd::from(
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
        ));
        send_descriptor(&dial, 7, &unconnected).unwrap();
        assert!(matches!(
            receive_descriptor(&link).await,
            Err(IpcError::Descriptor(_))
        ));
        send_descriptor(&dial, 7, &stream).unwrap();
        let (conn, got) = receive_descriptor(&link).await.unwrap().unwrap();
        assert_eq!(
            (conn, got.peer_addr().unwrap()),
            (7, listener.local_addr().unwrap())
        );
        drop(dial);
        assert!(receive_descriptor(&link).await.unwrap().is_none());
    }
}
