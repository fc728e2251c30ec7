//! The HTTP/2 frames that the agent sends: each is of a kind that is known and has nothing in it that could be chosen,
//! or it is a finding. What cannot be fixed here (how large a window update is, and when) is bounded by what was received.

use std::collections::BTreeMap;

use super::account::{Account, At, Kind, Objection};
use super::hpack;
use super::said::{Call, Said};
use super::tree::{Node, number};

/// Bytes before each frame's payload.
const FRAME_HEADER: u64 = 9;
/// Types of frames.
const DATA: u64 = 0;
const HEADERS: u64 = 1;
const RST_STREAM: u64 = 3;
const SETTINGS_FRAME: u64 = 4;
const PING: u64 = 6;
const GOAWAY: u64 = 7;
const WINDOW_UPDATE: u64 = 8;
/// "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".
const PREFACE: u64 = 24;
/// Pings of the other side that wait for their answer; it has one at a time.
pub(super) const PINGS: usize = 64;

/// The payload of the agent's own pings, the same in every one.
const OWN_PING: &str = "3b:7c:db:7a:0b:87:16:b4";
/// Windows of the connection and of each request.
pub(super) const WINDOW: u64 = 512 * 1024;
const STREAM_WINDOW: u64 = 256 * 1024;
/// The connection's window beyond the 65,535 bytes that HTTP/2 begins with: told once.
const FIRST_WINDOW: u64 = WINDOW - 65_535;
/// What the agent announces: push off, its window, frame size and header sizes.
const SETTINGS: [(u64, u64); 4] = [(2, 0), (4, STREAM_WINDOW), (5, 16 * 1024), (6, 16 * 1024)];
/// Reasons to end a request: none, refused, no longer wanted.
pub(super) const RESETS: [u64; 3] = [0, 7, 8];
/// Data that a frame has at most: what the orchestrator takes. A message is cut where a frame is full, or where the other
/// side's window ends.
pub(super) const FULL_FRAME: u64 = 16 * 1024;

/// The stream's method.
const CONNECT: &str = "/outpost.link.v1.Link/Connect";
/// The certificates' methods.
pub(super) const IDENTITY: [&str; 3] = [
    "/outpost.identity.v1.Identity/Enrol",
    "/outpost.identity.v1.Identity/Renew",
    "/outpost.identity.v1.Identity/Recover",
];

/// One request's stream, as far as it decides what may still be said on it.
#[derive(Debug, Default)]
struct Stream {
    /// The agent said that nothing more comes.
    is_ended: bool,
    /// The agent ended it with a reason.
    is_reset: bool,
}

/// One connection's HTTP/2.
#[derive(Debug, Default)]
pub(super) struct Http2 {
    /// What requests carry as authority.
    authority: String,
    began_us: u64,
    /// Frames that were said, the fixed beginning among them.
    pub(super) frames: u64,
    is_prefaced: bool,
    is_settled: bool,
    is_gone: bool,
    pub(super) said: BTreeMap<u64, Said>,
    streams: BTreeMap<u64, Stream>,
    /// The other side's settings that are not yet taken.
    settings_heard: u64,
    pings: Vec<String>,
    /// Own pings without an answer, and when the last one was said.
    unanswered: u64,
    pinged_us: Option<u64>,
    /// Bytes of data that came for each stream, and under 0 for all.
    received: BTreeMap<u64, u64>,
    /// And how much of that was given back as window.
    returned: BTreeMap<u64, u64>,
    is_widened: bool,
    /// How often the other side widened its windows, and how often a message was cut where no frame was full.
    windows_heard: u64,
    cuts: u64,
    is_cut_told: bool,
}

/// A frame of the agent.
struct Frame<'a> {
    node: &'a Node,
    length: u64,
    flags: u64,
    stream: u64,
    at_us: u64,
}

impl Http2 {
    pub(super) fn new(authority: &str, began_us: u64) -> Self {
        Self {
            authority: authority.to_owned(),
            began_us,
            ..Self::default()
        }
    }

    /// What the other side sent, as far as the agent answers it.
    pub(super) fn downstream(&mut self, layer: &Node) {
        const ACK: u64 = 1;
        for frame in layer.all("http2.stream") {
            let is_answer = frame.number("http2.flags").unwrap_or(0) & ACK != 0;
            match frame.number("http2.type") {
                Some(DATA) => {
                    let length = frame.number("http2.length").unwrap_or(0);
                    for stream in [0, frame.number("http2.streamid").unwrap_or(0)] {
                        *self.received.entry(stream).or_default() += length;
                    }
                }
                Some(WINDOW_UPDATE) => self.windows_heard += 1,
                Some(SETTINGS_FRAME) => self.settings_heard += u64::from(!is_answer),
                Some(PING) if is_answer => self.unanswered = self.unanswered.saturating_sub(1),
                Some(PING) => {
                    let ping = frame.text("http2.ping").map(str::to_owned);
                    self.pings.extend(ping.filter(|_| self.pings.len() < PINGS));
                }
                _ => {}
            }
        }
    }

