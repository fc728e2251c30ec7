//! How an agent gets and keeps its certificate: requests and replies of the identity calls, as validated values.
//!
//! The agent's runner encodes requests and reads replies, the orchestrator the other way round. Certificates and
//! requests are passed as bytes of bounded length; what they say is for whoever verifies them.

use std::fmt;

use super::convert::missing;
use super::error::{DecodeError, EncodeError, Invalid};
use super::generated::identity as wire;
use super::{canonical, open, seal};
use crate::ids::Nonce;
use crate::limits::{
    CERTIFICATE_BYTES, CHAIN_CERTIFICATES, CHALLENGE_BYTES, CSR_BYTES, IDENTITY_REPLY_BYTES,
    IDENTITY_REQUEST_BYTES, ROOT_CERTIFICATES, SIGNATURE_BYTES, SPIFFE_ID_BYTES, TOKEN_BYTES,
};
use crate::name::{AgentName, TenantName};

/// For a first certificate, with a one-time token.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolRequest {
    /// The token's secret part.
    pub token: [u8; TOKEN_BYTES],
    /// PKCS #10, DER.
    pub csr: Vec<u8>,
}

impl fmt::Debug for EnrolRequest {
    /// Without the token: requests may be logged, tokens may not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("csr", &self.csr)
            .finish_non_exhaustive()
    }
}

/// For the next certificate, under the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    /// PKCS #10, DER.
    pub csr: Vec<u8>,
}

/// For a new certificate after the last one expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverRequest {
    /// The expired one, DER.
    pub certificate: Vec<u8>,
    /// What the last Welcome handed out.
    pub session_nonce: Nonce,
    /// PKCS #10, DER.
    pub csr: Vec<u8>,
    /// `None` in the first call, which is answered with a challenge.
    pub answer: Option<ChallengeAnswer>,
}

/// A challenge and the proof that the expired certificate's key is still held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeAnswer {
    /// As it was given, 1 to 64 bytes.
    pub challenge: Vec<u8>,
    /// ECDSA P-256, DER, by the expired certificate's key, over `outpost-recover-v1`, SHA-256 of that certificate, the
    /// nonce (big endian), SHA-256 of the request's public key, and the challenge.
    pub proof: Vec<u8>,
}

/// What a [`RecoverRequest`] is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoverReply {
    /// To be answered: 1 to 64 bytes.
    Challenge(Vec<u8>),
    /// The key was proven.
    Issued(Issued),
}

/// A certificate and what is needed to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// DER: leaf first, then the intermediates; 1 to 4.
    pub chain: Vec<Vec<u8>>,
    /// DER: the roots that the agent shall trust; 1 to 8.
    pub roots: Vec<Vec<u8>>,
    /// `spiffe://<trust domain>/tenant/<tenant>/agent/<agent>`.
    pub spiffe_id: String,
}

impl EnrolRequest {
    /// As bytes.
    ///
    /// # Errors
    /// When the certificate request is empty or too long.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        csr("EnrolRequest.csr", &self.csr)?;
        let request = wire::EnrolRequest {
            token: self.token.to_vec(),
            csr: self.csr.clone(),
        };
        seal("EnrolRequest", &request, IDENTITY_REQUEST_BYTES)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are anything but the one encoding of a request within its limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request: wire::EnrolRequest = open("EnrolRequest", bytes, IDENTITY_REQUEST_BYTES)?;
        canonical("EnrolRequest", &request, bytes)?;
        csr("EnrolRequest.csr", &request.csr)?;
        let token = request.token.try_into().map_err(|_| Invalid {
            field: "EnrolRequest.token",
            reason: "is not 32 bytes long",
        })?;
        Ok(Self {
            token,
            csr: request.csr,
        })
    }
}

impl RenewRequest {
    /// As bytes.
    ///
    /// # Errors
    /// When the certificate request is empty or too long.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        csr("RenewRequest.csr", &self.csr)?;
        let request = wire::RenewRequest {
            csr: self.csr.clone(),
        };
        seal("RenewRequest", &request, IDENTITY_REQUEST_BYTES)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are anything but the one encoding of a request within its limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request: wire::RenewRequest = open("RenewRequest", bytes, IDENTITY_REQUEST_BYTES)?;
        canonical("RenewRequest", &request, bytes)?;
        csr("RenewRequest.csr", &request.csr)?;
        Ok(Self { csr: request.csr })
    }
}

