//! What handlers give, with its status and headers; each kind of answer describes itself for the document.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::doc::{AnswerDoc, Gives, Operation, schema_of};
use super::preconditions::IfNoneMatch;

const JSON: &str = "application/json";
const TAG: (&str, &str) = (
    "ETag",
    "Which state of it this is: the version, and with a look at it a digest of what is shown. Good for If-Match and If-None-Match.",
);

/// 200 with a JSON body.
pub(super) struct Found<T>(pub(super) T);

/// 201 with a JSON body.
pub(super) struct Created<T>(pub(super) T);

/// 201 when this call made it, 200 when it was there.
pub(super) struct Made<T> {
    pub(super) created: bool,
    pub(super) answer: T,
}

/// 201 or 200, with the version as a tag.
pub(super) struct Version<T> {
    pub(super) created: bool,
    /// 0 makes no tag.
    pub(super) version: u32,
    pub(super) answer: T,
}

/// 204: done, and there is nothing to say.
pub(super) struct Done;

/// 200 with a tag, or 304 when the caller has the same already.
pub(super) struct Tagged<T> {
    /// Begins the tag, when there is one.
    pub(super) version: Option<u32>,
    pub(super) answer: T,
    pub(super) known: IfNoneMatch,
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    bytes(status, serde_json::to_vec(body))
}

fn bytes(status: StatusCode, body: serde_json::Result<Vec<u8>>) -> Response {
    match body {
        Ok(body) => (
            status,
            [(CONTENT_TYPE, HeaderValue::from_static(JSON))],
            body,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            super::problem::ApiError::Internal.into_response()
        }
    }
}

fn status(created: bool) -> StatusCode {
    if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    }
}

impl<T: Serialize> IntoResponse for Found<T> {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self.0)
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        json(StatusCode::CREATED, &self.0)
    }
}

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        json(status(self.created), &self.answer)
    }
}

impl<T: Serialize> IntoResponse for Version<T> {
    fn into_response(self) -> Response {
        let mut response = json(status(self.created), &self.answer);
        if self.version > 0 {
            tag(&mut response, &format!("\"{}\"", self.version));
        }
        response
    }
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.answer);
        let mut digest = [0; 8];
        if let Ok(body) = &body {
            digest.copy_from_slice(&Sha256::digest(body)[..8]);
        }
        let digest = u64::from_be_bytes(digest);
        let text = match self.version {
            Some(version) => format!("\"{version}-{digest:016x}\""),
            None => format!("\"{digest:016x}\""),
        };
        let mut response = if self.known.names(&text) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            bytes(StatusCode::OK, body)
        };
        tag(&mut response, &text);
        response
    }
}

fn tag(response: &mut Response, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(ETAG, value);
    }
}

fn says<T: JsonSchema>(
    operation: &mut Operation,
    status: u16,
    description: &'static str,
    headers: &'static [(&'static str, &'static str)],
) {
    let body = Some((JSON, schema_of::<T> as _));
    operation.answers.insert(
        status,
        AnswerDoc {
            description,
            body,
            headers,
        },
    );
}

fn says_nothing(
    operation: &mut Operation,
    status: u16,
    description: &'static str,
    headers: &'static [(&'static str, &'static str)],
) {
    operation.answers.insert(
        status,
        AnswerDoc {
            description,
            body: None,
            headers,
        },
    );
}

impl<T: JsonSchema> Gives for Found<T> {
    fn gives(operation: &mut Operation) {
        says::<T>(operation, 200, "What was asked for.", &[]);
    }
}

impl<T: JsonSchema> Gives for Created<T> {
    fn gives(operation: &mut Operation) {
        says::<T>(operation, 201, "It was made.", &[]);
    }
}

impl<T: JsonSchema> Gives for Made<T> {
    fn gives(operation: &mut Operation) {
        says::<T>(operation, 201, "It was made.", &[]);
        says::<T>(
            operation,
            200,
            "An earlier request with the same key made it.",
            &[],
        );
    }
}

impl<T: JsonSchema> Gives for Version<T> {
    fn gives(operation: &mut Operation) {
        says::<T>(operation, 201, "It was made.", &[TAG]);
        says::<T>(
            operation,
            200,
            "It was there, and is as asked for now.",
            &[TAG],
        );
    }
}

impl Gives for Done {
    fn gives(operation: &mut Operation) {
        says_nothing(operation, 204, "It is done.", &[]);
    }
}

impl<T: JsonSchema> Gives for Tagged<T> {
    fn gives(operation: &mut Operation) {
        says::<T>(operation, 200, "What was asked for.", &[TAG]);
        says_nothing(
            operation,
            304,
            "It is what the header If-None-Match names.",
            &[TAG],
        );
    }
}
