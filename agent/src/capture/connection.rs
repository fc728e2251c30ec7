//! One connection of the agent: its TLS records, and the sums that must come out even.

use super::account::{Account, At, Kind};
use super::handshake::Handshake;
use super::hello::Beginning;
use super::http2::Http2;
use super::tcp::Coverage;
use super::tree::Node;

/// Bytes before each record.
const RECORD_HEADER: u64 = 5;
/// The type that is hidden in an encrypted record, and its checksum.
const HIDDEN: u64 = 1 + 16;
/// What every encrypted record says, whatever is spoken.
const VERSION: u64 = 0x0303;
/// Records that one frame may be cut into: its header, and its payload in two pieces when it fills one.
const RECORDS_OF_A_FRAME: u64 = 3;
/// The fixed beginning of HTTP/2 may be in a record of its own.
const RECORDS_BESIDE: u64 = 1;

const ALERTS: u64 = 21;
const HANDSHAKE: u64 = 22;
const DATA: u64 = 23;
/// What an encrypted record begins with.
pub(super) const DATA_TYPE: u8 = 23;

/// A packet, as tshark took it apart.
pub(super) struct Packet<'a> {
    pub(super) number: u64,
    pub(super) at_us: u64,
    pub(super) is_upstream: bool,
    /// Whether the capture has all of it.
    pub(super) is_whole: bool,
    pub(super) layers: &'a Node,
    pub(super) tcp: &'a Node,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) began_us: u64,
    pub(super) server_name: String,
    pub(super) up: Coverage,
    pub(super) down: Coverage,
    pub(super) handshake: Handshake,
    pub(super) http2: Http2,
    pub(super) account: Account,
    beginning: Beginning,
    /// Its beginning was captured.
    pub(super) is_begun: bool,
    /// The agent ended it.
    pub(super) is_over: bool,
    /// A packet of which the capture has only a part.
    pub(super) cut: Option<u64>,
    /// Bytes of whole records, and of those that are not encrypted.
    records: u64,
    plain: u64,
    /// How many are encrypted, and how many of them hold data.
    encrypted: u64,
    of_data: u64,
    /// Bytes that records hold, and those of them that are explained.
    room: u64,
    explained: u64,
    /// Where more was held than is explained: how much was unexplained before, and where.
    rises: Vec<(u64, At)>,
    excess: u64,
    last: At,
    /// Records that no key opens: how many bytes, and the first.
    closed: Option<(u64, At)>,
}

impl Connection {
    /// `host`: the orchestrator's name or address, without brackets.
    pub(super) fn new(number: u64, packet: &Packet<'_>, host: &str) -> Self {
        let authority = match host.parse() {
            Ok(address @ std::net::IpAddr::V6(_)) => format!("[{address}]"),
            Ok(std::net::IpAddr::V4(_)) | Err(_) => host.to_owned(),
        };
        Self {
            began_us: packet.at_us,
            server_name: host.to_owned(),
            up: Coverage::default(),
            down: Coverage::default(),
            handshake: Handshake::default(),
            http2: Http2::new(&authority, packet.at_us),
            account: Account::of(number),
            beginning: Beginning::default(),
            is_begun: false,
            is_over: false,
            cut: None,
            records: 0,
            plain: 0,
            encrypted: 0,
            of_data: 0,
            room: 0,
            explained: 0,
            rises: Vec::new(),
            excess: 0,
            last: At::default(),
            closed: None,
        }
    }

