//! Which server, and who asks, in a form that can be used; a token never comes from the command line itself.

use std::net::IpAddr;
use std::path::Path;

use reqwest::{Certificate, Url};

use crate::args::ConnectionArgs;
use crate::context;
use crate::context::resolve::{Effective, Source, TokenAt};
use crate::failure::{Failure, innermost};

/// A token and where it is good.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Without a path.
    pub(crate) server: Url,
    /// `opt_…`
    pub(crate) token: String,
    /// Root certificates, to be trusted instead of the system's.
    pub(crate) ca: Option<Vec<Certificate>>,
}

impl Connection {
    /// From what was given, the environment and the contexts.
    pub(crate) fn from_args(args: &ConnectionArgs) -> Result<Self, Failure> {
        let effective = context::effective(args)?;
        let server = named_server(&effective)?;
        let token = token(&effective, &server)?;
        let ca = match &effective.ca {
            Some(path) => Some(roots(&path.value)?),
            None => None,
        };
        Ok(Self { server, token, ca })
    }
}

/// The URL, with who named it when it is refused.
fn named_server(effective: &Effective) -> Result<Url, Failure> {
    let said = &effective.server;
    server(&said.value).map_err(|failure| match &said.source {
        Source::Option(_) => failure,
        Source::Variable(_) | Source::Context(_) | Source::Current | Source::Default => {
            Failure::Usage(format!("{failure} (said by {})", said.source))
        }
    })
}

/// The URL, if a token may be sent there.
pub(crate) fn server(text: &str) -> Result<Url, Failure> {
    let usage = |why: &str| Failure::Usage(format!("server {text}: {why}"));
    let url = Url::parse(text)
        .map_err(|error| usage(&format!("{error}; write it as http://127.0.0.1:7080")))?;
    let Some(host) = url.host_str() else {
        return Err(usage(
            "there is no host in it; write it as http://127.0.0.1:7080",
        ));
    };
    let host = host.trim_matches(['[', ']']);
    let loopback = host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err(usage(
                "plain http would show the token to the network; use https",
            ));
        }
        _ => return Err(usage("only http and https are spoken")),
    }
    if url.path() != "/" || url.query().is_some() || !url.username().is_empty() {
        return Err(usage("only scheme, host and port belong there"));
    }
    Ok(url)
}

/// Root certificates in a file.
pub(crate) fn roots(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let pem = std::fs::read(path).map_err(Failure::file(path))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        Ok(_) => Err(Failure::Usage(format!(
            "{} holds no certificate in PEM",
            path.display()
        ))),
        Err(error) => Err(Failure::Usage(format!(
            "{} holds no certificate: {}",
            path.display(),
            innermost(&error)
        ))),
    }
}

/// The token in a file.
pub(crate) fn token_in(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(Failure::file(path))?;
    token_from(&text, &path.display().to_string())
}

/// The token in a text that came from somewhere.
pub(crate) fn token_from(text: &str, whence: &str) -> Result<String, Failure> {
    let token = text.trim();
    if !token.starts_with("opt_") || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Failure::Usage(format!(
            "{whence} holds no API token: one begins with `opt_`"
        )));
    }
    Ok(token.to_owned())
}

fn token(effective: &Effective, server: &Url) -> Result<String, Failure> {
    match &effective.token {
        Some(said) => match &said.value {
            TokenAt::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| Failure::TokenFile {
                    path: path.clone(),
                    error,
                    said: said.source.to_string(),
                })?;
                token_from(&text, &path.display().to_string())
            }
            TokenAt::Given(text) => token_from(text, &said.source.to_string()),
        },
        None => Err(Failure::NoToken {
            server: server.as_str().trim_end_matches('/').to_owned(),
            withheld: effective.token_withheld.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_in_plain_on_loopback_only() {
        for good in [
            "http://127.0.0.1:7080",
            "http://localhost:1",
            "http://[::1]:7080/",
            "https://example.org",
        ] {
            assert!(server(good).is_ok(), "{good}");
        }
        for bad in [
            "http://example.org",
            "ftp://127.0.0.1",
            "127.0.0.1:7080",
            "http://127.0.0.1/api",
            "http://a@127.0.0.1",
        ] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
