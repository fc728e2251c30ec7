//! Join tokens: out, in, and what is none.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use outpost_certs::token::{
    JoinToken, ReadTokenError, TOKEN_BYTES, TokenError, read_token, secret_hash,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

fn token(url: &str) -> Result<JoinToken, TokenError> {
    JoinToken::new(
        url,
        "acme".parse().unwrap(),
        "north".parse().unwrap(),
        "test.example",
        [0xab; 32],
    )
}

fn encode(form: &Value) -> String {
    format!("opj1.{}", URL_SAFE_NO_PAD.encode(form.to_string()))
}

fn honest() -> Value {
    json!({
        "url": "outpost.example.org:7443", "tenant": "acme", "agent": "north", "trust_domain": "test.example",
        "pin": "ab".repeat(32), "secret": URL_SAFE_NO_PAD.encode([7; 32]),
    })
}

#[test]
fn a_token_comes_back_as_it_went_out() {
    let original = token("[::1]:7443").unwrap();
    let text = original.expose();
    let back: JoinToken = text.parse().unwrap();
    assert_eq!(back.url(), "[::1]:7443");
    assert_eq!(
        (back.tenant().as_str(), back.agent().as_str()),
        ("acme", "north")
    );
    assert_eq!(
        (back.trust_domain(), back.pin()),
        ("test.example", &[0xab; 32])
    );
    assert_eq!(back.secret(), original.secret());
    assert_eq!(
        back.secret_hash(),
        <[u8; 32]>::from(Sha256::digest(original.secret()))
    );
    assert_eq!(secret_hash(back.secret()), back.secret_hash());
    assert_ne!(
        token("a:1").unwrap().secret(),
        token("a:1").unwrap().secret()
    );
    assert!(text.len() < 512, "{} bytes", text.len());
}

#[test]
fn the_form_is_fixed() {
    let read: JoinToken = encode(&honest()).parse().unwrap();
    assert_eq!(read.secret(), &[7; 32]);
    let form = read.expose();
    let json = URL_SAFE_NO_PAD
        .decode(form.strip_prefix("opj1.").unwrap())
        .unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), honest());
}

#[test]
fn the_longest_token_fits() {
    let url = format!("{0}.{0}.{0}.{1}:65535", "h".repeat(63), "h".repeat(61));
    let name = "n".repeat(63);
    let domain = "d".repeat(255);
    let long = JoinToken::new(
        &url,
        name.parse().unwrap(),
        name.parse().unwrap(),
        &domain,
        [0; 32],
    )
    .unwrap();
    assert!(long.expose().len() <= TOKEN_BYTES);
    long.expose().parse::<JoinToken>().unwrap();
}

#[test]
fn debug_does_not_show_the_secret() {
    let read: JoinToken = encode(&honest()).parse().unwrap();
    let shown = format!("{read:?}");
    assert!(shown.contains("acme") && shown.contains("(hidden)"));
    assert!(
        !shown.contains(&URL_SAFE_NO_PAD.encode([7; 32]))
            && !shown.contains("7, 7")
            && !shown.contains("0707")
    );
}

#[test]
fn what_is_no_address_is_refused() {
    for url in [
        "",
        ":",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:+1",
        "a:-1",
        "a:1x",
        "https://a:1",
        "a:1/",
        "a b:1",
        "::1:1",
        "[::1]",
        "[::1:1",
        "[a]:1",
        "a\n:1",
        "é:1",
    ] {
        assert!(matches!(token(url), Err(TokenError::Url { .. })), "{url:?}");
        let mut form = honest();
        form["url"] = url.into();
        assert!(
            matches!(
                encode(&form).parse::<JoinToken>(),
                Err(TokenError::Url { .. })
            ),
            "{url:?}"
        );
    }
    for url in [
        "a:1",
        "127.0.0.1:7443",
        "[::1]:65535",
        "outpost.example.org:443",
    ] {
        token(url).unwrap();
    }
}

#[test]
fn malformed_tokens_are_refused() {
    let good = encode(&honest());
    let body = good.strip_prefix("opj1.").unwrap().to_owned();
    for text in [
        "",
        "opj",
        "opj2.abc",
        "OPJ1.abc",
        &body,
        &format!(" {good}"),
    ] {
        assert!(
            matches!(text.parse::<JoinToken>(), Err(TokenError::Prefix)),
            "{text:?}"
        );
    }
    for text in [
        "opj1.",
        "opj1.é",
        &format!("{good}="),
        &format!("{good}\n"),
        &good[..good.len() - 4],
    ] {
        assert!(
            matches!(text.parse::<JoinToken>(), Err(TokenError::Damaged(_))),
            "{text:?}"
        );
    }
    let long = format!("opj1.{}", "A".repeat(TOKEN_BYTES));
    assert!(matches!(
        long.parse::<JoinToken>(),
        Err(TokenError::TooLong)
    ));
    let changes: [(&str, Value); 14] = [
        ("tenant", "Acme".into()),
        ("tenant", Value::Null),
        ("agent", "../north".into()),
        ("agent", 7.into()),
        ("pin", "ab".repeat(31).into()),
        ("pin", "AB".repeat(32).into()),
        ("pin", "zz".repeat(32).into()),
        ("secret", URL_SAFE_NO_PAD.encode([7; 31]).into()),
        ("secret", URL_SAFE_NO_PAD.encode([7; 33]).into()),
        ("secret", STANDARD.encode([0xff; 32]).into()),
        ("secret", "".into()),
        ("trust_domain", 1.into()),
        ("url", Value::Null),
        ("extra", 1.into()),
    ];
    for (key, value) in changes {
        let mut form = honest();
        form[key] = value;
        assert!(
            matches!(
                encode(&form).parse::<JoinToken>(),
                Err(TokenError::Damaged(_))
            ),
            "{form}"
        );
    }
    let mut form = honest();
    form["trust_domain"] = "Test".into();
    assert!(matches!(
        encode(&form).parse::<JoinToken>(),
        Err(TokenError::TrustDomain(_))
    ));
    for key in ["url", "tenant", "agent", "trust_domain", "pin", "secret"] {
        let mut form = honest();
        form.as_object_mut().unwrap().remove(key);
        assert!(encode(&form).parse::<JoinToken>().is_err(), "without {key}");
    }
}

#[test]
fn no_error_repeats_the_secret() {
    let secret = URL_SAFE_NO_PAD.encode([7; 33]);
    let mut form = honest();
    form["secret"] = secret.clone().into();
    let error = encode(&form).parse::<JoinToken>().unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&secret[..8]));
}

#[test]
fn a_token_is_read_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, format!("{}\n", encode(&honest()))).unwrap();
    assert_eq!(
        read_token(path.as_os_str()).unwrap().agent().as_str(),
        "north"
    );
    std::fs::write(&path, "opj1.").unwrap();
    assert!(matches!(
        read_token(path.as_os_str()),
        Err(ReadTokenError::Token { .. })
    ));
    std::fs::write(&path, [b'a'; 10_000]).unwrap();
    let error = read_token(path.as_os_str()).unwrap_err();
    assert!(
        matches!(
            error,
            ReadTokenError::Token {
                error: TokenError::TooLong,
                ..
            }
        ),
        "{error}"
    );
    let missing = dir.path().join("missing");
    let error = read_token(missing.as_os_str()).unwrap_err();
    assert!(
        matches!(&error, ReadTokenError::Io { .. }) && error.to_string().contains("missing"),
        "{error}"
    );
}
