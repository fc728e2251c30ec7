//! The client against a server that follows the published API of Vault's KV version 2 store and AppRole method, over
//! plain HTTP and over TLS. No real server is asked here.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use super::*;

/// One answer: status and body, for each request line that it is asked with.
type Script = Vec<(&'static str, u16, &'static str)>;

/// A server that answers each request as its script says, and notes what it was asked.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    dir: tempfile::TempDir,
}

const READ: &str = r#"{"request_id":"x","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":
    {"password":"s3\u0020cret","port":5432},"metadata":{"version":3,"destroyed":false}},"wrap_info":null}"#;
const LOGIN: &str = r#"{"auth":{"client_token":"hvs.login","accessor":"a","policies":["default"],"lease_duration":60,
    "renewable":true},"data":null}"#;
const DELETED: &str =
    r#"{"data":{"data":null,"metadata":{"deletion_time":"2026-01-01T00:00:00Z"}}}"#;

impl Server {
    fn start(script: Script, tls: bool) -> Self {
        let dir = crate::testing::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = tls.then(|| server_config(dir.path()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                match &config {
                    None => answer(stream, &script, &notes),
                    Some(config) => {
                        let connection = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                        answer(
                            rustls::StreamOwned::new(connection, stream),
                            &script,
                            &notes,
                        );
                    }
                }
            }
        });
        let scheme = if tls { "https" } else { "http" };
        let address = format!("{scheme}://127.0.0.1:{port}");
        Self {
            address,
            asked,
            dir,
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    fn vault(&self) -> RawVault {
        let ca_file = self.dir.path().join("ca.pem");
        RawVault {
            address: self.address.clone(),
            mount: "secret".to_owned(),
            path: "team a/db".to_owned(),
            field: "password".to_owned(),
            namespace: None,
            ca_file: ca_file.exists().then(|| ca_file.display().to_string()),
            token_file: Some(self.file("token", "hvs.token\n")),
            approle: None,
        }
    }

    fn role(&self, secret_id: &str) -> RawAppRole {
        RawAppRole {
            role_id_file: self.file("role", "role-1\n"),
            secret_id_file: self.file("secret", secret_id),
            mount: "approle".to_owned(),
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn server_config(dir: &Path) -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let ca = dir.join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    std::fs::set_permissions(&ca, std::fs::Permissions::from_mode(0o600)).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

/// All requests of one connection.
fn answer(
    stream: impl std::io::Read + std::io::Write,
    script: &Script,
    notes: &Mutex<Vec<String>>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match stream.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let lower = head.to_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).unwrap();
        let line = head
            .lines()
            .next()
            .unwrap()
            .trim_end_matches(" HTTP/1.1")
            .to_owned();
        let known = ["x-vault-token", "x-vault-namespace", "x-vault-request"];
        let headers = lower
            .lines()
            .filter(|line| known.iter().any(|name| line.starts_with(name)));
        let headers = headers.collect::<Vec<_>>().join(", ");
        let body = String::from_utf8(body).unwrap();
        notes
            .lock()
            .unwrap()
            .push(format!("{line} [{headers}] {body}"));
        let found = script.iter().find(|(asked, ..)| *asked == line);
        let (status, text) = found.map_or((404, r#"{"errors":[]}"#), |(_, status, text)| {
            (*status, text)
        });
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
        stream.get_mut().flush().unwrap();
    }
}

fn ask(vault: &RawVault) -> Result<Vec<u8>, String> {
    check(vault)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let value = runtime.block_on(fetch(vault))?;
    Ok(value.bytes().to_vec())
}

const PATH: &str = "GET /v1/secret/data/team%20a/db";

#[test]
fn a_token_reads_a_field_over_plain_loopback_and_over_tls() {
    for tls in [false, true] {
        let server = Server::start(vec![(PATH, 200, READ)], tls);
        let mut vault = server.vault();
        vault.namespace = Some("team".to_owned());
        assert_eq!(ask(&vault).unwrap(), b"s3 cret");
        assert_eq!(
            server.asked(),
            [format!(
                "{PATH} [x-vault-request: true, x-vault-token: hvs.token, x-vault-namespace: team] "
            )]
        );
    }
}

#[test]
fn an_approle_logs_in_reads_and_gives_its_token_back() {
    let login = "POST /v1/auth/approle/login";
    let revoke = "POST /v1/auth/token/revoke-self";
    let server = Server::start(
        vec![(login, 200, LOGIN), (PATH, 200, READ), (revoke, 204, "")],
        true,
    );
    let mut vault = server.vault();
    vault.token_file = None;
    vault.approle = Some(server.role("sec\"r\\et\n"));
    assert_eq!(ask(&vault).unwrap(), b"s3 cret");
    assert_eq!(
        server.asked(),
        [
            format!(
                "{login} [x-vault-request: true] {}",
                r#"{"role_id":"role-1","secret_id":"sec\"r\\et"}"#
            ),
            format!("{PATH} [x-vault-request: true, x-vault-token: hvs.login] "),
            format!("{revoke} [x-vault-request: true, x-vault-token: hvs.login] "),
        ]
    );
    let server = Server::start(
        vec![(login, 400, r#"{"errors":["invalid role or secret ID"]}"#)],
        false,
    );
    vault.address.clone_from(&server.address);
    assert!(
        ask(&vault)
            .unwrap_err()
            .contains("does not know the role's id")
    );
}

/// Whatever an answer holds that is none: a token in it is not used.
#[test]
fn a_login_that_is_refused_is_none_and_nothing_more_is_asked() {
    for (status, expected) in [
        (403, "the login (403)"),
        (307, "not followed"),
        (500, "500"),
    ] {
        let login = "POST /v1/auth/approle/login";
        let server = Server::start(vec![(login, status, LOGIN), (PATH, 200, READ)], false);
        let mut vault = server.vault();
        vault.token_file = None;
        vault.approle = Some(server.role("secret\n"));
        let why = ask(&vault).unwrap_err();
        assert!(why.contains(expected), "{status}: {why}");
        assert_eq!(server.asked().len(), 1, "{status}");
    }
}

#[test]
fn what_is_no_token_and_no_certificate_is_never_sent_or_trusted() {
    let server = Server::start(vec![(PATH, 200, READ)], true);
    for token in ["", "\n", "two words", "two\nlines", "a\tb", "\u{e4}", "a\0"] {
        let mut vault = server.vault();
        vault.token_file = Some(server.file("token", token));
        let why = ask(&vault).unwrap_err();
        assert!(why.contains("holds no token or id"), "{token:?}: {why}");
    }
    let mut vault = server.vault();
    vault.ca_file = Some(server.file("none.pem", "nothing of the kind\n"));
    let why = ask(&vault).unwrap_err();
    assert!(why.contains("holds no certificate"), "{why}");
    assert_eq!(server.asked(), [""; 0]);
}

/// What the site named is one place on the server, whatever letters it has.
#[test]
fn nothing_in_a_mount_or_a_path_is_anything_but_a_name() {
    let login = "POST /v1/auth/ap%3Fp/login";
    let path = "GET /v1/sec%23ret/data/a%3Fb%25c";
    let server = Server::start(vec![(login, 200, LOGIN), (path, 200, READ)], false);
    let mut vault = server.vault();
    vault.mount = "sec#ret".to_owned();
    vault.path = "a?b%c".to_owned();
    vault.token_file = None;
    vault.approle = Some(RawAppRole {
        mount: "ap?p".to_owned(),
        ..server.role("secret\n")
    });
    assert_eq!(ask(&vault).unwrap(), b"s3 cret");
}

#[test]
fn each_refusal_is_told_in_words_and_without_the_answer() {
    for (status, body, expected) in [
        (403, r#"{"errors":["canary"]}"#, "(403)"),
        (404, r#"{"errors":["canary"]}"#, "(404)"),
        (503, r#"{"errors":["Vault is sealed canary"]}"#, "sealed"),
        (429, "canary", "stands by"),
        (307, "canary", "not followed"),
        (500, "canary", "answers 500"),
        (200, "canary", "not that of a KV version 2 store"),
        (
            200,
            r#"{"data":{"password":"canary"}}"#,
            "newest version is deleted",
        ),
        (200, DELETED, "newest version is deleted"),
        (
            200,
            r#"{"data":{"data":{"other":"canary"}}}"#,
            "no field `password`",
        ),
        (200, r#"{"data":{"data":{"password":17}}}"#, "is no text"),
    ] {
        let server = Server::start(vec![(PATH, status, body)], false);
        let why = ask(&server.vault()).unwrap_err();
        assert!(why.contains(expected), "{status} {body}: {why}");
        assert!(!why.contains("canary"), "{why}");
    }
}

#[test]
fn a_server_of_another_ca_is_not_believed_and_nothing_is_asked_of_it() {
    let server = Server::start(vec![(PATH, 200, READ)], true);
    let other = Server::start(Vec::new(), true);
    let mut vault = server.vault();
    vault.ca_file = other.vault().ca_file;
    let why = ask(&vault).unwrap_err();
    assert!(why.contains("TLS with it fails"), "{why}");
    assert_eq!(server.asked(), [""; 0]);
}

#[test]
fn what_cannot_work_is_told_before_anybody_is_asked() {
    let server = Server::start(Vec::new(), false);
    let wrong = |change: &dyn Fn(&mut RawVault)| {
        let mut vault = server.vault();
        change(&mut vault);
        ask(&vault).unwrap_err()
    };
    fn by_role(vault: &mut RawVault) -> &mut RawAppRole {
        vault.token_file = None;
        vault.approle.insert(RawAppRole {
            role_id_file: "/etc/role".to_owned(),
            secret_id_file: "/etc/id".to_owned(),
            mount: "approle".to_owned(),
        })
    }
    for (expected, change) in [
        (
            "in the clear",
            &(|v: &mut RawVault| v.address = "http://vault.example".into())
                as &dyn Fn(&mut RawVault),
        ),
        ("needs `ca_file`", &|v| {
            v.address = "https://vault.example".into()
        }),
        ("no address", &|v| v.address = "vault.example:8200".into()),
        ("no address", &|v| {
            v.address = "https://a:b@vault.example".into()
        }),
        ("no address", &|v| {
            v.address = "https://vault.example/x".into()
        }),
        ("no address", &|v| {
            v.address = "https://vault.example?x".into()
        }),
        ("in the clear", &|v| {
            v.address = "http://127.0.0.1.example".into()
        }),
        ("in the clear", &|v| v.address = "http://localhost".into()),
        ("either `token_file` or `approle`", &|v| v.token_file = None),
        ("either `token_file` or `approle`", &|v| {
            v.approle = Some(server.role("secret"))
        }),
        ("absolute", &|v| v.token_file = Some("token".into())),
        ("absolute", &|v| v.ca_file = Some("ca.pem".into())),
        ("absolute", &|v| {
            let role = by_role(v);
            role.role_id_file = "role".into();
        }),
        ("absolute", &|v| {
            let role = by_role(v);
            role.secret_id_file = "id".into();
        }),
        ("no path on a server", &|v| v.path = "../sys".into()),
        ("no path on a server", &|v| v.path = "/x".into()),
        ("no path on a server", &|v| v.mount = "a/../sys".into()),
        ("no path on a server", &|v| v.mount = String::new()),
        ("no path on a server", &|v| by_role(v).mount = "../x".into()),
        ("token", &|v| v.token_file = Some("/no/such/token".into())),
    ] {
        let why = wrong(change);
        assert!(why.contains(expected), "{expected}: {why}");
    }
    assert_eq!(server.asked(), [""; 0]);
}

#[test]
fn an_answer_that_never_ends_is_not_read_to_its_end_and_a_token_is_not_shown() {
    let long: &'static str = Box::leak("x".repeat(2 * ANSWER_BYTES).into_boxed_str());
    let server = Server::start(vec![(PATH, 200, long)], false);
    let why = ask(&server.vault()).unwrap_err();
    assert!(why.contains("its answer is too long"), "{why}");
    let token = unshown("hvs.canary").unwrap();
    assert!(!format!("{token:?}").contains("canary"));
}
