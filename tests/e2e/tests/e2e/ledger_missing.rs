//! What somebody takes out of the evidence who makes all of it anew: sessions with their receipts, whose signature counts, and
//! what was never signed for before it went. With the documented form of a ledger and nothing of the agent's own.

use std::path::Path;

use outpost_certs::ca::Authority;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// All records are as they were written, and not what was signed for.
const NOT_SIGNED_FOR: i32 = 4;
/// Nothing is known to be wrong, and not all of it is shown.
const UNPROVEN: i32 = 5;

const FRAME: u8 = 1;
const OPENED: u8 = 6;
const LINKED: u8 = 12;

fn enrolled(world: &World) -> Agent {
    let token = world.token_file(&world.api(), "site-1");
    world.enrolled("site-1", &token, &[Entry::script("quick", "true")])
}

fn checked(agent: &Agent, more: &[&str]) -> (Option<i32>, Value) {
    let args = [&["ledger", "verify", "--output", "json"], more].concat();
    let done = agent.command(&args);
    (done.code, serde_json::from_str(&done.out).unwrap())
}

fn kinds(told: &Value) -> Vec<&str> {
    let findings = told["findings"].as_array().unwrap().iter();
    findings
        .map(|found| found["kind"].as_str().unwrap())
        .collect()
}

/// One record, taken apart.
#[derive(Clone)]
struct Record {
    kind: u8,
    /// Length, kind, time, connection and checksum.
    header: Vec<u8>,
    payload: Vec<u8>,
}

impl Record {
    fn new(kind: u8, conn: u64, payload: &[u8]) -> Self {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut header = [
            &length[..],
            &[kind],
            &7_u64.to_be_bytes(),
            &conn.to_be_bytes(),
        ]
        .concat();
        header.extend(crc32fast::hash(&header).to_be_bytes());
        let payload = payload.to_vec();
        Self {
            kind,
            header,
            payload,
        }
    }
}

fn read(path: &Path) -> Vec<Record> {
    let bytes = std::fs::read(path).unwrap();
    let (mut all, mut left) = (Vec::new(), bytes.as_slice());
    while let Some((header, rest)) = left.split_at_checked(25) {
        let length = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
        let (payload, rest) = rest.split_at(length);
        all.push(Record {
            kind: header[4],
            header: header.to_vec(),
            payload: payload.to_vec(),
        });
        left = &rest[32..];
    }
    all
}

/// Writes them with every head made anew; answers the last one.
fn write(path: &Path, records: &[Record]) -> [u8; 32] {
    let mut head: [u8; 32] = records[0].payload[16..48].try_into().unwrap();
    let mut bytes = Vec::new();
    for record in records {
        let written = [&record.header[..], &record.payload].concat();
        head = Sha256::new()
            .chain_update(head)
            .chain_update(&written)
            .finalize()
            .into();
        bytes.extend([&written[..], &head].concat());
    }
    std::fs::write(path, bytes).unwrap();
    head
}

/// Runs until a session of its own is signed for.
fn had_a_session(agent: &mut Agent, epoch: u64) {
    agent.start();
    eventually("its session is signed for", || {
        let (_, told) = checked(agent, &[]);
        let sessions = told["sessions"].as_array()?.iter();
        let mut of = sessions.filter(|session| session["session_epoch"] == epoch);
        so(of.next()?["signed_frames"].as_u64()? > 0)
    });
    agent.kill_runner();
}

#[test]
fn d4_a_session_that_is_taken_out_of_a_chain_made_anew_with_its_receipts_is_named() {
    let world = World::new();
    let mut agent = enrolled(&world);
    for epoch in 1..=3 {
        had_a_session(&mut agent, epoch);
    }
    let (code, told) = checked(&agent, &[]);
    assert_eq!((code, kinds(&told)), (Some(0), vec![]), "{told:#}");
    let words = agent.command(&["ledger", "explain"]).ok();
    assert!(
        words.contains("and before it, of all sessions since 1, "),
        "{words}"
    );

    // The enrolment stays, the first two lives of the agent go.
    let ledger = agent.state.join("ledger");
    let (segment, receipts) = (ledger.join("000001.led"), ledger.join("receipts.led"));
    let all = read(&segment);
    let lives: Vec<_> = (0..all.len())
        .filter(|at| all[*at].kind == OPENED)
        .collect();
    let first = *lives
        .iter()
        .find(|at| all[**at..].iter().take(4).any(|r| r.kind == FRAME))
        .unwrap();
    write(
        &segment,
        &[&all[..first], &all[*lives.last().unwrap()..]].concat(),
    );
    let is_third =
        |record: &Record| record.kind != LINKED || record.payload[12..20] == 3_u64.to_be_bytes();
    let signed = read(&receipts);
    let left: Vec<_> = signed
        .iter()
        .filter(|record| is_third(record))
        .cloned()
        .collect();
    assert!(left.len() < signed.len());
    write(&receipts, &left);
    let (code, told) = checked(&agent, &[]);
    assert_eq!(code, Some(NOT_SIGNED_FOR), "{told:#}");
    assert_eq!(
        kinds(&told),
        ["truncated", "truncated", "session_missing"],
        "{told:#}"
    );
    let what = told["findings"][2]["what"].as_str().unwrap();
    assert!(what.starts_with("sessions 1 to 2 of this agent"), "{what}");
    // Without a receipt that says what came before, the number alone.
    let none: Vec<_> = left
        .iter()
        .filter(|record| record.kind != LINKED)
        .cloned()
        .collect();
    write(&receipts, &none);
    let (code, told) = checked(&agent, &[]);
    assert_eq!(
        (code, kinds(&told)),
        (Some(UNPROVEN), vec!["session_missing"]),
        "{told:#}"
    );
}

