//! The interface's document, OpenAPI 3.1, put together from the table of routes and from the types that handlers take
//! and give. Served, and printed by `outpost-orchestrator openapi`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, json_schema};
use serde_json::{Map, Value, json};

use super::code::Code;
use super::doc::{AnswerDoc, Gives, Operation, object, schema_of};
use super::problem::Problem;
use super::routes::{self, Route};

/// Where the schemas are.
const DEFINITIONS: &str = "/components/schemas";

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    // A value made of texts and numbers: it cannot fail.
    serde_json::to_string_pretty(&document()).unwrap_or_default()
});

/// The document as text.
#[must_use]
pub fn text() -> &'static str {
    &DOCUMENT
}

/// The document, as an answer.
pub(super) struct Document;

/// An OpenAPI document.
struct OpenApi;

impl JsonSchema for OpenApi {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OpenApi".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        json_schema!({
            "description": "An OpenAPI 3.1 document.", "type": "object",
            "required": ["openapi", "info", "paths", "components"],
            "properties": { "openapi": { "type": "string", "const": "3.1.0" } },
        })
    }
}

impl Gives for Document {
    fn gives(operation: &mut Operation) {
        operation.answers.insert(
            200,
            AnswerDoc {
                description: "This document.",
                body: Some(("application/json", schema_of::<OpenApi>)),
                headers: &[],
            },
        );
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        (
            [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
            text(),
        )
            .into_response()
    }
}

/// `GET /api/v1/openapi.json`
pub(super) async fn serve() -> Document {
    Document
}

/// What schemas are made with: what is taken and what is given differ in what may be absent.
struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

fn document() -> Value {
    let settings = || {
        SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = DEFINITIONS.into();
            settings.meta_schema = None;
        })
    };
    let mut schemas = Schemas {
        taken: settings().for_deserialize().into_generator(),
        given: settings().for_serialize().into_generator(),
    };
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes::all() {
        let method = route.method.as_str().to_ascii_lowercase();
        let operation = schemas.operation(&route);
        paths
            .entry(route.path)
            .or_default()
            .insert(method, operation);
    }
    let mut definitions = schemas.taken.take_definitions(true);
    definitions.extend(schemas.given.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Outpost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Workflows on agents that dial out. Times are UTC with microseconds, durations are \
                            milliseconds. A token belongs to one tenant and sees nothing of any other. Lists come in \
                            pages: send `next` back as `cursor` until it is null; what is added meanwhile moves \
                            nothing. A request is answered within 30 seconds, event streams apart; how often a token \
                            may ask stands in `RateLimit-Policy`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "opt_<12 hex digits>_<43 characters>",
                    "description": "Made by an administrator; its role decides what it may do.",
                },
            },
        },
    })
}

impl Schemas {
    fn operation(&mut self, route: &Route) -> Value {
        let operation = &route.operation;
        let needs = match route.role {
            Some(role) => format!("{} Needs the role `{}`.", operation.summary, role.word()),
            None => format!("{} Anybody may ask.", operation.summary),
        };
        let mut fields = object([
            ("operationId", operation.id.into()),
            ("summary", operation.summary.into()),
            ("description", needs.into()),
            ("tags", json!([tag(route.path)])),
            ("parameters", self.parameters(route)),
            ("responses", self.responses(route)),
        ]);
        if route.role.is_none() {
            fields["security"] = json!([]);
        }
        if let Some(body) = &operation.body {
            let schema = (body.schema)(&mut self.taken).to_value();
            let required = body.required || self.requires(&schema);
            let mut media = json!({ "schema": schema });
            if let Some(example) = &body.example {
                media["example"] = example.clone();
            }
            let content: Map<String, Value> = body
                .media_types
                .iter()
                .map(|media_type| ((*media_type).to_owned(), media.clone()))
                .collect();
            fields["requestBody"] = json!({
                "description": body.description, "required": required, "content": content,
            });
        }
        fields
    }

    /// Whether an object of this schema has a field that must be there.
    fn requires(&self, schema: &Value) -> bool {
        let reference = schema["$ref"].as_str();
        let name = reference.and_then(|path| path.rsplit('/').next());
        let definition = name.and_then(|name| self.taken.definitions().get(name));
        definition
            .unwrap_or(schema)
            .get("required")
            .is_some_and(|fields| fields != &json!([]))
    }

    fn parameters(&mut self, route: &Route) -> Value {
        let operation = &route.operation;
        let mut all = Vec::new();
        let varying = route.path.split(['{', '}']).skip(1).step_by(2);
        for (name, form) in varying.zip(&operation.path) {
            all.push(json!({
                "name": name, "in": "path", "required": true, "schema": form(&mut self.taken),
            }));
        }
        if let Some(query) = operation.query {
            all.extend(self.query(query));
        }
        for header in &operation.headers {
            all.push(json!({
                "name": header.name, "in": "header", "required": false, "description": header.description,
                "schema": (header.schema)(&mut self.taken),
            }));
        }
        Value::Array(all)
    }

