use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::get;
use futures_util::stream::pending;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;

const SHORT: Waits = Waits {
    first: Duration::from_millis(20),
    idle: Duration::from_millis(20),
    goodbye: Duration::from_millis(20),
};

/// A connection to these routes, and the task that serves it.
fn connected(router: Router) -> (DuplexStream, JoinHandle<()>) {
    let (here, there) = duplex(64 * 1024);
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    let served = serve_http(there, from, router, CancellationToken::new(), SHORT);
    (here, tokio::spawn(served))
}

#[tokio::test]
async fn who_connects_and_asks_nothing_is_sent_away() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // With its settings.
    let settled = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    for (what, said) in [
        ("nothing", &[][..]),
        ("half a word", b"G"),
        ("half a preface", &PREFACE[..8]),
        ("a preface", PREFACE),
        ("a preface and settings", &settled),
        ("a request", b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    ] {
        let (mut stream, served) = connected(Router::new());
        stream.write_all(said).await.unwrap();
        // Sooner than anything else would end it.
        let ended = timeout(PATIENCE * 9 / 10, served).await;
        assert!(ended.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn an_answer_that_goes_on_keeps_its_connection() {
    let every = SHORT.idle / 2;
    let endless = move || async move {
        let events = pending::<Result<Event, Infallible>>();
        Sse::new(events).keep_alive(KeepAlive::new().interval(every).text("here"))
    };
    let router = Router::new().route("/", get(endless));
    let (mut stream, _served) = connected(router);
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let (mut heard, mut buffer) = (String::new(), [0; 4096]);
    while heard.matches("here").count() < 20 {
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "ended after {heard}");
        heard.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}
