use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Instant;

use super::*;

const SOON: Duration = Duration::from_millis(150);

/// A client, its other end, and the proxy between them.
fn pair() -> (TcpStream, TcpStream, Proxy) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::listen(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    proxy.forward_to(server.local_addr().unwrap());
    let client = TcpStream::connect(proxy.address()).unwrap();
    let (server, _) = server.accept().unwrap();
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    (client, server, proxy)
}

fn comes(to: &mut TcpStream, text: &str) {
    let mut read = vec![0; text.len()];
    to.read_exact(&mut read).unwrap();
    assert_eq!(read, text.as_bytes());
}

/// Nothing is there to be read, and the end is not either.
fn nothing_comes(to: &mut TcpStream) {
    to.set_read_timeout(Some(SOON)).unwrap();
    let error = to.read(&mut [0; 1]).unwrap_err();
    assert!(matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    ));
    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
}

fn only(proxy: &Proxy) -> u64 {
    let connections = proxy.connections();
    assert_eq!(connections.len(), 1);
    connections[0]
}

#[test]
fn undisturbed_both_directions_pass_with_their_ends() {
    let (mut client, mut server, proxy) = pair();
    client.write_all(b"there").unwrap();
    comes(&mut server, "there");
    server.write_all(b"and back").unwrap();
    comes(&mut client, "and back");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    server.write_all(b"still").unwrap();
    comes(&mut client, "still");
    assert_eq!(proxy.accepted(), 1);
}

#[test]
fn a_cut_holds_everything_and_gives_it_back_when_healed() {
    let (mut client, mut server, proxy) = pair();
    assert!(proxy.disturb(only(&proxy), Rules::cut()));
    client.write_all(b"up").unwrap();
    server.write_all(b"down").unwrap();
    nothing_comes(&mut client);
    nothing_comes(&mut server);
    proxy.heal();
    comes(&mut server, "up");
    comes(&mut client, "down");
}

#[test]
fn a_black_hole_of_one_way_lets_the_other_one_pass() {
    let (mut client, mut server, proxy) = pair();
    for (rules, up_is_deaf) in [(Rules::deaf_up(), true), (Rules::deaf_down(), false)] {
        proxy.disturb_all(rules);
        client.write_all(b"u").unwrap();
        server.write_all(b"d").unwrap();
        let (heard, deaf) = if up_is_deaf {
            ((&mut client, "d"), (&mut server, "u"))
        } else {
            ((&mut server, "u"), (&mut client, "d"))
        };
        comes(heard.0, heard.1);
        nothing_comes(deaf.0);
        proxy.heal();
        comes(deaf.0, deaf.1);
    }
}

#[test]
fn a_delay_comes_before_every_chunk() {
    let (mut client, mut server, proxy) = pair();
    proxy.disturb_all(Rules::delayed(Duration::from_millis(300)));
    let begun = Instant::now();
    client.write_all(b"late").unwrap();
    comes(&mut server, "late");
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[test]
fn n7_a_drip_is_one_byte_per_second() {
    let (mut client, mut server, proxy) = pair();
    proxy.disturb_all(Rules::dripping());
    let begun = Instant::now();
    client.write_all(b"ab").unwrap();
    comes(&mut server, "a");
    assert!(begun.elapsed() >= DRIP);
    comes(&mut server, "b");
    assert!(begun.elapsed() >= 2 * DRIP);
}

#[test]
fn n8_a_half_closed_connection_ends_one_way_only() {
    let (mut client, mut server, proxy) = pair();
    assert!(proxy.disturb(only(&proxy), Rules::half_closed()));
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    server.write_all(b"still").unwrap();
    comes(&mut client, "still");
}

#[test]
fn n8_a_reset_is_seen_as_one_by_both_and_the_end_as_an_end() {
    let (mut client, mut server, proxy) = pair();
    proxy.disturb_all(Rules::ended(End::Rst));
    for end in [&mut client, &mut server] {
        let error = end.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    let (mut client, mut server, proxy) = pair();
    proxy.disturb_all(Rules::ended(End::Fin));
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn n8_an_end_comes_however_soon_all_is_healed() {
    let (mut client, mut server, proxy) = pair();
    proxy.disturb_all(Rules::ended(End::Rst));
    proxy.heal();
    for end in [&mut client, &mut server] {
        let error = end.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn while_it_refuses_nobody_gets_through_and_afterwards_everybody_does() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::listen(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    proxy.forward_to(server.local_addr().unwrap());
    proxy.refuse(true);
    let mut refused = TcpStream::connect(proxy.address()).unwrap();
    assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0);
    proxy.heal();
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    let (mut through, _) = server.accept().unwrap();
    client.write_all(b"through").unwrap();
    comes(&mut through, "through");
    assert_eq!(proxy.accepted(), 2);
}
