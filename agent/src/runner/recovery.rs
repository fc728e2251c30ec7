//! What the orchestrator answers to whom it gives certificates, read for the core: issued, a challenge, or why not.
//!
//! Only the form is looked at here; link checks what a certificate says before it takes the place of anything.

use std::fmt;

use outpost_agent_core::event::{Event, NotRecovered};
use outpost_agent_link::ipc::ToLink;
use outpost_proto::ids::Conn;
use outpost_proto::wire::{Issued, RecoverReply};

/// The status codes of gRPC that mean that it may be different soon.
mod code {
    pub(super) const CANCELLED: u8 = 1;
    pub(super) const UNKNOWN: u8 = 2;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const FAILED_PRECONDITION: u8 = 9;
    pub(super) const ABORTED: u8 = 10;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
}

/// What follows from an answer.
#[derive(Debug)]
pub(super) enum Answered {
    /// Link is to store this.
    Store(ToLink),
    /// The core decides.
    Core(Event),
    /// There is no certificate, for this reason.
    Not(Event, Why),
}

/// For the log and for `status`.
#[derive(Debug)]
pub(super) struct Why(String);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An answer to a renewal.
pub(super) fn renewal(ok: bool, bytes: &[u8], text: String) -> Answered {
    if !ok {
        return Answered::Not(Event::NotRenewed, Why(text));
    }
    match Issued::decode(bytes) {
        Ok(issued) => Answered::Store(store(issued)),
        Err(error) => Answered::Not(Event::NotRenewed, Why(error.to_string())),
    }
}

/// An answer to a request for a certificate in place of one that ended.
pub(super) fn recovery(conn: Conn, status: Option<u8>, bytes: &[u8], text: &str) -> Answered {
    let not = |why, text: &str| {
        let text = format!("no certificate in place of the one that ended: {text}");
        Answered::Not(Event::NotRecovered { conn, why }, Why(text))
    };
    match status.map(refusal) {
        Some(why) => not(why, text),
        None => match RecoverReply::decode(bytes) {
            Ok(RecoverReply::Challenge(challenge)) => {
                Answered::Core(Event::Challenged { conn, challenge })
            }
            Ok(RecoverReply::Issued(issued)) => Answered::Store(store(issued)),
            Err(error) => not(NotRecovered::Later, &error.to_string()),
        },
    }
}

fn refusal(status: u8) -> NotRecovered {
    match status {
        code::FAILED_PRECONDITION => NotRecovered::Holds,
        code::CANCELLED
        | code::UNKNOWN
        | code::DEADLINE_EXCEEDED
        | code::RESOURCE_EXHAUSTED
        | code::ABORTED
        | code::INTERNAL
        | code::UNAVAILABLE => NotRecovered::Later,
        _ => NotRecovered::Refused,
    }
}

fn store(issued: Issued) -> ToLink {
    ToLink::StoreIdentity {
        chain: issued.chain,
        roots: issued.roots,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_told_from_those_that_pass() {
        let why = |status| match recovery(Conn(7), Some(status), b"", "why") {
            Answered::Not(Event::NotRecovered { conn, why }, text) => {
                assert_eq!(conn, Conn(7));
                assert!(text.to_string().ends_with(": why"));
                why
            }
            other @ (Answered::Store(_) | Answered::Core(_) | Answered::Not(..)) => {
                panic!("{other:?}")
            }
        };
        assert_eq!(why(9), NotRecovered::Holds);
        for passing in [1, 2, 4, 8, 10, 13, 14] {
            assert_eq!(why(passing), NotRecovered::Later, "{passing}");
        }
        for lasting in [3, 5, 6, 7, 11, 12, 15, 16, 200] {
            assert_eq!(why(lasting), NotRecovered::Refused, "{lasting}");
        }
    }

    #[test]
    fn a_challenge_is_for_the_core_and_nonsense_for_nobody() {
        let challenge = RecoverReply::Challenge(vec![5; 32]).encode().unwrap();
        let answered = recovery(Conn(1), None, &challenge, "");
        let Answered::Core(Event::Challenged { conn, challenge }) = answered else {
            panic!("{answered:?}")
        };
        assert_eq!((conn, challenge), (Conn(1), vec![5; 32]));
        let nonsense = recovery(Conn(1), None, b"nonsense", "");
        let Answered::Not(Event::NotRecovered { why, .. }, _) = nonsense else {
            panic!("{nonsense:?}")
        };
        assert_eq!(why, NotRecovered::Later);
        let nonsense = renewal(true, b"nonsense", String::new());
        assert!(matches!(nonsense, Answered::Not(Event::NotRenewed, _)));
    }
}
