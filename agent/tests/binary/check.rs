//! Broken set-ups, each as it happens to people: `check` names what is wrong with which thing, and what to do.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::enrolled::{Validity, authority, enrolled, keys, write};
use crate::support::{Done, Home, entry, mode, user};

const HOUR: Duration = Duration::from_secs(3600);

/// Fails with one line of this check that has all the parts, its mending among them.
#[track_caller]
fn fails(done: Done, check: &str, parts: &[&str]) {
    assert_eq!(done.code, Some(1), "{done:#?}");
    let findings = said(&done.out);
    let is_it = |said: &(String, String)| {
        said.0 == format!("FAIL {check}") && parts.iter().all(|part| said.1.contains(part))
    };
    assert!(
        findings.iter().any(is_it),
        "no FAIL of {check} with {parts:?} in {done:#?}"
    );
}

#[track_caller]
fn warns(done: &Done, check: &str, parts: &[&str]) {
    let findings = said(&done.out);
    let is_it = |said: &(String, String)| {
        said.0 == format!("warn {check}") && parts.iter().all(|part| said.1.contains(part))
    };
    assert!(
        findings.iter().any(is_it),
        "no warning of {check} with {parts:?} in {done:#?}"
    );
}

/// Each finding: its level and name, and its text with its mending.
fn said(out: &str) -> Vec<(String, String)> {
    let mut findings: Vec<(String, String)> = Vec::new();
    for line in out.lines() {
        let words = line.split_whitespace().collect::<Vec<_>>();
        match words.as_slice() {
            [level @ ("ok" | "warn" | "FAIL"), check, rest @ ..] => {
                findings.push((format!("{level} {check}"), rest.join(" ")));
            }
            rest => {
                if let Some((_, text)) = findings.last_mut() {
                    text.push(' ');
                    text.push_str(&rest.join(" "));
                }
            }
        }
    }
    findings
}

