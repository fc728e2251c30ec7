//! What handlers take: the caller, a thing named in the path, a query and a body, each with its limits, each refused
//! with a sentence, and each described for the document.

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use outpost_proto::name::WorkflowName;
use schemars::JsonSchema;
use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer};

use super::code::Code;
use super::doc::{BodyDoc, Operation, SchemaOf, Takes, schema_of};
use super::problem::ApiError;
use super::schema;
use crate::auth::Caller;
use crate::workflow;

/// Bytes of a JSON body.
pub(super) const JSON_BYTES: usize = 64 * 1024;

/// Who asks.
pub(super) struct By(pub(super) Caller);

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    /// Put there when the request was let in; a route without a role has none.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Caller>()
            .cloned()
            .map(Self)
            .ok_or(ApiError::Internal)
    }
}

/// What people call the thing that a path names.
pub(super) trait Kind {
    /// Such as `run`.
    const KIND: &'static str;
    /// The form of its names.
    const FORM: SchemaOf;
}

impl Kind for outpost_proto::ids::RunId {
    const KIND: &'static str = "run";
    const FORM: SchemaOf = schema_of::<schema::Id>;
}

impl Kind for outpost_proto::ids::AttemptId {
    const KIND: &'static str = "attempt";
    const FORM: SchemaOf = schema_of::<schema::Id>;
}

impl Kind for WorkflowName {
    const KIND: &'static str = "workflow";
    const FORM: SchemaOf = schema_of::<schema::WorkflowName>;
}

impl Kind for outpost_proto::name::AgentName {
    const KIND: &'static str = "agent";
    const FORM: SchemaOf = schema_of::<schema::AgentName>;
}

/// The one thing that varies in a path. What cannot be its name is not there.
pub(super) struct Named<T>(pub(super) T);

impl<T: FromStr + Kind, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let text = path.map(|Path(text)| text).unwrap_or_default();
        text.parse().map(Self).map_err(|_| missing(T::KIND, &text))
    }
}

impl<T: Kind> Takes for Named<T> {
    fn takes(operation: &mut Operation) {
        operation.path.push(T::FORM);
        operation.codes.insert(Code::NotFound);
    }
}

/// A version of a workflow, as a path names it.
pub(super) struct OfVersion(pub(super) WorkflowName, pub(super) u32);

impl<S: Send + Sync> FromRequestParts<S> for OfVersion {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let (name, version) = path.map(|Path(texts)| texts).unwrap_or_default();
        let parsed = name
            .parse()
            .map_err(|_| missing(WorkflowName::KIND, &name))?;
        let fits = version.bytes().all(|byte| byte.is_ascii_digit());
        let number = version.parse().ok().filter(|_| fits);
        let number = number.ok_or_else(|| missing("version", &version))?;
        Ok(Self(parsed, number))
    }
}

impl Takes for OfVersion {
    fn takes(operation: &mut Operation) {
        let forms: [SchemaOf; 2] = [WorkflowName::FORM, schema_of::<schema::VersionNumber>];
        operation.path.extend(forms);
        operation.codes.insert(Code::NotFound);
    }
}

/// There is no such thing, in words; what was given is made fit for a message.
pub(super) fn missing(kind: &'static str, name: &str) -> ApiError {
    let name = name
        .chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    ApiError::NotFound { kind, name }
}

/// A query whose every key is known.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|error| ApiError::BadRequest(error.body_text()))
    }
}

impl<T: JsonSchema> Takes for Asked<T> {
    fn takes(operation: &mut Operation) {
        operation.query = Some(schema_of::<T>);
        operation.codes.insert(Code::BadRequest);
    }
}

/// A whole number, in any of JSON's spellings: `60`, `60.0`, `6e1`.
pub(super) fn whole<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else {
        return Ok(None);
    };
    let value = number
        .as_u64()
        .or_else(|| integral(&number)?.try_into().ok());
    let value = value.and_then(|value| T::try_from(value).ok());
    let wrong = || de::Error::custom(format!("{number} is not a whole number of this size"));
    value.map(Some).ok_or_else(wrong)
}

/// The whole number that a fraction is, if it is one that every reader keeps exactly.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "within the bounds that are looked at first, nothing is lost"
)]
pub(super) fn integral(number: &serde_json::Number) -> Option<i64> {
    let value = number.as_f64()?;
    let bound = schema::SAFE_INTEGER as f64;
    (value.fract() == 0.0 && value.abs() <= bound).then_some(value as i64)
}

/// A JSON body. An empty one stands for `{}`.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let json = has_type(request.headers(), &["application/json"]);
        let body = bytes(request, JSON_BYTES).await?;
        if body.is_empty() {
            return from_json(b"{}").map(Self);
        }
        if !json {
            return Err(ApiError::MediaType {
                expected: "application/json",
            });
        }
        from_json(&body).map(Self)
    }
}

impl<T: JsonSchema> Takes for Json<T> {
    fn takes(operation: &mut Operation) {
        operation.body = Some(BodyDoc {
            description: format!("At most {JSON_BYTES} bytes; an empty body stands for `{{}}`."),
            media_types: &["application/json"],
            required: false,
            schema: schema_of::<T>,
            example: None,
        });
        let codes = [Code::BadRequest, Code::TooLarge, Code::UnsupportedMediaType];
        operation.codes.extend(codes);
    }
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // A list would be taken for the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let why = "the body is not what this takes: a list, where an object is expected";
        return Err(ApiError::BadRequest(why.to_owned()));
    }
    serde_json::from_slice(body)
        .map_err(|error| ApiError::BadRequest(format!("the body is not what this takes: {error}")))
}

/// The text of a workflow file.
pub(super) struct Yaml(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Yaml {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !has_type(request.headers(), &["application/yaml", "text/plain"]) {
            return Err(ApiError::MediaType {
                expected: "application/yaml or text/plain",
            });
        }
        let body = bytes(request, workflow::BYTES).await?;
        String::from_utf8(body.into()).map(Self).map_err(|error| {
            ApiError::BadRequest(format!(
                "a workflow is UTF-8 text, and this is not: {}",
                error.utf8_error()
            ))
        })
    }
}

impl Takes for Yaml {
    fn takes(operation: &mut Operation) {
        let example = "name: nightly\ntasks:\n  - name: load\n    entry: load\n";
        operation.body = Some(BodyDoc {
            description: format!(
                "A workflow file, at most {} bytes of UTF-8.",
                workflow::BYTES
            ),
            media_types: &["application/yaml", "text/plain"],
            required: true,
            schema: schema_of::<schema::WorkflowFile>,
            example: Some(example.into()),
        });
        let codes = [
            Code::BadRequest,
            Code::TooLarge,
            Code::UnsupportedMediaType,
            Code::InvalidWorkflow,
        ];
        operation.codes.extend(codes);
    }
}

fn has_type(headers: &HeaderMap, accepted: &[&str]) -> bool {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    accepted
        .iter()
        .any(|accepted| essence.eq_ignore_ascii_case(accepted))
}

async fn bytes(request: Request, most: usize) -> Result<Bytes, ApiError> {
    let told = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    if told
        .and_then(|told| told.parse::<u64>().ok())
        .is_some_and(|told| told > most as u64)
    {
        return Err(ApiError::TooLarge { most });
    }
    match Limited::new(request.into_body(), most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge { most }),
        Err(_) => Err(ApiError::BadRequest(
            "the body broke off; send it again".to_owned(),
        )),
    }
}
