//! The accounting, on packets as tshark prints them: what is usual is accounted for, and each thing that could be chosen is
//! told by its name.

use serde_json::json;

use super::*;

const PORT: u16 = 7443;
/// Bytes of a record beside what it holds: header, hidden type, checksum.
const RECORD: u64 = 5 + 17;

/// One connection that is played packet by packet.
pub(super) struct Play {
    host: &'static str,
    pub(super) connections: BTreeMap<u64, Connection>,
    number: u64,
    seq: u64,
    heard: u64,
    pub(super) second: u64,
}

/// Packets that a connection begins with.
const BEGINNING: u64 = 7;

impl Play {
    /// With the first packet of TCP.
    pub(super) fn bare() -> Self {
        Self::with("site.test")
    }

    /// The same with this orchestrator.
    pub(super) fn with(host: &'static str) -> Self {
        let mut play = Self {
            host,
            connections: BTreeMap::new(),
            number: 0,
            seq: 0,
            heard: 1,
            second: 1,
        };
        play.packet(true, 2, 0, "", "");
        play.seq = 1;
        play
    }

    /// With the hello, and the other side's, with a hash of 32 bytes.
    pub(super) fn greeted() -> Self {
        Self::bare().greets()
    }

    pub(super) fn greets(self) -> Self {
        let mut play = self;
        let hello = hello::tests::record_for(play.host);
        let tls = format!(
            r#", "tls": {{"tls.record": {{"tls.record.content_type": "22", "tls.record.version": "0x0301",
                 "tls.record.length": "{}"}}}}"#,
            hello.len() - 5
        );
        play.packet(true, 16, hello.len() as u64, &hex(&hello), &tls);
        play.hears_tls(r#""tls.handshake.type": "2", "tls.handshake.ciphersuite": "0x1301""#);
        play
    }

    /// With everything that every connection begins with; no certificates.
    pub(super) fn new() -> Self {
        Self::greeted().begins()
    }

    pub(super) fn begins(self) -> Self {
        let mut play = self;
        play.changes_ciphers();
        play.says_tls(&[FINISHED]);
        play.says_layers(
            24,
            r#", "http2": {"http2.stream": {"http2.magic": "PRI * HTTP/2.0"}}"#,
        );
        play.says(&[(24, settings()), (4, window("0", "458753"))], 0);
        assert_eq!(play.number, BEGINNING);
        play
    }

    /// With a request.
    pub(super) fn asking() -> Self {
        let mut play = Self::new();
        let (length, headers) = headers("1", &[]);
        play.says_one(length, &headers);
        play
    }

    pub(super) fn packet(
        &mut self,
        up: bool,
        flags: u64,
        length: u64,
        payload: &str,
        layers: &str,
    ) {
        self.number += 1;
        let (from, to) = if up { (40_000, PORT) } else { (PORT, 40_000) };
        let seq = if up { self.seq } else { self.heard };
        let text = format!(
            r#"{{"_source": {{"layers": {{
                "frame": {{"frame.number": "{}", "frame.cap_len": "9", "frame.len": "9", "frame.time_epoch": "{}.5"}},
                "tcp": {{"tcp.srcport": "{from}", "tcp.dstport": "{to}", "tcp.stream": "0", "tcp.flags": "{flags}",
                         "tcp.len": "{length}", "tcp.seq": "{seq}", "tcp.payload": "{payload}"}}
                {layers} }} }} }}"#,
            self.number, self.second
        );
        let node: Node = serde_json::from_str(&text).unwrap();
        take(&node, self.host, PORT, &mut self.connections, &mut |_| ());
        if up {
            self.seq += length;
        } else {
            self.heard += length;
        }
    }

    pub(super) fn changes_ciphers(&mut self) {
        let tls = r#", "tls": {"tls.record": {"tls.record.content_type": "20", "tls.record.version": "0x0303",
                       "tls.record.length": "1"}}"#;
        self.packet(true, 16, 6, "14:03:03:00:01:01", tls);
    }

    /// One encrypted record that holds so many bytes, with these fields and layers.
    pub(super) fn says_record(&mut self, kind: u64, held: u64, fields: &str, layers: &str) {
        let tls = format!(
            r#", "tls": {{"tls.record": {{"tls.record.opaque_type": "23", "tls.record.version": "0x0303",
                 "tls.record.length": "{}", "tls.record.content_type": "{kind}" {fields}}}}} {layers}"#,
            held + 17
        );
        self.packet(true, 16, held + RECORD, "17:03:03", &tls);
    }

    pub(super) fn says_layers(&mut self, held: u64, layers: &str) {
        self.says_record(23, held, "", layers);
    }

    /// One record with these messages of the handshake.
    pub(super) fn says_tls(&mut self, messages: &[(u64, &str)]) {
        let held = messages.iter().map(|(length, _)| 4 + length).sum();
        let fields: String = messages
            .iter()
            .map(|(length, message)| {
                format!(r#", "tls.handshake": {{"tls.handshake.length": "{length}", {message}}}"#)
            })
            .collect();
        self.says_record(22, held, &fields, "");
    }

    pub(super) fn says_alert(&mut self, level: u64, reason: u64, more: u64) {
        let fields = format!(
            r#", "tls.alert_message": {{"tls.alert_message.level": "{level}", "tls.alert_message.desc": "{reason}"}}"#
        );
        self.says_record(21, 2 + more, &fields, "");
    }

    /// One record that holds these HTTP/2 frames, and `more` bytes.
    pub(super) fn says(&mut self, frames: &[(u64, String)], more: u64) {
        let held: u64 = frames.iter().map(|(length, _)| 9 + length).sum::<u64>() + more;
        let layers: String = frames
            .iter()
            .map(|(length, frame)| {
                format!(r#", "http2": {{"http2.stream": {{"http2.length": "{length}", "http2.r": "0x0", {frame}}}}}"#)
            })
            .collect();
        self.says_layers(held, &layers);
    }

    pub(super) fn says_one(&mut self, length: u64, frame: &str) {
        self.says(&[(length, frame.to_owned())], 0);
    }

    pub(super) fn hears(&mut self, length: u64, frame: &str) {
        let layer =
            format!(r#", "http2": {{"http2.stream": {{"http2.length": "{length}", {frame}}}}}"#);
        self.packet(false, 16, 9 + length + RECORD, "", &layer);
    }

    pub(super) fn hears_tls(&mut self, message: &str) {
        let layer = format!(r#", "tls": {{"tls.record": {{"tls.handshake": {{{message}}}}}}}"#);
        self.packet(false, 16, 95, "", &layer);
    }

    /// Ends it; what was found, against a ledger without anything.
    pub(super) fn end(mut self) -> Report {
        self.packet(true, 17, 0, "", "");
        let dir = crate::testing::tempdir().unwrap();
        let mut connections: Vec<Connection> = self.connections.into_values().collect();
        let matched = matching::matching(dir.path(), &mut connections, None).unwrap();
        report("tshark".to_owned(), connections, matched, None)
    }
}

/// The end of a handshake with a hash of 32 bytes.
pub(super) const FINISHED: (u64, &str) = (32, r#""tls.handshake.type": "20""#);

pub(super) fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

pub(super) fn told(report: &Report) -> Vec<&str> {
    assert_eq!(report.sum_bytes, report.captured_bytes, "{report:#?}");
    let told = report.findings.iter();
    told.map(|finding| finding.what.as_str()).collect()
}

pub(super) fn field(name: &str, value: impl std::fmt::Display) -> String {
    format!(r#""http2.{name}": "{value}""#)
}

pub(super) fn fields(fields: &[(&str, &str)]) -> String {
    let fields = fields.iter().map(|(name, value)| field(name, value));
    fields.collect::<Vec<_>>().join(", ")
}

/// The length and the fields of a request's headers, with more headers than the agent's.
pub(super) fn headers(stream: &str, more: &[(&str, &str)]) -> (u64, String) {
    headers_for("site.test", stream, more)
}

/// The same of a request to this authority.
pub(super) fn headers_for(authority: &str, stream: &str, more: &[(&str, &str)]) -> (u64, String) {
    let usual = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", CONNECT),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let list = usual.iter().chain(more).map(|(name, value)| {
        let header = json!({ "http2.header.name": name, "http2.header.value": value });
        format!(r#""http2.header": {header}"#)
    });
    let list = list.collect::<Vec<_>>().join(", ");
    let packed = hpack::request(authority, CONNECT, stream == "1").unwrap();
    let known = [("type", "1"), ("flags", "0x04"), ("streamid", stream)];
    let frame = format!(
        "{}, {}, {list}",
        fields(&known),
        field("headers", hex(&packed))
    );
    (packed.len() as u64, frame)
}

pub(super) const CONNECT: &str = "/outpost.link.v1.Link/Connect";

pub(super) fn settings() -> String {
    let list = [("2", "0"), ("4", "262144"), ("5", "16384"), ("6", "16384")];
    let list = list.map(|(id, value)| {
        format!(r#""http2.settings": {{"http2.settings.id": "{id}", "http2.settings.value": "{value}"}}"#)
    });
    let known = [("type", "4"), ("flags", "0x00"), ("streamid", "0")];
    format!("{}, {}", fields(&known), list.join(", "))
}

pub(super) fn taken() -> String {
    fields(&[("type", "4"), ("flags", "0x01"), ("streamid", "0")])
}

pub(super) fn reset(stream: &str, reason: &str) -> String {
    fields(&[
        ("type", "3"),
        ("flags", "0x00"),
        ("streamid", stream),
        ("rst_stream.error", reason),
    ])
}

pub(super) fn goodbye() -> String {
    fields(&[
        ("type", "7"),
        ("flags", "0x00"),
        ("streamid", "0"),
        ("goaway.last_stream_id", "0"),
        ("goaway.error", "0"),
    ])
}

pub(super) const OWN_PING: &str = "3b:7c:db:7a:0b:87:16:b4";

pub(super) fn ping(flags: &str, name: &str, bytes: &str) -> String {
    fields(&[
        ("type", "6"),
        ("flags", flags),
        ("streamid", "0"),
        (name, bytes),
    ])
}

pub(super) fn window(stream: &str, by: &str) -> String {
    fields(&[
        ("type", "8"),
        ("flags", "0x00"),
        ("streamid", stream),
        ("window_update.r", "0x0"),
        ("window_update.window_size_increment", by),
    ])
}

pub(super) fn data(flags: &str, bytes: &str) -> String {
    fields(&[
        ("type", "0"),
        ("flags", flags),
        ("streamid", "1"),
        ("data.data", bytes),
    ])
}

#[test]
fn what_every_connection_says_is_accounted_for() {
    let mut play = Play::asking();
    play.hears(30, &settings());
    play.says_one(0, &taken());
    play.second += 20;
    play.says_one(8, &ping("0x00", "ping", OWN_PING));
    play.hears(8, &ping("0x01", "pong", OWN_PING));
    play.second += 20;
    play.says_one(8, &ping("0x00", "ping", OWN_PING));
    play.hears(8, &ping("0x00", "ping", "01:02:03:04:05:06:07:08"));
    play.says_one(8, &ping("0x01", "pong", "01:02:03:04:05:06:07:08"));
    for _ in 0..20 {
        play.hears(16_000, &data("0x00", "00"));
    }
    play.says(&[(4, window("0", "175000")), (4, window("1", "320000"))], 0);
    let (length, second) = headers("3", &[]);
    play.says_one(length, &second);
    play.says_one(0, &data("0x01", ""));
    play.says_one(4, &reset("3", "8"));
    play.says_one(8, &goodbye());
    play.says_alert(1, 0, 0);
    let report = play.end();
    assert_eq!(told(&report), [""; 0]);
    assert_eq!(report.verdict, Verdict::Accounted);
}

/// Plays one frame behind a request; what is told of it.
fn chosen(length: u64, frame: &str) -> Report {
    let mut play = Play::asking();
    play.says_one(length, frame);
    play.end()
}

fn is_told(report: &Report, what: &str) {
    assert!(
        told(report).contains(&what),
        "{what}: {:#?}",
        report.findings
    );
    assert_eq!(report.verdict, Verdict::Unaccounted);
    let first = report.findings.first().map(|found| found.at.packet);
    assert!(first > Some(BEGINNING), "{:#?}", report.findings);
}

#[test]
fn whatever_could_be_chosen_is_told_by_its_name() {
    let (length, extra) = headers("3", &[("x-extra", "leak")]);
    let (_, twice) = headers("3", &[("te", "trailers")]);
    let chosen_frames: [(u64, String, &str); 14] = [
        (
            26,
            ping("0x00", "ping", OWN_PING),
            "an HTTP/2 frame of type 6 with 26 bytes, where it has 8",
        ),
        (
            14,
            window("0", "1"),
            "an HTTP/2 frame of type 8 with 14 bytes, where it has 4",
        ),
        (
            16,
            reset("1", "8"),
            "an HTTP/2 frame of type 3 with 16 bytes, where it has 4",
        ),
        (
            length,
            extra,
            "the request header \"x-extra\" with the value \"leak\"",
        ),
        (
            length,
            twice,
            "request headers in another order or number than the agent's",
        ),
        (
            8,
            ping("0x00", "ping", "63:68"),
            "an HTTP/2 PING with the chosen bytes 63:68",
        ),
        (
            8,
            ping("0x01", "pong", "63:68"),
            "an answer to an HTTP/2 PING that nobody sent: 63:68",
        ),
        (
            4,
            window("0", "77"),
            "an HTTP/2 WINDOW_UPDATE by 77, more than was received",
        ),
        (12, data("0x08", "00:00"), "padding in an HTTP/2 DATA frame"),
        (
            2,
            data("0x10", "00:00"),
            "unknown bits in the header of an HTTP/2 DATA frame",
        ),
        (12, goodbye(), "an HTTP/2 GOAWAY with 4 bytes of text"),
        (
            4,
            reset("1", "77"),
            "an HTTP/2 RST_STREAM with the reason 77",
        ),
        (
            6,
            format!(
                r#"{}, "http2.settings": {{"http2.settings.id": "9", "http2.settings.unknown": "5"}}"#,
                fields(&[("type", "4"), ("flags", "0x00"), ("streamid", "0")])
            ),
            "HTTP/2 settings that are not the agent's: [(9, 5)]",
        ),
        (
            5,
            fields(&[("type", "2"), ("flags", "0x00"), ("streamid", "1")]),
            "an HTTP/2 frame of type 2, which the agent never sends",
        ),
    ];
    for (length, frame, what) in chosen_frames {
        let report = chosen(length, &frame);
        is_told(&report, what);
        assert_eq!(report.findings[0].at.packet, BEGINNING + 2);
    }
}

#[test]
fn padding_of_records_is_told_where_it_begins_and_a_frame_over_two_records_is_none() {
    let mut play = Play::asking();
    let message = || data("0x00", "00:00:00:00:01:61");
    // The first half of a frame that the next packet completes.
    play.says(&[], 10);
    let layers = format!(
        r#", "http2": {{"http2.stream": {{"http2.length": "6", "http2.r": "0x0", {}}}}}"#,
        message()
    );
    play.says_layers(9 + 6 - 10, &layers);
    play.says(&[(6, message())], 33);
    play.says_one(6, &message());
    let report = play.end();
    let padding: Vec<_> = report
        .findings
        .iter()
        .filter(|found| found.what.contains("padding of records"))
        .collect();
    let [found] = padding.as_slice() else {
        panic!("{:#?}", report.findings);
    };
    assert_eq!((found.bytes, found.at.packet), (33, BEGINNING + 4));
    assert_eq!(
        told(&report).len(),
        1 + 3,
        "and each message is no frame of a ledger"
    );
}

#[test]
fn a_message_that_is_not_in_the_ledger_is_told() {
    let mut play = Play::asking();
    play.says_one(8, &data("0x00", "00:00:00:00:03:61:62:63"));
    // The beginning of another.
    play.says_one(6, &data("0x00", "00:00:00:00:09:61"));
    let report = play.end();
    assert_eq!(
        told(&report),
        [
            "a message of 3 bytes that is not the ledger's next frame",
            "the beginning of a message that is not the ledger's next frame"
        ]
    );
    assert_eq!(report.frames(), (1, 0));
}

#[test]
fn what_the_capture_lacks_is_no_finding() {
    let mut play = Play::asking();
    play.seq += 100;
    play.says(&[], 50);
    let report = play.end();
    assert_eq!(report.findings, []);
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert!(
        report.lacks[0].contains("100 bytes are missing in the capture before packet 9"),
        "{:?}",
        report.lacks
    );

    let mut play = Play::asking();
    play.heard += 7;
    play.hears(8, &ping("0x00", "ping", OWN_PING));
    play.says_one(8, &ping("0x01", "pong", "63:68"));
    play.says_one(0, &taken());
    let report = play.end();
    assert_eq!(report.findings, []);
    assert_eq!(report.sum_bytes, report.captured_bytes);
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert!(
        report.lacks[1].contains("2 times the agent answers"),
        "{:?}",
        report.lacks
    );
    assert!(
        report.lacks[0].contains("7 received bytes are missing"),
        "{:?}",
        report.lacks
    );

    let report = Play::bare().end();
    assert_eq!(report.verdict, Verdict::Incomplete, "nothing was sent");
}

#[test]
fn what_no_key_opens_is_told() {
    let mut play = Play::greeted();
    let before = play.seq;
    let closed = r#", "tls": {"tls.record": {"tls.record.opaque_type": "23", "tls.record.version": "0x0303",
                      "tls.record.length": "95"}}"#;
    play.packet(true, 16, 100, "17", closed);
    play.packet(true, 16, 100, "17", closed);
    let report = play.end();
    assert_eq!(
        told(&report),
        ["TLS records that no key of the key log opens, from here on"]
    );
    let found = &report.findings[0];
    assert_eq!((found.bytes, found.at.offset), (200, before - 1));
}