    pub(super) fn packet(&mut self, packet: &Packet<'_>) {
        const FIN: u64 = 1;
        const SYN: u64 = 2;
        const RST: u64 = 4;
        const URGENT: u64 = 32;
        let tcp = packet.tcp;
        let flags = tcp.number("tcp.flags").unwrap_or(0);
        let length = tcp.number("tcp.len").unwrap_or(0);
        let relative = tcp
            .number("tcp.seq")
            .and_then(|seq| u32::try_from(seq).ok());
        if !packet.is_whole {
            self.cut.get_or_insert(packet.number);
        }
        if !packet.is_upstream {
            let _ = self.down.add(relative.unwrap_or(0), length, packet.number);
            for layer in packet.layers.all("tls") {
                self.handshake.heard(layer);
            }
            for layer in packet.layers.all("http2") {
                self.http2.downstream(layer);
            }
            return;
        }
        if flags & SYN != 0 {
            self.is_begun = true;
        }
        self.is_over |= flags & (FIN | RST) != 0;
        let offset = self.up.add(relative.unwrap_or(0), length, packet.number);
        let at = At {
            packet: packet.number,
            offset,
        };
        if length > 0 {
            self.last = at;
            self.beginning.add(at, tcp.bytes("tcp.payload"));
        }
        if flags & URGENT != 0 {
            self.account.find(at, 0, "urgent data of TCP");
        }
        for layer in packet.layers.all("tls") {
            for record in layer.all("tls.record") {
                self.record(record, at);
            }
        }
        for layer in packet.layers.all("http2") {
            let account = &mut self.account;
            self.explained += self.http2.upstream(layer, packet.at_us, at, account);
        }
        self.weigh(at);
    }

    fn record(&mut self, record: &Node, at: At) {
        let Some(length) = record.number("tls.record.length") else {
            return;
        };
        let whole = RECORD_HEADER + length;
        self.records += whole;
        if record.get("tls.record.opaque_type").is_none() {
            return self.unencrypted(whole, at);
        }
        self.encrypted += 1;
        let objection = if record.number("tls.record.version") != Some(VERSION) {
            Some("a TLS record with another version")
        } else if self.handshake.is_over() {
            Some("a TLS record after the alert that ends the connection")
        } else {
            None
        };
        match record.number("tls.record.content_type") {
            None => {
                let closed = self.closed.get_or_insert((0, at));
                closed.0 += whole;
            }
            Some(kind @ (HANDSHAKE | ALERTS | DATA)) if length >= HIDDEN => {
                self.account.add(Kind::TlsRecord, RECORD_HEADER + HIDDEN);
                self.room += length - HIDDEN;
                if length == HIDDEN {
                    self.account.find(at, 0, "a TLS record with nothing in it");
                }
                if let Some(what) = objection {
                    self.account.find(at, 0, what);
                }
                self.content(kind, record, at);
            }
            Some(kind) => {
                let what = format!("a TLS record of type {kind}, which the agent never sends");
                self.account.find(at, whole, what);
            }
        }
    }

    /// All of them come first, and are read as bytes in the end.
    fn unencrypted(&mut self, whole: u64, at: At) {
        if self.encrypted == 0 {
            self.plain += whole;
            return;
        }
        let what = "an unencrypted TLS record behind encrypted ones";
        self.account.find(at, whole, what);
    }

    fn content(&mut self, kind: u64, record: &Node, at: At) {
        if kind == HANDSHAKE {
            for message in record.all("tls.handshake") {
                let records = self.encrypted;
                let account = &mut self.account;
                self.explained += self.handshake.message(message, records, at, account);
            }
        } else if kind == ALERTS {
            self.explained += self.handshake.alert(record, at, &mut self.account);
        } else {
            self.of_data += 1;
            if !self.handshake.is_done() {
                let what = "data before the end of the TLS handshake";
                self.account.find(at, 0, what);
            }
        }
    }

    /// Records hold frames and nothing beside them: what is held and not explained by the end is something else.
    fn weigh(&mut self, at: At) {
        let excess = self.room.saturating_sub(self.explained);
        if excess > self.excess {
            self.rises.push((self.excess, at));
        }
        while self
            .rises
            .last()
            .is_some_and(|(before, _)| *before >= excess)
        {
            self.rises.pop();
        }
        self.excess = excess;
    }

