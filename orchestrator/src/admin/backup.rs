//! `backup` and `restore`.

use crate::cli::{BackupArgs, Failure, RestoreArgs};
use crate::config::{self, CA, DirError, DirLock};
use crate::driver::clock::wall;
use crate::output::{self, Output};
use crate::store::backup::{self, BackupError};

use super::{of_open, shown};

pub(crate) fn backup(args: BackupArgs, output: Output) -> Result<(), Failure> {
    let dir = config::directory(args.dir.dir).map_err(Failure::refused)?;
    let bytes = backup::backup(&dir, &args.file).map_err(of_backup)?;
    match output {
        Output::Table => {
            output::line(&format!(
                "backup         {} ({bytes} bytes)",
                shown(&args.file)
            ));
            output::note(&format!(
                "the certificate authority is not in it: keep a copy of {} too",
                shown(&dir.join(CA))
            ));
        }
        Output::Json => {
            output::json(&serde_json::json!({ "file": args.file, "bytes": bytes }));
        }
    }
    Ok(())
}

pub(crate) async fn restore(args: RestoreArgs, output: Output) -> Result<(), Failure> {
    let dir = config::directory(args.dir.dir).map_err(Failure::refused)?;
    if !dir.join(CA).exists() {
        return Err(Failure::refused(format!(
            "{} holds no certificate authority, without which no agent would be recognised; put the saved directory \
             `{CA}` there first",
            shown(&dir)
        )));
    }
    let _lock = DirLock::take(&dir).map_err(|error| match error {
        DirError::InUse(_) | DirError::NoDefault => Failure::refused(error),
        DirError::Io { .. } | DirError::Content { .. } => Failure::failed(error),
    })?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(Failure::failed)?;
    let life = (args.epoch, u64::from_be_bytes(random));
    let restored = backup::restore(&dir, &args.file, life, args.force, wall())
        .await
        .map_err(of_backup)?;
    let (counter, agents) = (restored.recovery.counter, restored.agents);
    match output {
        Output::Table => {
            output::line(&format!("restored       {}", shown(&args.file)));
            if let Some(aside) = &restored.aside {
                output::line(&format!("set aside      {}", shown(aside)));
            }
            output::line(&format!("epoch          {counter}"));
            output::line(&format!(
                "agents         {agents} to report before new work"
            ));
            output::line("next           outpost-orchestrator serve, then outpost recovery");
        }
        Output::Json => output::json(&serde_json::json!({
            "file": args.file, "epoch": counter, "agents": agents, "aside": restored.aside,
        })),
    }
    Ok(())
}

fn of_backup(error: BackupError) -> Failure {
    match error {
        BackupError::Open(error) => of_open(&error),
        BackupError::Exists(_) | BackupError::Missing(_) | BackupError::InTheWay(_) => {
            Failure::refused(error)
        }
        BackupError::Store(_)
        | BackupError::Damaged { .. }
        | BackupError::Sqlite { .. }
        | BackupError::Io { .. } => Failure::failed(error),
    }
}
