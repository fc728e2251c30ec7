//! Commands that need no server: checking files, schemas, completions, manual pages, the reference.

mod completions;
mod man;
mod reference;
mod validate;

use serde_json::json;

use crate::args::{self, LocalCommand, ReferenceKind, SchemaKind};
use crate::exit;
use crate::failure::Failure;
use crate::output::Out;

/// Runs one of the commands. `dev` and `demo` are run elsewhere.
pub(crate) fn run(command: LocalCommand, out: Out) -> Result<(), Failure> {
    match command {
        LocalCommand::Validate(args) => validate::validate(&args, out),
        LocalCommand::Schema { kind } => {
            out.json(&match kind {
                SchemaKind::Workflow => outpost_orchestrator::workflow::schema(),
                SchemaKind::Catalogue => outpost_agent::catalogue::schema(),
            });
            Ok(())
        }
        LocalCommand::Completions { shell } => {
            let script = completions::script(shell);
            out.either(
                &json!({ "shell": shell.to_string(), "script": script }),
                |out| {
                    out.line(script.trim_end());
                },
            );
            Ok(())
        }
        LocalCommand::Man { dir } => man::write(&dir, out),
        LocalCommand::ExitCodes => {
            out.either(&exit::json(), |out| out.line(&exit::table()));
            Ok(())
        }
        LocalCommand::Reference { kind } => {
            let text = match kind {
                ReferenceKind::Workflow => outpost_orchestrator::workflow::reference(),
                ReferenceKind::Cli => reference::markdown(args::command()),
                ReferenceKind::ExitCodes => exit::markdown(),
            };
            out.either(&json!({ "markdown": text }), |out| {
                out.line(text.trim_end())
            });
            Ok(())
        }
        LocalCommand::Dev(_) | LocalCommand::Demo(_) => {
            Err(Failure::Internal("this command is not run here".to_owned()))
        }
    }
}
