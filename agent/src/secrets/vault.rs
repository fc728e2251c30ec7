//! Fetching a field from a Vault server's KV version 2 store, over at most three requests: log in with an AppRole where
//! there is one, read, and give the login's token back. HTTP/1.1 over TLS with the site's own CA; over a plain connection
//! to a loopback address only. Redirects are not followed, nothing is cached and nothing renewed: a token is used at once.
//!
//! Answers are read into memory that is wiped as far as this code holds it; the buffers of the HTTP and TLS libraries
//! are let go of unwiped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::file::{RawAppRole, RawVault};
use super::{Value, read};

/// Bytes of an answer: a secret's other fields come along.
const ANSWER_BYTES: usize = 1 << 20;
/// What a segment of a path can have as it is; everything else is escaped.
const PLAIN: &[u8] = b"-._~";

/// Whether it can be asked at all.
pub(super) fn check(vault: &RawVault) -> Result<(), String> {
    let server = Server::of(vault)?;
    if server.tls && vault.ca_file.is_none() {
        return Err(
            "with https it needs `ca_file`: who may have issued the server's certificate"
                .to_owned(),
        );
    }
    if vault.token_file.is_some() == vault.approle.is_some() {
        return Err("it needs either `token_file` or `approle`".to_owned());
    }
    let files = [vault.ca_file.as_ref(), vault.token_file.as_ref()];
    let role = vault.approle.iter();
    let role = role.flat_map(|role| [&role.role_id_file, &role.secret_id_file]);
    for path in files.into_iter().flatten().chain(role) {
        if !path.starts_with('/') {
            return Err(format!("`{path}` must be an absolute path"));
        }
    }
    let login = vault.approle.iter().map(|role| &role.mount);
    for path in [&vault.path, &vault.mount].into_iter().chain(login) {
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!(
                "`{path}` is no path on a server: write it as `team/name`"
            ));
        }
    }
    Ok(())
}

/// The field's value.
pub(super) async fn fetch(vault: &RawVault) -> Result<Value, String> {
    let server = Server::of(vault)?;
    let namespace = vault.namespace.as_deref();
    let path = format!(
        "/v1/{}/data/{}",
        escaped(&vault.mount),
        escaped(&vault.path)
    );
    match (&vault.token_file, &vault.approle) {
        (Some(file), _) => {
            let token = short(file).await?;
            let mut connection = Connection::open(&server, namespace).await?;
            connection.read(&path, &token, &vault.field).await
        }
        (None, Some(role)) => {
            let mut connection = Connection::open(&server, namespace).await?;
            let token = connection.log_in(role).await?;
            let value = connection.read(&path, &token, &vault.field).await;
            // It ends by itself; that it ends now is a courtesy to the server.
            let given_back = connection
                .ask(
                    Method::POST,
                    "/v1/auth/token/revoke-self",
                    Some(&token),
                    None,
                )
                .await;
            if let Err(why) = given_back {
                tracing::debug!("the token of a login at Vault was not given back: {why}");
            }
            value
        }
        (None, None) => Err("it has no identity".to_owned()),
    }
}

/// Where the server is.
struct Server {
    tls: bool,
    host: String,
    port: u16,
    authority: HeaderValue,
    ca_file: Option<String>,
}

impl Server {
    fn of(vault: &RawVault) -> Result<Self, String> {
        let address = &vault.address;
        let wrong =
            || format!("`{address}` is no address: write https://HOST or https://HOST:PORT");
        let uri = address.parse::<Uri>().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
            || authority.as_str().contains('@')
        {
            return Err(wrong());
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_loopback(host) => false,
            Some("http") => {
                return Err(format!(
                    "`{address}` would carry secrets over the network in the clear: use https, or http to a loopback \
                     address"
                ));
            }
            _ => return Err(wrong()),
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?,
            ca_file: vault.ca_file.clone(),
        })
    }
}

fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

