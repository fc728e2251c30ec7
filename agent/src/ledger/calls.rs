//! Identity calls as the ledger has them: every byte of the request but a join token's secret, which no file may hold.
//!
//! In the secret's place stands its SHA-256, as long as itself, so that everything else is where it was; the hash and the
//! length of what was really sent stand before it. Whoever has the sent bytes, from a capture for instance, can show that
//! they are these: [`IdentityCall::is_of`].

use outpost_certs::issue::CsrKey;
use outpost_proto::wire::{EncodeError, EnrolRequest, RecoverRequest, RenewRequest};
use sha2::{Digest as _, Sha256};

/// Method, length, hash of the bytes, hash of the key.
const HEADER_BYTES: usize = 1 + 4 + 32 + 32;

/// Which call of `outpost.identity.v1.Identity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// With a one-time token.
    Enrol,
    /// Under the certificate that is to be replaced.
    Renew,
    /// In place of a certificate that ended.
    Recover,
}

impl Method {
    const ALL: [(Self, u8); 3] = [(Self::Enrol, 1), (Self::Renew, 2), (Self::Recover, 3)];

    fn code(self) -> u8 {
        let mut all = Self::ALL.into_iter();
        all.find(|(method, _)| *method == self)
            .map_or(0, |(_, code)| code)
    }

    fn from_code(code: u8) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(_, known)| *known == code)
            .map(|(method, _)| method)
    }
}

/// One call as it is recorded: the payload of a record of kind `Identity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityCall {
    /// Which.
    pub method: Method,
    /// Bytes of the request as sent.
    pub length: u32,
    /// SHA-256 of the request as sent.
    pub sha256: [u8; 32],
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER) that is to be certified; zeros when the request holds no key
    /// that can be read.
    pub public_key_sha256: [u8; 32],
    /// The request as sent, but for the join token's secret: its SHA-256 stands in its place.
    pub request: Vec<u8>,
}

impl IdentityCall {
    /// Of an enrolment that sends `sent`.
    ///
    /// # Errors
    /// When the request cannot be encoded.
    pub fn enrol(request: &EnrolRequest, sent: &[u8]) -> Result<Self, EncodeError> {
        let kept = EnrolRequest {
            token: Sha256::digest(request.token).into(),
            csr: request.csr.clone(),
        };
        Ok(Self::new(Method::Enrol, sent, &request.csr, kept.encode()?))
    }

    /// Of a renewal that sends `sent`.
    #[must_use]
    pub fn renew(csr: &[u8], sent: &[u8]) -> Self {
        Self::new(Method::Renew, sent, csr, sent.to_vec())
    }

    /// Of a recovery that sends `sent`.
    #[must_use]
    pub fn recover(csr: &[u8], sent: &[u8]) -> Self {
        Self::new(Method::Recover, sent, csr, sent.to_vec())
    }

    fn new(method: Method, sent: &[u8], csr: &[u8], request: Vec<u8>) -> Self {
        Self {
            method,
            length: u32::try_from(sent.len()).unwrap_or(u32::MAX),
            sha256: Sha256::digest(sent).into(),
            public_key_sha256: CsrKey::from_csr(csr).map_or([0; 32], |key| key.sha256),
            request,
        }
    }

    /// As a record's payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.request.len());
        bytes.push(self.method.code());
        bytes.extend_from_slice(&self.length.to_be_bytes());
        bytes.extend_from_slice(&self.sha256);
        bytes.extend_from_slice(&self.public_key_sha256);
        bytes.extend_from_slice(&self.request);
        bytes
    }

    /// From a record's payload; `None` when it is not one.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (code, rest) = payload.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (sha256, rest) = rest.split_first_chunk()?;
        let (public_key_sha256, request) = rest.split_first_chunk()?;
        Some(Self {
            method: Method::from_code(*code)?,
            length: u32::from_be_bytes(*length),
            sha256: *sha256,
            public_key_sha256: *public_key_sha256,
            request: request.to_vec(),
        })
    }

    /// Whether `sent` is, to the byte, what this call sent.
    #[must_use]
    pub fn is_of(&self, sent: &[u8]) -> bool {
        usize::try_from(self.length) == Ok(sent.len())
            && self.sha256 == <[u8; 32]>::from(Sha256::digest(sent))
    }

    /// Whether what is recorded of it is itself what was sent, or, of an enrolment, is so but for the token; the rest of the
    /// record then follows from it.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let csr = match self.method {
            Method::Enrol => match EnrolRequest::decode(&self.request) {
                Ok(request) if self.length as usize == self.request.len() => request.csr,
                Ok(_) | Err(_) => return false,
            },
            Method::Renew | Method::Recover if !self.is_of(&self.request) => return false,
            Method::Renew => match RenewRequest::decode(&self.request) {
                Ok(request) => request.csr,
                Err(_) => return false,
            },
            Method::Recover => match RecoverRequest::decode(&self.request) {
                Ok(request) => request.csr,
                Err(_) => return false,
            },
        };
        CsrKey::from_csr(&csr).map_or([0; 32], |key| key.sha256) == self.public_key_sha256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csr() -> (Vec<u8>, [u8; 32]) {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key);
        let hash = Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&key));
        (csr.unwrap().der().to_vec(), hash.into())
    }

    #[test]
    fn an_enrolment_is_kept_to_the_byte_but_for_the_token() {
        let (csr, key) = csr();
        let request = EnrolRequest {
            token: [0x5e; 32],
            csr,
        };
        let sent = request.encode().unwrap();
        let call = IdentityCall::enrol(&request, &sent).unwrap();
        let record = call.encode();
        assert!(
            !record.windows(8).any(|window| window == [0x5e; 8]),
            "no part of the secret"
        );
        let read = IdentityCall::decode(&record).unwrap();
        assert_eq!(read, call);
        assert!(read.is_of(&sent) && read.is_consistent());
        assert!(!read.is_of(&read.request));
        assert_eq!(read.public_key_sha256, key);
        assert_eq!(read.request.len(), sent.len());
        let differs = sent.iter().zip(&read.request).enumerate();
        let differs: Vec<usize> = differs
            .filter(|(_, (a, b))| a != b)
            .map(|(at, _)| at)
            .collect();
        assert!(differs.iter().all(|at| (2..34).contains(at)), "{differs:?}");
    }

    #[test]
    fn a_renewal_is_kept_to_the_byte_and_a_strange_key_is_no_reason_to_end() {
        let (csr, key) = csr();
        let sent = RenewRequest { csr: csr.clone() }.encode().unwrap();
        let call = IdentityCall::renew(&csr, &sent);
        assert!(call.is_of(&sent) && call.is_consistent());
        assert_eq!((call.public_key_sha256, &call.request), (key, &sent));
        let mut other = sent.clone();
        other[5] ^= 1;
        assert!(!call.is_of(&other));
        let sent = RenewRequest {
            csr: b"nonsense".to_vec(),
        };
        let call = IdentityCall::renew(b"nonsense", &sent.encode().unwrap());
        assert_eq!(call.public_key_sha256, [0; 32]);
        assert!(call.is_consistent());
        assert_eq!(IdentityCall::decode(&call.encode()), Some(call));
        assert_eq!(IdentityCall::decode(b"\x0a\x20"), None);
    }
}
