//! Which messages of a capture are which records of the ledger: the frames of each captured stream are, one after
//! another, those of one connection of the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::account::{At, Kind};
use super::certificates::{self, Known};
use super::connection::Connection;
use super::said::{Call, Message, Said};
use crate::ledger::{IdentityCall, Kind as Record, LedgerError, Reader};

/// How far a message may be ahead of the ledger's next frame: those between are missing on the wire.
const AHEAD: usize = 16;

type Digest = [u8; 32];

/// One connection of the ledger.
#[derive(Debug, Default)]
struct Session {
    epoch: Option<u64>,
    began_us: u64,
    frames: Vec<Digest>,
    /// How often the ledger was opened before it, and its number since: where its frames are.
    place: (u64, u64),
    is_taken: bool,
}

/// What one captured stream is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Matched {
    /// The connection's number in the capture.
    pub connection: u64,
    /// The session that it is, as the orchestrator numbered it; `None` if it never accepted it, or there is none.
    pub session: Option<u64>,
    /// Messages that were sent.
    pub sent: usize,
    /// Those of them that are the ledger's next frames, byte for byte.
    pub matched: usize,
    /// Frames of the ledger that come after the last one sent: recorded, and never sent.
    pub not_sent: usize,
}

/// What was matched, all in all.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) streams: Vec<Matched>,
    pub(super) calls: usize,
    pub(super) calls_matched: usize,
    /// What the ledger lacks for an answer.
    pub(super) lacks: Vec<String>,
}

/// Looks up everything that was said, and closes the accounts of its bytes. `agent`: whose certificates they must be, if
/// it is known.
pub(super) fn matching(
    ledger: &Path,
    connections: &mut [Connection],
    agent: Option<&str>,
) -> Result<Outcome, LedgerError> {
    let Recorded {
        mut sessions,
        mut calls,
        known,
    } = read(ledger, &wanted(connections))?;
    let mut outcome = Outcome {
        lacks: certificates::check(connections, &known, agent),
        ..Outcome::default()
    };
    let mut rests = Vec::new();
    // Whoever said most is least easily taken for another: sessions often begin with the same words.
    let mut order: Vec<usize> = (0..connections.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(connections[*at].said_messages()));
    for at in order {
        let connection = &mut connections[at];
        let saids = std::mem::take(&mut connection.http2.said);
        for said in saids.into_values() {
            match said.call {
                Call::Connect => {
                    let (matched, rest) = stream(connection, &said, &mut sessions);
                    outcome.streams.push(matched);
                    rests.extend(rest.map(|place| (connection.account.connection, said, place)));
                }
                Call::Identity => {
                    outcome.calls += said.messages.len();
                    outcome.calls_matched += identity(connection, &said, &mut calls);
                    unfinished(connection, &said);
                }
                Call::Unknown => {
                    for message in &said.messages {
                        let what = "a message of a request that the agent never makes";
                        connection.account.find(message.at, message.bytes, what);
                    }
                    unfinished(connection, &said);
                }
            }
        }
    }
    for (number, said, place) in rests {
        let is_known = begins(ledger, place, &said.rest)?;
        let connection = connections
            .iter_mut()
            .find(|connection| connection.account.connection == number);
        match connection {
            Some(connection) if is_known => connection
                .account
                .add(Kind::LedgerFrame, said.rest.len() as u64),
            Some(connection) => unfinished(connection, &said),
            None => {}
        }
    }
    outcome.streams.sort_by_key(|stream| stream.connection);
    Ok(outcome)
}

fn wanted(connections: &[Connection]) -> BTreeSet<Digest> {
    let saids = connections.iter().flat_map(|one| one.http2.said.values());
    saids
        .flat_map(|said| said.messages.iter().map(|message| message.digest))
        .collect()
}

/// What the ledger has of what was captured.
#[derive(Debug, Default)]
struct Recorded {
    /// Those whose first frame is among what is wanted.
    sessions: Vec<Session>,
    /// Requests for certificates that are wanted, and how often each is there.
    calls: BTreeMap<Digest, usize>,
    known: Known,
}

fn read(ledger: &Path, wanted: &BTreeSet<Digest>) -> Result<Recorded, LedgerError> {
    let mut recorded = Recorded::default();
    let Recorded {
        sessions,
        calls,
        known,
    } = &mut recorded;
    let mut open: BTreeMap<u64, Option<usize>> = BTreeMap::new();
    let mut opened = 0;
    let mut reader = Reader::open(ledger)?;
    known.is_pruned = reader.at().0 > 0;
    while let Some(entry) = reader.next_entry()? {
        if entry.kind == Record::Opened {
            open.clear();
            opened += 1;
        } else if entry.kind == Record::Frame {
            let digest = Sha256::digest(&entry.payload).into();
            let session = open.entry(entry.conn).or_insert_with(|| {
                wanted.contains(&digest).then(|| {
                    sessions.push(Session {
                        began_us: entry.wall_us,
                        place: (opened, entry.conn),
                        ..Session::default()
                    });
                    sessions.len() - 1
                })
            });
            if let Some(session) = session.and_then(|at| sessions.get_mut(at)) {
                session.frames.push(digest);
            }
        } else if entry.kind == Record::Session {
            let epoch = entry
                .payload
                .iter()
                .fold(0, |n: u64, b| n << 8 | u64::from(*b));
            let session = open.get(&entry.conn).copied().flatten();
            if let Some(session) = session.and_then(|at| sessions.get_mut(at)) {
                session.epoch = Some(epoch);
            }
        } else if entry.kind == Record::Identity {
            let digest = match IdentityCall::decode(&entry.payload) {
                Some(call) => {
                    known.keys.insert(call.public_key_sha256);
                    call.sha256
                }
                // Of an agent that recorded the request as it was.
                None => Sha256::digest(&entry.payload).into(),
            };
            if wanted.contains(&digest) {
                *calls.entry(digest).or_default() += 1;
            }
        }
    }
    Ok(recorded)
}