#[test]
fn whose_signature_counts_is_the_word_of_whoever_checks() {
    let world = World::new();
    let mut agent = enrolled(&world);
    had_a_session(&mut agent, 1);
    let export = world.dir().join("export").to_string_lossy().into_owned();
    let _ = agent.command(&["ledger", "export", &export]).ok();
    let auditor = world.stranger("auditor", &[]);
    let from = ["--from", export.as_str()];
    let authority = Authority::load(&world.orchestrator.dir().join("ca")).unwrap();
    let hash: String = Sha256::digest(authority.root())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();

    let done = auditor.command(&[&["ledger", "verify"], &from[..]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.err.contains("this copy's own word") && done.out.contains(&hash),
        "{done:?}"
    );
    let named = [&from[..], &["--root", &hash]].concat();
    let (code, told) = checked(&auditor, &named);
    assert_eq!(
        (code, &told["roots_named"]),
        (Some(0), &json!(true)),
        "{told:#}"
    );
    let done = auditor.command(&[&["ledger", "verify"], &named[..]].concat());
    assert!(
        done.err.is_empty() && done.out.contains("which was named"),
        "{done:?}"
    );
    // The same root as a file, from the orchestrator.
    let file = format!("{export}/roots.pem");
    assert_eq!(
        checked(&auditor, &[&from[..], &["--root", &file]].concat()).0,
        Some(0)
    );

    let other = "ab".repeat(32);
    let (code, told) = checked(&auditor, &[&from[..], &["--root", &other]].concat());
    assert_eq!(code, Some(NOT_SIGNED_FOR), "{told:#}");
    assert_eq!(
        (&told["signed_frames"], &told["roots_unnamed"]),
        (&json!(0), &json!([hash]))
    );
    assert!(kinds(&told).contains(&"receipt_signature"), "{told:#}");
    let done =
        auditor.command(&[&["ledger", "verify"], &from[..], &["--root", "no-root"]].concat());
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.err.contains("neither the SHA-256 of a root"),
        "{done:?}"
    );
}

#[test]
fn what_is_pruned_before_any_receipt_is_told_by_the_agent_and_by_every_check() {
    const MIB: usize = 1024 * 1024;
    let world = World::new();
    let api = world.api();
    let mut agent = enrolled(&world);
    let ledger = agent.state.join("ledger");
    let (first, second) = (ledger.join("000001.led"), ledger.join("000002.led"));
    // A life that said far more than is kept, and had no receipt for any of it.
    let mut all = read(&first);
    all.push(Record::new(OPENED, 0, &[]));
    let loud = Record::new(FRAME, 1, &[b'x'; 256 * 1024]);
    all.extend(std::iter::repeat_n(loud, 34 * MIB / (256 * 1024)));
    let head = write(&first, &all);
    let start = [b"OPLEDG1\n", &2_u64.to_be_bytes()[..], &head].concat();
    write(&second, &[Record::new(0, 0, &start)]);
    std::fs::remove_file(ledger.join("receipts.led")).unwrap();
    let (code, told) = checked(&agent, &[]);
    assert_eq!((code, kinds(&told)), (Some(0), vec![]), "{told:#}");

    agent.env = vec![(
        "OUTPOST_AGENT_KEEP_LEDGER_SIZE".to_owned(),
        "32MiB".to_owned(),
    )];
    agent.start();
    agent.live(&api);
    assert!(!first.exists(), "{}", agent.logged());
    assert!(
        agent.logged().contains("was taken away"),
        "{}",
        agent.logged()
    );
    let (code, told) = checked(&agent, &[]);
    assert_eq!(
        (code, kinds(&told)),
        (Some(UNPROVEN), vec!["pruned_unsigned"]),
        "{told:#}"
    );
    let what = told["findings"][0]["what"].as_str().unwrap();
    assert!(what.starts_with("pruned before any receipt"), "{what}");
    assert_eq!(told["pruned"]["early"], 1, "{told:#}");
    // What is signed of later sessions says nothing of what went before them.
    eventually("a later session is signed for", || {
        so(checked(&agent, &[]).1["signed_frames"].as_u64()? > 0)
    });
    assert_eq!(checked(&agent, &[]).0, Some(UNPROVEN));
}
