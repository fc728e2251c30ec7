//! What a modified link adds to its connections, and what is told of each.

/// What a modified link adds to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plant {
    /// In the hello: another protocol's name.
    Protocol,
    /// Behind its certificates: one that nobody needs.
    Certificate,
    /// New keys that nobody asked for.
    Keys,
    Header,
    /// The usual headers, packed in another way.
    Packing,
    Ping,
    /// Its own ping, at once.
    PingNow,
    Padding,
    Goodbye,
    Message,
    /// Data without any.
    Nothing,
    /// The end of a request that is none.
    Reset,
    /// Window that nobody used.
    Window,
    /// Settings that nobody sent are taken.
    Settings,
    Priority,
    /// A message cut into frames of one byte.
    Cuts,
    /// The reserved bit in the number of a request.
    Reserved,
    /// An answer that nobody waits for.
    Pong,
    /// Settings once more.
    Again,
    /// Headers behind a request.
    Trailers,
    /// A message that says it is compressed.
    Compressed,
    /// A frame of a type that nobody knows.
    Unknown,
}

pub(super) const PLANTS: [(Plant, &str); 22] = [
    (
        Plant::Protocol,
        "a TLS client hello with other protocols than h2: \"\\0\\u{8}\\u{2}h2\\u{4}leak\"",
    ),
    (
        Plant::Certificate,
        "certificates that do not lead, each needed, to a root that the orchestrator presented",
    ),
    (
        Plant::Keys,
        "TLS new keys with more to say than the agent's",
    ),
    (
        Plant::Header,
        "the request header \"x-extra\" with the value \"leak\"",
    ),
    (
        Plant::Packing,
        "request headers that are packed otherwise than the agent's",
    ),
    (
        Plant::Ping,
        "an HTTP/2 PING with the chosen bytes 63:68:6f:73:65:6e:21:21",
    ),
    (
        Plant::PingNow,
        "an HTTP/2 PING sooner than the agent's, or before an answer",
    ),
    (Plant::Padding, "padding in an HTTP/2 DATA frame"),
    (Plant::Goodbye, "an HTTP/2 GOAWAY with 4 bytes of text"),
    (
        Plant::Message,
        "a message of 6 bytes that is not the ledger's next frame",
    ),
    (Plant::Nothing, "an HTTP/2 DATA frame with nothing in it"),
    (Plant::Reset, "an HTTP/2 RST_STREAM of no request"),
    (
        Plant::Window,
        "an HTTP/2 WINDOW_UPDATE by 1717924724, more than was received",
    ),
    (
        Plant::Settings,
        "HTTP/2 settings are taken that nobody sent",
    ),
    (
        Plant::Priority,
        "an HTTP/2 frame of type 2, which the agent never sends",
    ),
    (
        Plant::Cuts,
        "HTTP/2 DATA frames that end within a message, and are not full, oftener than the agent's",
    ),
    (
        Plant::Reserved,
        "unknown bits in the header of an HTTP/2 DATA frame",
    ),
    (
        Plant::Pong,
        "an answer to an HTTP/2 PING that nobody sent: 63:68:6f:73:65:6e:21:21",
    ),
    (
        Plant::Again,
        "HTTP/2 settings that are not the agent's: [(3, 1634034027)]",
    ),
    (
        Plant::Trailers,
        "an HTTP/2 HEADERS frame with other flags or number than the agent's",
    ),
    (
        Plant::Compressed,
        "data that is no gRPC message of this service",
    ),
    (
        Plant::Unknown,
        "an HTTP/2 frame of type 77, which the agent never sends",
    ),
];

/// What is added to one connection: what the hello, the handshake and the headers have, and what comes with the first data.
pub(super) type Group = &'static [Plant];

pub(super) const GROUPS: [Group; 6] = [
    &[Plant::Protocol, Plant::Padding],
    &[Plant::Certificate, Plant::Header],
    &[Plant::Keys, Plant::Packing],
    &[
        Plant::Ping,
        Plant::PingNow,
        Plant::Message,
        Plant::Nothing,
        Plant::Reset,
        Plant::Window,
        Plant::Settings,
        Plant::Priority,
        Plant::Goodbye,
    ],
    &[Plant::Cuts, Plant::Pong, Plant::Again],
    &[
        Plant::Reserved,
        Plant::Unknown,
        Plant::Compressed,
        Plant::Trailers,
    ],
];

/// The frame that one plant is; nothing for those that are a part of something else.
pub(super) fn planted(plant: Plant) -> Vec<u8> {
    match plant {
        Plant::Ping => frame(6, 0, 0, b"chosen!!"),
        Plant::PingNow => frame(6, 0, 0, b"\x3b\x7c\xdb\x7a\x0b\x87\x16\xb4"),
        Plant::Goodbye => frame(7, 0, 0, b"\0\0\0\0\0\0\0\0leak"),
        Plant::Nothing => frame(0, 0, 1, b""),
        Plant::Reset => frame(3, 0, 7, b"\0\0\0\x08"),
        Plant::Window => frame(8, 0, 1, b"fest"),
        Plant::Settings => frame(4, 1, 0, b""),
        Plant::Priority => frame(2, 0, 1, b"\0\0\0\0\x10"),
        Plant::Message => frame(0, 0, 1, b"\0\0\0\0\x06secret"),
        Plant::Pong => frame(6, 1, 0, b"chosen!!"),
        Plant::Again => frame(4, 0, 0, b"\0\x03aeak"),
        Plant::Trailers => frame(1, 5, 1, b"\x00\x07x-extra\x04leak"),
        Plant::Compressed => frame(0, 0, 1, b"\x01\0\0\0\x06secret"),
        Plant::Unknown => frame(77, 0, 0, b"secret"),
        Plant::Protocol
        | Plant::Certificate
        | Plant::Keys
        | Plant::Header
        | Plant::Packing
        | Plant::Padding
        | Plant::Cuts
        | Plant::Reserved => Vec::new(),
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}
