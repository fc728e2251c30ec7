//! Hellos as the agent's TLS library says them, and each way in which a modified sender could say something by one.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

const SITE: &str = "site.test";

/// What the TLS library says, with settings that can be others than link's.
fn said(server: &str, other: impl FnOnce(&mut ClientConfig)) -> Vec<u8> {
    let mut provider = default_provider();
    provider.kx_groups = vec![
        kx_group::X25519MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
    ];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    other(&mut config);
    let name = server.to_owned().try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut record = Vec::new();
    connection.write_tls(&mut record).unwrap();
    record
}

/// The record that a connection to [`SITE`] begins with.
pub(in crate::capture) fn first_record() -> Vec<u8> {
    record_for(SITE)
}

/// The same to this orchestrator.
pub(in crate::capture) fn record_for(server: &str) -> Vec<u8> {
    said(server, |_| ())
}

/// What a hello is made of, to be changed.
#[derive(Clone)]
struct Parts {
    version: [u8; 2],
    random: Vec<u8>,
    session: Vec<u8>,
    suites: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
    /// Behind everything that has a length.
    more: Vec<u8>,
}

impl Parts {
    fn of(record: &[u8]) -> Self {
        let mut hello = Fields(&record[5 + 4 + 2..]);
        let random = hello.take(32).unwrap().to_vec();
        let session = hello.sized(1).unwrap().to_vec();
        let suites = hello.sized(2).unwrap().to_vec();
        hello.sized(1).unwrap();
        let mut list = Fields(hello.sized(2).unwrap());
        let mut extensions = Vec::new();
        while let Some(kind) = list.number() {
            extensions.push((kind, list.sized(2).unwrap().to_vec()));
        }
        let version = [record[1], record[2]];
        Self {
            version,
            random,
            session,
            suites,
            extensions,
            more: Vec::new(),
        }
    }

    fn record(&self) -> Vec<u8> {
        let long =
            |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &long(body)].concat())
            .collect();
        let body = [
            &[3, 3][..],
            &self.random,
            &[u8::try_from(self.session.len()).unwrap()],
            &self.session,
            &long(&self.suites),
            &[1, 0],
            &long(&extensions),
            &self.more,
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[1], &length[1..], &body].concat();
        [&[22][..], &self.version, &long(&message)].concat()
    }

    fn body(&mut self, kind: u16) -> &mut Vec<u8> {
        let mut extensions = self.extensions.iter_mut();
        &mut extensions.find(|(known, _)| *known == kind).unwrap().1
    }

    /// As the answer to a server that wants P-256.
    fn retried(&self) -> Self {
        let mut second = self.clone();
        second.version = [3, 3];
        *second.body(KEY_SHARE) = [&[0, 69, 0, 23, 0, 65, 4][..], &[7; 64]].concat();
        second
    }
}

/// What is found, and the sums by kind.
fn read(bytes: &[u8], server: &str, is_retried: bool) -> (Vec<String>, Account) {
    let (mut beginning, mut account) = (Beginning::default(), Account::of(0));
    // In pieces, the later one first.
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let at = |offset: usize| At {
        packet: 4,
        offset: offset as u64,
    };
    beginning.add(at(one.len()), Some(other.to_vec()));
    beginning.add(at(0), Some(one.to_vec()));
    let read = beginning.read(server, is_retried, &mut account);
    assert_eq!(read, account.bytes(), "each byte once");
    let told = account.findings.iter().map(|found| found.what.clone());
    (told.collect(), account)
}

#[test]
fn a_hello_of_the_tls_library_is_fixed_but_for_what_is_random() {
    for server in [SITE, "127.0.0.1", "::1"] {
        let record = said(server, |_| ());
        assert_eq!(Parts::of(&record).record(), record);
        let all = [&record, CHANGE_CIPHER_SPEC, &[23, 3, 3, 9, 9]].concat();
        let (told, account) = read(&all, server, false);
        assert_eq!(told, [""; 0], "{server}");
        let random = account.tallies.get(&Kind::Random).unwrap();
        assert_eq!(random.bytes, 32 + 32 + 1216 + 32);
        let hello = account.tallies.get(&Kind::ClientHello).unwrap();
        assert_eq!(hello.bytes, record.len() as u64 - random.bytes);
        assert_eq!(account.bytes(), all.len() as u64 - 5);
    }
}

