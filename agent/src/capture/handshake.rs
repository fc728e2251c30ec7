//! What TLS itself says in encrypted records: certificate, signature, end of the handshake, new keys, alerts. Each at most
//! as often, in the order and of the length that the agent's TLS library gives it. Used by the accounts of a connection.

use super::account::{Account, At, Kind, Objection};
use super::tree::{self, Node};

/// Bytes before each message of the handshake.
const HEADER: u64 = 4;
const SERVER_HELLO: u64 = 2;
const CERTIFICATE: u64 = 11;
const CERTIFICATE_VERIFY: u64 = 15;
const FINISHED: u64 = 20;
const KEY_UPDATE: u64 = 24;
/// The one suite whose hash has 48 bytes; the others' have 32.
const SHA384: u64 = 0x1302;
/// What a server hello has for a random number when it asks for another hello (RFC 8446, 4.1.3).
const RETRY: &str = "cf:21:ad:74:e5:9a:61:11:be:1d:8c:02:1e:65:b8:91:c2:a2:11:16:7a:bb:8c:5e:07:9e:09:e2:c8:a8:33:9c";
/// ECDSA with P-256 and SHA-256, and its longest signature in DER.
const SCHEME: u64 = 0x0403;
pub(super) const SIGNATURE_BYTES: u64 = 72;
/// Of the end of a handshake: with SHA-256, with SHA-384.
pub(super) const HASH_BYTES: [u64; 2] = [32, 48];
/// So many records with one key; then the TLS library makes a new one by itself.
const RECORDS_OF_A_KEY: u64 = 1 << 23;
/// Reasons that the TLS library gives for the end of a connection.
pub(super) const REASONS: [u64; 20] = [
    10, 20, 22, 40, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 70, 80, 109, 110, 116, 120,
];

/// The certificates that one side presented, leaf first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Presented {
    pub(super) at: At,
    pub(super) chain: Vec<Vec<u8>>,
    /// Names in the leaf, as tshark reads them.
    pub(super) names: Vec<String>,
    /// Bytes of the message.
    pub(super) bytes: u64,
}

/// The handshake of one connection.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    /// Kinds of messages that were said, in order, but for new keys.
    said: Vec<u64>,
    pub(super) presented: Option<Presented>,
    /// What the other side presented.
    pub(super) server_chain: Vec<Vec<u8>>,
    /// The other side asked for a second hello.
    pub(super) is_retried: bool,
    hash_bytes: Option<u64>,
    keys_heard: u64,
    keys_said: u64,
    is_over: bool,
}

impl Handshake {
    /// What the other side said, as far as it decides what the agent says.
    pub(super) fn heard(&mut self, tls: &Node) {
        for record in tls.all("tls.record") {
            for message in record.all("tls.handshake") {
                match message.number("tls.handshake.type") {
                    Some(SERVER_HELLO) => {
                        self.is_retried |= message.text("tls.handshake.random") == Some(RETRY);
                        let suite = message.number("tls.handshake.ciphersuite");
                        let [usual, longer] = HASH_BYTES;
                        let bytes = |suite| if suite == SHA384 { longer } else { usual };
                        self.hash_bytes = suite.map(bytes);
                    }
                    Some(CERTIFICATE) => self.server_chain = chain(message),
                    Some(KEY_UPDATE) => self.keys_heard += 1,
                    Some(_) | None => {}
                }
            }
        }
    }

    /// Whether the agent has ended the handshake.
    pub(super) fn is_done(&self) -> bool {
        self.said.contains(&FINISHED)
    }

    /// Whether the agent has ended the connection.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// One message of the agent; answers its bytes. `records`: encrypted ones so far.
    pub(super) fn message(
        &mut self,
        message: &Node,
        records: u64,
        at: At,
        account: &mut Account,
    ) -> u64 {
        let (Some(kind), Some(length)) = (
            message.number("tls.handshake.type"),
            message.number("tls.handshake.length"),
        ) else {
            return 0;
        };
        let whole = HEADER + length;
        let parts = match kind {
            CERTIFICATE => self.certificate(message, length, at),
            CERTIFICATE_VERIFY => self.signature(message, length),
            FINISHED => self.finished(length),
            KEY_UPDATE => self.new_keys(message, length, records),
            other => {
                let what =
                    format!("a TLS handshake message of type {other}, which the agent never sends");
                Err(what.into())
            }
        };
        match parts {
            Ok(parts) => parts
                .into_iter()
                .filter(|(_, bytes)| *bytes > 0)
                .for_each(|(kind, bytes)| account.add(kind, bytes)),
            Err(objection) => account.object(at, whole, objection),
        }
        whole
    }

