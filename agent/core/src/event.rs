//! Everything that can happen to the agent's core, and everything that can result: one page.

use std::fmt;
use std::sync::Arc;

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, Conn, Nonce};
use outpost_proto::message::{Assign, Catalogue, DownMessage, Health, OnDisconnect, UpMessage};
use outpost_proto::outcome::{Refusal, Report, StartFailure};
use outpost_proto::wire::RecoverRequest;

/// Everything that can happen.
#[derive(Debug, Clone)]
pub enum Event {
    /// The stream that [`Speech::Dial`] asked for stands.
    Opened {
        /// Which.
        conn: Conn,
    },
    /// It could not be made, or is gone.
    Closed {
        /// Which.
        conn: Conn,
        /// Why.
        why: Down,
    },
    /// One frame arrived, already validated.
    Frame {
        /// On this stream.
        conn: Conn,
        /// In order.
        messages: Vec<DownMessage>,
    },
    /// A keeper said something, or was found to be gone.
    Keeper {
        /// Whose.
        attempt: AttemptId,
        /// What.
        said: KeeperSaid,
    },
    /// The site's catalogue was read and accepted; also the first event of a process's life.
    Catalogue(Rules),
    /// The host's numbers, sampled by the driver.
    Health(Health),
    /// Whether the disk has room for more work and for all that is to be recorded of it. There is until this says no.
    Room(bool),
    /// The certificate that link presents: at its start, and again when the site's clock was set.
    Certificate {
        /// For how long it holds in all, in microseconds.
        life_us: u64,
        /// When it ends, on the boot-time clock; 0 for a time before the host's start.
        until: Micros,
    },
    /// The request that [`Speech::MakeCsr`] asked for; empty when none could be made.
    Csr(Vec<u8>),
    /// A newer certificate is durable, and presented on every connection that is made from now on.
    Renewed {
        /// As in [`Event::Certificate`].
        life_us: u64,
        /// As in [`Event::Certificate`].
        until: Micros,
    },
    /// The orchestrator did not issue one, or it cannot be used.
    NotRenewed,
    /// What [`Speech::Prove`] asked for.
    Proof(Proof),
    /// The orchestrator answered [`Speech::Recover`] with a challenge.
    Challenged {
        /// On this connection.
        conn: Conn,
        /// 1 to 64 bytes.
        challenge: Vec<u8>,
    },
    /// The orchestrator issued no certificate in place of the one that ended.
    NotRecovered {
        /// On this connection.
        conn: Conn,
        /// Why not.
        why: NotRecovered,
    },
    /// Until when a stream's certificates, the agent's and the server's, both hold.
    Ends {
        /// Which stream.
        conn: Conn,
        /// On the boot-time clock.
        at: Micros,
    },
    /// The site wants something.
    Site(Site),
}

/// Why a stream is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// Name, network, proxy or TLS: worth another try soon.
    Unreachable,
    /// The orchestrator ended it in good order, or is going away.
    Ended,
    /// The identity is refused: removed, unknown. Worth another try, seldom.
    Refused,
    /// The certificate has ended, says the orchestrator, or the clock while a stream stood.
    Expired,
    /// The peer broke the protocol, or speaks no version in common.
    Protocol,
}

/// What link made for a recovery; all of it empty when it could not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The present certificate, DER.
    pub certificate: Vec<u8>,
    /// PKCS #10, DER.
    pub csr: Vec<u8>,
    /// ECDSA P-256, DER; empty without a challenge.
    pub proof: Vec<u8>,
}

/// Why there is no certificate in place of one that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRecovered {
    /// By the orchestrator's clock it has not.
    Holds,
    /// It will be no different next time: a person has to act.
    Refused,
    /// It may be different soon.
    Later,
}

/// What a keeper says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperSaid {
    /// The task's process exists.
    Running,
    /// The keeper at which it waited has it no more and has begun nothing of it: it may be given to another.
    GivenBack,
    /// Nothing of it ever ran.
    NotStarted(NotStarted),
    /// The whole tree is gone.
    Finished(Report),
    /// The keeper is gone without a record; its tree was ended. `claimed`: whether exec may have happened.
    Gone {
        /// Whether the keeper had made its claim.
        claimed: bool,
    },
}