#[test]
fn a_second_hello_is_one_that_was_asked_for_and_repeats_the_first() {
    let first = Parts::of(&first_record());
    let second = first.retried();
    let both =
        |second: &Parts| [first.record(), CHANGE_CIPHER_SPEC.to_vec(), second.record()].concat();
    let (told, account) = read(&both(&second), SITE, true);
    assert_eq!(told, [""; 0]);
    let random = account.tallies.get(&Kind::Random).unwrap();
    assert_eq!(random.bytes, 32 + 32 + 1216 + 32 + 65);
    let (told, _) = read(&both(&second), SITE, false);
    assert_eq!(told, ["a TLS client hello that nobody asked for"]);
    let mut other = second.clone();
    other.random[7] ^= 1;
    let (told, _) = read(&both(&other), SITE, true);
    assert_eq!(
        told,
        ["a second TLS client hello that differs from the first"]
    );
    let mut other = second.clone();
    other.extensions.swap(0, 1);
    let (told, _) = read(&both(&other), SITE, true);
    assert_eq!(
        told,
        ["a second TLS client hello that differs from the first"]
    );
    // A key for a group that had one before: nobody can have asked for that.
    for (group, bytes) in [(29_u16, 32_u16), (4588, 1216)] {
        let mut other = second.clone();
        let list = [
            &(bytes + 4).to_be_bytes()[..],
            &group.to_be_bytes(),
            &bytes.to_be_bytes(),
        ];
        *other.body(KEY_SHARE) = [list.concat(), vec![7; usize::from(bytes)]].concat();
        let (told, _) = read(&both(&other), SITE, true);
        assert_eq!(
            told,
            ["a TLS client hello with other key shares than the agent's"]
        );
    }
    let third = [both(&second), second.record()].concat();
    let (told, _) = read(&third, SITE, true);
    assert_eq!(told, ["a TLS client hello that nobody asked for"]);
}

#[test]
fn whatever_could_be_chosen_in_a_hello_is_told() {
    let usual = Parts::of(&first_record());
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = usual.clone();
        change(&mut parts);
        parts.record()
    };
    let other = "a TLS client hello with other lists than the agent's";
    let broken = "a TLS client hello that cannot be read";
    let shares = "a TLS client hello with other key shares than the agent's";
    type Change<'a> = &'a dyn Fn(&mut Parts);
    let chosen: [(Change<'_>, &str); 18] = [
        (
            &|hello| hello.extensions.push((21, vec![0; 9])),
            "a TLS client hello with the extension 21",
        ),
        (
            &|hello| hello.extensions.push((41, vec![0; 40])),
            "a TLS client hello with the extension 41",
        ),
        (
            &|hello| hello.extensions.push((0x0a0a, vec![1])),
            "a TLS client hello with the extension 2570",
        ),
        (
            &|hello| hello.extensions.push((23, vec![])),
            "a TLS client hello with the extension 23 twice",
        ),
        (
            &|hello| hello.body(23).push(7),
            "a TLS client hello with something else in the extension 23",
        ),
        (
            &|hello| hello.body(45).push(7),
            "a TLS client hello with something else in the extension 45",
        ),
        (
            &|hello| hello.body(13).swap(2, 4),
            "a TLS client hello with something else in the extension 13",
        ),
        (
            &|hello| hello.body(5)[4] = 1,
            "a TLS client hello with something else in the extension 5",
        ),
        (
            &|hello| *hello.body(16) = b"\0\x08\x02h2\x04leak".to_vec(),
            "a TLS client hello with other protocols than h2: \"\\0\\u{8}\\u{2}h2\\u{4}leak\"",
        ),
        (
            &|hello| *hello.body(0) = name_of("leak.test").unwrap(),
            "a TLS client hello for another server: \"leak.test\"",
        ),
        (
            &|hello| hello.body(0).push(1),
            "a TLS client hello for another server: \"site.test\\u{1}\"",
        ),
        (
            &|hello| hello.extensions.retain(|(kind, _)| *kind != 0),
            "a TLS client hello without an extension that the agent has",
        ),
        (
            &|hello| hello.session.truncate(31),
            "a TLS client hello with a session id of 31 bytes",
        ),
        (&|hello| hello.suites.extend([0x13, 0x04]), other),
        (&|hello| hello.suites.swap(1, 3), other),
        (&|hello| hello.more.push(7), broken),
        (
            &|hello| {
                let share = hello.body(KEY_SHARE);
                share.extend([0, 23, 0, 1, 9]);
                share[1] += 5;
            },
            shares,
        ),
        (&|hello| hello.body(KEY_SHARE).push(7), shares),
    ];
    for (change, what) in chosen {
        let (told, _) = read(&changed(change), SITE, false);
        assert_eq!(told, [what]);
    }
    let version = changed(&|hello| hello.version = [3, 3]);
    let (told, _) = read(&version, SITE, false);
    assert_eq!(
        told,
        ["a TLS record of a client hello with another version"]
    );
    let (told, _) = read(&said("127.0.0.1", |_| ()), SITE, false);
    assert_eq!(
        told,
        ["a TLS client hello without an extension that the agent has"]
    );
    let (told, _) = read(&first_record(), "127.0.0.1", false);
    assert_eq!(
        told,
        ["a TLS client hello for another server: \"site.test\""]
    );
}

