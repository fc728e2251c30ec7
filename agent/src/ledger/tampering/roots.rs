//! Whose signature counts, by the word of whoever checks: an export that somebody signed himself, with roots of his own in it.

use super::*;

fn hash(center: &Center) -> String {
    use sha2::{Digest as _, Sha256};
    hex(&Sha256::digest(center.authority.root()))
}

fn named(all: &[String]) -> Roots {
    Roots::named(all).unwrap().unwrap()
}

fn kinds(findings: &[Finding]) -> Vec<Damage> {
    findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn an_export_that_somebody_signed_himself_does_not_hold_under_the_root_that_was_named() {
    let (ours, stranger) = (Center::new(), Center::new());
    let (_dir, honest) = exported(&ours);
    let (_other, forged) = exported(&stranger);
    // By its own word the one is as good as the other.
    for (export, center) in [(&honest, &ours), (&forged, &stranger)] {
        let (_, summary, findings) = check_export(export, None).unwrap();
        assert_eq!(findings, []);
        assert!(!summary.roots_named);
        assert_eq!(summary.roots, [hash(center)]);
        assert!(summary.signed_frames > 0);
    }
    let roots = named(&[hash(&ours)]);
    let (_, summary, findings) = check_export(&honest, Some(&roots)).unwrap();
    assert_eq!(findings, []);
    assert!(summary.roots_named && summary.signed_frames > 0);
    assert_eq!(
        (summary.roots, summary.roots_unnamed),
        (vec![hash(&ours)], vec![])
    );
    let (_, summary, findings) = check_export(&forged, Some(&roots)).unwrap();
    assert_eq!(summary.signed_frames, 0);
    assert_eq!(
        (summary.roots, summary.roots_unnamed),
        (vec![], vec![hash(&stranger)])
    );
    let mut found = kinds(&findings);
    assert!(found.contains(&Damage::ReceiptUnknown), "{findings:?}");
    found.retain(|kind| *kind == Damage::ReceiptSignature);
    assert_eq!(found.len(), 8, "each of its receipts: {findings:?}");
}

#[test]
fn a_root_as_a_file_counts_where_the_ledger_brings_none_and_others_that_it_brings_do_not() {
    let (ours, stranger) = (Center::new(), Center::new());
    let dir = crate::testing::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    written(&ledger, &ours);
    let file = dir.path().join("root.pem");
    let pem = outpost_certs::pem::encode_certificate(ours.authority.root());
    std::fs::write(&file, pem).unwrap();
    let roots = named(&[file.display().to_string()]);
    let own = Named::of(SPIFFE);
    let given = Given {
        whose: own.as_ref(),
        spiffe_id: Some(SPIFFE),
        roots: Some(&roots),
    };
    std::fs::remove_file(ledger.join("trust.json")).unwrap();
    let (summary, findings) = check_with(&ledger, false, given).unwrap();
    assert_eq!(findings, []);
    assert_eq!(summary.receipts.hold, 8);
    // Somebody puts a root of his own beside it.
    Trust::add(
        &ledger,
        Anchor::new(SPIFFE, &[stranger.authority.root().to_vec()]).unwrap(),
    )
    .unwrap();
    let (summary, findings) = check_with(&ledger, false, given).unwrap();
    assert_eq!(findings, []);
    assert_eq!(
        (summary.roots, summary.roots_unnamed),
        (vec![hash(&ours)], vec![hash(&stranger)])
    );
}
