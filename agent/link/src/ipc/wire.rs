//! The bytes of local messages: one byte of kind, then big-endian fields; lists and texts carry their length first.
//!
//! Decoding takes whole packets, checks every length against its limit and refuses trailing bytes.

use bytes::Bytes;

use super::{
    ClosedReason, FromLink, IpcError, MAX_CERTIFICATES, MAX_FRAME_BYTES, MAX_TEXT_BYTES,
    TlsProblem, ToLink, UnaryMethod, bounded_text,
};
use crate::sandbox::{Confinement, Missing};

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
const SERVER: u8 = 0x8a;
const CONFINED: u8 = 0x8b;

/// Bytes of one certificate or certificate request in a local message.
pub(crate) const MAX_DER_BYTES: usize = 8 * 1024;

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
            Self::Confined(confinement) => {
                let missing = confinement.missing().iter();
                Writer::new(CONFINED)
                    .u8(confinement.landlock_abi)
                    .u64(confinement.uid.into())
                    .u8(missing.fold(0, |all, part| all | part.bit()))
                    .done()
            }
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
            Self::Server { conn, chain } => Writer::new(SERVER).u64(*conn).list(chain).done(),
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
            CONFINED => Self::Confined(confinement(&mut r)?),
            READY => Self::Ready {
                certificate_since_s: r.u64()?,
                certificate_not_after_s: r.u64()?,
                spiffe_id: r.text()?,
            },
            OPENED => Self::Opened { conn: r.u64()? },
            SERVER => Self::Server {
                conn: r.u64()?,
                chain: r.list()?,
            },
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

fn confinement(r: &mut Reader<'_>) -> Result<Confinement, IpcError> {
    let landlock_abi = r.u8()?;
    let uid = u32::try_from(r.u64()?).map_err(|_| IpcError::Malformed("account"))?;
    let bits = r.u8()?;
    let missing: Vec<_> = Missing::ALL
        .into_iter()
        .filter(|part| bits & part.bit() != 0)
        .collect();
    let known = missing.iter().fold(0, |all, part| all | part.bit());
    if bits != known {
        return Err(IpcError::Malformed("unknown part of the sandbox"));
    }
    Ok(Confinement::new(landlock_abi, uid, missing))
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
#[path = "wire_tests.rs"]
mod tests;