#[test]
fn whatever_could_be_chosen_beside_a_hello_is_told() {
    let hello = first_record();
    let ccs = CHANGE_CIPHER_SPEC;
    let mut two = hello.clone();
    two.extend_from_slice(&hello[5..]);
    let length = u16::try_from(two.len() - 5).unwrap().to_be_bytes();
    two[3..5].copy_from_slice(&length);
    let other = "a TLS change of ciphers that is not the fixed one";
    let again = "a second TLS change of ciphers, or one before the hello";
    for (bytes, what) in [
        ([&hello[..], ccs, ccs].concat(), again),
        ([ccs, &hello].concat(), again),
        ([&hello[..], &[20, 3, 3, 0, 1, 7]].concat(), other),
        ([&hello[..], &[20, 3, 4, 0, 1, 1]].concat(), other),
        ([&hello[..], &[20, 3, 3, 0, 2, 1, 1]].concat(), other),
        (two, "a TLS client hello that cannot be read"),
        (
            [&hello[..], &[22, 3, 3, 0, 5, 11, 0, 0, 1, 7]].concat(),
            "a TLS client hello that nobody asked for",
        ),
        (
            [&hello[..], &[24, 3, 3, 0, 1, 7]].concat(),
            "an unencrypted TLS record that is none of the agent's",
        ),
        (
            [&hello[..], &[21, 3, 3, 0, 2, 2, 77]].concat(),
            "a TLS alert of level 2 with the reason 77",
        ),
        (
            [&hello[..], &[21, 3, 3, 0, 2, 1, 40]].concat(),
            "a TLS alert of level 1 with the reason 40",
        ),
        (
            [
                &hello[..],
                &[21, 3, 3, 0, 2, 2, 40],
                &[21, 3, 3, 0, 2, 2, 40],
            ]
            .concat(),
            "a TLS record after the alert that ends the connection",
        ),
        (
            [&hello[..], &[21, 3, 3, 0, 3, 2, 40, 7]].concat(),
            "an unencrypted TLS record that is none of the agent's",
        ),
    ] {
        let (told, account) = read(&bytes, SITE, false);
        assert_eq!(told, [what]);
        assert_eq!(account.findings[0].at.packet, 4);
    }
    let (told, _) = read(
        &[&hello[..], &[21, 3, 3, 0, 2, 2, 40]].concat(),
        SITE,
        false,
    );
    assert_eq!(told, [""; 0]);
}
