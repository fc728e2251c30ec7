//! A certificate takes the place of another while connections stand, and none outlives what it was made with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use outpost_agent_link::Timeouts;
use outpost_agent_link::ipc::{ClosedReason, FromLink, TlsProblem, ToLink};

use crate::support::ca::{AGENT, Ca, Leaf};
use crate::support::rig::Rig;
use crate::support::server::{Behaviour, Tls, start};

/// The key directory's files.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect()
}

async fn echoes(rig: &Rig, conn: u64) {
    let bytes = Bytes::from(format!("on {conn}"));
    rig.tell(ToLink::Frame {
        conn,
        bytes: bytes.clone(),
    })
    .await;
    assert_eq!(rig.hear().await, FromLink::Frame { conn, bytes });
}

#[tokio::test]
async fn a_renewed_certificate_is_presented_beside_a_stream_that_goes_on() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let mut rig = Rig::enrolled(&ca, Timeouts::default()).await;
    assert_eq!(
        rig.open(1, server.address).await,
        FromLink::Opened { conn: 1 }
    );
    let before = files(&rig.keys.path);

    rig.store(&ca).await;
    let after = files(&rig.keys.path);
    assert_ne!(before["agent.key"], after["agent.key"], "a key of its own");
    assert_ne!(before["agent.crt"], after["agent.crt"]);
    echoes(&rig, 1).await;
    assert_eq!(
        rig.open(2, server.address).await,
        FromLink::Opened { conn: 2 }
    );
    echoes(&rig, 2).await;
    echoes(&rig, 1).await;
}

#[tokio::test]
async fn only_a_certificate_of_the_same_name_under_a_trusted_root_takes_the_place() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let mut rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let before = files(&rig.keys.path);
    let der = rig.csr().await;
    let another = "spiffe://site.test/tenant/acme/agent/a2";
    let (stranger, _) = ca.agent_as(&der, Leaf::default().of_agent(another));
    let (expired, _) = ca.agent_as(
        &der,
        Leaf {
            from_h: -2,
            to_h: -1,
            ..Leaf::default().of_agent(AGENT)
        },
    );
    let attempts = [
        (stranger, &ca, "another name"),
        (other.agent(&der).0, &other, "UnknownIssuer"),
        (expired, &ca, "xpired"),
    ];
    for (chain, root, why) in attempts {
        let roots = vec![root.root_der()];
        rig.tell(ToLink::StoreIdentity { chain, roots }).await;
        let FromLink::Stored { ok: false, text } = rig.hear().await else {
            panic!("stored: {why}")
        };
        assert!(text.contains(why), "{text}");
        for (name, content) in &before {
            assert_eq!(&files(&rig.keys.path)[name], content, "{name}");
        }
    }
    // The request is as good as before.
    rig.store_chain(&ca, ca.agent(&der).0).await;
}

#[tokio::test]
async fn a_crash_at_any_moment_of_storing_leaves_a_pair_that_works() {
    let ca = Ca::new("root");
    let mut rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let old = files(&rig.keys.path);
    let der = rig.csr().await;
    let requested = files(&rig.keys.path);
    rig.store_chain(&ca, ca.agent(&der).0).await;
    let new = files(&rig.keys.path);
    let (_, keys) = rig.end().await;

    let with = |base: &BTreeMap<String, Vec<u8>>, more: &[(&str, &[u8])]| {
        let mut files = base.clone();
        files.extend(
            more.iter()
                .map(|(name, text)| ((*name).to_owned(), text.to_vec())),
        );
        files
    };
    let half = &new["agent.crt"][..40];
    // In the order in which files are written; `old` or `new` is the certificate that must be found.
    let moments = [
        (with(&old, &[("pending.key.tmp", b"-----BEG")]), &old),
        (requested.clone(), &old),
        (with(&requested, &[("roots.crt.tmp", half)]), &old),
        (with(&requested, &[("roots.crt", &new["roots.crt"])]), &old),
        (with(&requested, &[("agent.crt.tmp", half)]), &old),
        (with(&requested, &[("agent.crt", &new["agent.crt"])]), &new),
        (new.clone(), &new),
    ];
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let mut keys = keys;
    for (number, (files_then, expected)) in moments.into_iter().enumerate() {
        fs::remove_dir_all(&keys.path).unwrap();
        write(&keys.path, &files_then);
        let rig = Rig::start(keys, None, Timeouts::default()).await;
        let opened = rig.open(1, server.address).await;
        assert_eq!(opened, FromLink::Opened { conn: 1 }, "moment {number}");
        let found = files(&rig.keys.path);
        assert_eq!(found["agent.crt"], expected["agent.crt"], "moment {number}");
        assert_eq!(found["agent.key"], expected["agent.key"], "moment {number}");
        keys = rig.end().await.1;
    }
}

#[tokio::test]
async fn d4_a_damaged_key_of_a_request_keeps_nobody_from_connecting_and_is_replaced_by_the_next() {
    let ca = Ca::new("root");
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let asked = rig.csr().await;
    let (_, keys) = rig.end().await;
    fs::write(keys.path.join("pending.key"), "-----BEG").unwrap();
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let rig = Rig::start(keys, None, Timeouts::default()).await;
    let opened = rig.open(1, server.address).await;
    assert_eq!(opened, FromLink::Opened { conn: 1 });
    drop(rig.end().await);

    let mut rig = Rig::enrolled(&ca, Timeouts::default()).await;
    drop(rig.csr().await);
    fs::write(rig.keys.path.join("pending.key"), [0xff; 40]).unwrap();
    let again = rig.csr().await;
    assert_ne!(again, asked);
    rig.store_chain(&ca, ca.agent(&again).0).await;
}

fn write(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    fs::DirBuilder::new().mode(0o700).create(dir).unwrap();
    for (name, text) in files {
        let mut file = fs::OpenOptions::new();
        file.write(true).create_new(true).mode(0o600);
        file.open(dir.join(name)).unwrap().write_all(text).unwrap();
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_servers_certificate() {
    let ca = Ca::new("root");
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    // What comes before its end must be through by then.
    let leaf = Leaf {
        to_h: 0,
        to_s: 12,
        ..Leaf::default()
    };
    let tls = Tls {
        certificate: ca.server(leaf),
        ..Tls::usual(&ca)
    };
    let server = start(tls, Behaviour::Echo).await;
    assert_eq!(
        rig.open(1, server.address).await,
        FromLink::Opened { conn: 1 }
    );
    assert!(matches!(rig.hear().await, FromLink::Ends { conn: 1, .. }));
    echoes(&rig, 1).await;
    let FromLink::Closed { reason, text, .. } = rig.hear().await else {
        panic!()
    };
    assert_eq!(reason, ClosedReason::Tls(TlsProblem::Expired), "{text}");
}

#[tokio::test]
async fn a_stream_ends_with_the_agents_own_certificate() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let mut rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let der = rig.csr().await;
    let leaf = Leaf {
        to_h: 0,
        to_s: 12,
        ..Leaf::default()
    };
    let (chain, _) = ca.agent_as(&der, leaf.of_agent(AGENT));
    rig.store_chain(&ca, chain).await;
    assert_eq!(
        rig.open(1, server.address).await,
        FromLink::Opened { conn: 1 }
    );
    echoes(&rig, 1).await;
    let FromLink::Closed { reason, text, .. } = rig.hear().await else {
        panic!()
    };
    assert_eq!(reason, ClosedReason::Expired, "{text}");
}
