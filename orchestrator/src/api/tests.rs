//! What no request from outside can bring about in a test's time: faults and time limits.

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn;
use axum::response::IntoResponse as _;
use axum::routing::get;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;

use super::problem::ApiError;
use super::{Code, admit};

async fn told(response: axum::response::Response) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.into()).unwrap())
}

#[tokio::test]
async fn a_panic_costs_its_own_request_only() {
    async fn fault() -> &'static str {
        panic!("a secret detail")
    }
    let router = Router::new()
        .route("/", get(fault))
        .route("/other", get(async || "fine"))
        .layer(CatchPanicLayer::custom(admit::panicked))
        .layer(from_fn(admit::headers));
    let ask = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    };
    let response = ask("/").await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    let (status, body) = told(response).await;
    assert_eq!(status, 500);
    assert!(!body.contains("secret"), "{body}");
    insta::assert_snapshot!(body);
    assert_eq!(told(ask("/other").await).await.1, "fine");
}

#[tokio::test]
async fn a_slow_request_may_be_sent_again() {
    let response = ApiError::Timeout(30).into_response();
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, body) = told(response).await;
    assert_eq!(status, 408);
    insta::assert_snapshot!(body);
}

#[test]
fn codes_are_words_of_their_own() {
    let mut words: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), Code::ALL.len());
    assert!(Code::ALL.iter().all(|code| code.status().as_u16() >= 400));
}
