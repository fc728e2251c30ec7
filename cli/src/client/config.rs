//! Which server, and who asks: from the command line and the environment; a token never from the command line.

use std::net::IpAddr;
use std::path::Path;

use reqwest::Url;

use crate::args::ConnectionArgs;
use crate::failure::Failure;

/// A token and where it is good.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Without a path.
    pub(crate) server: Url,
    /// `opt_…`
    pub(crate) token: String,
    /// Root certificates in PEM, to be trusted instead of the system's.
    pub(crate) ca: Option<Vec<u8>>,
}

impl Connection {
    /// From what was given.
    pub(crate) fn from_args(args: &ConnectionArgs) -> Result<Self, Failure> {
        let server = server(&args.server)?;
        let token = token(args.token_file.as_deref(), &server)?;
        let ca = match &args.ca {
            Some(path) => Some(std::fs::read(path).map_err(Failure::file(path))?),
            None => None,
        };
        Ok(Self { server, token, ca })
    }
}

/// The URL, if a token may be sent there.
fn server(text: &str) -> Result<Url, Failure> {
    let usage = |why: &str| Failure::Usage(format!("--server {text}: {why}"));
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

fn token(file: Option<&Path>, server: &Url) -> Result<String, Failure> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path).map_err(Failure::file(path))?,
        None => std::env::var("OUTPOST_TOKEN").unwrap_or_default(),
    };
    let token = text.trim();
    let whence = || {
        file.map_or("OUTPOST_TOKEN".to_owned(), |path| {
            path.display().to_string()
        })
    };
    if token.is_empty() && file.is_none() {
        return Err(Failure::NoToken(
            server.as_str().trim_end_matches('/').to_owned(),
        ));
    }
    if !token.starts_with("opt_") || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Failure::Usage(format!(
            "{} holds no API token: one begins with `opt_`",
            whence()
        )));
    }
    Ok(token.to_owned())
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