    /// What the agent sent; answers how many bytes of the decrypted stream that were.
    pub(super) fn upstream(
        &mut self,
        layer: &Node,
        at_us: u64,
        at: At,
        account: &mut Account,
    ) -> u64 {
        let mut explained = 0;
        for frame in layer.all("http2.stream") {
            if frame.get("http2.magic").is_some() {
                if self.frames == 0 && !self.is_prefaced {
                    account.add(Kind::Preface, PREFACE);
                } else {
                    account.find(at, PREFACE, "a second beginning of HTTP/2");
                }
                self.is_prefaced = true;
                explained += PREFACE;
                continue;
            }
            let (Some(length), Some(kind)) =
                (frame.number("http2.length"), frame.number("http2.type"))
            else {
                continue;
            };
            explained += FRAME_HEADER + length;
            let number = |name| frame.number(name).unwrap_or(u64::MAX);
            let frame = Frame {
                node: frame,
                length,
                flags: number("http2.flags"),
                stream: number("http2.streamid"),
                at_us,
            };
            self.frame(kind, &frame, at, account);
            self.frames += 1;
        }
        explained
    }

    fn frame(&mut self, kind: u64, frame: &Frame<'_>, at: At, account: &mut Account) {
        let (whole, length) = (FRAME_HEADER + frame.length, frame.length);
        // What is behind it tshark shows nowhere.
        let fixed = match kind {
            RST_STREAM | WINDOW_UPDATE => Some(4),
            PING => Some(8),
            _ => None,
        };
        if let Some(fixed) = fixed.filter(|fixed| *fixed != length) {
            let what =
                format!("an HTTP/2 frame of type {kind} with {length} bytes, where it has {fixed}");
            return account.find(at, whole, what);
        }
        let objection = match kind {
            _ if !self.is_prefaced => Err("an HTTP/2 frame before the beginning".into()),
            DATA => return self.data(frame, at, account),
            HEADERS => self.headers(frame),
            RST_STREAM => self.reset(frame),
            SETTINGS_FRAME => self.settings(frame),
            PING => self.ping(frame),
            GOAWAY => self.goodbye(frame),
            WINDOW_UPDATE => self.window(frame),
            other => {
                let what = format!("an HTTP/2 frame of type {other}, which the agent never sends");
                Err(what.into())
            }
        };
        let reserved = frame.node.text("http2.r").and_then(number).unwrap_or(1);
        match objection {
            Ok(_) if reserved != 0 => {
                account.find(at, whole, "a reserved bit of an HTTP/2 frame is set")
            }
            Ok(kind) => account.add(kind, whole),
            Err(objection) => account.object(at, whole, objection),
        }
    }

    fn data(&mut self, frame: &Frame<'_>, at: At, account: &mut Account) {
        const END: u64 = 1;
        const PADDED: u64 = 8;
        let Frame { node, flags, .. } = *frame;
        let data = node
            .bytes("http2.data.data")
            .or_else(|| node.bytes("http2.data.segment"))
            .unwrap_or_default();
        account.add(Kind::DataFrame, FRAME_HEADER);
        let beside = frame.length.saturating_sub(data.len() as u64);
        if flags & PADDED != 0 || beside > 0 {
            account.find(at, beside, "padding in an HTTP/2 DATA frame");
        }
        if flags & !(END | PADDED) != 0 || node.number("http2.r") != Some(0) {
            account.find(at, 0, "unknown bits in the header of an HTTP/2 DATA frame");
        }
        if frame.length == 0 && flags & END == 0 {
            account.find(at, 0, "an HTTP/2 DATA frame with nothing in it");
        }
        match self.streams.get_mut(&frame.stream) {
            Some(stream) if !stream.is_ended && !stream.is_reset => {
                stream.is_ended = flags & END != 0;
            }
            Some(_) => account.find(at, 0, "an HTTP/2 DATA frame after the end of its request"),
            None => account.find(at, 0, "an HTTP/2 DATA frame of no request"),
        }
        let said = self.said.entry(frame.stream);
        let said = said.or_insert_with(|| Said::new(Call::Unknown));
        said.data(&data, at, account);
        let is_cut = !said.rest.is_empty() && flags & END == 0 && frame.length < FULL_FRAME;
        self.cuts += u64::from(is_cut);
        // Each window that came was used up before, but for the last one.
        if self.cuts > self.windows_heard + 1 && !self.is_cut_told {
            self.is_cut_told = true;
            let what = "HTTP/2 DATA frames that end within a message, and are not full, oftener than the agent's";
            account.object(at, 0, Objection::Unheard(what.to_owned()));
        }
    }

