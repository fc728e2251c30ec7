//! Join tokens: what a person carries from the orchestrator to a site, once.
//!
//! Text form `opj1.` and base64url (no padding) of a JSON object: where to connect, who to become, the pin of the root
//! certificate and a secret of 32 bytes. The orchestrator keeps only the secret's hash. A token is read from a file or
//! stdin, never from the command line, where everybody on the machine could see it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv6Addr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outpost_proto::name::{AgentName, TenantName};
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::crypto::{NoRandomness, hex, random, sha256};
use crate::identity::{NotATrustDomain, check_trust_domain, shown};

/// Begins every token of this form.
const PREFIX: &str = "opj1.";
/// Bytes of a token's text form.
pub const TOKEN_BYTES: usize = 2048;

/// Why a text is not a join token, or why none could be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Longer than any token.
    #[error(
        "the join token is longer than {TOKEN_BYTES} bytes; copy it again from `outpost agent invite`"
    )]
    TooLong,
    /// Some other text.
    #[error("this is not a join token: one begins with `{PREFIX}`")]
    Prefix,
    /// Cut or changed on the way.
    #[error("the join token is damaged ({0}); copy it again in full, as one line")]
    Damaged(&'static str),
    /// The address is not `host:port`.
    #[error(
        "`{url}` is not the address of an agent port: expected host:port, such as `outpost.example.org:7443`"
    )]
    Url {
        /// What was given, cut to 80 characters, control characters replaced.
        url: String,
    },
    /// The trust domain is not one.
    #[error(transparent)]
    TrustDomain(#[from] NotATrustDomain),
    /// No secret could be drawn.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Why no token could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadTokenError {
    /// The file or stdin could not be read.
    #[error("the join token cannot be read from {source_name}: {source}")]
    Io {
        /// The path, or `stdin`.
        source_name: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// It was read, but is none.
    #[error("{source_name}: {error}")]
    Token {
        /// The path, or `stdin`.
        source_name: String,
        /// What is wrong with it.
        error: TokenError,
    },
}

/// A one-time invitation for one agent of one tenant. Wiped when dropped; never shown by `Debug`.
#[derive(Clone)]
pub struct JoinToken {
    url: String,
    tenant: TenantName,
    agent: AgentName,
    trust_domain: String,
    pin: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
}

/// The JSON inside.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    url: String,
    tenant: TenantName,
    agent: AgentName,
    trust_domain: String,
    /// 64 lower-case hex digits.
    pin: String,
    /// base64url without padding of 32 bytes.
    secret: String,
}

impl Drop for Form {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl JoinToken {
    /// Draws a new secret. `url` is host:port of the agent port, `pin` the SHA-256 of the root certificate in DER.
    pub fn new(
        url: &str,
        tenant: TenantName,
        agent: AgentName,
        trust_domain: &str,
        pin: [u8; 32],
    ) -> Result<Self, TokenError> {
        check_url(url)?;
        check_trust_domain(trust_domain)?;
        let secret = Zeroizing::new(random()?);
        Ok(Self {
            url: url.to_owned(),
            tenant,
            agent,
            trust_domain: trust_domain.to_owned(),
            pin,
            secret,
        })
    }

    /// host:port of the agent port.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whose agent it becomes.
    #[must_use]
    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// The name it gets.
    #[must_use]
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }

    /// Of the orchestrator's authority.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// SHA-256 of the root certificate in DER, which the server must show at enrolment.
    #[must_use]
    pub fn pin(&self) -> &[u8; 32] {
        &self.pin
    }

    /// What is sent at enrolment.
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// SHA-256 of the secret: what the orchestrator keeps and looks up.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        secret_hash(&*self.secret)
    }

    /// The text form, with the secret in it: to be shown once, to the person who asked for it.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let form = Form {
            url: self.url.clone(),
            tenant: self.tenant.clone(),
            agent: self.agent.clone(),
            trust_domain: self.trust_domain.clone(),
            pin: hex(&self.pin),
            secret: URL_SAFE_NO_PAD.encode(*self.secret),
        };
        let mut json = Zeroizing::new(Vec::with_capacity(TOKEN_BYTES));
        // Texts only, into memory: neither can fail.
        let _ = serde_json::to_writer(&mut *json, &form);
        let mut text = Zeroizing::new(String::with_capacity(2 * TOKEN_BYTES));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*json, &mut text);
        text
    }
}

/// SHA-256 of a secret as it arrives at enrolment.
#[must_use]
pub fn secret_hash(secret: &[u8]) -> [u8; 32] {
    sha256(secret)
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("url", &self.url)
            .field("tenant", &self.tenant)
            .field("agent", &self.agent)
            .field("trust_domain", &self.trust_domain)
            .field("pin", &hex(&self.pin))
            .field("secret", &"(hidden)")
            .finish()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Accepts exactly what [`JoinToken::expose`] returns, without surrounding white space.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let json = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Damaged("not base64url"))?;
        let json = Zeroizing::new(json);
        let form: Form = serde_json::from_slice(&json)
            .map_err(|_| TokenError::Damaged("its content is not that of a join token"))?;
        check_url(&form.url)?;
        check_trust_domain(&form.trust_domain)?;
        let pin = unhex(&form.pin).ok_or(TokenError::Damaged(
            "its pin is not 64 lower-case hex digits",
        ))?;
        let mut secret = Zeroizing::new([0; 32]);
        let decoded = URL_SAFE_NO_PAD.decode_slice(form.secret.as_bytes(), &mut *secret);
        if decoded != Ok(secret.len()) {
            return Err(TokenError::Damaged(
                "its secret is not 32 bytes in base64url",
            ));
        }
        Ok(Self {
            url: form.url.clone(),
            tenant: form.tenant.clone(),
            agent: form.agent.clone(),
            trust_domain: form.trust_domain.clone(),
            pin,
            secret,
        })
    }
}

/// Reads a token from the file `source`, or from stdin if it is `-`. White space around it is ignored.
pub fn read_token(source: &OsStr) -> Result<JoinToken, ReadTokenError> {
    let (source_name, text) = if source == "-" {
        ("stdin".to_owned(), read_text(io::stdin().lock()))
    } else {
        (
            source.to_string_lossy().into_owned(),
            File::open(source).and_then(read_text),
        )
    };
    let text = match text {
        Ok(text) => text,
        Err(source) => {
            return Err(ReadTokenError::Io {
                source_name,
                source,
            });
        }
    };
    text.trim()
        .parse()
        .map_err(|error| ReadTokenError::Token { source_name, error })
}

fn read_text(reader: impl Read) -> io::Result<Zeroizing<String>> {
    // One byte more than a token with a line end, so that what is longer is seen to be longer.
    let limit = TOKEN_BYTES + 3;
    let mut text = Zeroizing::new(String::with_capacity(limit));
    reader.take(limit as u64).read_to_string(&mut text)?;
    Ok(text)
}

fn check_url(url: &str) -> Result<(), TokenError> {
    if is_host_and_port(url) {
        Ok(())
    } else {
        Err(TokenError::Url { url: shown(url) })
    }
}

fn is_host_and_port(url: &str) -> bool {
    let Some((host, port)) = url.rsplit_once(':') else {
        return false;
    };
    let port_fits =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let host_fits = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.contains(':') && ServerName::try_from(host).is_ok(),
    };
    port_fits && host_fits
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
