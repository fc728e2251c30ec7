//! Link and dial as processes of their own: this test binary starts itself in a role.

use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use outpost_agent_link::ipc::{FromLink, LinkSocket, ToLink, socket_pair};
use outpost_agent_link::{DialArgs, LinkArgs, Timeouts, dial_main, link_main};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::support::ca::Ca;
use crate::support::rig::Rig;
use crate::support::server::{Behaviour, Tls, start};
use crate::support::soon;

const ROLE: &str = "OUTPOST_TEST_ROLE";

/// Link on a thread without waiting for `Ready`, and the runner's end.
pub(crate) fn bare_link(key_dir: &Path) -> (LinkSocket, JoinHandle<ExitCode>) {
    let (runner, link) = socket_pair().unwrap();
    let (_, link_dial) = socket_pair().unwrap();
    let args = link_args(link.into_raw_fd(), link_dial.into_raw_fd(), key_dir);
    (
        LinkSocket::new(runner).unwrap(),
        std::thread::spawn(move || link_main(args)),
    )
}

fn link_args(ipc_fd: i32, dial_fd: i32, key_dir: &Path) -> LinkArgs {
    LinkArgs {
        ipc_fd,
        dial_fd,
        key_dir: key_dir.to_owned(),
        server_name: "orchestrator.site.test".into(),
        pin: None,
        keylog_fd: None,
        leash_fd: None,
        sandbox: None,
        timeouts: Timeouts::default(),
        when_quiet: || (),
    }
}

/// Not a test of its own: the process that `spawn_role` starts ends here.
#[test]
fn role_entry() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    let code = match words.as_slice() {
        ["link", ipc, dial, keys] => link_main(link_args(
            ipc.parse().unwrap(),
            dial.parse().unwrap(),
            keys.as_ref(),
        )),
        ["dial", fd, conn, address] => dial_main(DialArgs {
            dial_fd: fd.parse().unwrap(),
            conn: conn.parse().unwrap(),
            address: (*address).to_owned(),
            proxy: None,
            leash_fd: None,
            sandbox: None,
            timeout: DialArgs::TIMEOUT,
        }),
        other => panic!("{other:?}"),
    };
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

fn spawn_role(words: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::role_entry", "--nocapture"])
        .env(ROLE, words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn success(mut child: Child) {
    let status = soon(
        "the process ends",
        tokio::task::spawn_blocking(move || child.wait().unwrap()),
    )
    .await
    .unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn both_roles_work_across_exec_and_link_ends_with_its_runner() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let (_, keys) = Rig::enrolled(&ca, Timeouts::default()).await.end().await;
    let (runner, link) = socket_pair().unwrap();
    let (dial, link_dial) = socket_pair().unwrap();
    for inherited in [&link, &link_dial, &dial] {
        fcntl_setfd(inherited, FdFlags::empty()).unwrap();
    }
    let link_child = spawn_role(&format!(
        "link {} {} {}",
        link.as_raw_fd(),
        link_dial.as_raw_fd(),
        keys.path.display()
    ));
    drop((link, link_dial));
    let socket = LinkSocket::new(runner).unwrap();
    let confined = soon("Confined", socket.recv()).await.unwrap().unwrap();
    assert!(matches!(confined, FromLink::Confined(_)), "{confined:?}");
    let ready = soon("Ready", socket.recv()).await.unwrap().unwrap();
    assert!(
        matches!(
            ready,
            FromLink::Ready {
                certificate_not_after_s: 1..,
                ..
            }
        ),
        "{ready:?}"
    );

    socket.send(&ToLink::Open { conn: 5 }).await.unwrap();
    success(spawn_role(&format!(
        "dial {} 5 {}",
        dial.as_raw_fd(),
        server.address
    )))
    .await;
    assert_eq!(
        soon("Opened", socket.recv()).await.unwrap(),
        Some(FromLink::Opened { conn: 5 })
    );
    assert!(matches!(
        soon("Server", socket.recv()).await.unwrap(),
        Some(FromLink::Server { conn: 5, .. })
    ));
    let bytes = Bytes::from_static(b"through two processes");
    socket
        .send(&ToLink::Frame {
            conn: 5,
            bytes: bytes.clone(),
        })
        .await
        .unwrap();
    assert_eq!(
        soon("Frame", socket.recv()).await.unwrap(),
        Some(FromLink::Frame { conn: 5, bytes })
    );

    assert!(
        tokio::time::timeout(Duration::from_millis(100), socket.recv())
            .await
            .is_err()
    );
    drop(socket);
    success(link_child).await;
}
