//! N9: an orchestrator whose name does not resolve for a while.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use outpost_e2e::binaries::Binary;
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};
use serde_json::json;

/// A name that nobody has; the certificate is for another one, which the agent verifies.
const NAME: &str = "localhost";

/// A program that runs the agent in a mount namespace with an `/etc` whose names are in `hosts` and nowhere else.
fn with_names_in(dir: &Path) -> (PathBuf, PathBuf) {
    let etc = dir.join("etc");
    let copied = std::process::Command::new("cp")
        .args(["-a", "/etc"])
        .arg(&etc)
        .status();
    assert!(copied.unwrap().success());
    std::fs::write(etc.join("nsswitch.conf"), "hosts: files\n").unwrap();
    let program = dir.join("with-names");
    let inner = format!("mount --bind {} /etc && exec \"$0\" \"$@\"", etc.display());
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c '{inner}' {} \"$@\"\n",
        Binary::Agent.path().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (program, etc.join("hosts"))
}

#[test]
#[ignore = "needs: root"]
fn n9_a_name_that_does_not_resolve_for_a_while_is_asked_for_again_and_again() {
    let world = World::new();
    let api = world.api();
    let _ = api.apply("name: one\ntasks:\n  t: {entry: quick}\n").ok();
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[Entry::script("quick", "true")]);
    let port = world.orchestrator.agents_port();
    agent.dials(&format!("{NAME}:{}", port.port()));
    let (program, hosts) = with_names_in(world.dir());
    std::fs::write(&hosts, "").unwrap();
    agent.program = Some(program);
    agent.start();
    eventually(
        "it was said why there is no connection, more than once",
        || {
            let said = agent.logged();
            let said = said.matches("cannot be resolved").count();
            so(said >= 2)
        },
    );
    assert_ne!(api.agent("site-1").unwrap()["presence"], "live");
    let run = api.trigger("one", &json!({}));
    // Another machine first, at which nobody listens: what was found before is not remembered.
    std::fs::write(&hosts, format!("127.99.99.99 {NAME}\n")).unwrap();
    eventually("the name was found, and nobody there", || {
        so(agent.logged().contains("127.99.99.99"))
    });
    std::fs::write(&hosts, format!("{} {NAME}\n", port.ip())).unwrap();
    agent.live(&api);
    let _ = api.succeeded(&run);
    assert_eq!(world.starts_of("t"), 1);
    // And gone again: who is connected stays so, and comes back once it is there.
    std::fs::write(&hosts, "").unwrap();
    let link = agent.link();
    link.kill();
    let before = agent.logged().len();
    eventually("it is asked for in vain", || {
        so(agent.logged()[before..].contains("cannot be resolved"))
    });
    std::fs::write(&hosts, format!("{} {NAME}\n", port.ip())).unwrap();
    let run = api.trigger("one", &json!({}));
    let _ = api.succeeded(&run);
    assert_eq!(world.starts_of("t"), 2);
}
