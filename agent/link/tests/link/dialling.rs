//! The dial role: what it reaches, what it says when it does not.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outpost_agent_link::ipc::{FromLink, ToLink, socket_pair};
use outpost_agent_link::{DialArgs, DialOutcome, Timeouts, dial_main};
use rustix::net::{AddressFamily, SocketAddrAny, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::ca::Ca;
use crate::support::rig::Rig;
use crate::support::server::{Behaviour, Tls, start};

fn code(outcome: DialOutcome) -> ExitCode {
    ExitCode::from(outcome.exit_code())
}

/// Long enough that nothing but silence exceeds it.
async fn dial(
    to: OwnedFd,
    address: &str,
    proxy: Option<String>,
    leash: Option<OwnedFd>,
) -> ExitCode {
    dial_within(DialArgs::TIMEOUT, to, address, proxy, leash).await
}

async fn dial_within(
    timeout: Duration,
    to: OwnedFd,
    address: &str,
    proxy: Option<String>,
    leash: Option<OwnedFd>,
) -> ExitCode {
    let args = DialArgs {
        dial_fd: to.into_raw_fd(),
        conn: 9,
        address: address.to_owned(),
        proxy,
        leash_fd: leash.map(|fd| fd.into_raw_fd()),
        sandbox: None,
        timeout,
    };
    tokio::task::spawn_blocking(move || dial_main(args))
        .await
        .unwrap()
}

async fn dial_nowhere(address: &str) -> ExitCode {
    let (dial_end, _link_end) = socket_pair().unwrap();
    dial(dial_end, address, None, None).await
}

#[tokio::test]
async fn failures_have_their_codes() {
    let (_held, deaf) = deaf_port();
    assert_eq!(
        dial_nowhere(&deaf.to_string()).await,
        code(DialOutcome::Refused)
    );
    // No name at all, so that no server of names is asked.
    let name = format!("{}.invalid:1", "a".repeat(64));
    assert_eq!(dial_nowhere(&name).await, code(DialOutcome::NotResolved));
    assert_eq!(dial_nowhere("no port").await, code(DialOutcome::Other));
    // The other end is gone.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dial_end, link_end) = socket_pair().unwrap();
    drop(link_end);
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(
        dial(dial_end, &address, None, None).await,
        code(DialOutcome::Other)
    );
}

/// A port that nobody listens on, and nobody else gets while this holds it.
fn deaf_port() -> (OwnedFd, SocketAddr) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let address: SocketAddrAny = rustix::net::getsockname(&socket).unwrap();
    (socket, SocketAddr::try_from(address).unwrap())
}

/// A listener whose queue is full: the kernel answers no further connection request.
fn full_listener() -> (OwnedFd, SocketAddr, Vec<TcpStream>) {
    let (listener, address) = deaf_port();
    rustix::net::listen(&listener, 0).unwrap();
    let mut taken = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        taken.push(stream);
        assert!(taken.len() < 64, "the queue does not fill");
    }
    (listener, address, taken)
}

#[tokio::test]
async fn no_answer_is_a_time_out() {
    let (_listener, address, _taken) = full_listener();
    let limit = Duration::from_secs(2);
    let began = Instant::now();
    let (dial_end, _link_end) = socket_pair().unwrap();
    assert_eq!(
        dial_within(limit, dial_end, &address.to_string(), None, None).await,
        code(DialOutcome::TimedOut)
    );
    assert!(began.elapsed() >= limit);
}

#[tokio::test]
async fn the_leashs_end_is_dials_end() {
    let (_listener, address, _taken) = full_listener();
    let (read, write) = rustix::pipe::pipe().unwrap();
    drop(write);
    let (dial_end, _link_end) = socket_pair().unwrap();
    // Without it the time would be out.
    assert_eq!(
        dial(dial_end, &address.to_string(), None, Some(read)).await,
        code(DialOutcome::Other)
    );
}

/// A small CONNECT proxy that wants `user:secret`, and otherwise answers 407.
async fn proxy() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(tunnel(client));
        }
    });
    address
}

async fn tunnel(mut client: tokio::net::TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let target = head
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split(' ').next())
        .unwrap()
        .to_owned();
    let wanted = format!(
        "Proxy-Authorization: Basic {}\r\n",
        STANDARD.encode("user:secret")
    );
    if !head.contains(&wanted) {
        client
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        return;
    }
    let Ok(mut server) = tokio::net::TcpStream::connect(target).await else {
        client
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            .await
            .unwrap();
        return;
    };
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        .await
        .unwrap();
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

#[tokio::test]
async fn the_stream_works_through_a_proxy() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    rig.tell(ToLink::Open { conn: 9 }).await;
    let url = format!("http://user:s%65cret@{}", proxy().await);
    let to = rig.dial.try_clone().unwrap();
    assert_eq!(
        dial(to, &server.address.to_string(), Some(url), None).await,
        ExitCode::SUCCESS
    );
    assert_eq!(rig.hear().await, FromLink::Opened { conn: 9 });
}

#[tokio::test]
async fn a_proxys_refusals_have_their_code() {
    let proxy = proxy().await;
    let (_held, deaf) = deaf_port();
    let deaf = deaf.to_string();
    for credentials in ["", "user:wrong@", "user:secret@"] {
        let (dial_end, _link_end) = socket_pair().unwrap();
        let url = format!("http://{credentials}{proxy}");
        assert_eq!(
            dial(dial_end, &deaf, Some(url), None).await,
            code(DialOutcome::ProxyRefused)
        );
    }
    // A proxy that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dial_end, _link_end) = socket_pair().unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let limit = Duration::from_secs(2);
    assert_eq!(
        dial_within(limit, dial_end, &deaf, Some(url), None).await,
        code(DialOutcome::TimedOut)
    );
}

#[test]
fn exit_codes_are_read_back() {
    for number in [0, 10, 11, 12, 13, 14, 15] {
        assert_eq!(
            i32::from(DialOutcome::from_exit_code(number).exit_code()),
            number
        );
    }
    assert_eq!(DialOutcome::from_exit_code(101), DialOutcome::Other);
}
