//! Dial's walls from inside: this test binary starts itself as a process that confines itself as dial does, before `main`,
//! and says how far it still gets.
#![expect(unsafe_code, reason = "system calls by their numbers")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use super::{Account, Asked, Level, Way};

/// `literal` or `name`, the one port, another port.
const ROLE: &str = "OUTPOST_TEST_DIAL";
const DIAL: Account = Account {
    uid: 60_918,
    gid: 60_918,
};

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = play;

extern "C" fn play() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    let [kind, port, other] = words.as_slice() else {
        std::process::exit(99);
    };
    let way = Way {
        port: port.parse().unwrap_or(0),
        resolves: *kind == "name",
    };
    let asked = Asked {
        account: rustix::process::geteuid().is_root().then_some(DIAL),
        strict: true,
    };
    let strict = super::dial(asked, way, true).level() == Level::Strict;
    let mut said = format!("strict {}\n", i32::from(!strict));
    for (name, errno) in tries(way.port, other.parse().unwrap_or(0)) {
        said.push_str(&format!("{name} {errno}\n"));
    }
    let written = std::io::Write::write_all(&mut std::io::stdout(), said.as_bytes());
    std::process::exit(i32::from(written.is_err()));
}

fn errno<T>(tried: std::io::Result<T>) -> i32 {
    tried.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0)
}

fn called(returned: i64) -> i32 {
    if returned < 0 {
        errno(Err::<(), _>(std::io::Error::last_os_error()))
    } else {
        0
    }
}

fn tries(port: u16, other: u16) -> Vec<(&'static str, i32)> {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let socket = |family: libc::c_int, kind: libc::c_int| {
        // SAFETY: no pointers.
        called(unsafe { libc::syscall(libc::SYS_socket, family, kind, 0) })
    };
    let (inet, unix, stream) = (libc::AF_INET, libc::AF_UNIX, libc::SOCK_STREAM);
    vec![
        ("the one port", errno(TcpStream::connect(at(port)))),
        ("another port", errno(TcpStream::connect(at(other)))),
        ("another port, fast", fast_open(other)),
        ("a port of its own", errno(TcpListener::bind(at(0)))),
        ("a datagram", errno(UdpSocket::bind(at(0)))),
        ("a raw socket", socket(inet, libc::SOCK_RAW)),
        ("a local socket", socket(unix, stream)),
        ("a packet socket", socket(libc::AF_PACKET, libc::SOCK_RAW)),
        ("accounts", errno(std::fs::File::open("/etc/passwd"))),
        ("hosts", errno(std::fs::File::open("/etc/hosts"))),
        ("processes", errno(std::fs::read_dir("/proc"))),
        (
            "a new file",
            errno(std::fs::File::create("/tmp/outpost-dialled")),
        ),
        // SAFETY: no pointers.
        (
            "a signal",
            called(unsafe { libc::syscall(libc::SYS_kill, 1, 0) }),
        ),
        // SAFETY: no pointers; without a stack of its own it would be a fork.
        (
            "a process",
            called(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }),
        ),
    ]
}

/// A connection that a send opens.
fn fast_open(port: u16) -> i32 {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    let address = libc::sockaddr_in {
        sin_family: u16::try_from(libc::AF_INET).unwrap(),
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    let size = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
    // SAFETY: buffer and address outlive the call, with their lengths.
    let sent = unsafe {
        libc::sendto(
            socket,
            c"x".as_ptr().cast(),
            1,
            libc::MSG_FASTOPEN,
            (&raw const address).cast(),
            size,
        )
    };
    called(sent as libc::c_long)
}

fn play_as(kind: &str) -> BTreeMap<String, i32> {
    let (one, other) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let output = Command::new(std::env::current_exe().unwrap())
        .env_clear()
        .env(ROLE, format!("{kind} {} {}", port(&one), port(&other)))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines = said.lines().map(|line| line.rsplit_once(' ').unwrap());
    lines
        .map(|(name, errno)| (name.to_owned(), errno.parse().unwrap()))
        .collect()
}

#[test]
fn dial_reaches_one_port_and_nothing_else() {
    for kind in ["literal", "name"] {
        let said = play_as(kind);
        let reached: Vec<_> = said.iter().filter(|(_, errno)| **errno == 0).collect();
        let reached: Vec<_> = reached.into_iter().map(|(name, _)| name.as_str()).collect();
        // With a name to resolve, the hosts file and datagrams to whomever: that is what is left open.
        let expected = if kind == "name" {
            vec!["a datagram", "hosts", "strict", "the one port"]
        } else {
            vec!["strict", "the one port"]
        };
        assert_eq!(reached, expected, "{kind}: {said:#?}");
        for (name, errno) in said {
            assert!(
                [0, libc::EPERM, libc::EACCES].contains(&errno),
                "{name} {errno}"
            );
        }
    }
}
