//! The bytes of local messages: one byte of kind, then big-endian fields; lists and texts carry their length first.
//!
//! Decoding takes whole packets, checks every length against its limit and refuses trailing bytes.

use bytes::Bytes;

use super::{
    ClosedReason, FromLink, IpcError, MAX_CERTIFICATES, MAX_FRAME_BYTES, MAX_TEXT_BYTES,
    TlsProblem, ToLink, UnaryMethod, bounded_text,
};

const OPEN: u8 = 1;
const TO_FRAME: u8 = 2;
const CLOSE: u8 = 3;
const MAKE_CSR: u8 = 4;
const UNARY: u8 = 5;
const STORE_IDENTITY: u8 = 6;
const PROVE: u8 = 7;

const READY: u8 = 0x81;
const OPENED: u8 = 0x82;
const FROM_FRAME: u8 = 0x83;
const CLOSED: u8 = 0x84;
const CSR: u8 = 0x85;
const REPLY: u8 = 0x86;
const STORED: u8 = 0x87;
const ENDS: u8 = 0x88;
const PROOF: u8 = 0x89;

/// Bytes of one certificate or certificate request in a local message.
const MAX_DER_BYTES: usize = 8 * 1024;

impl ToLink {
    /// One packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Open { conn } => Writer::new(OPEN).u64(*conn).done(),
            Self::Frame { conn, bytes } => Writer::new(TO_FRAME).u64(*conn).rest(bytes).done(),
            Self::Close { conn } => Writer::new(CLOSE).u64(*conn).done(),
            Self::MakeCsr { conn } => Writer::new(MAKE_CSR).u64(*conn).done(),
            Self::Unary {
                conn,
                method,
                bytes,
            } => Writer::new(UNARY)
                .u64(*conn)
                .u8(method_number(*method))
                .rest(bytes)
                .done(),
            Self::Prove {
                session_nonce,
                challenge,
            } => Writer::new(PROVE)
                .u64(*session_nonce)
                .rest(challenge)
                .done(),
            Self::StoreIdentity { chain, roots } => {
                Writer::new(STORE_IDENTITY).list(chain).list(roots).done()
            }
        }
    }

    /// Reads one packet.
    ///
    /// # Errors
    /// [`IpcError::Malformed`] when it is not exactly one message within its limits.
    pub fn decode(packet: &[u8]) -> Result<Self, IpcError> {
        let mut r = Reader(packet);
        let message = match r.u8()? {
            OPEN => Self::Open { conn: r.u64()? },
            TO_FRAME => Self::Frame {
                conn: r.u64()?,
                bytes: r.rest()?,
            },
            CLOSE => Self::Close { conn: r.u64()? },
            MAKE_CSR => Self::MakeCsr { conn: r.u64()? },
            UNARY => Self::Unary {
                conn: r.u64()?,
                method: method(r.u8()?)?,
                bytes: r.rest()?,
            },
            PROVE => Self::Prove {
                session_nonce: r.u64()?,
                challenge: r.rest()?,
            },
            STORE_IDENTITY => Self::StoreIdentity {
                chain: r.list()?,
                roots: r.list()?,
            },
            _ => return Err(IpcError::Malformed("unknown kind")),
        };
        r.end()?;
        Ok(message)
    }
}

