//! What a link that was taken over could say beside the ledger's frames, by TLS and HTTP/2 themselves: each is told.

use std::time::{Duration, UNIX_EPOCH};

use outpost_certs::ca::Authority;
use sha2::{Digest as _, Sha256};

use super::tests::*;
use super::*;

/// Everything that is told of a connection.
fn all(play: Play) -> Vec<String> {
    let report = play.end();
    told(&report).into_iter().map(str::to_owned).collect()
}

fn message(kind: u64, length: u64, fields: &str) -> (u64, String) {
    (
        length,
        format!(r#""tls.handshake.type": "{kind}" {fields}"#),
    )
}

/// What is told of a connection whose client says these messages behind its hello.
fn after_the_hello(messages: &[(u64, String)]) -> Vec<String> {
    let mut play = Play::greeted();
    play.changes_ciphers();
    let messages: Vec<(u64, &str)> = messages
        .iter()
        .map(|(n, text)| (*n, text.as_str()))
        .collect();
    play.says_tls(&messages);
    all(play)
}

#[test]
fn messages_of_the_handshake_are_said_once_in_order_and_in_their_length() {
    let finished = |length| message(20, length, "");
    let again = "a TLS end of the handshake that is said again or at another place";
    assert_eq!(after_the_hello(&[finished(32)]), [""; 0]);
    for (messages, what) in [
        (
            vec![finished(48)],
            "a TLS end of the handshake with 48 bytes, where the hash has 32",
        ),
        (
            vec![finished(31)],
            "a TLS end of the handshake with 31 bytes, where the hash has 32",
        ),
        (vec![finished(32), finished(32)], again),
        (
            vec![message(4, 40, ""), finished(32)],
            "a TLS handshake message of type 4, which the agent never sends",
        ),
        (
            vec![message(5, 0, ""), finished(32)],
            "a TLS handshake message of type 5, which the agent never sends",
        ),
        (
            vec![signature("0x0403", 70), finished(32)],
            "a TLS signature that is said again or at another place",
        ),
        (
            vec![
                finished(32),
                message(24, 1, r#", "tls.handshake.key_update.request_update": "0""#),
            ],
            "TLS new keys that nobody asked for",
        ),
    ] {
        let told = after_the_hello(&messages);
        assert!(told.iter().any(|told| told == what), "{what}: {told:?}");
    }
}

fn signature(scheme: &str, length: u64) -> (u64, String) {
    let fields = format!(
        r#", "tls.handshake.sig_hash_alg": "{scheme}", "tls.handshake.client_cert_vrfy.sig_len": "{length}""#
    );
    message(15, 4 + length, &fields)
}

#[test]
fn new_keys_are_only_an_answer_and_have_nothing_to_say() {
    let asks = |by: &str| {
        format!(r#""tls.handshake.type": "24", "tls.handshake.key_update.request_update": "{by}""#)
    };
    let mut play = Play::new();
    play.hears_tls(&asks("1"));
    play.says_tls(&[(1, &asks("0"))]);
    assert_eq!(all(play), [""; 0]);
    for (length, text, what) in [
        (1, asks("0"), "TLS new keys that nobody asked for"),
        (
            1,
            asks("1"),
            "TLS new keys with more to say than the agent's",
        ),
        (
            3,
            asks("0"),
            "TLS new keys with more to say than the agent's",
        ),
    ] {
        let mut play = Play::new();
        play.says_tls(&[(length, &text)]);
        assert_eq!(all(play), [what]);
    }
}

#[test]
fn an_alert_is_one_of_a_list_and_the_last_word() {
    let mut play = Play::new();
    play.says_alert(2, 48, 0);
    assert_eq!(all(play), [""; 0]);
    for (level, reason) in [(1, 90), (2, 0), (2, 77), (3, 40)] {
        let mut play = Play::new();
        play.says_alert(level, reason, 0);
        let what = format!("a TLS alert of level {level} with the reason {reason}");
        assert_eq!(all(play), [what]);
    }
    let over = "a TLS record after the alert that ends the connection";
    let mut play = Play::new();
    play.says_alert(1, 0, 0);
    play.says_alert(1, 0, 0);
    assert_eq!(all(play), [over]);
    let mut play = Play::new();
    play.says_alert(1, 0, 0);
    play.says_one(8, &goodbye());
    assert_eq!(all(play), [over]);
    let mut play = Play::new();
    play.says_alert(1, 0, 9);
    let told = all(play);
    assert!(
        told.len() == 1 && told[0].contains("padding of records"),
        "{told:?}"
    );
}

#[test]
fn records_say_nothing_by_themselves() {
    let mut play = Play::new();
    play.says(&[], 0);
    assert_eq!(all(play), ["a TLS record with nothing in it"]);

    let mut play = Play::new();
    play.changes_ciphers();
    assert_eq!(
        all(play),
        ["an unencrypted TLS record behind encrypted ones"]
    );

    let mut play = Play::asking();
    let tls = r#", "tls": {"tls.record": {"tls.record.opaque_type": "23", "tls.record.version": "0x0301",
                   "tls.record.length": "34", "tls.record.content_type": "23"}},
                   "http2": {"http2.stream": {"http2.length": "8", "http2.r": "0x0", "#;
    let layers = format!("{tls}{}}}}}", goodbye());
    play.packet(true, 16, 39, "17", &layers);
    assert_eq!(all(play), ["a TLS record with another version"]);

    let mut play = Play::greeted();
    play.changes_ciphers();
    play.says_layers(
        24,
        r#", "http2": {"http2.stream": {"http2.magic": "PRI * HTTP/2.0"}}"#,
    );
    assert_eq!(all(play)[0], "data before the end of the TLS handshake");

    // A message that comes in pieces of one byte.
    let mut play = Play::asking();
    let message = data("0x00", "00:00:00:00:01:61");
    for _ in 0..14 {
        play.says(&[], 1);
    }
    let layers = format!(
        r#", "http2": {{"http2.stream": {{"http2.length": "6", "http2.r": "0x0", {message}}}}}"#
    );
    play.says_layers(1, &layers);
    let told = all(play);
    assert!(
        told.contains(&"18 TLS records for 4 HTTP/2 frames".to_owned()),
        "{told:?}"
    );

    let mut play = Play::new();
    play.packet(true, 16 + 32, 0, "", "");
    assert_eq!(all(play), ["urgent data of TCP"]);
}

#[test]
fn only_streams_that_were_opened_are_spoken_of_and_nothing_behind_their_end() {
    type Frames = Vec<(u64, String)>;
    let message = || (6, data("0x00", "00:00:00:00:01:61"));
    let end = || (0, data("0x01", ""));
    let next = |stream: &str| headers(stream, &[]);
    let flagged = |flags: &str| {
        let (length, frame) = headers("3", &[]);
        (length, frame.replace("0x04", flags))
    };
    let other = "an HTTP/2 HEADERS frame with other flags or number than the agent's";
    let chosen: [(Frames, &str); 17] = [
        (
            vec![(0, data("0x00", ""))],
            "an HTTP/2 DATA frame with nothing in it",
        ),
        (
            vec![end(), end()],
            "an HTTP/2 DATA frame after the end of its request",
        ),
        (
            vec![end(), message()],
            "an HTTP/2 DATA frame after the end of its request",
        ),
        (
            vec![(4, reset("1", "8")), message()],
            "an HTTP/2 DATA frame after the end of its request",
        ),
        (
            vec![(0, end().1.replace(r#""1""#, r#""3""#))],
            "an HTTP/2 DATA frame of no request",
        ),
        (
            vec![(4, reset("3", "8"))],
            "an HTTP/2 RST_STREAM of no request",
        ),
        (
            vec![(4, reset("1", "8")), (4, reset("1", "0"))],
            "an HTTP/2 RST_STREAM of no request",
        ),
        (
            vec![(4, window("3", "90000"))],
            "an HTTP/2 WINDOW_UPDATE of no request",
        ),
        (
            vec![(4, window("0", "458753"))],
            "an HTTP/2 WINDOW_UPDATE by 458753, more than was received",
        ),
        (vec![next("5")], other),
        (vec![next("4")], other),
        (vec![next("1")], other),
        (vec![flagged("0x05")], other),
        (vec![flagged("0x24")], other),
        (vec![(8, goodbye()), next("3")], other),
        (
            vec![(8, goodbye()), (8, goodbye())],
            "a second HTTP/2 GOAWAY",
        ),
        (
            vec![(
                9,
                fields(&[("type", "9"), ("flags", "0x04"), ("streamid", "1")]),
            )],
            "an HTTP/2 frame of type 9, which the agent never sends",
        ),
    ];
    for (frames, what) in chosen {
        let mut play = Play::asking();
        play.says(&frames, 0);
        let told = all(play);
        assert!(told.iter().any(|told| told == what), "{what}: {told:?}");
    }
}

#[test]
fn the_connections_own_frames_are_said_when_they_are_due_and_not_again() {
    let again = "HTTP/2 settings that are said again";
    let sooner = "an HTTP/2 PING sooner than the agent's, or before an answer";
    let mut play = Play::new();
    play.says_one(24, &settings());
    assert_eq!(all(play), [again]);

    let mut play = Play::new();
    play.hears(30, &settings());
    play.says(&[(0, taken()), (0, taken())], 0);
    assert_eq!(all(play), ["HTTP/2 settings are taken that nobody sent"]);

    let mut play = Play::new();
    play.says_layers(
        24,
        r#", "http2": {"http2.stream": {"http2.magic": "PRI * HTTP/2.0"}}"#,
    );
    assert_eq!(all(play), ["a second beginning of HTTP/2"]);

    let mut play = Play::greeted();
    play.changes_ciphers();
    play.says_tls(&[FINISHED]);
    play.says_one(24, &settings());
    assert_eq!(all(play), ["an HTTP/2 frame before the beginning"]);

    let mut play = Play::new();
    play.says_one(8, &ping("0x00", "ping", OWN_PING));
    assert_eq!(all(play), [sooner]);

    let mut play = Play::new();
    for _ in 0..2 {
        play.second += 20;
        play.says_one(8, &ping("0x00", "ping", OWN_PING));
    }
    assert_eq!(all(play), [sooner], "the first is not answered");

    let mut play = Play::asking();
    for _ in 0..10 {
        play.hears(16_000, &data("0x00", "00"));
    }
    play.says_one(4, &window("1", "40000"));
    assert_eq!(
        all(play),
        ["an HTTP/2 WINDOW_UPDATE by 40000, sooner than the agent's"]
    );
}

#[test]
fn headers_are_packed_in_the_one_way_of_the_agent() {
    let what = "request headers that are packed otherwise than the agent's";
    let usual = hpack::request("site.test", CONNECT, true).unwrap();
    let later = hpack::request("site.test", CONNECT, false).unwrap();
    // The table's size set anew; `te` as it stands instead of Huffman codes; a first request packed as a later one.
    let resized = [&[0x3f, 0xe1, 0x1f], &usual[..]].concat();
    let at = usual
        .windows(3)
        .position(|three| three == [0x40, 0x82, 0x49])
        .unwrap();
    let plain = [&usual[..at + 1], b"\x02te", &usual[at + 4..]].concat();
    for packed in [resized, plain, later] {
        let (_, frame) = headers("1", &[]);
        let frame = frame.replace(&hex(&usual), &hex(&packed));
        let mut play = Play::new();
        play.says_one(packed.len() as u64, &frame);
        assert_eq!(all(play), [what]);
    }
    let (length, frame) = headers("1", &[]);
    let mut play = Play::new();
    play.says_one(length + 7, &frame);
    assert_eq!(all(play), [what], "bytes that tshark shows nowhere");
}

/// An authority, an agent of it, and what its ledger knows.
struct Site {
    root: Vec<u8>,
    chain: Vec<Vec<u8>>,
    known: certificates::Known,
}

const NAME: &str = "spiffe://outpost.test/tenant/default/agent/site-1";

fn site() -> Site {
    let now = UNIX_EPOCH + Duration::from_secs(1);
    let authority = Authority::create("outpost.test", now).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let (tenant, agent) = ("default".parse().unwrap(), "site-1".parse().unwrap());
    let hour = Duration::from_secs(3600);
    let issued = authority
        .issue_agent(&tenant, &agent, csr.der(), now, hour)
        .unwrap();
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    let known = certificates::Known {
        keys: [Sha256::digest(public).into()].into(),
        is_pruned: false,
    };
    Site {
        root: authority.root().to_vec(),
        chain: issued.chain,
        known,
    }
}

/// A certificate message as tshark shows it; `more` bytes in the message beside the certificates.
fn certificates_of(chain: &[Vec<u8>], name: &str, extensions: u64, more: u64) -> (u64, String) {
    let list: u64 = chain.iter().map(|der| 3 + der.len() as u64 + 2).sum();
    let ders: Vec<String> = chain
        .iter()
        .map(|der| {
            format!(
                r#""tls.handshake.certificate_length": "{}", "tls.handshake.certificate": "{}",
                   "tls.handshake.certificate_tree": {{"x509ce.uniformResourceIdentifier": "{name}"}},
                   "tls.handshake.extensions_length": "{extensions}""#,
                der.len(),
                hex(der)
            )
        })
        .collect();
    let fields = format!(
        r#", "tls.handshake.certificate_request_context_length": "0",
           "tls.handshake.certificates_length": "{list}", "tls.handshake.certificates": {{{}}}"#,
        ders.join(", ")
    );
    message(11, 1 + 3 + list + more, &fields)
}

/// What is told when a client presents these; and what is lacking.
fn presented(
    site: &Site,
    chain: (u64, String),
    signature: (u64, String),
    agent: Option<&str>,
) -> (Vec<String>, Vec<String>) {
    let mut play = Play::greeted();
    let (_, server) = certificates_of(&[vec![1], site.root.clone()], "", 0, 0);
    play.hears_tls(&server);
    play.changes_ciphers();
    play.says_tls(&[(chain.0, &chain.1), (signature.0, &signature.1), FINISHED]);
    play.packet(true, 17, 0, "", "");
    let mut connections: Vec<Connection> = play.connections.into_values().collect();
    let lacks = certificates::check(&mut connections, &site.known, agent);
    let report = report(
        "tshark".to_owned(),
        connections,
        matching::Outcome::default(),
        None,
    );
    (
        told(&report).into_iter().map(str::to_owned).collect(),
        lacks,
    )
}

#[test]
fn a_certificate_is_one_that_the_ledger_has_a_request_for_and_the_authority_signed() {
    let mut site = site();
    let usual = |site: &Site| certificates_of(&site.chain, NAME, 0, 0);
    let signed = || signature("0x0403", 71);
    let told = |site: &Site, chain, signature| presented(site, chain, signature, Some(NAME)).0;
    assert_eq!(told(&site, usual(&site), signed()), [""; 0]);
    assert_eq!(
        presented(
            &site,
            usual(&site),
            signed(),
            Some("spiffe://outpost.test/tenant/default/agent/b")
        )
        .0,
        [format!("a certificate of another agent: {NAME}")]
    );

    let other = "a TLS signature of another kind or length than the agent's";
    for signature in [signature("0x0503", 71), signature("0x0403", 73)] {
        assert!(told(&site, usual(&site), signature).contains(&other.to_owned()));
    }
    let more = "a TLS certificate message with more than certificates in it";
    for chain in [
        certificates_of(&site.chain, NAME, 4, 4),
        certificates_of(&site.chain, NAME, 0, 9),
    ] {
        assert!(told(&site, chain, signed()).contains(&more.to_owned()));
    }

    // Behind the chain, one that says something and that nobody asks for; a byte that is another; another authority.
    let leads =
        "certificates that do not lead, each needed, to a root that the orchestrator presented";
    let says = rcgen::generate_simple_self_signed(vec!["leak".to_owned()]).unwrap();
    let mut spare = site.chain.clone();
    spare.push(says.cert.der().to_vec());
    let mut changed = site.chain.clone();
    *changed[0].last_mut().unwrap() ^= 1;
    for chain in [spare, changed, self::site().chain] {
        let told = told(&site, certificates_of(&chain, NAME, 0, 0), signed());
        assert_eq!(told, [leads]);
    }
    let own = [says.cert.der().to_vec()];
    let found = told(&site, certificates_of(&own, NAME, 0, 0), signed());
    assert!(
        found[0].starts_with("a certificate that is no agent's"),
        "{found:?}"
    );

    site.known.keys.clear();
    let unknown = "a certificate of a key that the ledger has no request for";
    assert_eq!(told(&site, usual(&site), signed()), [unknown]);
    site.known.is_pruned = true;
    let (told, lacks) = presented(&site, usual(&site), signed(), None);
    assert_eq!((told.len(), lacks.len()), (0, 1), "{lacks:?}");
}
