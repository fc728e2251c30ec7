//! HTTP CONNECT: one request, one answer, then the connection is a tunnel. Plain TCP to the proxy, Basic credentials.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::dial::{DialError, DialOutcome};

/// Far above an honest proxy's answer.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// A proxy as its URL names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl Proxy {
    /// Reads `http://[USER:PASSWORD@]HOST:PORT`; user and password may be percent-encoded. Errors never repeat the URL,
    /// which may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, DialError> {
        let bad = |what: &str| {
            DialError::new(
                DialOutcome::Other,
                format!("the proxy's URL is not usable: {what}"),
            )
        };
        let uri: Uri = url.parse().map_err(|_| bad("it does not parse"))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("only http:// proxies are supported"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        let port = authority
            .port_u16()
            .ok_or_else(|| bad("it names no port"))?;
        let authorization = match authority.as_str().rsplit_once('@') {
            Some((user, _)) => {
                let plain = percent_decoded(user)
                    .ok_or_else(|| bad("its credentials are wrongly encoded"))?;
                Some(format!("Basic {}", STANDARD.encode(plain)))
            }
            None => None,
        };
        Ok(Self {
            address: format!("{}:{port}", authority.host()),
            authorization,
        })
    }
}

/// Asks for a tunnel to `target` (`HOST:PORT`). The caller limits the time.
pub(crate) async fn ask(
    stream: &mut TcpStream,
    proxy: &Proxy,
    target: &str,
) -> Result<(), DialError> {
    let lost = |error: std::io::Error| {
        DialError::new(DialOutcome::Other, format!("the proxy broke off: {error}"))
    };
    // The address was resolved or parsed nowhere yet: it must not smuggle header lines.
    if target.chars().any(|c| c.is_control() || c == ' ') {
        return Err(DialError::new(
            DialOutcome::Other,
            "the address has blanks or control characters",
        ));
    }
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(lost)?;
    let answer = read_head(stream).await?;
    let line = answer.lines().next().unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    let (version, status) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let refused = |text: String| Err(DialError::new(DialOutcome::ProxyRefused, text));
    match status {
        _ if !version.starts_with("HTTP/1.") => refused("the proxy does not speak HTTP".into()),
        "407" if proxy.authorization.is_some() => {
            refused("the proxy does not accept these credentials (407)".into())
        }
        "407" => {
            refused("the proxy wants credentials (407): put USER:PASSWORD@ into its URL".into())
        }
        _ if status.len() == 3 && status.starts_with('2') => Ok(()),
        _ => refused(format!("the proxy refuses to connect to {target}: {line}")),
    }
}

/// Reads to the empty line. The server behind the tunnel speaks only when spoken to, so nothing may follow.
async fn read_head(stream: &mut TcpStream) -> Result<String, DialError> {
    let refused = |text: &str| DialError::new(DialOutcome::ProxyRefused, text);
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let count = stream.read(&mut chunk).await;
        let count = count.map_err(|error| {
            DialError::new(DialOutcome::Other, format!("the proxy broke off: {error}"))
        })?;
        if count == 0 {
            return Err(refused("the proxy closed the connection"));
        }
        head.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if head.len() > MAX_ANSWER_BYTES {
            return Err(refused("the proxy's answer is too long"));
        }
    }
    if !head.ends_with(b"\r\n\r\n") {
        return Err(refused("the proxy sent more than its answer"));
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let (digits, after) = tail.split_at_checked(2)?;
            plain.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_address_and_credentials() {
        let proxy = Proxy::parse("http://us%40er:pa%3Ass@proxy.example:3128").unwrap();
        assert_eq!(proxy.address, "proxy.example:3128");
        assert_eq!(
            proxy.authorization.unwrap(),
            format!("Basic {}", STANDARD.encode("us@er:pa:ss"))
        );
        let plain = Proxy::parse("http://[::1]:8080/").unwrap();
        assert_eq!(
            plain,
            Proxy {
                address: "[::1]:8080".into(),
                authorization: None
            }
        );
    }

    #[test]
    fn bad_urls_are_refused_without_repeating_the_password() {
        for url in [
            "",
            "proxy:3128",
            "https://u:secret@p:1",
            "http://u:secret@p",
            "http://u:secr%zz@p:1",
        ] {
            let error = Proxy::parse(url).unwrap_err();
            assert_eq!(error.outcome, DialOutcome::Other, "{url}");
            assert!(!error.text.contains("secr"), "{url}: {}", error.text);
        }
    }
}