fn escaped(path: &str) -> String {
    let one = |byte: u8| {
        if byte.is_ascii_alphanumeric() || byte == b'/' || PLAIN.contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    path.bytes().map(one).collect()
}

/// What a small file holds, without its line's end.
async fn short(path: &str) -> Result<Zeroizing<String>, String> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read::file(Path::new(&file)));
    let value = read.await.map_err(|error| error.to_string())?;
    let value = value
        .map_err(|why| format!("{path}: {why}"))?
        .without_newline();
    let text = std::str::from_utf8(value.bytes()).ok();
    let text = text.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()));
    let text = text.ok_or_else(|| format!("{path}: it holds no token or id"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// One connection; dropping it ends it.
struct Connection<'a> {
    send: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    server: &'a Server,
    namespace: Option<&'a str>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A text of an answer, wiped in the end.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text(#[serde(with = "text")] Zeroizing<String>);

mod text {
    use serde::{Deserialize as _, Deserializer};
    use zeroize::Zeroizing;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(from).map(Zeroizing::new)
    }
}

/// What an answer holds of interest. Fields of a secret that are no texts are left out.
#[derive(Deserialize)]
struct Login {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Text,
}

#[derive(Deserialize)]
struct Read {
    data: Versioned,
}

#[derive(Deserialize)]
struct Versioned {
    data: Option<BTreeMap<String, Field>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Field {
    Text(Text),
    Other(serde::de::IgnoredAny),
}

impl<'a> Connection<'a> {
    async fn open(server: &'a Server, namespace: Option<&'a str>) -> Result<Self, String> {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
        let stream = stream.map_err(|error| format!("it cannot be reached: {error}"))?;
        if !server.tls {
            return Self::over(stream, server, namespace).await;
        }
        let config = Arc::new(tls(server.ca_file.as_deref()).await?);
        let name = ServerName::try_from(server.host.clone());
        let name = name.map_err(|_| format!("`{}` is no server's name", server.host))?;
        let connected = tokio_rustls::TlsConnector::from(config)
            .connect(name, stream)
            .await;
        let stream = connected.map_err(|error| format!("TLS with it fails: {error}"))?;
        Self::over(stream, server, namespace).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        server: &'a Server,
        namespace: Option<&'a str>,
    ) -> Result<Self, String> {
        let made = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (send, connection) = made.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(async move {
            // Whoever asked sees why it ended.
            drop(connection.await);
        });
        Ok(Self {
            send,
            server,
            namespace,
            driver,
        })
    }

    async fn log_in(&mut self, role: &RawAppRole) -> Result<Zeroizing<String>, String> {
        let role_id = short(&role.role_id_file).await?;
        let secret_id = short(&role.secret_id_file).await?;
        // Both are graphic ASCII, of which only these two have another form in JSON.
        let quoted = |text: &str| Zeroizing::new(text.replace('\\', "\\\\").replace('"', "\\\""));
        let body = format!(
            "{{\"role_id\":\"{}\",\"secret_id\":\"{}\"}}",
            *quoted(&role_id),
            *quoted(&secret_id)
        );
        let path = format!("/v1/auth/{}/login", escaped(&role.mount));
        let (status, answer) = self
            .ask(Method::POST, &path, None, Some(Zeroizing::new(body)))
            .await?;
        if status == StatusCode::BAD_REQUEST {
            return Err(
                "it does not know the role's id, or the secret id has ended or was used up"
                    .to_owned(),
            );
        }
        said(status, "the login")?;
        let login = serde_json::from_slice::<Login>(&answer);
        let login = login.map_err(|_| "its answer to the login is not understood".to_owned())?;
        Ok(login.auth.client_token.0)
    }

    async fn read(&mut self, path: &str, token: &str, field: &str) -> Result<Value, String> {
        let (status, answer) = self.ask(Method::GET, path, Some(token), None).await?;
        said(status, "the secret")?;
        // The parser's own message might quote what it read.
        let read = serde_json::from_slice::<Read>(&answer);
        let read = read.map_err(|_| {
            "its answer is not that of a KV version 2 store: look at `mount` and its version"
                .to_owned()
        })?;
        let fields = read
            .data
            .data
            .ok_or("the secret's newest version is deleted")?;
        match fields.get(field) {
            // How long it may be is everybody's rule, and judged there.
            Some(Field::Text(text)) => Ok(Value::new(text.0.as_bytes().to_vec())),
            Some(Field::Other(_)) => Err(format!("its field `{field}` is no text")),
            None => Err(format!("it has no field `{field}`")),
        }
    }

    /// One request. The answer's text is for the parser only: nothing of it is told.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Zeroizing<String>>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let failed = |error: hyper::Error| format!("the connection with it ended: {error}");
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.as_bytes().to_vec()));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.server.authority)
            .header(CONTENT_TYPE, "application/json")
            .header("X-Vault-Request", "true");
        if let Some(token) = token {
            request = request.header("X-Vault-Token", unshown(token)?);
        }
        if let Some(namespace) = self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|_| "it cannot be asked so: look at `path` and `namespace`".to_owned())?;
        self.send.ready().await.map_err(failed)?;
        let answer = self.send.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES)
            .collect()
            .await;
        let body = body.map_err(|_| "its answer is too long, or was cut short".to_owned())?;
        Ok((status, Zeroizing::new(body.to_bytes().to_vec())))
    }
}

/// A token as a header that nobody who prints a request shows.
fn unshown(token: &str) -> Result<HeaderValue, String> {
    let mut token = HeaderValue::from_str(token).map_err(|_| "its token is no token".to_owned())?;
    token.set_sensitive(true);
    Ok(token)
}

/// What a status means, for a person.
fn said(status: StatusCode, what: &str) -> Result<(), String> {
    match status.as_u16() {
        200..=299 => Ok(()),
        400 => Err(format!(
            "it refuses {what} as malformed (400): look at `path` and `namespace`"
        )),
        403 => Err(format!(
            "it refuses {what} (403): the token has ended, or its policy does not allow this path"
        )),
        404 => Err(format!(
            "{what} is not there (404): look at `mount`, `path` and its newest version"
        )),
        429 | 472 | 473 => Err(format!(
            "it stands by ({}): name the active server",
            status.as_u16()
        )),
        503 => Err("it is sealed or under maintenance (503)".to_owned()),
        300..=399 => Err(format!(
            "it points to another server ({}), which is not followed: name that one",
            status.as_u16()
        )),
        other => Err(format!("it answers {other}")),
    }
}

/// TLS 1.2 or 1.3 with whoever the site's CA file names.
async fn tls(ca_file: Option<&str>) -> Result<rustls::ClientConfig, String> {
    let path = ca_file.ok_or("it has no `ca_file`")?.to_owned();
    let shown = path.clone();
    let read = tokio::task::spawn_blocking(move || read::file(Path::new(&path))).await;
    let pem = read.map_err(|error| error.to_string())?;
    let pem = pem.map_err(|why| format!("{shown}: {why}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.bytes()) {
        let certificate = certificate.map_err(|error| format!("{shown}: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("{shown}: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{shown}: it holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