    /// An object's properties, as parameters of a query: they are never null there.
    fn query(&mut self, of: super::doc::SchemaOf) -> Vec<Value> {
        let schema = of(&mut self.taken).to_value();
        let name = schema["$ref"]
            .as_str()
            .and_then(|path| path.rsplit('/').next())
            .unwrap_or_default()
            .to_owned();
        // Only its parts are used: the object itself stands nowhere.
        let object = self.taken.definitions_mut().remove(&name).unwrap_or(schema);
        let Some(properties) = object["properties"].as_object() else {
            return Vec::new();
        };
        let parameter = |(name, schema): (&String, &Value)| {
            let mut schema = without_null(schema);
            let description = schema
                .as_object_mut()
                .and_then(|fields| fields.remove("description"));
            let mut parameter =
                json!({ "name": name, "in": "query", "required": false, "schema": schema });
            if let Some(description) = description {
                parameter["description"] = description;
            }
            parameter
        };
        properties.iter().map(parameter).collect()
    }

    fn responses(&mut self, route: &Route) -> Value {
        let mut all = Map::new();
        for (status, answer) in &route.operation.answers {
            let mut response = json!({ "description": answer.description });
            if let Some((media_type, schema)) = answer.body {
                response["content"] = json!({ media_type: { "schema": schema(&mut self.given) } });
            }
            let described = answer.headers.iter();
            let mut headers: Map<String, Value> = described
                .map(|(name, what)| ((*name).to_owned(), header(what)))
                .collect();
            if route.role.is_some() {
                headers.insert(
                    "RateLimit".to_owned(),
                    header("What is left of the token's requests."),
                );
                headers.insert(
                    "RateLimit-Policy".to_owned(),
                    header("What a token is allowed."),
                );
            }
            if !headers.is_empty() {
                response["headers"] = Value::Object(headers);
            }
            all.insert(status.to_string(), response);
        }
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in codes(route) {
            by_status
                .entry(code.status().as_u16())
                .or_default()
                .push(code);
        }
        for (status, codes) in by_status {
            all.insert(status.to_string(), self.problem(status, &codes));
        }
        Value::Object(all)
    }

    fn problem(&mut self, status: u16, codes: &[Code]) -> Value {
        let schema = self.given.subschema_for::<Problem>();
        let told: Vec<String> = codes
            .iter()
            .map(|code| format!("`{}`: {}.", code.word(), code.title()))
            .collect();
        let words: Vec<&str> = codes.iter().map(|code| code.word()).collect();
        let mut response = json!({
            "description": told.join(" "),
            "content": { "application/problem+json": { "schema": {
                "allOf": [schema],
                "properties": { "status": { "const": status }, "code": { "enum": words } },
            } } },
        });
        if matches!(status, 408 | 429 | 503) {
            response["headers"] = json!({ "Retry-After": {
                "description": "Seconds after which to try again.", "schema": { "type": "integer", "minimum": 1 },
            } });
        }
        if status == 401 {
            response["headers"] = json!({ "WWW-Authenticate": header("`Bearer`.") });
        }
        response
    }
}

fn header(description: &str) -> Value {
    json!({ "description": description, "schema": { "type": "string" } })
}

/// Everything that can go wrong on a route.
pub(super) fn codes(route: &Route) -> std::collections::BTreeSet<Code> {
    let mut codes = route.operation.codes.clone();
    codes.extend([Code::Internal, Code::Unavailable]);
    if !route.streams {
        codes.insert(Code::Timeout);
    }
    if route.role.is_some() {
        codes.extend([
            Code::Unauthenticated,
            Code::TokenExpired,
            Code::Forbidden,
            Code::TooMany,
            Code::WrongHost,
        ]);
    }
    codes
}

/// The first part of a path that names something.
fn tag(path: &str) -> &str {
    let rest = path.strip_prefix("/api/v1/").unwrap_or("");
    match rest.split('/').next() {
        Some("" | "openapi.json") | None => "server",
        Some(word) => word,
    }
}

/// A schema that also takes null, without that.
fn without_null(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|word| word != "null");
        if let [only] = types.as_slice() {
            schema["type"] = only.clone();
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [only] = choices.as_slice() {
            let mut only = only.clone();
            if let (Some(fields), Some(rest)) = (only.as_object_mut(), schema.as_object()) {
                for (name, value) in rest.iter().filter(|(name, _)| *name != "anyOf") {
                    fields.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            return only;
        }
    }
    if let Some(fields) = schema.as_object_mut()
        && fields.get("default").is_some_and(Value::is_null)
    {
        fields.remove("default");
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_once() {
        let document: Value = serde_json::from_str(text()).unwrap();
        let mut ids = std::collections::BTreeSet::new();
        for route in routes::all() {
            let method = route.method.as_str().to_ascii_lowercase();
            let operation = &document["paths"][route.path][&method];
            assert!(operation.is_object(), "{method} {}", route.path);
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()));
            let varying = route.path.matches('{').count();
            assert_eq!(route.operation.path.len(), varying, "{}", route.path);
            let open = route.role.is_none();
            assert_eq!(operation.get("security").is_some(), open, "{}", route.path);
        }
        let described: usize = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .map(|methods| methods.as_object().unwrap().len())
            .sum();
        assert_eq!(described, ids.len());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|value| walk(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let document: Value = serde_json::from_str(text()).unwrap();
        let mut found = Vec::new();
        walk(&document, &mut found);
        assert!(found.len() > 50);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
