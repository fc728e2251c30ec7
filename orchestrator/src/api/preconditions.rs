//! Headers that say what a request expects: which version it is about, and whether it was sent before.

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::header::{AsHeaderName, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use outpost_orchestrator_core::limits::KEY_LEN;

use super::code::Code;
use super::doc::{HeaderDoc, Operation, Takes, schema_of};
use super::problem::ApiError;
use super::schema;

const KEY: &str = "idempotency-key";
const LAST_EVENT: &str = "last-event-id";

/// The header's one value; `Err` when it stands there twice or is no text.
fn one(headers: &HeaderMap, name: impl AsHeaderName) -> Result<Option<&str>, ()> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text)),
        (Ok(_) | Err(_), _) => Err(()),
    }
}

/// `Idempotency-Key`: the same key makes the same thing once.
pub(super) struct Key(pub(super) Option<String>);

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let fits = |text: &&str| {
            (1..=KEY_LEN).contains(&text.len())
                && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        let wrong = || {
            ApiError::BadRequest(format!(
                "Idempotency-Key is given once and has 1 to {KEY_LEN} printable ASCII characters"
            ))
        };
        match one(&parts.headers, KEY).map_err(|()| wrong())? {
            None => Ok(Self(None)),
            Some(text) => Some(text)
                .filter(fits)
                .map(|text| Self(Some(text.to_owned())))
                .ok_or_else(wrong),
        }
    }
}

impl Takes for Key {
    fn takes(operation: &mut Operation) {
        operation.headers.push(HeaderDoc {
            name: "Idempotency-Key",
            description: "The same key within a day, with the same request, makes the same thing once.",
            schema: schema_of::<schema::IdempotencyKey>,
        });
        operation.codes.extend([Code::BadRequest, Code::KeyReused]);
    }
}

/// Which version a change expects: `If-Match` names it, `If-None-Match: *` wants none. 0 stands for none.
pub(super) struct Expected(pub(super) Option<u32>);

/// The same without `If-None-Match`: there is nothing to change in what does not exist.
pub(super) struct Match(pub(super) Option<u32>);

fn if_match(headers: &HeaderMap) -> Result<Option<u32>, ApiError> {
    let wrong = || {
        ApiError::BadRequest(
            "If-Match names one version as it was answered in ETag, such as \"3-0123456789abcdef\""
                .to_owned(),
        )
    };
    let Some(text) = one(headers, IF_MATCH).map_err(|()| wrong())? else {
        return Ok(None);
    };
    let bare = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .ok_or_else(wrong)?;
    // What a look was answered with has a digest of what was shown behind the version.
    let (number, digest) = bare.split_once('-').unwrap_or((bare, "0000000000000000"));
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let fits = number.bytes().all(|byte| byte.is_ascii_digit())
        && !number.starts_with('0')
        && digest.len() == 16
        && digest.bytes().all(hex);
    let number = number.parse().ok().filter(|_| fits);
    number.map(Some).ok_or_else(wrong)
}

impl<S: Sync> FromRequestParts<S> for Match {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        if_match(&parts.headers).map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for Expected {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let wrong = |text: &str| Err(ApiError::BadRequest(text.to_owned()));
        let none = match one(&parts.headers, IF_NONE_MATCH) {
            Ok(None) => false,
            Ok(Some("*")) => true,
            Ok(Some(_)) | Err(()) => {
                return wrong("If-None-Match can only be * here: it is applied if there is none");
            }
        };
        match (if_match(&parts.headers)?, none) {
            (Some(_), true) => Err(ApiError::Contradiction),
            (None, true) => Ok(Self(Some(0))),
            (version, false) => Ok(Self(version)),
        }
    }
}

impl Takes for Match {
    fn takes(operation: &mut Operation) {
        operation.headers.push(HeaderDoc {
            name: "If-Match",
            description: "Refuse the change if the current version is another than this ETag's.",
            schema: schema_of::<schema::IfMatch>,
        });
        operation
            .codes
            .extend([Code::BadRequest, Code::VersionMismatch]);
    }
}

