//! Every answer that any test here gets is held against the interface's own document.

use std::sync::LazyLock;

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{Method, Response};
use outpost_orchestrator::api::{openapi, table};
use serde_json::Value;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(openapi()).unwrap());

/// The document's operation for a path of a request, if there is one.
fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let wanted: Vec<&str> = template.split('/').collect();
        let same = |(wanted, given): (&&str, &&str)| wanted.starts_with('{') || wanted == given;
        wanted.len() == parts.len() && wanted.iter().zip(&parts).all(same)
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    // What is spelled out goes before what varies, as in the router.
    let mut found: Vec<_> = paths.iter().filter(|(path, _)| fits(path)).collect();
    found.sort_by_key(|(path, _)| path.matches('{').count());
    let method = method.as_str().to_ascii_lowercase();
    found.first().and_then(|(_, methods)| methods.get(method))
}

/// Fails unless the status and the type of the body are documented.
pub(crate) fn allows(method: &Method, path: &str, response: &Response<Body>) {
    let Some(operation) = operation(method, path) else {
        let status = response.status();
        assert!(
            status == 404 || status == 405 || status == 421,
            "{method} {path}: {status}"
        );
        return;
    };
    let status = response.status().as_str().to_owned();
    let documented = &operation["responses"][&status];
    assert!(
        documented.is_object(),
        "{method} {path}: {status} is not documented"
    );
    let given = response.headers().get(CONTENT_TYPE);
    let given = given.map(|value| {
        value
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    });
    let expected = documented["content"]
        .as_object()
        .and_then(|types| types.keys().next())
        .cloned();
    assert_eq!(given, expected, "{method} {path}: {status}");
}

#[test]
fn the_document_has_the_routers_routes_and_no_others() {
    let mut served: Vec<String> = table()
        .iter()
        .map(|route| {
            format!(
                "{} {}",
                route.method.as_str().to_ascii_lowercase(),
                route.path
            )
        })
        .collect();
    let mut documented = Vec::new();
    for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys();
        documented.extend(methods.map(|method| format!("{method} {path}")));
    }
    served.sort();
    documented.sort();
    assert_eq!(served, documented);
    assert!(served.len() > 25);
}

#[test]
fn every_problem_is_documented_somewhere() {
    let text = openapi();
    for code in outpost_orchestrator::api::Code::ALL {
        // Told where no route is.
        if code.word() != "method_not_allowed" {
            assert!(
                text.contains(&format!("`{}`", code.word())),
                "{}",
                code.word()
            );
        }
    }
}
