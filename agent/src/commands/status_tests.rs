//! The screen, whole and with everything on it.

use super::*;

fn everything() -> Status {
    let attempt = |id: &str, state: &str, began: Option<u64>| {
        json!({
            "attempt": id.repeat(32 / id.len()), "entry": "load-the-warehouse", "task": "load", "workflow": "nightly",
            "state": state, "began_us": began,
        })
    };
    serde_json::from_value(json!({
        "agent": "edge-7", "tenant": "acme", "orchestrator": "outpost.example:7443", "version": "0.1.0", "pid": 4711,
        "certificate_not_after_s": 1_000_000 + 3 * 86_400, "trouble": null, "now_boot_us": 9_000_000_000_u64,
        "network": { "link": 4713, "dial": [4720] },
        "sandbox": {
            "level": "partial", "landlock_abi": 3, "uid": 60_917,
            "missing": [{
                "says": "this kernel's Landlock has no rules for TCP",
                "fix": "use Linux 6.7 or newer (Landlock ABI 4)",
            }],
        },
        "catalogue": { "version": "1f2e3d4c", "entries": 12 },
        "disk": {
            "ledger_bytes": 5 << 20, "ledger_limit_bytes": 1 << 30, "journal_bytes": 12_345,
            "logs_limit_bytes": 10_u64 << 30,
        },
        "numbers": {
            "started_us": 1_000_000_000_000_u64 - 9_000_000_000,
            "catalogue_read_us": 1_000_000_000_000_u64 - 60_000_000,
            "catalogue_refused": "x",
            "logs_bytes": 123 << 20,
            "outcomes": { "succeeded": 120, "failed": 3, "refused{unknown_entry}": 1 },
            "refusals": [{
                "at_us": 1_000_000_000_000_u64 - 30_000_000, "attempt": "aa", "entry": "rm-rf",
                "why": "the catalogue in /etc/outpost/catalogue.d has no entry `rm-rf`; `outpost-agent catalogue list` shows",
            }],
            "last_trouble": { "at_us": 1_000_000_000_000_u64 - 5_000_000_000, "what": "connection refused" },
        },
        "view": {
            "session": "ready", "session_since_us": 4_000_000_000_u64, "lease_until_us": 9_021_000_000_u64, "slots": 4,
            "running": [attempt("0123456789abcdef", "running", Some(8_000_000_000)), attempt("f", "running", None)],
            "queued": [attempt("aaaaaaaaaaaaaaaa", "assigned", None)],
            "unacknowledged": 2, "flags": { "paused": true, "draining": false },
        },
    }))
    .unwrap()
}

#[test]
fn everything_fits_in_a_screen_of_80_columns() {
    let lines = words(&everything(), 1_000_000_000_000);
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{lines:#?}"
    );
    assert!(lines.len() <= 24);
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn out_of_touch_it_says_since_when_why_and_what_is_next() {
    let mut status = everything();
    status.view = json!({
        "session": null, "session_since_us": 8_940_000_000_u64, "retry_at_us": 9_012_000_000_u64, "slots": 4,
        "running": [], "queued": [], "unacknowledged": 0, "flags": {},
    });
    status.sandbox.missing.clear();
    status.network = Default::default();
    status.trouble = Some("outpost.example:7443 cannot be reached: connection refused".to_owned());
    status.certificate_not_after_s = 1;
    insta::assert_snapshot!(words(&status, 1_000_000_000_000).join("\n"));
}
