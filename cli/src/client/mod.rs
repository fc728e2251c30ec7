//! The client: each command asks the API and shows the answer. It never touches a database, an agent or a secret other
//! than its own token.

mod agents;
pub(crate) mod api;
mod apply;
pub(crate) mod config;
mod diff;
pub(crate) mod files;
pub(crate) mod http;
mod lists;
mod logs;
mod pages;
mod params;
mod recovery;
mod runs;
pub(crate) mod sse;
pub(crate) mod tree;
mod waiting;
mod watch;
mod workflows;

use tokio::signal::unix::{SignalKind, signal};

use self::config::Connection;
use self::http::Client;
use crate::args::{AgentsCommand, ClientCommand, ConnectionArgs, RecoveryCommand};
use crate::failure::Failure;
use crate::output::Out;

pub(crate) use agents::{invite, write_new};
pub(crate) use runs::{run_of, start};
pub(crate) use watch::watch;

/// Runs one command.
pub(crate) async fn run(
    connection: &ConnectionArgs,
    command: ClientCommand,
    out: Out,
) -> Result<(), Failure> {
    let client = &Client::new(Connection::from_args(connection)?)?.shown(out);
    match command {
        ClientCommand::Apply(args) => apply::apply(client, &args, out).await,
        ClientCommand::Diff(args) => diff::diff(client, &args, out).await,
        ClientCommand::Delete(command) => workflows::delete(client, &command, out).await,
        ClientCommand::Workflows => workflows::list(client, out).await,
        ClientCommand::Pause { workflow } => workflows::pause(client, &workflow, true, out).await,
        ClientCommand::Resume { workflow } => workflows::pause(client, &workflow, false, out).await,
        ClientCommand::Schedule(args) => workflows::schedule(client, &args, out).await,
        ClientCommand::Trigger(args) => runs::trigger(client, &args, out).await,
        ClientCommand::Runs(args) => runs::list(client, &args, out).await,
        ClientCommand::Run { run } => runs::show(client, &run, out).await,
        ClientCommand::Watch { run } => runs::watch_to_end(client, &run, out).await,
        ClientCommand::Rerun(args) => runs::rerun(client, &args, out).await,
        ClientCommand::Cancel(args) => runs::cancel(client, &args, out).await,
        ClientCommand::Explain { run, task } => {
            runs::explain(client, &run, task.as_deref(), out).await
        }
        ClientCommand::Agents { command } => {
            agents::run(client, command.unwrap_or(AgentsCommand::List), out).await
        }
        ClientCommand::Attempts(command) => recovery::attempts(client, &command, out).await,
        ClientCommand::Recovery { command } => {
            recovery::run(client, command.unwrap_or(RecoveryCommand::Status), out).await
        }
        ClientCommand::Logs { id, task } => logs::logs(client, &id, task.as_deref(), out).await,
    }
}

/// Returns at Ctrl-C, and when told to end.
pub(crate) async fn interrupted() -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::Internal(format!("no signals: {error}")));
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