/// Why nothing ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStarted {
    /// The lease had ended when the keeper looked.
    LeaseOver,
    /// It was cancelled before.
    Cancelled,
    /// The site's own reasons.
    Failed(StartFailure),
    /// The site does not let it begin at this moment.
    Refused(Refusal),
}

/// What the site wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// Start nothing until resumed.
    Pause,
    /// Start work again.
    Resume,
    /// Finish what runs, take nothing new, then end the process.
    Drain,
    /// Report what is known, then end the process; tasks go on under their keepers.
    Stop,
}

/// The site's rules, as data that can be asked. Pure: the same question gets the same answer.
pub trait Catalog: fmt::Debug + Send + Sync {
    /// What is announced.
    fn announced(&self) -> Catalogue;

    /// May this be started, and how?
    ///
    /// # Errors
    /// The refusal for the wire, and the full reason for the site's own log.
    fn judge(&self, assign: &Assign) -> Result<Terms, (Refusal, String)>;
}

/// The site's rules.
pub type Rules = Arc<dyn Catalog>;

/// On which terms an entry runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What becomes of it while the agent is out of touch.
    pub on_disconnect: OnDisconnect,
    /// How many attempts of this entry run at once; `None` leaves it to the slots.
    pub max_parallel: Option<u16>,
    /// How many starts in an hour; `None` is without a limit.
    pub max_per_hour: Option<u32>,
}

/// Everything that can result, besides writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speech {
    /// Make a connection and open the stream.
    Dial {
        /// Numbered by the core, never reused within a process.
        conn: Conn,
    },
    /// One frame for the orchestrator. The store has put its exact bytes into the ledger.
    Send {
        /// On this stream.
        conn: Conn,
        /// At most a frame's worth.
        messages: Vec<UpMessage>,
    },
    /// End this stream.
    Hangup {
        /// Which.
        conn: Conn,
    },
    /// Make a new key and a request for a certificate.
    MakeCsr,
    /// Have link prove that the key of the certificate that ended is held.
    Prove {
        /// Part of what is signed.
        session_nonce: Nonce,
        /// The orchestrator's; empty before it was asked.
        challenge: Vec<u8>,
    },
    /// Ask for a certificate in place of the one that ended, on a connection without a certificate: one that is made for
    /// it, unless the request answers a challenge. The store has put the request's exact bytes into the ledger.
    Recover {
        /// Which.
        conn: Conn,
        /// As it is said.
        request: Box<RecoverRequest>,
    },
    /// Ask for the next certificate under the present one. The store has put the request's exact bytes into the ledger.
    Renew {
        /// Beside this stream.
        conn: Conn,
        /// PKCS #10, DER, as link made it.
        csr: Vec<u8>,
    },
    /// Start this, once. The keeper looks at the lease again.
    Start {
        /// As it was assigned.
        assign: Box<Assign>,
        /// End of the lease on the boot-time clock.
        lease_until: Micros,
        /// Not before this one is over and nothing of it is left, and by the same keeper; `None`: at once.
        behind: Option<AttemptId>,
    },
    /// Have an attempt back that waits at a keeper behind another one. Answered by [`KeeperSaid::GivenBack`], or by what
    /// becomes of it when it has begun.
    TakeBack {
        /// Which.
        attempt: AttemptId,
    },
    /// End this attempt's tree.
    Cancel {
        /// Which.
        attempt: AttemptId,
    },
    /// The orchestrator is in touch: push the dead-man timers of `stop_after` entries.
    InTouch,
    /// The outcome is durable upstream: the attempt's working files may go; its log stays as long as the site keeps logs.
    Discard {
        /// Which.
        attempt: AttemptId,
    },
    /// For the site's own record only: what was refused, and why.
    Refused {
        /// Which.
        attempt: AttemptId,
        /// What upstream is told of it.
        refusal: Refusal,
        /// What was wanted.
        assign: Box<Assign>,
        /// In full.
        why: String,
    },
    /// For the site's log only: the orchestrator did what no honest one does.
    Alarm(Alarm),
    /// The process may end: drained or stopped.
    Done,
}

/// What no honest orchestrator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// Work before the reconciliation was complete, a second Welcome, a command number that went back.
    OutOfOrder,
    /// An attempt id was assigned a second time with other content, or after its end.
    AttemptReused,
    /// The database it speaks for is older than one seen before.
    WentBack,
}
