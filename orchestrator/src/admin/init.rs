//! `init`: makes everything an orchestrator needs, once. What exists is never overwritten.

use std::path::Path;
use std::time::SystemTime;

use outpost_certs::ca::Authority;
use outpost_certs::store::{write_private, write_public};
use outpost_proto::name::TenantName;

use super::{of_open, shown, token};
use crate::auth::Role;
use crate::cli::{Failure, InitArgs};
use crate::config::{self, ADMIN_TOKEN, CA, SERVER, ServerFile};
use crate::driver::clock::wall;
use crate::output::{self, Output};
use crate::store::OpenError;
use crate::store::access::Access;
use crate::store::backup::STAGE;
use crate::store::sqlite::{FILE, FILES, Sqlite};

/// The first tenant.
const TENANT: &str = "default";
/// How long the first token holds.
const TOKEN_MS: u64 = 90 * 24 * 3_600_000;

pub(crate) async fn run(args: InitArgs, output: Output) -> Result<(), Failure> {
    let dir = config::directory(args.dir.dir).map_err(Failure::refused)?;
    if dir.join(FILE).exists() {
        return Err(Failure::refused(OpenError::Exists(dir.join(FILE))));
    }
    if dir.join(STAGE).exists() {
        return Err(Failure::refused(format!(
            "a restore was interrupted in {}: do it again with outpost-orchestrator restore",
            shown(&dir)
        )));
    }
    check_names(&args.names)?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(Failure::failed)?;
    Sqlite::create(&dir, u64::from_be_bytes(random))
        .await
        .map_err(|error| of_open(&error))?;
    let made = complete(&dir, &args.names, &args.trust_domain).await;
    if made.is_err() {
        // An orchestrator that is half made would look like one; only what this call made is taken away.
        for file in FILES {
            let _ = std::fs::remove_file(dir.join(file));
        }
    }
    made?;
    let (ca, token) = (dir.join(CA).join("root.crt"), dir.join(ADMIN_TOKEN));
    match output {
        Output::Table => {
            output::line(&format!("directory      {}", shown(&dir)));
            output::line(&format!("root           {}", shown(&ca)));
            output::line(&format!(
                "admin token    {} (tenant {TENANT}, 90 days)",
                shown(&token)
            ));
            output::line("next           outpost-orchestrator serve");
        }
        Output::Json => output::json(&serde_json::json!({
            "dir": dir, "root": ca, "token_file": token, "tenant": TENANT, "trust_domain": args.trust_domain,
        })),
    }
    Ok(())
}

async fn complete(dir: &Path, names: &[String], trust_domain: &str) -> Result<(), Failure> {
    make_authority(&dir.join(CA), trust_domain)?;
    let server = ServerFile {
        names: names.to_vec(),
    };
    write_public(
        &dir.join(SERVER),
        &server.to_json().map_err(Failure::failed)?,
    )
    .map_err(Failure::failed)?;
    let tenant: TenantName = TENANT.parse().map_err(Failure::failed)?;
    let access = Access::open(dir).await.map_err(|error| of_open(&error))?;
    access
        .create_tenant(&tenant, wall())
        .await
        .map_err(Failure::failed)?;
    let drawn = token::insert(&access, &tenant, Role::Admin, "made by init", TOKEN_MS).await?;
    access.close().await;
    write_private(
        &dir.join(ADMIN_TOKEN),
        format!("{}\n", drawn.text).as_bytes(),
    )
    .map_err(Failure::failed)
}

/// An authority without a database is one of an `init` that was interrupted: it is used, if it is of the same domain.
fn make_authority(ca: &Path, trust_domain: &str) -> Result<(), Failure> {
    match Authority::load(ca) {
        Ok(found) if found.trust_domain() == trust_domain => Ok(()),
        Ok(found) => Err(Failure::refused(format!(
            "{} holds an authority of another trust domain; give --trust-domain {} or another --dir",
            ca.display(),
            found.trust_domain()
        ))),
        Err(error) if error.is_not_found() => {
            let authority =
                Authority::create(trust_domain, SystemTime::now()).map_err(Failure::refused)?;
            authority.save(ca).map_err(Failure::failed)
        }
        Err(error) => Err(Failure::failed(error)),
    }
}

fn check_names(names: &[String]) -> Result<(), Failure> {
    match names
        .iter()
        .find(|name| rustls::pki_types::ServerName::try_from(name.as_str()).is_err())
    {
        Some(name) => Err(Failure::refused(format!(
            "--name {name:?} is neither a host name nor an address"
        ))),
        None => Ok(()),
    }
}