impl RecoverRequest {
    /// As bytes.
    ///
    /// # Errors
    /// When a part is empty or too long.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        self.check()?;
        let answer = self.answer.as_ref();
        let request = wire::RecoverRequest {
            challenge: answer.map_or_else(Vec::new, |answer| answer.challenge.clone()),
            proof: answer.map_or_else(Vec::new, |answer| answer.proof.clone()),
            certificate: self.certificate.clone(),
            session_nonce: self.session_nonce.0,
            csr: self.csr.clone(),
        };
        seal("RecoverRequest", &request, IDENTITY_REQUEST_BYTES)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are anything but the one encoding of a request within its limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request: wire::RecoverRequest = open("RecoverRequest", bytes, IDENTITY_REQUEST_BYTES)?;
        canonical("RecoverRequest", &request, bytes)?;
        let answered = !request.challenge.is_empty() || !request.proof.is_empty();
        let answer = answered.then_some(ChallengeAnswer {
            challenge: request.challenge,
            proof: request.proof,
        });
        let request = Self {
            certificate: request.certificate,
            session_nonce: Nonce(request.session_nonce),
            csr: request.csr,
            answer,
        };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), Invalid> {
        certificate("RecoverRequest.certificate", &self.certificate)?;
        csr("RecoverRequest.csr", &self.csr)?;
        let Some(answer) = &self.answer else {
            return Ok(());
        };
        challenge("RecoverRequest.challenge", &answer.challenge)?;
        Invalid::unless(
            (1..=SIGNATURE_BYTES).contains(&answer.proof.len()),
            "RecoverRequest.proof",
            "is empty or longer than 80 bytes",
        )
    }
}

impl RecoverReply {
    /// As bytes.
    ///
    /// # Errors
    /// When a part is empty, too long or not of its form.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        use wire::recover_reply::Reply;
        let reply = match self {
            Self::Challenge(bytes) => {
                challenge("RecoverReply.challenge", bytes)?;
                Reply::Challenge(bytes.clone())
            }
            Self::Issued(issued) => Reply::Issued(issued.to_wire()?),
        };
        let reply = wire::RecoverReply { reply: Some(reply) };
        seal("RecoverReply", &reply, IDENTITY_REPLY_BYTES)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are no reply within its limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        use wire::recover_reply::Reply;
        let reply: wire::RecoverReply = open("RecoverReply", bytes, IDENTITY_REPLY_BYTES)?;
        match reply.reply.ok_or(missing("RecoverReply.reply"))? {
            Reply::Challenge(bytes) => {
                challenge("RecoverReply.challenge", &bytes)?;
                Ok(Self::Challenge(bytes))
            }
            Reply::Issued(issued) => Ok(Self::Issued(Issued::from_wire(issued)?)),
        }
    }
}

impl Issued {
    /// As bytes.
    ///
    /// # Errors
    /// When a part is empty, too long or not of its form.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        seal("Issued", &self.to_wire()?, IDENTITY_REPLY_BYTES)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are no reply within its limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_wire(open("Issued", bytes, IDENTITY_REPLY_BYTES)?)
    }

    fn to_wire(&self) -> Result<wire::Issued, EncodeError> {
        self.check()?;
        Ok(wire::Issued {
            chain: self.chain.clone(),
            roots: self.roots.clone(),
            spiffe_id: self.spiffe_id.clone(),
        })
    }

    fn from_wire(issued: wire::Issued) -> Result<Self, DecodeError> {
        let issued = Self {
            chain: issued.chain,
            roots: issued.roots,
            spiffe_id: issued.spiffe_id,
        };
        issued.check()?;
        Ok(issued)
    }

    fn check(&self) -> Result<(), Invalid> {
        Invalid::unless(
            (1..=CHAIN_CERTIFICATES).contains(&self.chain.len()),
            "Issued.chain",
            "has no certificate or more than 4",
        )?;
        Invalid::unless(
            (1..=ROOT_CERTIFICATES).contains(&self.roots.len()),
            "Issued.roots",
            "has no certificate or more than 8",
        )?;
        for der in &self.chain {
            certificate("Issued.chain", der)?;
        }
        for der in &self.roots {
            certificate("Issued.roots", der)?;
        }
        Invalid::unless(
            is_agent_id(&self.spiffe_id),
            "Issued.spiffe_id",
            "is not spiffe://<trust domain>/tenant/<tenant>/agent/<agent>",
        )
    }
}

fn csr(field: &'static str, der: &[u8]) -> Result<(), Invalid> {
    let fits = (1..=CSR_BYTES).contains(&der.len());
    Invalid::unless(fits, field, "is empty or longer than 1024 bytes")
}

fn certificate(field: &'static str, der: &[u8]) -> Result<(), Invalid> {
    let fits = (1..=CERTIFICATE_BYTES).contains(&der.len());
    Invalid::unless(
        fits,
        field,
        "holds a certificate that is empty or longer than 2048 bytes",
    )
}

fn challenge(field: &'static str, bytes: &[u8]) -> Result<(), Invalid> {
    let fits = (1..=CHALLENGE_BYTES).contains(&bytes.len());
    Invalid::unless(fits, field, "is empty or longer than 64 bytes")
}

fn is_agent_id(id: &str) -> bool {
    let Some(path) = id.strip_prefix("spiffe://") else {
        return false;
    };
    let mut parts = path.split('/');
    let domain = parts.next().is_some_and(|domain| {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        (1..=255).contains(&domain.len()) && domain.bytes().all(allowed)
    });
    let tenant = parts.next() == Some("tenant") && is_name::<TenantName>(parts.next());
    let agent = parts.next() == Some("agent") && is_name::<AgentName>(parts.next());
    id.len() <= SPIFFE_ID_BYTES && domain && tenant && agent && parts.next().is_none()
}

fn is_name<N: std::str::FromStr>(part: Option<&str>) -> bool {
    part.is_some_and(|part| part.parse::<N>().is_ok())
}