    fn certificate(&mut self, message: &Node, length: u64, at: At) -> Result<Parts, Objection> {
        self.begins_with(&[], CERTIFICATE, "certificate")?;
        let chain = chain(message);
        let number = |name| message.number(name).unwrap_or(u64::MAX);
        let list: u64 = chain.iter().map(|der| 3 + der.len() as u64 + 2).sum();
        let is_plain = number("tls.handshake.certificate_request_context_length") == 0
            && number("tls.handshake.certificates_length") == list
            && length == 1 + 3 + list;
        let mut extensions = Vec::new();
        message.anywhere("tls.handshake.extensions_length", &mut extensions);
        let has_none = |node: &&Node| matches!(node, Node::Leaf(text) if text == "0");
        if !is_plain || !extensions.iter().all(has_none) {
            return Err("a TLS certificate message with more than certificates in it".into());
        }
        if chain.is_empty() {
            return Ok([(Kind::Certificate, HEADER + length), (Kind::Random, 0)]);
        }
        let mut names = Vec::new();
        message.anywhere("x509ce.uniformResourceIdentifier", &mut names);
        let text = |node: &&Node| match node {
            Node::Leaf(text) => Some(text.clone()),
            Node::Tree(_) => None,
        };
        // Accounted for when everything is known that the ledger says of its key.
        self.presented = Some(Presented {
            at,
            chain,
            names: names.iter().filter_map(text).collect(),
            bytes: HEADER + length,
        });
        Ok([(Kind::Certificate, 0), (Kind::Random, 0)])
    }

    fn signature(&mut self, message: &Node, length: u64) -> Result<Parts, Objection> {
        self.begins_with(&[CERTIFICATE], CERTIFICATE_VERIFY, "signature")?;
        let number = |name| message.number(name).unwrap_or(u64::MAX);
        let signature = number("tls.handshake.client_cert_vrfy.sig_len");
        if number("tls.handshake.sig_hash_alg") != SCHEME
            || signature > SIGNATURE_BYTES
            || length != 2 + 2 + signature
            || self.presented.is_none()
        {
            return Err("a TLS signature of another kind or length than the agent's".into());
        }
        Ok([
            (Kind::CertificateVerify, HEADER + length - signature),
            (Kind::Random, signature),
        ])
    }

    fn finished(&mut self, length: u64) -> Result<Parts, Objection> {
        let before: &[u64] = match (self.said.len(), &self.presented) {
            (0, _) => &[],
            (_, None) => &[CERTIFICATE],
            (_, Some(_)) => &[CERTIFICATE, CERTIFICATE_VERIFY],
        };
        self.begins_with(before, FINISHED, "end of the handshake")?;
        let Some(expected) = self.hash_bytes else {
            let what = "a TLS end of the handshake that nobody else began";
            return Err(Objection::Unheard(what.to_owned()));
        };
        if length != expected {
            let what = format!(
                "a TLS end of the handshake with {length} bytes, where the hash has {expected}"
            );
            return Err(what.into());
        }
        Ok([(Kind::Finished, HEADER), (Kind::Random, length)])
    }

    fn new_keys(&mut self, message: &Node, length: u64, records: u64) -> Result<Parts, Objection> {
        self.keys_said += 1;
        let asks = message.number("tls.handshake.key_update.request_update");
        if length != 1 || asks != Some(0) || !self.is_done() {
            return Err("TLS new keys with more to say than the agent's".into());
        }
        if self.keys_said > self.keys_heard + records / RECORDS_OF_A_KEY {
            let what = "TLS new keys that nobody asked for";
            return Err(Objection::Unheard(what.to_owned()));
        }
        Ok([(Kind::KeyUpdate, HEADER + length), (Kind::Random, 0)])
    }

    fn begins_with(&mut self, before: &[u64], kind: u64, name: &str) -> Result<(), String> {
        let is_next = self.said == before;
        self.said.push(kind);
        is_next
            .then_some(())
            .ok_or_else(|| format!("a TLS {name} that is said again or at another place"))
    }

    /// The alert in a record; nothing follows it.
    pub(super) fn alert(&mut self, record: &Node, at: At, account: &mut Account) -> u64 {
        const ALERT: u64 = 2;
        let mut alerts = [Vec::new(), Vec::new()];
        let [levels, reasons] = &mut alerts;
        record.anywhere("tls.alert_message.level", levels);
        record.anywhere("tls.alert_message.desc", reasons);
        let number = |nodes: &[&Node]| match nodes {
            [Node::Leaf(text)] => tree::number(text),
            _ => None,
        };
        self.is_over = true;
        match (number(levels), number(reasons)) {
            (Some(level), Some(reason)) => match alert_objection(level, reason) {
                Some(what) => account.find(at, ALERT, what),
                None => account.add(Kind::Alert, ALERT),
            },
            _ => account.find(at, ALERT, "a TLS alert that cannot be read"),
        }
        ALERT
    }
}

/// Fixed bytes, and bytes that are random by nature.
type Parts = [(Kind, u64); 2];

fn chain(message: &Node) -> Vec<Vec<u8>> {
    let list = message.get("tls.handshake.certificates");
    let ders = list
        .into_iter()
        .flat_map(|list| list.all("tls.handshake.certificate"));
    let bytes = |node: &Node| match node {
        Node::Leaf(text) => tree::bytes(text),
        Node::Tree(_) => None,
    };
    ders.filter_map(bytes).collect()
}

/// What is wrong with an alert: the goodbye is a warning, everything else ends the connection for a reason of the list.
pub(super) fn alert_objection(level: u64, reason: u64) -> Option<String> {
    const WARNING: u64 = 1;
    const FATAL: u64 = 2;
    const GOODBYE: u64 = 0;
    let is_known =
        (level, reason) == (WARNING, GOODBYE) || level == FATAL && REASONS.contains(&reason);
    (!is_known).then(|| format!("a TLS alert of level {level} with the reason {reason}"))
}
