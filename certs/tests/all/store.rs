//! The authority on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use outpost_certs::ca::Authority;
use outpost_certs::store::{StoreError, read_private, write_private};
use outpost_certs::tls::Peer;

use crate::{DOMAIN, agent, agent_port, authority, client, connect};

const FILES: [&str; 8] = [
    "agents.crt",
    "agents.key",
    "operators.crt",
    "operators.key",
    "root.crt",
    "root.key",
    "servers.crt",
    "servers.key",
];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_saved_and_loaded_authority_goes_on_issuing() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("ca");
    let original = authority();
    original.save(&saved).unwrap();
    fs::remove_file(saved.join("root.key")).unwrap();
    let loaded = Authority::load(&saved).unwrap();
    assert_eq!(loaded.trust_domain(), DOMAIN);
    assert_eq!(loaded.root_pin(), original.root_pin());
    // Old and new trust each other both ways.
    let now = SystemTime::now();
    for (server, holder) in [(&original, &loaded), (&loaded, &original)] {
        let config = Arc::new(client(holder, Some(agent(holder, now))));
        let (seen, client) = connect(agent_port(server), &config, "localhost").await;
        assert!(matches!(seen.unwrap().peer, Ok(Peer::Agent(_))));
        client.unwrap();
    }
}

#[test]
fn keys_are_for_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("ca");
    authority().save(&saved).unwrap();
    assert_eq!(names_in(&saved), FILES);
    assert_eq!(names_in(dir.path()), ["ca"], "no drafts are left");
    assert_eq!(mode(&saved), 0o700);
    for key in FILES.iter().filter(|name| name.ends_with(".key")) {
        let path = saved.join(key);
        assert_eq!(mode(&path), 0o600, "{key}");
        for exposed in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(exposed)).unwrap();
            let error = Authority::load(&saved).unwrap_err();
            assert!(
                matches!(&error, StoreError::Exposed { mode, .. } if *mode == exposed),
                "{key}: {error}"
            );
            assert!(
                error
                    .to_string()
                    .contains(&format!("chmod 600 {}", path.display())),
                "{error}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        Authority::load(&saved).unwrap();
    }
}

#[test]
fn an_authority_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("ca");
    let first = authority();
    first.save(&saved).unwrap();
    let error = authority().save(&saved).unwrap_err();
    assert!(matches!(error, StoreError::Occupied { .. }), "{error}");
    assert_eq!(
        Authority::load(&saved).unwrap().root_pin(),
        first.root_pin()
    );
    assert_eq!(names_in(dir.path()), ["ca"], "the draft is gone");
    // An empty directory, made beforehand, is taken.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    first.save(&empty).unwrap();
    assert_eq!(mode(&empty), 0o700);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
    for name in FILES {
        authority().save(&mine).unwrap();
        authority().save(&other).unwrap();
        fs::copy(other.join(name), mine.join(name)).unwrap();
        let loaded = Authority::load(&mine);
        // The root's key is not read; any other file of another authority is noticed.
        assert_eq!(loaded.is_ok(), name == "root.key", "{name}");
        if let Err(error) = loaded {
            assert!(
                matches!(error, StoreError::Mismatch { .. }),
                "{name}: {error}"
            );
        }
        fs::remove_dir_all(&mine).unwrap();
        fs::remove_dir_all(&other).unwrap();
    }
}

#[test]
fn damaged_and_missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("ca");
    assert!(Authority::load(&saved).unwrap_err().is_not_found());
    authority().save(&saved).unwrap();
    for name in FILES.into_iter().filter(|name| *name != "root.key") {
        let path = saved.join(name);
        let honest = fs::read(&path).unwrap();
        for damaged in [
            &b""[..],
            b"junk",
            &honest[..honest.len() / 2],
            &[b'a'; 70_000],
        ] {
            fs::write(&path, damaged).unwrap();
            let error = Authority::load(&saved).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
        fs::write(&path, honest).unwrap();
    }
    Authority::load(&saved).unwrap();
    fs::remove_file(saved.join("servers.key")).unwrap();
    assert!(Authority::load(&saved).unwrap_err().is_not_found());
}

#[test]
fn a_private_file_is_replaced_in_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    write_private(&path, b"one").unwrap();
    write_private(&path, b"two").unwrap();
    assert_eq!(read_private(&path).unwrap().as_slice(), b"two");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names_in(dir.path()), ["key"]);
    let nowhere = dir.path().join("missing").join("key");
    assert!(write_private(&nowhere, b"x").unwrap_err().is_not_found());
}