impl FromLink {
    /// One packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready {
                certificate_since_s,
                certificate_not_after_s,
                spiffe_id,
            } => Writer::new(READY)
                .u64(*certificate_since_s)
                .u64(*certificate_not_after_s)
                .text(spiffe_id)
                .done(),
            Self::Opened { conn } => Writer::new(OPENED).u64(*conn).done(),
            Self::Ends { conn, at_s } => Writer::new(ENDS).u64(*conn).u64(*at_s).done(),
            Self::Frame { conn, bytes } => Writer::new(FROM_FRAME).u64(*conn).rest(bytes).done(),
            Self::Closed { conn, reason, text } => Writer::new(CLOSED)
                .u64(*conn)
                .u8(reason_number(*reason))
                .text(text)
                .done(),
            Self::Csr { der } => Writer::new(CSR).rest(der).done(),
            Self::Proof {
                certificate,
                csr,
                proof,
            } => Writer::new(PROOF)
                .item(certificate)
                .item(csr)
                .item(proof)
                .done(),
            Self::Reply {
                conn,
                ok,
                code,
                bytes,
                text,
            } => Writer::new(REPLY)
                .u64(*conn)
                .u8(u8::from(*ok))
                .u8(*code)
                .text(text)
                .rest(bytes)
                .done(),
            Self::Stored { ok, text } => Writer::new(STORED).u8(u8::from(*ok)).text(text).done(),
        }
    }

    /// Reads one packet.
    ///
    /// # Errors
    /// [`IpcError::Malformed`] when it is not exactly one message within its limits.
    pub fn decode(packet: &[u8]) -> Result<Self, IpcError> {
        let mut r = Reader(packet);
        let message = match r.u8()? {
            READY => Self::Ready {
                certificate_since_s: r.u64()?,
                certificate_not_after_s: r.u64()?,
                spiffe_id: r.text()?,
            },
            OPENED => Self::Opened { conn: r.u64()? },
            ENDS => Self::Ends {
                conn: r.u64()?,
                at_s: r.u64()?,
            },
            FROM_FRAME => Self::Frame {
                conn: r.u64()?,
                bytes: r.rest()?,
            },
            CLOSED => Self::Closed {
                conn: r.u64()?,
                reason: reason(r.u8()?)?,
                text: r.text()?,
            },
            CSR => Self::Csr {
                der: r.rest()?.to_vec(),
            },
            PROOF => Self::Proof {
                certificate: r.item()?,
                csr: r.item()?,
                proof: r.item()?,
            },
            REPLY => {
                let (conn, ok, code, text) = (r.u64()?, r.flag()?, r.u8()?, r.text()?);
                Self::Reply {
                    conn,
                    ok,
                    code,
                    bytes: r.rest()?,
                    text,
                }
            }
            STORED => Self::Stored {
                ok: r.flag()?,
                text: r.text()?,
            },
            _ => return Err(IpcError::Malformed("unknown kind")),
        };
        r.end()?;
        Ok(message)
    }
}

fn method_number(method: UnaryMethod) -> u8 {
    match method {
        UnaryMethod::Enrol => 1,
        UnaryMethod::Renew => 2,
        UnaryMethod::Recover => 3,
    }
}

fn method(number: u8) -> Result<UnaryMethod, IpcError> {
    match number {
        1 => Ok(UnaryMethod::Enrol),
        2 => Ok(UnaryMethod::Renew),
        3 => Ok(UnaryMethod::Recover),
        _ => Err(IpcError::Malformed("unknown unary method")),
    }
}

fn reason_number(reason: ClosedReason) -> u8 {
    match reason {
        ClosedReason::PeerClosed => 1,
        ClosedReason::Tls(TlsProblem::Untrusted) => 2,
        ClosedReason::Tls(TlsProblem::Expired) => 3,
        ClosedReason::Tls(TlsProblem::NotYetValid) => 4,
        ClosedReason::Tls(TlsProblem::Other) => 5,
        ClosedReason::Intercepted => 6,
        ClosedReason::Unauthenticated => 7,
        ClosedReason::Refused => 8,
        ClosedReason::Unavailable => 9,
        ClosedReason::Protocol => 10,
        ClosedReason::Timeout => 11,
        ClosedReason::Local => 12,
        ClosedReason::Expired => 13,
    }
}

