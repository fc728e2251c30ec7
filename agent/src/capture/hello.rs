//! The unencrypted beginning of a connection, byte by byte: the client hello, a second one if the other side asked for it,
//! the one fixed byte for old proxies. Every byte is what this agent's TLS library always says, or is random by its
//! nature and counted as that, or makes the whole record a finding. Used by the accounts of a connection.

use std::collections::BTreeMap;

use super::account::{Account, At, Kind};
use super::handshake::alert_objection;

/// Bytes of a connection's beginning that are looked at; two hellos are some 3,000.
const LOOKED_AT: u64 = 16 * 1024;
const RECORD_HEADER: usize = 5;
const CHANGE_CIPHER_SPEC: &[u8] = &[20, 3, 3, 0, 1, 1];

/// What the hello lists: three suites of TLS 1.3, and those of TLS 1.2 that the library always names.
const SUITES: &[u8] = &[
    0x13, 0x02, 0x13, 0x01, 0x13, 0x03, 0xc0, 0x2c, 0xc0, 0x2b, 0xcc, 0xa9, 0xc0, 0x30, 0xc0, 0x2f,
    0xcc, 0xa8,
];
const SERVER_NAME: u16 = 0;
const KEY_SHARE: u16 = 51;
/// Extensions that are the same in every hello.
const FIXED: [(u16, &[u8]); 8] = [
    // status_request: OCSP, without names and extensions
    (5, &[1, 0, 0, 0, 0]),
    // supported_groups: X25519MLKEM768, X25519, P-256
    (10, &[0, 6, 0x11, 0xec, 0, 0x1d, 0, 0x17]),
    // ec_point_formats: uncompressed
    (11, &[1, 0]),
    // signature_algorithms
    (
        13,
        &[
            0, 26, 5, 3, 4, 3, 6, 3, 8, 7, 8, 6, 8, 5, 8, 4, 6, 1, 5, 1, 4, 1, 9, 4, 9, 5, 9, 6,
        ],
    ),
    // application_layer_protocol_negotiation: h2
    (16, &[0, 3, 2, b'h', b'2']),
    // extended_master_secret
    (23, &[]),
    // supported_versions: TLS 1.3
    (43, &[2, 3, 4]),
    // psk_key_exchange_modes: with (EC)DHE
    (45, &[1, 1]),
];
/// Groups that keys are shared for, and how long such a key is.
const KEYS: [(u16, usize); 3] = [(4588, 1216), (29, 32), (23, 65)];
/// The keys of a first hello.
const FIRST_KEYS: [u16; 2] = [4588, 29];

/// Random number and session id.
const NUMBERS: [usize; 2] = [32, 32];
/// How many extensions a hello has, with a server's name and the keys.
pub(super) const EXTENSIONS: u64 = FIXED.len() as u64 + 2;

/// Bytes of a hello that are random by nature; of a second one, those that are not the first one's.
#[cfg(test)]
pub(super) fn random_bytes(is_second: bool) -> u64 {
    let is_shared = |group: &u16| FIRST_KEYS.contains(group) != is_second;
    let keys = KEYS.iter().filter(|(group, _)| is_shared(group));
    let keys: usize = keys.map(|(_, bytes)| bytes).sum();
    let numbers = if is_second { 0 } else { NUMBERS.iter().sum() };
    (keys + numbers) as u64
}

/// What a connection begins with, as far as it was captured.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    pieces: BTreeMap<u64, (Vec<u8>, At)>,
}

impl Beginning {
    /// Adds what one packet carries.
    pub(super) fn add(&mut self, at: At, payload: Option<Vec<u8>>) {
        if let Some(payload) = payload.filter(|_| at.offset < LOOKED_AT) {
            self.pieces.entry(at.offset).or_insert((payload, at));
        }
    }

    /// Accounts for every unencrypted record. `server_name`: what the hello must name; `is_retried`: whether the other side
    /// asked for a second hello. Answers how many bytes these records have.
    pub(super) fn read(&self, server_name: &str, is_retried: bool, account: &mut Account) -> u64 {
        let bytes = self.whole();
        let (mut left, mut said) = (bytes.as_slice(), Said::new(server_name, is_retried));
        while let Some((record, rest)) = next(left) {
            let length = record.len() as u64;
            let offset = (bytes.len() - left.len()) as u64;
            match said.record(record) {
                Ok(parts) => {
                    for (kind, bytes) in parts {
                        account.add(kind, bytes);
                    }
                }
                Err(what) => account.find(self.place(offset), length, what),
            }
            left = rest;
        }
        (bytes.len() - left.len()) as u64
    }

