//! What the tests share: a certificate authority, a server with a chosen behaviour, and link as the runner sees it.

pub(crate) mod ca;
pub(crate) mod rig;
pub(crate) mod server;

use std::future::Future;
use std::time::Duration;

/// Waits for something that must happen; the limit is only there so that a failing test ends.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("did not happen in time: {what}"),
    }
}
