//! Neighbours in version understand each other: what an older build wrote is read, and so is what one newer would write.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use outpost_agent_keeper::adopt::{
    Claim, KeeperState, SpawnerClient, end_tree, keeper_state, read_exit_record,
    read_keeper_record, try_claim,
};
use outpost_agent_keeper::process;
use outpost_agent_keeper::protocol::{
    Cause, Containment, Ended, FromKeeper, FromSpawner, NEWEST_READ, NotStarted, OLDEST_READ,
    PROTOCOL_VERSION, Packets, ToKeeper, ToSpawner,
};
use serde_json::Value;

use crate::site::*;

fn fixtures(version: u8) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    dir.join(format!("v{version}"))
}

/// A copy of an attempt's directory, under the boot id that is given.
fn attempt_of(version: u8, case: &str, boot_id: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures(version).join(case)).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if let (Some(boot_id), "keeper.json") = (boot_id, &*entry.file_name().to_string_lossy()) {
            let mut record: Value = serde_json::from_slice(&bytes).unwrap();
            record["boot_id"] = boot_id.into();
            bytes = serde_json::to_vec(&record).unwrap();
        }
        std::fs::write(dir.path().join(entry.file_name()), bytes).unwrap();
    }
    dir
}

#[test]
fn c9_the_records_of_version_1_are_read() {
    for (case, ended, containment) in [
        ("finished", Ended::Exited(37), Some(Containment::Cgroup)),
        ("killed", Ended::Signalled(9), Some(Containment::Cgroup)),
        (
            "not-started",
            Ended::NotStarted(NotStarted::NotFound),
            Some(Containment::Cgroup),
        ),
    ] {
        let dir = attempt_of(1, case, None);
        let record = read_exit_record(dir.path()).unwrap().unwrap();
        assert_eq!((record.ended, record.cause), (ended, Cause::Own), "{case}");
        assert_eq!(record.containment, containment, "{case}");
        let keeper = read_keeper_record(dir.path()).unwrap().unwrap();
        assert_eq!((keeper.version, keeper.attempt), (1, record.attempt));
        assert_eq!(try_claim(dir.path()).unwrap(), Claim::Lost, "{case}");
    }
}

#[test]
fn c9_a_keeper_of_version_1_is_judged_by_its_own_record() {
    let other_boot = attempt_of(1, "running", None);
    assert!(read_exit_record(other_boot.path()).unwrap().is_none());
    assert!(matches!(
        keeper_state(other_boot.path()).unwrap(),
        KeeperState::EarlierBoot(_)
    ));
    // The process that had its id has another start time, or there is none.
    let boot_id = process::boot_id().unwrap();
    let this_boot = attempt_of(1, "running", Some(&boot_id));
    assert!(matches!(
        keeper_state(this_boot.path()).unwrap(),
        KeeperState::Dead(_)
    ));
    end_tree(this_boot.path()).unwrap();
}

/// What this build receives when exactly these bytes are sent.
fn received<T: serde::de::DeserializeOwned>(version: u8, name: &str) -> T {
    let bytes = std::fs::read(fixtures(version).join("packets").join(name)).unwrap();
    assert_eq!(bytes[0], version, "{name}");
    sent(&bytes).unwrap_or_else(|| panic!("{name} of version {version} is not understood"))
}

fn sent<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (own, other) = Packets::pair().unwrap();
    rustix::net::send(own.as_fd(), bytes, rustix::net::SendFlags::NOSIGNAL).unwrap();
    other.recv::<T>().ok().flatten().map(|(message, _)| message)
}

#[test]
fn c9_the_packets_of_version_1_are_understood() {
    let started: ToSpawner = received(1, "to-spawner.start");
    let ToSpawner::Start(spec) = started else {
        panic!("{started:?}");
    };
    spec.check().unwrap();
    assert!(spec.about.is_none() && !spec.make_cwd);
    assert_eq!(
        received::<ToSpawner>(1, "to-spawner.status"),
        ToSpawner::Status
    );
    let status: FromSpawner = received(1, "from-spawner.status");
    assert!(
        matches!(status, FromSpawner::Status { keepers: 2, .. }),
        "{status:?}"
    );
    for (name, expected) in [
        ("to-keeper.cancel", ToKeeper::Cancel),
        ("to-keeper.still_connected", ToKeeper::StillConnected),
        ("to-keeper.query", ToKeeper::Query),
        ("to-keeper.taken", ToKeeper::Taken),
    ] {
        assert_eq!(received::<ToKeeper>(1, name), expected);
    }
    assert_eq!(
        received::<FromKeeper>(1, "from-keeper.starting"),
        FromKeeper::Starting
    );
    let running: FromKeeper = received(1, "from-keeper.running");
    assert!(
        matches!(running, FromKeeper::Running { pid: 18372, .. }),
        "{running:?}"
    );
    assert_eq!(
        finished(received(1, "from-keeper.finished")).ended,
        Ended::Exited(37)
    );
    assert_eq!(
        not_started(received(1, "from-keeper.not_started")),
        NotStarted::NotFound
    );
}