    fn whole(&self) -> Vec<u8> {
        let mut whole = Vec::new();
        for (offset, (piece, _)) in &self.pieces {
            let Some(again) = (whole.len() as u64).checked_sub(*offset) else {
                break;
            };
            let again = usize::try_from(again).unwrap_or(usize::MAX);
            whole.extend_from_slice(piece.get(again..).unwrap_or_default());
        }
        whole
    }

    fn place(&self, offset: u64) -> At {
        let before = self.pieces.range(..=offset).next_back();
        before.map_or(At::default(), |(_, (_, at))| *at)
    }
}

/// The next record, if it is whole and not encrypted.
fn next(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = bytes.get(..RECORD_HEADER)?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    (header[0] != super::connection::DATA_TYPE)
        .then(|| bytes.split_at_checked(RECORD_HEADER + length))?
}

/// What was said so far.
struct Said<'a> {
    server_name: &'a str,
    is_retried: bool,
    first: Option<Hello>,
    hellos: usize,
    is_changed: bool,
    is_over: bool,
}

type Parts = Vec<(Kind, u64)>;

impl<'a> Said<'a> {
    fn new(server_name: &'a str, is_retried: bool) -> Self {
        Self {
            server_name,
            is_retried,
            first: None,
            hellos: 0,
            is_changed: false,
            is_over: false,
        }
    }

    fn record(&mut self, record: &[u8]) -> Result<Parts, String> {
        let length = record.len() as u64;
        if self.is_over {
            return Err("a TLS record after the alert that ends the connection".to_owned());
        }
        match record {
            [22, rest @ ..] => self.hello(rest, length),
            [20, ..] if record != CHANGE_CIPHER_SPEC => {
                Err("a TLS change of ciphers that is not the fixed one".to_owned())
            }
            [20, ..] if self.is_changed || self.hellos == 0 => {
                Err("a second TLS change of ciphers, or one before the hello".to_owned())
            }
            [20, ..] => {
                self.is_changed = true;
                Ok(vec![(Kind::ChangeCipherSpec, length)])
            }
            [21, 3, 3, 0, 2, level, reason] => {
                self.is_over = true;
                match alert_objection(u64::from(*level), u64::from(*reason)) {
                    Some(what) => Err(what),
                    None => Ok(vec![(Kind::Alert, length)]),
                }
            }
            _ => Err("an unencrypted TLS record that is none of the agent's".to_owned()),
        }
    }

    fn hello(&mut self, rest: &[u8], length: u64) -> Result<Parts, String> {
        self.hellos += 1;
        let (version, is_second): (&[u8], bool) = match self.hellos {
            1 => (&[3, 1], false),
            2 if self.is_retried => (&[3, 3], true),
            _ => return Err("a TLS client hello that nobody asked for".to_owned()),
        };
        let body = rest
            .strip_prefix(version)
            .and_then(|rest| rest.get(2..))
            .ok_or("a TLS record of a client hello with another version")?;
        let hello = Hello::parse(body, self.server_name, is_second)?;
        let mut opaque = hello.opaque;
        if let Some(first) = &self.first {
            if (&first.random, &first.order) != (&hello.random, &hello.order) {
                return Err("a second TLS client hello that differs from the first".to_owned());
            }
            // The numbers of the first one, once more.
            opaque -= hello.random.len() as u64;
        }
        self.first.get_or_insert(hello);
        Ok(vec![
            (Kind::ClientHello, length - opaque),
            (Kind::Random, opaque),
        ])
    }
}

/// A hello without an objection.
#[derive(Debug, PartialEq, Eq)]
struct Hello {
    /// Random number and session id.
    random: Vec<u8>,
    /// The extensions as they stand.
    order: Vec<u16>,
    /// Bytes that are random by nature.
    opaque: u64,
}

