//! Every place that has a name: where a process may be held or killed between two steps.

/// A named place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// As it stands in the code.
    pub name: &'static str,
    /// Whose code.
    pub process: Process,
    /// What has been done and what has not.
    pub between: &'static str,
}

/// Who can be stopped there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// `outpost-orchestrator serve`.
    Orchestrator,
    /// `outpost-orchestrator restore`.
    Restore,
    /// `outpost-agent run`.
    Runner,
    /// A runner that finds a journal of an older format, or too long a one, and writes it anew.
    RewritingRunner,
    /// A runner that makes the claim in the place of a keeper that is gone.
    ClaimingRunner,
    /// The link of a runner that works.
    Link,
    /// A link that makes a connection.
    ConnectingLink,
    /// A link that gets its next certificate.
    RenewingLink,
    /// The agent's spawner.
    Spawner,
    /// One keeper.
    Keeper,
    /// A runner that hands an attempt to a keeper which still has another one, and that keeper.
    Ahead,
}

const fn point(process: Process, name: &'static str, between: &'static str) -> Point {
    Point {
        name,
        process,
        between,
    }
}

use Process::{
    Ahead, ClaimingRunner, ConnectingLink, Keeper, Link, Orchestrator, RenewingLink, Restore,
    RewritingRunner, Runner, Spawner,
};

/// All of them, in the order in which work passes them.
pub const ALL: [Point; 48] = [
    point(
        Orchestrator,
        "orchestrator-decided",
        "a burst is decided, nothing of it is written",
    ),
    point(
        Orchestrator,
        "orchestrator-written",
        "the transaction is written and not committed",
    ),
    point(
        Orchestrator,
        "orchestrator-committed",
        "it is committed, nothing is said",
    ),
    point(
        Orchestrator,
        "orchestrator-speaking",
        "one thing of a burst is said, the next one is not",
    ),
    point(
        Orchestrator,
        "orchestrator-spoken",
        "everything of a burst is said",
    ),
    point(
        Restore,
        "restore-staged",
        "the new database is whole, the one that is there has its name",
    ),
    point(
        Restore,
        "restore-linked",
        "the one that is there has another name besides",
    ),
    point(
        Restore,
        "restore-unlinked",
        "its own name is gone, its log's is not",
    ),
    point(
        Restore,
        "restore-cleared",
        "nothing has the database's name",
    ),
    point(
        RewritingRunner,
        "runner-rewriting",
        "a shorter journal is begun, the long one stands",
    ),
    point(
        RewritingRunner,
        "runner-rewritten",
        "the shorter one is on the disk under another name",
    ),
    point(
        RewritingRunner,
        "runner-replaced",
        "it has its name, and that is not on the disk",
    ),
    point(
        Runner,
        "runner-received",
        "a frame came from link, nothing of it is decided",
    ),
    point(
        Runner,
        "runner-decided",
        "a burst is decided, nothing of it is written",
    ),
    point(
        Runner,
        "runner-journalled",
        "it is in the journal, not in the ledger",
    ),
    point(Runner, "runner-recorded", "it is in the ledger, not synced"),
    point(
        Runner,
        "runner-committed",
        "it is committed, nothing is done",
    ),
    point(
        Runner,
        "runner-prepared",
        "an attempt's directories are made, no keeper is asked",
    ),
    point(
        Ahead,
        "runner-handed-over",
        "a keeper has it behind another attempt, nobody has heard of it",
    ),
    point(
        Runner,
        "runner-asked",
        "a keeper is asked, nobody listens to it",
    ),
    point(
        Runner,
        "runner-synced",
        "frames are synced, none is handed to link",
    ),
    point(Runner, "runner-sent", "a frame is handed to link"),
    point(
        ConnectingLink,
        "link-dialled",
        "a connected descriptor is there, nothing is said on it",
    ),
    point(
        ConnectingLink,
        "link-connected",
        "TLS and HTTP/2 are up, no stream is asked for",
    ),
    point(
        ConnectingLink,
        "link-opened",
        "the orchestrator has accepted the stream, the runner does not know",
    ),
    point(
        Link,
        "link-heard",
        "the runner has said something, nothing of it is done",
    ),
    point(
        Link,
        "link-taken",
        "a frame of the runner is here, its connection does not have it",
    ),
    point(
        Link,
        "link-queued",
        "it is with its connection, perhaps not on the wire",
    ),
    point(
        Link,
        "link-received",
        "a frame of the orchestrator is here, the runner does not have it",
    ),
    point(Link, "link-passed", "a frame is handed to the runner"),
    point(
        RenewingLink,
        "link-keyed",
        "the next key is on disk, nobody was asked to certify it",
    ),
    point(
        RenewingLink,
        "link-answered",
        "the next certificate is here, the runner does not have it",
    ),
    point(
        RenewingLink,
        "link-rooted",
        "the roots are on disk, the next certificate is not",
    ),
    point(
        RenewingLink,
        "link-chained",
        "the next certificate is on disk, its key has no name of its own",
    ),
    point(
        RenewingLink,
        "link-stored",
        "the next identity is on disk, the runner does not know",
    ),
    point(
        Spawner,
        "spawner-asked",
        "a start is received, no keeper is forked",
    ),
    point(
        Spawner,
        "spawner-forked",
        "a keeper is forked, and not answered for",
    ),
    point(
        Keeper,
        "keeper-begun",
        "an attempt is held, nothing of it is on disk",
    ),
    point(
        Keeper,
        "keeper-drafted",
        "the claim is written and not made",
    ),
    point(
        Keeper,
        "keeper-leased",
        "the lease was looked at, the claim is not made",
    ),
    point(
        Keeper,
        "keeper-claimed",
        "the claim is made, nothing is executed",
    ),
    point(
        Keeper,
        "keeper-started",
        "the task is executed, the runner is not told",
    ),
    point(
        Keeper,
        "keeper-ended",
        "the whole tree is gone, the end is not on disk",
    ),
    point(
        Keeper,
        "keeper-recorded",
        "the end is on disk, the runner is not told",
    ),
    point(
        Ahead,
        "keeper-following",
        "the end is told, the attempt that waited is not looked at",
    ),
    point(
        ClaimingRunner,
        "runner-claiming",
        "no keeper lives, the claim is not made",
    ),
    point(
        ClaimingRunner,
        "runner-drafted",
        "the claim is written and has no name",
    ),
    point(
        ClaimingRunner,
        "runner-claimed",
        "the claim is made, nothing is reported",
    ),
];