    /// Closes the account; answers what keeps the capture from being checked as a whole.
    pub(super) fn finish(&mut self) -> Vec<String> {
        let mut lacks = Vec::new();
        let number = self.account.connection;
        if let Some(gap) = self.up.gap() {
            lacks.push(format!(
                "connection {number}: {} bytes are missing in the capture before packet {}; {} bytes after it are not \
                 checked",
                gap.missing, gap.packet, gap.behind
            ));
        }
        if let Some(gap) = self.down.gap() {
            lacks.push(format!(
                "connection {number}: {} received bytes are missing in the capture before packet {}",
                gap.missing, gap.packet
            ));
            let answers = self.account.forgive_answers();
            if answers > 0 {
                lacks.push(format!(
                    "connection {number}: {answers} times the agent answers what may be in the missing part"
                ));
            }
        }
        if let Some(packet) = self.cut {
            lacks.push(format!(
                "connection {number}: packet {packet} was not captured as a whole; capture without a limit (-s 0)"
            ));
        }
        if let Some((bytes, at)) = self.closed {
            if self.is_begun && self.is_complete() {
                let what = "TLS records that no key of the key log opens, from here on";
                self.account.find(at, bytes, what);
            } else {
                self.account.add(Kind::Unreadable, bytes);
                lacks.push(format!(
                    "connection {number}: {bytes} bytes from packet {} on cannot be opened, because the capture lacks \
                     its beginning or a part of it",
                    at.packet
                ));
            }
        }
        self.begin(&mut lacks);
        let most = RECORDS_OF_A_FRAME * self.http2.frames + RECORDS_BESIDE;
        if self.closed.is_none() && self.of_data > most {
            let what = format!(
                "{} TLS records for {} HTTP/2 frames",
                self.of_data, self.http2.frames
            );
            self.account.find(self.last, 0, what);
        }
        let rest = self.up.whole().saturating_sub(self.records);
        if rest > 0 {
            self.unexplained(
                rest,
                self.last,
                "bytes that are no whole TLS record",
                &mut lacks,
            );
        }
        let rises = std::mem::take(&mut self.rises);
        for (at, (before, place)) in rises.iter().enumerate() {
            let after = rises.get(at + 1).map_or(self.excess, |(next, _)| *next);
            let what = "bytes in TLS records that are no HTTP/2 frame: padding of records, or a frame without an end";
            self.unexplained(after - before, *place, what, &mut lacks);
        }
        lacks
    }

    /// Accounts for the unencrypted records.
    fn begin(&mut self, lacks: &mut Vec<String>) {
        let (name, is_retried) = (&self.server_name, self.handshake.is_retried);
        let read = match self.is_begun {
            true => self.beginning.read(name, is_retried, &mut self.account),
            false => 0,
        };
        // What was read as bytes and what tshark takes for records are the same.
        if read > self.plain {
            self.records += read - self.plain;
        }
        let more = self.plain.saturating_sub(read);
        if more > 0 {
            let what = "unencrypted TLS records that do not begin the connection";
            self.unexplained(more, At::default(), what, lacks);
        }
    }

    /// At the end of what was captured, a connection that goes on may be in the middle of something.
    fn unexplained(&mut self, bytes: u64, at: At, what: &str, lacks: &mut Vec<String>) {
        if self.is_complete() && (self.is_over || at != self.last) {
            return self.account.find(at, bytes, what);
        }
        self.account.add(Kind::Unreadable, bytes);
        lacks.push(format!(
            "connection {}: the capture ends or has a gap in the middle of {bytes} bytes, at packet {}",
            self.account.connection, at.packet
        ));
    }

    /// How many messages were sent, in all requests.
    pub(super) fn said_messages(&self) -> usize {
        let saids = self.http2.said.values();
        saids.map(|said| said.messages.len()).sum()
    }

    /// Whether nothing that the agent sent up to the end is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.is_begun && self.cut.is_none() && self.up.gap().is_none()
    }
}
