//! The text of a token as it stands in a header.

use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use super::AuthError;

const PREFIX: &str = "opt_";
const ID: usize = 12;
const SECRET: usize = 43;

/// A token that has the right form; whether it is one, the database knows. Never shown.
pub(super) struct Bearer<'a> {
    /// Public part.
    pub(super) id: &'a str,
    /// SHA-256 of the secret part, in hex.
    pub(super) hash: String,
}

/// Takes the token out of an `Authorization` header.
pub(super) fn parse(header: Option<&HeaderValue>) -> Result<Bearer<'_>, AuthError> {
    let text = header
        .ok_or(AuthError::Missing)?
        .to_str()
        .map_err(|_| AuthError::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::Malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::Malformed);
    }
    let (id, secret) = token
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('_'))
        .ok_or(AuthError::Malformed)?;
    let id_fits = id.len() == ID
        && id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !id_fits || secret.len() != SECRET || !secret.bytes().all(in_alphabet) {
        return Err(AuthError::Malformed);
    }
    let hash = hex(&Sha256::digest(secret.as_bytes()));
    Ok(Bearer { id, hash })
}

/// Every request comes through here: one allocation.
fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// Whether two texts are the same, in a time that depends on their length only.
pub(super) fn same(a: &str, b: &str) -> bool {
    let difference = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_form_is_a_token() {
        let secret = "A".repeat(43);
        for text in [
            String::new(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("opt_0123456789ab_{secret}"),
            format!("Basic opt_0123456789ab_{secret}"),
            format!("Bearer  opt_0123456789ab_{secret}"),
            format!("Bearer opt_0123456789AB_{secret}"),
            format!("Bearer opt_0123456789a_{secret}"),
            format!("Bearer opt_0123456789ab_{secret}A"),
            format!("Bearer opt_0123456789ab_{}=", &secret[1..]),
            format!("Bearer opt_0123456789ab_{secret} "),
            format!("Bearer opj1.{secret}"),
        ] {
            let header = HeaderValue::from_str(&text).unwrap();
            assert!(
                matches!(parse(Some(&header)), Err(AuthError::Malformed)),
                "{text:?}"
            );
        }
        assert!(matches!(parse(None), Err(AuthError::Missing)));
        let header = HeaderValue::from_str(&format!("bearer opt_0123456789ab_{secret}")).unwrap();
        let bearer = parse(Some(&header)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(bearer.id, "0123456789ab");
        assert_eq!(bearer.hash, crate::admin::token::hash(&secret));
    }

    #[test]
    fn texts_are_compared_whole() {
        assert!(same("", "") && same("ab", "ab"));
        assert!(!same("ab", "abc") && !same("ab", "ac") && !same("abc", "ab"));
    }
}