impl Hello {
    fn parse(body: &[u8], server_name: &str, is_second: bool) -> Result<Self, String> {
        const BROKEN: &str = "a TLS client hello that cannot be read";
        const OTHER: &str = "a TLS client hello with other lists than the agent's";
        let mut message = Fields(body);
        if message.take(1).ok_or(BROKEN)? != [1] {
            return Err("an unencrypted TLS message that is no client hello".to_owned());
        }
        let mut hello = Fields(message.sized(3).ok_or(BROKEN)?);
        message.is_over().then_some(()).ok_or(BROKEN)?;
        let version = hello.take(2).ok_or(BROKEN)?;
        let [random_bytes, session_bytes] = NUMBERS;
        let random = hello.take(random_bytes).ok_or(BROKEN)?;
        let session = hello.sized(1).ok_or(BROKEN)?;
        let suites = hello.sized(2).ok_or(BROKEN)?;
        let compression = hello.sized(1).ok_or(BROKEN)?;
        let mut extensions = Fields(hello.sized(2).ok_or(BROKEN)?);
        hello.is_over().then_some(()).ok_or(BROKEN)?;
        if session.len() != session_bytes {
            let length = session.len();
            return Err(format!(
                "a TLS client hello with a session id of {length} bytes"
            ));
        }
        if version != [3, 3] || suites != SUITES || compression != [0] {
            return Err(OTHER.to_owned());
        }
        let (mut order, mut keys) = (Vec::new(), 0);
        while !extensions.is_over() {
            let kind = extensions.number().ok_or(BROKEN)?;
            let body = extensions.sized(2).ok_or(BROKEN)?;
            if order.contains(&kind) {
                return Err(format!(
                    "a TLS client hello with the extension {kind} twice"
                ));
            }
            order.push(kind);
            keys += extension(kind, body, server_name, is_second)?;
        }
        let named = u16::from(name_of(server_name).is_some());
        if order.len() != FIXED.len() + 1 + usize::from(named) {
            return Err("a TLS client hello without an extension that the agent has".to_owned());
        }
        Ok(Self {
            random: [random, session].concat(),
            order,
            opaque: (random.len() + session.len() + keys) as u64,
        })
    }
}

/// Judges one extension; answers how many bytes of it are random by nature.
fn extension(kind: u16, body: &[u8], server_name: &str, is_second: bool) -> Result<usize, String> {
    if kind == KEY_SHARE {
        let what = "a TLS client hello with other key shares than the agent's";
        return key_share(body, is_second).ok_or_else(|| what.to_owned());
    }
    if kind == SERVER_NAME {
        let is_right = name_of(server_name).is_some_and(|expected| expected == body);
        let other = format!(
            "a TLS client hello for another server: {:?}",
            String::from_utf8_lossy(body.get(5..).unwrap_or_default())
        );
        return is_right.then_some(0).ok_or(other);
    }
    match FIXED.iter().find(|(fixed, _)| *fixed == kind) {
        Some((_, expected)) if *expected == body => Ok(0),
        Some(_) if kind == 16 => Err(format!(
            "a TLS client hello with other protocols than h2: {:?}",
            String::from_utf8_lossy(body)
        )),
        Some(_) => Err(format!(
            "a TLS client hello with something else in the extension {kind}"
        )),
        None => Err(format!("a TLS client hello with the extension {kind}")),
    }
}

/// The keys' bytes, if they are of the groups and lengths that they must be.
fn key_share(body: &[u8], is_second: bool) -> Option<usize> {
    let mut fields = Fields(body);
    let mut list = Fields(fields.sized(2)?);
    fields.is_over().then_some(())?;
    let (mut groups, mut bytes) = (Vec::new(), 0);
    while !list.is_over() {
        let group = list.number()?;
        let key = list.sized(2)?;
        KEYS.contains(&(group, key.len())).then_some(())?;
        groups.push(group);
        bytes += key.len();
    }
    let is_right = match is_second {
        // Nobody asks for one that was there before (RFC 8446, 4.1.4).
        true => groups.len() == 1 && !FIRST_KEYS.contains(&groups[0]),
        false => groups == FIRST_KEYS,
    };
    is_right.then_some(bytes)
}

/// The extension with a server's name; none for addresses.
fn name_of(server: &str) -> Option<Vec<u8>> {
    let is_address = server.parse::<std::net::IpAddr>().is_ok();
    let name = server.trim_end_matches('.').as_bytes();
    let length = u16::try_from(name.len()).ok().filter(|_| !is_address)?;
    let list = (length + 3).to_be_bytes();
    Some([&list[..], &[0], &length.to_be_bytes(), name].concat())
}

/// What is left to read of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// A field behind its length, which has so many bytes.
    fn sized(&mut self, prefix: usize) -> Option<&'a [u8]> {
        let length = self.take(prefix)?;
        let length = length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        self.take(length)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
pub(super) mod tests;