    fn headers(&mut self, frame: &Frame<'_>) -> Result<Kind, Objection> {
        const END_HEADERS: u64 = 4;
        const PADDED: u64 = 8;
        let list = frame.node.all("http2.header");
        let list: Vec<(&str, &str)> = list
            .map(|header| {
                let part = |name| header.text(name).unwrap_or_default();
                (part("http2.header.name"), part("http2.header.value"))
            })
            .collect();
        let path = list.iter().find(|(name, _)| *name == ":path");
        let path = path.map_or("", |(_, value)| *value);
        let call = match path {
            CONNECT => Call::Connect,
            path if IDENTITY.contains(&path) => Call::Identity,
            _ => Call::Unknown,
        };
        // Requests are numbered 1, 3, 5 and so on.
        let is_next = frame.stream == 2 * self.streams.len() as u64 + 1;
        let is_first = self.streams.is_empty();
        self.streams.entry(frame.stream).or_default();
        // What comes in this request is judged by what it says it is, whatever is wrong with the rest of it.
        let said = self.said.entry(frame.stream);
        said.or_insert_with(|| Said::new(call));
        if frame.flags & PADDED != 0 {
            return Err("padding in an HTTP/2 HEADERS frame".into());
        }
        if frame.flags != END_HEADERS || !is_next || self.is_gone {
            return Err(
                "an HTTP/2 HEADERS frame with other flags or number than the agent's".into(),
            );
        }
        if call == Call::Unknown {
            return Err(format!("a request for {path:?}, which is none of the agent's").into());
        }
        self.are_fixed(&list, path)?;
        let packed = frame.node.bytes("http2.headers").unwrap_or_default();
        let expected = hpack::request(&self.authority, path, is_first);
        if frame.length != packed.len() as u64 || expected.is_none_or(|block| block != packed) {
            return Err("request headers that are packed otherwise than the agent's".into());
        }
        Ok(Kind::Headers)
    }

