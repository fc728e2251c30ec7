//! Where every byte goes: to a kind that is known, or to a finding.

use std::collections::BTreeMap;

use serde::Serialize;

/// Findings that are told one by one; more are only counted.
const TOLD: usize = 200;

/// What a byte on the wire belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Messages of the ledger, byte for byte.
    LedgerFrame,
    /// Requests for certificates, as the ledger has them.
    IdentityCall,
    /// The five bytes before each message.
    MessagePrefix,
    /// The nine bytes before the data of each message.
    DataFrame,
    /// Requests' headers, all of them of the list.
    Headers,
    /// The fixed beginning of HTTP/2.
    Preface,
    /// The fixed settings, and that the other side's were taken.
    Settings,
    /// How much may be sent to the agent.
    WindowUpdate,
    /// Whether the other side is there: a fixed text.
    Ping,
    /// The other side's own text, sent back.
    PingAnswer,
    /// The end of a request, with a reason of the list.
    Reset,
    /// The end of the connection, without a text.
    Goodbye,
    /// What TLS is begun with: a fixed list of what is supported.
    ClientHello,
    /// Random numbers, session ids, key shares, signatures and checksums of the handshake: nobody can check them.
    Random,
    /// The agent's certificate and its issuers'.
    Certificate,
    /// The signature that the certificate's key is held.
    CertificateVerify,
    /// The end of TLS's beginning.
    Finished,
    /// New keys.
    KeyUpdate,
    /// One fixed byte for the sake of old proxies.
    ChangeCipherSpec,
    /// TLS says goodbye, or what is wrong.
    Alert,
    /// Headers, types and checksums of TLS records.
    TlsRecord,
    /// What the capture has no beginning or not all of.
    Unreadable,
    /// None of these.
    Unaccounted,
}

impl Kind {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::LedgerFrame => "frames of the ledger, byte for byte",
            Self::IdentityCall => "certificate requests of the ledger",
            Self::MessagePrefix => "gRPC: length before each message",
            Self::DataFrame => "HTTP/2: frame header before each message",
            Self::Headers => "HTTP/2: request headers, all fixed",
            Self::Preface => "HTTP/2: preface, fixed",
            Self::Settings => "HTTP/2: settings, fixed",
            Self::WindowUpdate => "HTTP/2: window updates",
            Self::Ping => "HTTP/2: pings, fixed",
            Self::PingAnswer => "HTTP/2: answers to pings, echoed",
            Self::Reset => "HTTP/2: ends of requests",
            Self::Goodbye => "HTTP/2: ends of connections",
            Self::ClientHello => "TLS: client hello, fixed",
            Self::Random => "TLS: random by nature, not to be checked",
            Self::Certificate => "TLS: the agent's certificate chain",
            Self::CertificateVerify => "TLS: signature of the handshake",
            Self::Finished => "TLS: end of the handshake",
            Self::KeyUpdate => "TLS: new keys",
            Self::ChangeCipherSpec => "TLS: one fixed byte for old proxies",
            Self::Alert => "TLS: alerts",
            Self::TlsRecord => "TLS: record headers, types and checksums",
            Self::Unreadable => "not to be read: the capture lacks a part",
            Self::Unaccounted => "UNACCOUNTED",
        }
    }
}

/// How often, and how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// Where something stands in a capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct At {
    /// The packet's number, as every tool counts them.
    pub packet: u64,
    /// Where the packet begins in what the agent sent on this connection.
    pub offset: u64,
}

/// Something that must not be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The connection's number in the capture.
    pub connection: u64,
    /// Where.
    pub at: At,
    /// How many bytes of it are nothing known.
    pub bytes: u64,
    /// What it is.
    pub what: String,
    /// It answers something that was not heard, or not so much.
    #[serde(skip)]
    pub(super) is_answer: bool,
}

/// What is wrong with something that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Objection {
    /// It is nothing that the agent says.
    Strange(String),
    /// It answers something that was not heard, or not so much.
    Unheard(String),
}

impl From<String> for Objection {
    fn from(what: String) -> Self {
        Self::Strange(what)
    }
}

impl From<&str> for Objection {
    fn from(what: &str) -> Self {
        Self::Strange(what.to_owned())
    }
}

/// The accounts of one connection, or of all together.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) connection: u64,
    pub(super) tallies: BTreeMap<Kind, Tally>,
    pub(super) findings: Vec<Finding>,
    pub(super) more_findings: u64,
}

impl Account {
    pub(super) fn of(connection: u64) -> Self {
        Self {
            connection,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, kind: Kind, bytes: u64) {
        let tally = self.tallies.entry(kind).or_default();
        tally.count += 1;
        tally.bytes += bytes;
    }

    pub(super) fn find(&mut self, at: At, bytes: u64, what: impl Into<String>) {
        self.object(at, bytes, Objection::Strange(what.into()));
    }

    pub(super) fn object(&mut self, at: At, bytes: u64, objection: Objection) {
        let (what, is_answer) = match objection {
            Objection::Strange(what) => (what, false),
            Objection::Unheard(what) => (what, true),
        };
        self.add(Kind::Unaccounted, bytes);
        if self.findings.len() >= TOLD {
            self.more_findings += 1;
            return;
        }
        self.findings.push(Finding {
            connection: self.connection,
            at,
            bytes,
            what,
            is_answer,
        });
    }

    /// Takes back what is only wrong because a part of what came was not captured; answers how many there were.
    pub(super) fn forgive_answers(&mut self) -> usize {
        let (forgiven, kept) = std::mem::take(&mut self.findings)
            .into_iter()
            .partition::<Vec<_>, _>(|finding| finding.is_answer);
        self.findings = kept;
        for finding in &forgiven {
            if let Some(tally) = self.tallies.get_mut(&Kind::Unaccounted) {
                tally.count -= 1;
                tally.bytes -= finding.bytes;
            }
            self.add(Kind::Unreadable, finding.bytes);
        }
        if self.tallies.get(&Kind::Unaccounted) == Some(&Tally::default()) {
            self.tallies.remove(&Kind::Unaccounted);
        }
        forgiven.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.tallies.values().map(|tally| tally.bytes).sum()
    }
}