/// Asks a spawner of version 1 for a keeper that is to make its directories; whether they are there when it is asked.
/// `answers`: whether it says its version before that.
fn directories_for_version_1(answers: bool) -> (bool, bool) {
    let site = Site::new();
    let listener = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let address = rustix::net::SocketAddrUnix::new(site.path("spawner.sock")).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let old = std::thread::spawn(move || {
        let connection = Packets::from_fd(rustix::net::accept(&listener).unwrap());
        assert!(matches!(
            connection.recv::<ToSpawner>().unwrap().unwrap().0,
            ToSpawner::Status
        ));
        if answers {
            let status = fixtures(1).join("packets/from-spawner.status");
            let status = std::fs::read(status).unwrap();
            rustix::net::send(&connection, &status, rustix::net::SendFlags::NOSIGNAL).unwrap();
        }
        let started = connection.recv::<ToSpawner>().unwrap().unwrap().0;
        let ToSpawner::Start(spec) = started else {
            panic!("{started:?}");
        };
        (spec.dir.is_dir(), spec.cwd.is_dir())
    });
    let mut spec = site.spec(&["/bin/true"]);
    std::fs::remove_dir(&spec.dir).unwrap();
    spec.cwd = site.path("work");
    spec.make_cwd = true;
    let spawner = SpawnerClient::connect_or_start(site.dir.path(), &exec(), None).unwrap();
    let _keeper = spawner.start(spec).unwrap();
    let made = old.join().unwrap();
    std::fs::remove_file(site.path("spawner.sock")).unwrap();
    made
}

#[test]
fn c9_a_spawner_of_version_1_finds_the_directories_that_its_keepers_do_not_make() {
    assert_eq!(directories_for_version_1(true), (true, true));
}

#[test]
fn c9_a_spawner_that_has_not_said_its_version_yet_finds_them_too() {
    assert_eq!(directories_for_version_1(false), (true, true));
}

#[test]
fn packets_of_the_next_version_are_understood_and_those_beyond_it_refused() {
    let packet = |version: u8| {
        let mut bytes = vec![version];
        bytes.extend_from_slice(br#"{"running":{"pid":7,"start_time":8,"of_the_future":[1]}}"#);
        bytes
    };
    for version in OLDEST_READ..=NEWEST_READ {
        assert_eq!(
            sent(&packet(version)),
            Some(FromKeeper::Running {
                pid: 7,
                start_time: 8
            }),
            "version {version}"
        );
    }
    for version in [0, OLDEST_READ - 1, NEWEST_READ + 1, u8::MAX] {
        assert_eq!(
            sent::<FromKeeper>(&packet(version)),
            None,
            "version {version}"
        );
    }
}

/// The lines of a claim as values.
fn lines_of(claim: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(claim).unwrap().lines();
    lines
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["record"].clone())
        .collect()
}

/// A claim that holds these lines.
fn claim_of(lines: &[Value]) -> Vec<u8> {
    let lines = lines.iter().map(|line| {
        let body = serde_json::to_string(line).unwrap();
        let sum = crc32fast::hash(body.as_bytes());
        format!("{{\"crc32\":\"{sum:08x}\",\"record\":{body}}}\n")
    });
    lines.collect::<String>().into_bytes()
}

/// The same claim as a build of another version would have written it, with a field that nobody here knows.
fn of_version(claim: &[u8], version: u8) -> Vec<u8> {
    let mut lines = lines_of(claim);
    for line in &mut lines {
        for record in line.as_object_mut().unwrap().values_mut() {
            if record.get("version").is_some() {
                record["version"] = version.into();
            }
            record["of_the_future"] = serde_json::json!({ "a": [1, 2] });
        }
    }
    claim_of(&lines)
}

#[test]
fn the_claim_of_the_next_version_is_read_and_one_beyond_it_is_not_guessed() {
    let site = Site::new();
    let spec = site.script_to_tell_of("true", 3);
    let record = expect(site.run_told(&spec), Ended::Exited(3), Cause::Own);
    let path = spec.dir.join("claim");
    let own = std::fs::read(&path).unwrap();
    std::fs::write(&path, of_version(&own, PROTOCOL_VERSION + 1)).unwrap();
    let newer = read_exit_record(&spec.dir).unwrap().unwrap();
    assert_eq!(
        (newer.version, newer.ended),
        (PROTOCOL_VERSION + 1, record.ended)
    );
    assert!(read_keeper_record(&spec.dir).unwrap().is_some());
    std::fs::write(&path, of_version(&own, PROTOCOL_VERSION + 2)).unwrap();
    let error = read_exit_record(&spec.dir).unwrap_err().to_string();
    assert!(error.contains("this build reads 1 to 5"), "{error}");
}

/// Names of all fields, and what each holds in kind.
fn shape(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", shape(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(_) => "array".to_owned(),
        Value::String(_) => "text".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

#[test]
fn what_this_build_writes_is_what_its_version_is() {
    let site = Site::new();
    let mut spec = site.script_to_tell_of("true", 37);
    spec.containment = outpost_agent_keeper::protocol::Want::Subreaper;
    expect(site.run_told(&spec), Ended::Exited(37), Cause::Own);
    let written = lines_of(&std::fs::read(spec.dir.join("claim")).unwrap());
    let fixture = fixtures(PROTOCOL_VERSION).join("finished/claim");
    let kept = lines_of(&std::fs::read(&fixture).unwrap());
    let shapes = |lines: &[Value]| lines.iter().map(shape).collect::<Vec<_>>();
    assert_eq!(
        shapes(&written),
        shapes(&kept),
        "a record of another form needs another version, and a fixture of this one"
    );
    let dir = attempt_of(PROTOCOL_VERSION, "finished", None);
    let record = read_exit_record(dir.path()).unwrap().unwrap();
    assert_eq!(
        (record.version, record.ended),
        (PROTOCOL_VERSION, Ended::Exited(37))
    );
}