fn reason(number: u8) -> Result<ClosedReason, IpcError> {
    Ok(match number {
        1 => ClosedReason::PeerClosed,
        2 => ClosedReason::Tls(TlsProblem::Untrusted),
        3 => ClosedReason::Tls(TlsProblem::Expired),
        4 => ClosedReason::Tls(TlsProblem::NotYetValid),
        5 => ClosedReason::Tls(TlsProblem::Other),
        6 => ClosedReason::Intercepted,
        7 => ClosedReason::Unauthenticated,
        8 => ClosedReason::Refused,
        9 => ClosedReason::Unavailable,
        10 => ClosedReason::Protocol,
        11 => ClosedReason::Timeout,
        12 => ClosedReason::Local,
        13 => ClosedReason::Expired,
        _ => return Err(IpcError::Malformed("unknown reason")),
    })
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: usize) -> Self {
        // Lengths that do not fit are refused by the reader's limits, which are far smaller.
        self.0
            .extend_from_slice(&u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let line = bounded_text(text);
        self.u16(line.len()).rest(line.as_bytes())
    }

    fn list(mut self, items: &[Vec<u8>]) -> Self {
        self = self.u16(items.len());
        for item in items {
            self = self.item(item);
        }
        self
    }

    fn item(self, bytes: &[u8]) -> Self {
        self.u16(bytes.len()).rest(bytes)
    }

    fn rest(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn done(self) -> Vec<u8> {
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], IpcError> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or(IpcError::Malformed("cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IpcError> {
        self.take(N)?
            .try_into()
            .map_err(|_| IpcError::Malformed("cut short"))
    }

    fn u8(&mut self) -> Result<u8, IpcError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<usize, IpcError> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn u64(&mut self) -> Result<u64, IpcError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn flag(&mut self) -> Result<bool, IpcError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(IpcError::Malformed("flag is neither 0 nor 1")),
        }
    }

    fn text(&mut self) -> Result<String, IpcError> {
        let length = self.u16()?;
        if length > MAX_TEXT_BYTES {
            return Err(IpcError::Malformed("text over its limit"));
        }
        let text = std::str::from_utf8(self.take(length)?)
            .map_err(|_| IpcError::Malformed("text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn list(&mut self) -> Result<Vec<Vec<u8>>, IpcError> {
        let count = self.u16()?;
        if count == 0 || count > MAX_CERTIFICATES {
            return Err(IpcError::Malformed("number of certificates"));
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.item()?);
        }
        Ok(items)
    }

    fn item(&mut self) -> Result<Vec<u8>, IpcError> {
        let length = self.u16()?;
        if length > MAX_DER_BYTES {
            return Err(IpcError::Malformed("certificate over its limit"));
        }
        Ok(self.take(length)?.to_vec())
    }

    fn rest(&mut self) -> Result<Bytes, IpcError> {
        if self.0.len() > MAX_FRAME_BYTES {
            return Err(IpcError::Malformed("frame over its limit"));
        }
        Ok(Bytes::copy_from_slice(std::mem::take(&mut self.0)))
    }

    fn end(self) -> Result<(), IpcError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(IpcError::Malformed("trailing bytes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_link() -> Vec<ToLink> {
        let bytes = Bytes::from_static(b"\x00opaque\xff");
        let mut all = vec![
            ToLink::Open { conn: 1 },
            ToLink::Frame {
                conn: u64::MAX,
                bytes: bytes.clone(),
            },
            ToLink::Frame {
                conn: 2,
                bytes: Bytes::new(),
            },
            ToLink::Close { conn: 3 },
            ToLink::MakeCsr { conn: 4 },
            ToLink::Prove {
                session_nonce: 1 << 63,
                challenge: Bytes::from_static(&[7; 32]),
            },
            ToLink::StoreIdentity {
                chain: vec![vec![1, 2], vec![3]],
                roots: vec![vec![4; 900]],
            },
        ];
        for method in [UnaryMethod::Enrol, UnaryMethod::Renew, UnaryMethod::Recover] {
            all.push(ToLink::Unary {
                conn: 5,
                method,
                bytes: bytes.clone(),
            });
        }
        all
    }

    fn from_link() -> Vec<FromLink> {
        let bytes = Bytes::from_static(b"\x00opaque\xff");
        let mut all = vec![
            FromLink::Ready {
                certificate_since_s: 0,
                certificate_not_after_s: 0,
                spiffe_id: String::new(),
            },
            FromLink::Ready {
                certificate_since_s: 1 << 32,
                certificate_not_after_s: 1 << 33,
                spiffe_id: "spiffe://d/tenant/t/agent/a".into(),
            },
            FromLink::Opened { conn: 1 },
            FromLink::Ends {
                conn: 1,
                at_s: 1 << 33,
            },
            FromLink::Frame {
                conn: 2,
                bytes: bytes.clone(),
            },
            FromLink::Csr { der: vec![1, 2, 3] },
            FromLink::Proof {
                certificate: vec![1; 700],
                csr: vec![2; 300],
                proof: vec![3; 72],
            },
            FromLink::Proof {
                certificate: Vec::new(),
                csr: Vec::new(),
                proof: Vec::new(),
            },
            FromLink::Reply {
                conn: 3,
                ok: true,
                code: 0,
                bytes,
                text: String::new(),
            },
            FromLink::Reply {
                conn: 3,
                ok: false,
                code: 16,
                bytes: Bytes::new(),
                text: "token used".into(),
            },
            FromLink::Stored {
                ok: true,
                text: String::new(),
            },
            FromLink::Stored {
                ok: false,
                text: "disk full".into(),
            },
        ];
        for number in 1..=13 {
            all.push(FromLink::Closed {
                conn: 9,
                reason: reason(number).unwrap(),
                text: "why".into(),
            });
        }
        all
    }

    #[test]
    fn every_message_survives_the_round_trip() {
        for message in to_link() {
            assert_eq!(ToLink::decode(&message.encode()).unwrap(), message);
        }
        for message in from_link() {
            assert_eq!(FromLink::decode(&message.encode()).unwrap(), message);
        }
    }

    #[test]
    fn every_reason_has_its_own_number() {
        for number in 1..=13 {
            assert_eq!(reason_number(reason(number).unwrap()), number);
        }
        assert!(reason(0).is_err() && reason(14).is_err());
    }

    #[test]
    fn damaged_packets_are_refused_and_never_panic() {
        assert!(ToLink::decode(&[]).is_err());
        assert!(FromLink::decode(&[]).is_err());
        for packet in to_link()
            .iter()
            .map(ToLink::encode)
            .chain(from_link().iter().map(FromLink::encode))
        {
            for end in 0..packet.len() {
                let _ = (
                    ToLink::decode(&packet[..end]),
                    FromLink::decode(&packet[..end]),
                );
            }
            for place in 0..packet.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut bad = packet.clone();
                    bad[place] = value;
                    let _ = (ToLink::decode(&bad), FromLink::decode(&bad));
                }
            }
        }
        let mut longer = ToLink::Open { conn: 1 }.encode();
        longer.push(0);
        assert!(matches!(
            ToLink::decode(&longer),
            Err(IpcError::Malformed("trailing bytes"))
        ));
        // The two directions cannot be taken for each other.
        assert!(FromLink::decode(&ToLink::Open { conn: 1 }.encode()).is_err());
    }

    #[test]
    fn limits_hold_at_both_bounds() {
        let fits = ToLink::Frame {
            conn: 1,
            bytes: vec![7; MAX_FRAME_BYTES].into(),
        };
        assert_eq!(ToLink::decode(&fits.encode()).unwrap(), fits);
        let over = ToLink::Frame {
            conn: 1,
            bytes: vec![7; MAX_FRAME_BYTES + 1].into(),
        };
        assert!(ToLink::decode(&over.encode()).is_err());
        let many = ToLink::StoreIdentity {
            chain: vec![vec![1]; MAX_CERTIFICATES + 1],
            roots: vec![vec![1]],
        };
        assert!(ToLink::decode(&many.encode()).is_err());
        let none = ToLink::StoreIdentity {
            chain: vec![],
            roots: vec![vec![1]],
        };
        assert!(ToLink::decode(&none.encode()).is_err());
    }

    #[test]
    fn texts_become_one_bounded_line() {
        let long = format!("a\nb\u{7}{}", "ä".repeat(400));
        let line = bounded_text(&long);
        assert!(line.len() <= MAX_TEXT_BYTES && line.starts_with("a b "));
        assert!(!line.contains('\n'));
    }
}