impl Takes for Expected {
    fn takes(operation: &mut Operation) {
        Match::takes(operation);
        operation.headers.push(HeaderDoc {
            name: "If-None-Match",
            description: "`*`: refuse the change if there is one already. Together with If-Match nothing is good enough.",
            schema: schema_of::<schema::Star>,
        });
    }
}

/// `If-None-Match` of a look: what the caller has already.
#[derive(Debug, Default)]
pub(super) struct IfNoneMatch(Vec<String>);

impl IfNoneMatch {
    /// Whether the caller has what this tag is of.
    pub(super) fn names(&self, tag: &str) -> bool {
        self.0.iter().any(|given| given == "*" || given == tag)
    }
}

/// The tags of a list, each without the mark of a weak one: what is compared is what was shown, byte for byte.
fn tags(text: &str) -> Option<Vec<String>> {
    if text.trim() == "*" {
        return Some(vec!["*".to_owned()]);
    }
    let tag = |part: &str| {
        let part = part.trim();
        let bare = part.strip_prefix("W/").unwrap_or(part);
        let inside = bare.strip_prefix('"')?.strip_suffix('"')?;
        let fits = inside
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"');
        fits.then(|| bare.to_owned())
    };
    text.split(',').map(tag).collect()
}

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let wrong = || {
            ApiError::BadRequest(
                "If-None-Match is * or names what was answered in ETag, such as \"3-0123456789abcdef\"".to_owned(),
            )
        };
        let mut all = Vec::new();
        for value in parts.headers.get_all(IF_NONE_MATCH) {
            let text = value.to_str().map_err(|_| wrong())?;
            all.extend(tags(text).ok_or_else(wrong)?);
        }
        Ok(Self(all))
    }
}

impl Takes for IfNoneMatch {
    fn takes(operation: &mut Operation) {
        operation.headers.push(HeaderDoc {
            name: "If-None-Match",
            description: "The ETag of an earlier answer: 304 without a body if it is still the same.",
            schema: schema_of::<schema::IfNoneMatch>,
        });
        operation.codes.insert(Code::BadRequest);
    }
}

/// `Last-Event-ID`: the last event that was received.
pub(super) struct LastEvent(pub(super) Option<u64>);

impl<S: Sync> FromRequestParts<S> for LastEvent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let wrong =
            || ApiError::BadRequest("Last-Event-ID is not the number of an event".to_owned());
        let text = one(&parts.headers, LAST_EVENT).map_err(|()| wrong())?;
        let number = text.map(|text| text.parse().map_err(|_| wrong()));
        number.transpose().map(Self)
    }
}

impl Takes for LastEvent {
    fn takes(operation: &mut Operation) {
        operation.headers.push(HeaderDoc {
            name: "Last-Event-ID",
            description: "Go on after the event with this `id`; browsers send it by themselves.",
            schema: schema_of::<schema::EventId>,
        });
        operation.codes.extend([Code::BadRequest, Code::EventsGone]);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_version_is_named_with_or_without_a_digest() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            if_match(&HeaderMap::from_iter([(IF_MATCH, value)])).ok()
        };
        assert_eq!(read("\"3\""), Some(Some(3)));
        assert_eq!(read("\"12-0123456789abcdef\""), Some(Some(12)));
        for text in [
            "3",
            "\"0\"",
            "\"\"",
            "*",
            "\"3\", \"4\"",
            "W/\"3\"",
            "\"3-1\"",
            "\"+3\"",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_known_is_named_in_any_spelling() {
        let known = |text: &str| IfNoneMatch(tags(text).unwrap());
        for text in ["\"a\"", "W/\"a\"", "*", "\"b\", W/\"a\""] {
            assert!(known(text).names("\"a\""), "{text}");
        }
        assert!(!known("\"b\"").names("\"a\"") && !IfNoneMatch::default().names("\"a\""));
        for text in ["", "a", "{}", "\"a", "\"a\" \"b\""] {
            assert_eq!(tags(text), None, "{text}");
        }
    }
}
