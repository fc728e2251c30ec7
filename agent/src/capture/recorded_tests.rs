//! The whole check, with tshark, on a connection that was recorded once.

use super::*;

/// Of the recorded connection in `tests/fixtures/capture`.
const RECORDED: &str = "127.0.0.1:45037";
const AGENT: &str = "spiffe://outpost.internal/tenant/default/agent/site-1";

fn recorded(ledger: &Path, keylog: &Path) -> Report {
    let dir = fixtures();
    let options = Options {
        ledger,
        capture: &dir.join("capture.pcap"),
        keylog,
        tshark: None,
        orchestrator: RECORDED,
        agent: Some(AGENT),
    };
    verify(&options, &mut |_| ()).unwrap()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/capture")
}

#[test]
#[ignore = "needs: tshark"]
fn a_recorded_connection_is_accounted_for_against_its_own_ledger_and_no_other() {
    let (ledger, keylog) = (fixtures().join("ledger"), fixtures().join("keys.log"));
    let report = recorded(&ledger, &keylog);
    assert_eq!(report.verdict, Verdict::Accounted, "{report:#?}");
    assert_eq!((report.frames(), report.connections), ((4, 4), 1));
    assert_eq!((report.sum_bytes, report.captured_bytes), (3087, 3087));

    let dir = crate::testing::tempdir().unwrap();
    let report = recorded(dir.path(), &keylog);
    assert_eq!(report.verdict, Verdict::Unaccounted);
    assert_eq!(
        report.findings.len(),
        4 + 1,
        "one for each frame, and the certificate: {report:#?}"
    );

    // A capture that was cut off says so.
    let whole = std::fs::read(fixtures().join("capture.pcap")).unwrap();
    let cut = dir.path().join("cut.pcap");
    std::fs::write(&cut, &whole[..whole.len() * 2 / 3]).unwrap();
    let options = Options {
        ledger: &ledger,
        capture: &cut,
        keylog: &keylog,
        tshark: None,
        orchestrator: RECORDED,
        agent: Some(AGENT),
    };
    let report = verify(&options, &mut |_| ()).unwrap();
    assert_eq!(report.verdict, Verdict::Incomplete, "{report:#?}");
    assert!(report.lacks[0].contains("to its end"), "{:?}", report.lacks);

    let none = dir.path().join("keys");
    std::fs::write(&none, "").unwrap();
    let report = recorded(&ledger, &none);
    assert!(
        report
            .findings
            .iter()
            .any(|found| found.what.contains("no key"))
    );
    assert_eq!(report.verdict, Verdict::Unaccounted);
}

#[test]
#[ignore = "needs: tshark"]
fn everything_that_was_said_is_handed_to_a_search() {
    let (ledger, keylog) = (fixtures().join("ledger"), fixtures().join("keys.log"));
    let options = Options {
        ledger: &ledger,
        capture: &fixtures().join("capture.pcap"),
        keylog: &keylog,
        tshark: None,
        orchestrator: RECORDED,
        agent: Some(AGENT),
    };
    let mut said = Vec::new();
    verify(&options, &mut |bytes| said.extend_from_slice(bytes)).unwrap();
    let mut reader = crate::ledger::Reader::open(&ledger).unwrap();
    while let Some(entry) = reader.next_entry().unwrap() {
        if entry.kind == crate::ledger::Kind::Frame {
            assert!(memchr::memmem::find(&said, &entry.payload).is_some());
        }
    }
    assert!(memchr::memmem::find(&said, b"/outpost.link.v1.Link/Connect").is_some());
}