/// An address where nobody listens.
fn nobody() -> String {
    // Of an address that no other test listens on: the port is free again at once.
    let listener = TcpListener::bind("127.99.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Serves one connection after the other in this way, until the test's process ends.
fn serving(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    address
}

fn check(home: &Home) -> Done {
    home.agent(&["check"])
}

#[test]
fn nothing_there_at_all() {
    fails(
        check(&Home::new()),
        "state",
        &["is no agent's state directory", "enrol"],
    );
}

#[test]
fn not_enrolled_yet() {
    let home = Home::new().with_state("2").with_catalogue(&entry());
    fails(
        check(&home),
        "enrolment",
        &[
            "not enrolled",
            "fix: get a join token",
            "enrol --token-file",
        ],
    );
}

#[test]
fn a_state_directory_of_a_newer_agent() {
    let home = Home::new().with_state("99");
    fails(check(&home), "state", &["newer agent", "format 99"]);
}

#[test]
fn a_state_directory_that_is_none() {
    let home = Home::new().with_state("hello");
    fails(
        check(&home),
        "state",
        &["holds no number", "fix: name the agent's own directory"],
    );
}

#[test]
fn a_state_directory_that_others_can_write() {
    let home = Home::new().with_state("2");
    mode(&home.state(), 0o777);
    fails(
        check(&home),
        "state",
        &["can be written by others (mode 777)", "chmod go-w"],
    );
}

#[test]
#[ignore = "needs: root"]
fn a_state_directory_of_another_account() {
    let home = Home::new().with_state("2");
    chown(home.state(), Some(65_534), None).unwrap();
    fails(
        check(&home),
        "state",
        &["belongs to user 65534", "runs as user 0", "chown"],
    );
}

#[test]
#[ignore = "needs: root"]
fn a_parent_that_task_users_cannot_pass() {
    let home = enrolled(&nobody(), Validity::fresh());
    mode(home.0.path(), 0o700);
    let shown = home.0.path().canonicalize().unwrap().display().to_string();
    fails(
        check(&home),
        "state",
        &[
            &shown,
            "does not let tasks of user nobody through",
            "chmod o+x",
        ],
    );
}

#[test]
fn a_catalogue_that_is_not_there() {
    let home = Home::new().with_state("2");
    fails(
        check(&home),
        "catalogue",
        &["catalogue.d", "make the directory"],
    );
}

#[test]
fn a_catalogue_with_a_syntax_error() {
    let home = Home::new()
        .with_state("2")
        .with_catalogue("[entry.a]\nargv = [\"/bin/true\"\n");
    fails(check(&home), "catalogue", &["site.toml:"]);
}

#[test]
fn a_catalogue_with_an_unknown_key() {
    let home = Home::new()
        .with_state("2")
        .with_catalogue(&format!("{}timeot = \"5s\"\n", entry()));
    fails(
        check(&home),
        "catalogue",
        &["site.toml:4", "did you mean `timeout`?"],
    );
}

#[test]
fn a_catalogue_that_others_can_write() {
    let home = Home::new().with_state("2").with_catalogue(&entry());
    mode(&home.file(), 0o666);
    fails(
        check(&home),
        "catalogue",
        &["can be written by others (mode 666)", "chmod go-w"],
    );
}

#[test]
fn an_entry_of_an_account_that_is_not_there() {
    let home = Home::new()
        .with_state("2")
        .with_catalogue("[entry.a]\nargv = [\"/bin/true\"]\nuser = \"no-such-account\"\n");
    fails(
        check(&home),
        "catalogue",
        &["site.toml:3: entry `a`: user:", "no such account"],
    );
}

#[test]
fn a_program_that_is_not_there_and_one_without_its_interpreter() {
    let home = Home::new().with_state("2").with_catalogue(&format!(
        "[entry.a]\nargv = [\"/opt/no/such\"]\n{0}\n[entry.b]\nargv = [\"{{catalogue}}/b.py\"]\ndangerous = true\n{0}\n",
        user()
    ));
    let script = home.catalogue().join("b.py");
    std::fs::write(&script, "#!/opt/no/python3\n").unwrap();
    mode(&script, 0o755);
    fails(
        check(&home),
        "catalogue",
        &["site.toml:2: entry `a`", "/opt/no/such does not exist"],
    );
    fails(
        check(&home),
        "catalogue",
        &["entry `b`", "/opt/no/python3 does not exist", "install it"],
    );
}

#[test]
fn no_certificate() {
    let home = enrolled(&nobody(), Validity::fresh());
    std::fs::remove_file(home.state().join("keys/agent.crt")).unwrap();
    fails(
        check(&home),
        "certificate",
        &["there is none", "enrol --force"],
    );
}

#[test]
fn an_expired_certificate() {
    let home = enrolled(&nobody(), Validity::made_ago(30 * HOUR));
    fails(
        check(&home),
        "certificate",
        &["it ended 6 h", "clock (date -u) is right", "enrol --force"],
    );
}

#[test]
fn a_certificate_that_should_have_been_renewed() {
    let home = enrolled(&nobody(), Validity::made_ago(23 * HOUR));
    warns(
        &check(&home),
        "certificate",
        &["ends in", "should have been renewed"],
    );
}

#[test]
fn a_clock_that_is_behind_the_certificate() {
    let validity = Validity {
        made: SystemTime::now() + 48 * HOUR,
        life: 24 * HOUR,
    };
    let home = enrolled(&nobody(), validity);
    fails(
        check(&home),
        "clock",
        &["before the certificate was made", "fix: set the clock"],
    );
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate() {
    let home = enrolled(&nobody(), Validity::fresh());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    write(&home.state().join("keys/agent.key"), key);
    fails(
        check(&home),
        "certificate",
        &["does not belong to the requested key", "enrol --force"],
    );
}

#[test]
fn a_key_that_others_can_read() {
    let home = enrolled(&nobody(), Validity::fresh());
    mode(&home.state().join("keys/agent.key"), 0o644);
    fails(
        check(&home),
        "certificate",
        &["agent.key", "mode 644", "chmod go="],
    );
}

#[test]
fn a_certificate_of_another_agent() {
    let home = enrolled(&nobody(), Validity::fresh());
    keys(&home, "a2", Validity::fresh());
    fails(
        check(&home),
        "certificate",
        &["agent/a2's, not spiffe://", "enrol --force"],
    );
}

#[test]
fn an_orchestrators_name_that_does_not_resolve() {
    let home = enrolled("no-such-host.invalid:7443", Validity::fresh());
    fails(
        check(&home),
        "connection",
        &["cannot be resolved", "fix: see whether the name is right"],
    );
}

#[test]
fn an_orchestrator_that_does_not_listen() {
    let home = enrolled(&nobody(), Validity::fresh());
    fails(
        check(&home),
        "connection",
        &["refused", "fix: nobody listens there"],
    );
}

#[test]
fn an_address_that_takes_connections_and_says_nothing() {
    let held = std::sync::Mutex::new(Vec::new());
    let address = serving(move |stream| held.lock().unwrap().push(stream));
    let home = enrolled(&address, Validity::fresh());
    fails(check(&home), "connection", &["says nothing", "agent port"]);
}

#[test]
fn something_that_does_not_speak_tls() {
    let address = serving(|mut stream| {
        let mut said = [0; 100];
        let _ = stream.read(&mut said);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let home = enrolled(&address, Validity::fresh());
    fails(
        check(&home),
        "connection",
        &[
            "something answers at",
            "is not the orchestrator's agent port",
        ],
    );
}

#[test]
fn a_server_of_another_authority() {
    let other = authority();
    let names = ["127.0.0.1".to_owned()];
    let identity = other
        .issue_server(&names, SystemTime::now(), 24 * HOUR)
        .unwrap();
    let anchors = [other.agents_anchor().clone()];
    let config = outpost_certs::tls::server_config(&identity, &anchors).unwrap();
    let address = serving(move |mut stream| {
        let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
    });
    let home = enrolled(&address, Validity::fresh());
    fails(
        check(&home),
        "connection",
        &[
            "signed by no trusted root",
            "fix: see that",
            "was enrolled at",
        ],
    );
}

#[test]
fn a_proxy_that_refuses_and_one_that_is_not_there() {
    let proxy = serving(|mut stream| {
        let mut said = [0; 1000];
        let _ = stream.read(&mut said);
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    });
    let home = enrolled("orchestrator.test:7443", Validity::fresh());
    let done = home.agent(&["check", "--proxy", &format!("http://{proxy}")]);
    fails(
        done,
        "connection",
        &["proxy refuses", "403", "fix: ask whoever runs the proxy"],
    );
    let done = home.agent(&["check", "--proxy", &format!("http://{}", nobody())]);
    fails(done, "connection", &["refused"]);
}

#[test]
fn a_proxy_that_only_others_know() {
    let home = enrolled(&nobody(), Validity::fresh());
    let output = home
        .command(&["check"])
        .env("https_proxy", "http://127.0.0.1:1")
        .output();
    warns(
        &Done::of(output.unwrap()),
        "connection",
        &["https_proxy is set", "--proxy URL"],
    );
}

#[test]
fn too_few_descriptors() {
    let home = enrolled(&nobody(), Validity::fresh());
    let script = format!(
        "ulimit -n 128; exec {} check",
        env!("CARGO_BIN_EXE_outpost-agent")
    );
    let done = in_shell(&home, &script);
    fails(
        done,
        "limits",
        &["128 descriptors", "too few", "LimitNOFILE"],
    );
}

/// With this home, through a shell that sets something up first.
fn in_shell(home: &Home, script: &str) -> Done {
    let output = Command::new("/bin/sh")
        .arg("-c")
        .arg(script)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("OUTPOST_AGENT_STATE", home.state())
        .env("OUTPOST_AGENT_CATALOGUE", home.catalogue())
        .output();
    Done::of(output.unwrap())
}

#[test]
fn another_agent_that_holds_the_lock_and_does_not_answer() {
    let home = enrolled(&nobody(), Validity::fresh());
    let lock = std::fs::File::create(home.state().join("lock")).unwrap();
    lock.lock().unwrap();
    fails(
        check(&home),
        "running",
        &["holds", "does not answer", "if it hangs, end it"],
    );
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    if rustix::process::geteuid().is_root() {
        // Root writes where the mode forbids it; the full disk below is root's case.
        return;
    }
    let home = enrolled(&nobody(), Validity::fresh());
    mode(&home.state(), 0o555);
    fails(
        check(&home),
        "space",
        &["cannot be written", "let the agent's account write"],
    );
    mode(&home.state(), 0o755);
}

#[test]
#[ignore = "needs: root"]
fn a_full_disk_and_a_nearly_full_one() {
    let home = enrolled(&nobody(), Validity::fresh());
    let agent = env!("CARGO_BIN_EXE_outpost-agent");
    let state = home.state().display().to_string();
    let on_tmpfs = |size: &str, then: &str| {
        let script = format!(
            "cp -a {state} {state}.copy && mount -t tmpfs -o mode=711,size={size} none {state} && \
             cp -a {state}.copy/. {state}/ && rm -r {state}.copy && {then} {agent} check"
        );
        in_shell(&home, &format!("exec unshare --mount sh -c '{script}'"))
    };
    let full = format!("dd if=/dev/zero of={state}/fill bs=4k 2>/dev/null;");
    fails(
        on_tmpfs("1m", &full),
        "space",
        &["cannot be written", "No space left", "fix: make room"],
    );
    fails(
        on_tmpfs("8m", ""),
        "space",
        &["free in", "fix: make room: 64.0 MiB is the least"],
    );
    warns(
        &on_tmpfs("200m", ""),
        "space",
        &["free in", "--keep-logs-size"],
    );
}

#[test]
#[ignore = "needs: root"]
fn a_proc_that_hides_processes() {
    let home = Home::new().with_state("2").with_catalogue(&entry());
    mode(home.0.path(), 0o711);
    // As an ordinary account: root sees everything anyway.
    let agent = home.0.path().join("outpost-agent");
    // By a process of its own: what another test forks meanwhile would keep a copy of ours busy.
    let mut cp = std::process::Command::new("cp");
    let copied = cp.arg(env!("CARGO_BIN_EXE_outpost-agent")).arg(&agent);
    assert!(copied.status().unwrap().success());
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "mount -t proc -o hidepid=2 proc /proc && setpriv --reuid 65534 --regid 65534 --clear-groups {} check; exit $?",
        agent.display()
    );
    let done = in_shell(
        &home,
        &format!("exec unshare --mount --pid --fork sh -c '{script}'"),
    );
    fails(
        done,
        "proc",
        &["hidepid=", "hides /proc/1", "ProtectProc=default"],
    );
}

#[test]
fn every_level_of_containment_is_told_and_how_to_get_a_better_one() {
    let home = enrolled(&nobody(), Validity::fresh());
    let findings = said(&check(&home).out);
    let of = |level: &str| {
        findings
            .iter()
            .find(|(what, _)| what == &format!("{level} containment"))
    };
    match (of("ok"), of("warn")) {
        (Some((_, text)), None) => assert!(text.starts_with("cgroup"), "{text}"),
        (None, Some((_, text))) => assert!(text.contains("Delegate=yes"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn as_json_each_finding_has_its_level_and_mending_and_nothing_is_left_behind() {
    let home = enrolled(&nobody(), Validity::fresh());
    let names = || {
        let entries = std::fs::read_dir(home.state()).unwrap();
        let mut names = entries.map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        names.sort();
        names
    };
    let _ = std::fs::File::create(home.state().join("lock")).unwrap();
    let before = names();
    let done = home.agent(&["check", "--output", "json"]);
    assert_eq!(done.code, Some(1));
    assert_eq!(names(), before);
    let value = done.json();
    assert_eq!(value["ok"], false);
    let findings = value["findings"].as_array().unwrap();
    let failed = findings
        .iter()
        .find(|found| found["level"] == "failure")
        .unwrap();
    assert_eq!(failed["check"], "connection");
    assert!(failed["fix"].as_str().unwrap().contains("nobody listens"));
    assert!(
        findings
            .iter()
            .any(|found| found["level"] == "ok" && found.get("fix").is_none())
    );
}