    fn are_fixed(&self, list: &[(&str, &str)], path: &str) -> Result<(), Objection> {
        let expected = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", self.authority.as_str()),
            (":path", path),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ];
        if let Some((name, value)) = list.iter().find(|header| !expected.contains(header)) {
            return Err(format!("the request header {name:?} with the value {value:?}").into());
        }
        if list != expected {
            return Err("request headers in another order or number than the agent's".into());
        }
        Ok(())
    }

    fn ping(&mut self, frame: &Frame<'_>) -> Result<Kind, Objection> {
        const ACK: u64 = 1;
        if frame.stream != 0 || frame.flags & !ACK != 0 {
            return Err("an HTTP/2 PING with unknown bits in its header".into());
        }
        if frame.flags == 0 {
            return self.own_ping(frame);
        }
        let answer = frame.node.text("http2.pong").unwrap_or_default();
        match self.pings.iter().position(|ping| ping == answer) {
            Some(at) => {
                self.pings.remove(at);
                Ok(Kind::PingAnswer)
            }
            None => Err(Objection::Unheard(format!(
                "an answer to an HTTP/2 PING that nobody sent: {answer}"
            ))),
        }
    }

    /// One at a time, and not before it has been quiet for as long as link waits.
    fn own_ping(&mut self, frame: &Frame<'_>) -> Result<Kind, Objection> {
        let text = frame.node.text("http2.ping").unwrap_or_default();
        if text != OWN_PING {
            return Err(format!("an HTTP/2 PING with the chosen bytes {text}").into());
        }
        let quiet = outpost_agent_link::Timeouts::default().keepalive_interval;
        // Clocks and queues are not exact.
        let least_us = u64::try_from(quiet.as_micros() * 9 / 10).unwrap_or(u64::MAX);
        let last_us = self.pinged_us.replace(frame.at_us).unwrap_or(self.began_us);
        self.unanswered += 1;
        if self.unanswered > 1 || frame.at_us.saturating_sub(last_us) < least_us {
            return Err(Objection::Unheard(
                "an HTTP/2 PING sooner than the agent's, or before an answer".to_owned(),
            ));
        }
        Ok(Kind::Ping)
    }

    /// The connection's window is widened once; then windows give back what was received, never more, and not before it
    /// is half of what is left.
    fn window(&mut self, frame: &Frame<'_>) -> Result<Kind, Objection> {
        let number = |name| frame.node.number(name);
        let by = number("http2.window_update.window_size_increment").unwrap_or(u64::MAX);
        let stream = frame.stream;
        if frame.flags != 0 || by == 0 || number("http2.window_update.r") != Some(0) {
            return Err("an HTTP/2 WINDOW_UPDATE with unknown bits".into());
        }
        if stream == 0 && by == FIRST_WINDOW && !self.is_widened {
            self.is_widened = true;
            return Ok(Kind::WindowUpdate);
        }
        let is_open = |stream: &Stream| !stream.is_reset;
        if stream != 0 && !self.streams.get(&stream).is_some_and(is_open) {
            return Err("an HTTP/2 WINDOW_UPDATE of no request".into());
        }
        let received = self.received.get(&stream).copied().unwrap_or(0);
        let returned = self.returned.entry(stream).or_default();
        let owed = received.saturating_sub(*returned);
        *returned = returned.saturating_add(by);
        if by > owed {
            return Err(Objection::Unheard(format!(
                "an HTTP/2 WINDOW_UPDATE by {by}, more than was received"
            )));
        }
        let window = if stream == 0 { WINDOW } else { STREAM_WINDOW };
        if by < window.saturating_sub(owed) / 2 {
            return Err(Objection::Unheard(format!(
                "an HTTP/2 WINDOW_UPDATE by {by}, sooner than the agent's"
            )));
        }
        Ok(Kind::WindowUpdate)
    }

    fn reset(&mut self, frame: &Frame<'_>) -> Result<Kind, Objection> {
        let reason = frame.node.number("http2.rst_stream.error");
        let reason = reason.unwrap_or(u64::MAX);
        if frame.flags != 0 || !RESETS.contains(&reason) {
            return Err(format!("an HTTP/2 RST_STREAM with the reason {reason}").into());
        }
        let stream = self.streams.get_mut(&frame.stream);
        match stream.filter(|stream| !stream.is_reset) {
            Some(stream) => {
                stream.is_reset = true;
                Ok(Kind::Reset)
            }
            None => Err("an HTTP/2 RST_STREAM of no request".into()),
        }
    }

    fn settings(&mut self, frame: &Frame<'_>) -> Result<Kind, Objection> {
        let Frame {
            node,
            length,
            flags,
            stream,
            ..
        } = *frame;
        if (flags, length, stream) == (1, 0, 0) {
            let heard = self.settings_heard.checked_sub(1);
            let what = "HTTP/2 settings are taken that nobody sent";
            self.settings_heard = heard.ok_or_else(|| Objection::Unheard(what.to_owned()))?;
            return Ok(Kind::Settings);
        }
        let list = node.all("http2.settings").map(|setting| {
            let (id, value) = (setting.fields().first(), setting.fields().get(1));
            let number_of = |field: Option<&(String, Node)>| match field {
                Some((_, Node::Leaf(text))) => number(text).unwrap_or(u64::MAX),
                Some((_, Node::Tree(_))) | None => u64::MAX,
            };
            (number_of(id), number_of(value))
        });
        let list: Vec<(u64, u64)> = list.collect();
        let whole = 6 * SETTINGS.len() as u64;
        if flags != 0 || stream != 0 || length != whole || list != SETTINGS {
            return Err(format!("HTTP/2 settings that are not the agent's: {list:?}").into());
        }
        if std::mem::replace(&mut self.is_settled, true) || self.frames > 0 {
            return Err("HTTP/2 settings that are said again".into());
        }
        Ok(Kind::Settings)
    }

    fn goodbye(&mut self, frame: &Frame<'_>) -> Result<Kind, Objection> {
        let number = |name| frame.node.number(name).unwrap_or(u64::MAX);
        let reason = number("http2.goaway.error");
        let is_plain = (frame.flags, frame.stream) == (0, 0);
        if !is_plain || number("http2.goaway.last_stream_id") != 0 || reason != 0 {
            return Err(format!(
                "an HTTP/2 GOAWAY with the reason {reason} or other numbers than the agent's"
            )
            .into());
        }
        if frame.length != 8 {
            return Err(format!(
                "an HTTP/2 GOAWAY with {} bytes of text",
                frame.length.saturating_sub(8)
            )
            .into());
        }
        if std::mem::replace(&mut self.is_gone, true) {
            return Err("a second HTTP/2 GOAWAY".into());
        }
        Ok(Kind::Goodbye)
    }
}