/// Where the ledger's next frame is, of a stream that ended in the middle of it.
type Place = ((u64, u64), usize);

fn stream(
    connection: &mut Connection,
    said: &Said,
    sessions: &mut [Session],
) -> (Matched, Option<Place>) {
    let began_us = connection.began_us;
    let free = sessions.iter_mut().filter(|session| !session.is_taken);
    let alike = free.filter_map(|session| {
        let (matched, _) = align(&said.messages, &session.frames);
        let apart = session.began_us.abs_diff(began_us);
        (!matched.is_empty()).then_some((matched.len(), u64::MAX - apart, session))
    });
    let best = alike.max_by_key(|(matched, near, _)| (*matched, *near));
    let empty = Session::default();
    let session: &Session = match best {
        Some((_, _, session)) => {
            session.is_taken = true;
            session
        }
        None => &empty,
    };
    let (matched, next) = align(&said.messages, &session.frames);
    let mut expected = 0;
    for (at, message) in said.messages.iter().enumerate() {
        match matched.get(&at) {
            Some(frame) => {
                if *frame > expected {
                    let what = format!(
                        "{} frames that the ledger has before this one are not on the wire",
                        frame - expected
                    );
                    connection.account.find(message.at, 0, what);
                }
                expected = frame + 1;
                connection.account.add(Kind::LedgerFrame, message.bytes);
            }
            None => {
                let what = format!(
                    "a message of {} bytes that is not the ledger's next frame",
                    message.bytes
                );
                connection.account.find(message.at, message.bytes, what);
            }
        }
    }
    let found = Matched {
        connection: connection.account.connection,
        session: session.epoch,
        sent: said.messages.len(),
        matched: matched.len(),
        not_sent: session.frames.len() - next,
    };
    let rest = (!said.rest.is_empty()).then_some((session.place, next));
    (found, rest)
}

/// Which message is which frame, in order: a message that is none is skipped, and so are few frames.
fn align(messages: &[Message], frames: &[Digest]) -> (BTreeMap<usize, usize>, usize) {
    let (mut matched, mut next) = (BTreeMap::new(), 0);
    for (at, message) in messages.iter().enumerate() {
        let ahead = frames.get(next..).unwrap_or_default().iter().take(AHEAD);
        let found = ahead
            .enumerate()
            .find(|(_, frame)| **frame == message.digest);
        if let Some((skipped, _)) = found {
            matched.insert(at, next + skipped);
            next += skipped + 1;
        }
    }
    (matched, next)
}

fn identity(
    connection: &mut Connection,
    said: &Said,
    calls: &mut BTreeMap<Digest, usize>,
) -> usize {
    let mut matched = 0;
    for message in &said.messages {
        match calls.get_mut(&message.digest).filter(|left| **left > 0) {
            Some(left) => {
                *left -= 1;
                matched += 1;
                connection.account.add(Kind::IdentityCall, message.bytes);
            }
            None => {
                let what = format!(
                    "a certificate request of {} bytes that is not in the ledger",
                    message.bytes
                );
                connection.account.find(message.at, message.bytes, what);
            }
        }
    }
    matched
}

fn unfinished(connection: &mut Connection, said: &Said) {
    if !said.rest.is_empty() {
        let (at, bytes): (At, u64) = (said.rest_at, said.rest.len() as u64);
        let what = "the beginning of a message that is not the ledger's next frame";
        connection.account.find(at, bytes, what);
    }
}

/// Whether the frame at this place begins like what was sent of it, its length included.
fn begins(ledger: &Path, (session, frame): Place, sent: &[u8]) -> Result<bool, LedgerError> {
    let mut reader = Reader::open(ledger)?;
    let (mut opened, mut frames) = (0, 0);
    while let Some(entry) = reader.next_entry()? {
        if entry.kind == Record::Opened {
            opened += 1;
        } else if entry.kind == Record::Frame && (opened, entry.conn) == session {
            if frames == frame {
                let length = u32::try_from(entry.payload.len()).unwrap_or(u32::MAX);
                let whole = [&[0], &length.to_be_bytes()[..], &entry.payload].concat();
                return Ok(whole.starts_with(sent));
            }
            frames += 1;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message {
            at: At::default(),
            digest: Sha256::digest(text).into(),
            bytes: text.len() as u64,
        }
    }

    #[test]
    fn messages_are_the_ledgers_frames_in_order_and_others_are_none() {
        let frames: Vec<Digest> = ["a", "b", "c", "d"]
            .map(|text| Sha256::digest(text).into())
            .into();
        let aligned = |texts: &[&str]| {
            let messages: Vec<Message> = texts.iter().map(|text| message(text)).collect();
            let (matched, next) = align(&messages, &frames);
            (matched.into_iter().collect::<Vec<_>>(), next)
        };
        assert_eq!(aligned(&["a", "b"]), (vec![(0, 0), (1, 1)], 2));
        assert_eq!(aligned(&["a", "x", "b"]), (vec![(0, 0), (2, 1)], 2));
        assert_eq!(aligned(&["a", "c"]), (vec![(0, 0), (1, 2)], 3));
        assert_eq!(aligned(&["b", "a"]), (vec![(0, 1)], 2), "never backwards");
        assert_eq!(aligned(&["a", "a"]), (vec![(0, 0)], 1), "never twice");
    }
}
