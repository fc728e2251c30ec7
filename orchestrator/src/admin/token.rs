//! `token create`, `token list` and `token revoke`, and how a token is drawn.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outpost_proto::name::TenantName;
use sha2::{Digest, Sha256};

use super::{open, time};
use crate::auth::Role;
use crate::cli::{Failure, TokenCommand, TokenCreateArgs};
use crate::driver::clock::wall;
use crate::output::{self, Output};
use crate::store::access::{Access, InsertTokenError, TokenRow};
use crate::store::tokens::Revoked;

/// Longest life: somebody looks at each token once a year.
pub const MAX_TTL_MS: u64 = 365 * 24 * 3_600_000;
/// Characters of a label.
pub const LABEL_CHARS: usize = 100;

/// A token just drawn: the only moment its text exists here.
pub struct Drawn {
    /// `opt_<12 hex digits>_<43 characters of base64url>`.
    pub text: String,
    /// What is stored of it.
    pub row: TokenRow,
}

/// Draws a token for a tenant that holds for `ttl_ms` from `now`.
///
/// # Errors
/// When the system has no randomness.
pub fn draw(
    tenant: &TenantName,
    role: &str,
    label: &str,
    now: u64,
    ttl_ms: u64,
) -> Result<Drawn, getrandom::Error> {
    let (mut id, mut secret) = ([0; 6], [0; 32]);
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut secret)?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let secret = URL_SAFE_NO_PAD.encode(secret);
    let row = TokenRow {
        hash: hash(&secret),
        tenant: Some(tenant.clone()),
        role: role.to_owned(),
        label: label.to_owned(),
        created_at: now,
        expires_at: now.saturating_add(ttl_ms.saturating_mul(1000)),
        revoked_at: None,
        id,
    };
    Ok(Drawn {
        text: format!("opt_{}_{secret}", row.id),
        row,
    })
}

/// SHA-256, in hex, of a token's last part as it stands in the token.
#[must_use]
pub fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub(crate) async fn run(command: TokenCommand, output: Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(args, output).await,
        TokenCommand::List { dir, tenant } => {
            let access = open(dir).await?;
            let tokens = access
                .list_tokens(tenant.as_ref())
                .await
                .map_err(Failure::failed)?;
            list(&tokens, output);
            access.close().await;
            Ok(())
        }
        TokenCommand::Revoke { dir, id, force } => {
            let access = open(dir).await?;
            let revoked = revoke(&access, &id, force).await;
            access.close().await;
            revoked?;
            output::note(&format!("token {id} revoked"));
            Ok(())
        }
    }
}

/// The last administrator of a tenant is kept, unless somebody insists: a new one can be made on this machine only.
async fn revoke(access: &Access, id: &str, force: bool) -> Result<(), Failure> {
    let revoked = if force {
        let done = access.revoke_token(None, id, wall()).await;
        let done = done.map_err(Failure::failed)?;
        if done {
            Revoked::Done
        } else {
            Revoked::Unknown
        }
    } else {
        let revoked = access.revoke_unless_last(None, id, wall()).await;
        revoked.map_err(Failure::failed)?
    };
    match revoked {
        Revoked::Done => Ok(()),
        Revoked::Unknown => Err(Failure::refused(format!(
            "there is no token {id:?} that still holds"
        ))),
        Revoked::LastAdmin => Err(Failure::refused(format!(
            "token {id} is the last administrator's of its tenant; make another one first with `token create --role \
             admin`, or give --force"
        ))),
    }
}

async fn create(args: TokenCreateArgs, output: Output) -> Result<(), Failure> {
    let TokenCreateArgs {
        dir,
        tenant,
        role,
        ttl,
        label,
    } = args;
    if ttl == 0 || ttl > MAX_TTL_MS {
        return Err(Failure::refused("--ttl must be between 1ms and 365d"));
    }
    if label.chars().count() > LABEL_CHARS || label.chars().any(char::is_control) {
        return Err(Failure::refused(
            "--label takes up to 100 characters without control characters",
        ));
    }
    let access = open(dir).await?;
    let drawn = insert(&access, &tenant, role, &label, ttl).await?;
    access.close().await;
    let TokenRow { id, expires_at, .. } = &drawn.row;
    match output {
        Output::Table => {
            output::note(&format!(
                "token {id}: {} of {tenant} until {}",
                role.word(),
                time(*expires_at)
            ));
            output::line(&drawn.text);
        }
        Output::Json => output::json(&serde_json::json!({
            "token": drawn.text, "id": id, "tenant": tenant, "role": role.word(), "expires_at": time(*expires_at),
        })),
    }
    Ok(())
}

/// Draws and stores.
pub(super) async fn insert(
    access: &Access,
    tenant: &TenantName,
    role: Role,
    label: &str,
    ttl_ms: u64,
) -> Result<Drawn, Failure> {
    let drawn = draw(tenant, role.word(), label, wall(), ttl_ms).map_err(Failure::failed)?;
    access
        .insert_token(&drawn.row)
        .await
        .map_err(|error| match error {
            InsertTokenError::UnknownTenant(_) => Failure::refused(error),
            InsertTokenError::Store(_) => Failure::failed(error),
        })?;
    Ok(drawn)
}

fn list(tokens: &[TokenRow], output: Output) {
    let now = wall();
    let row = |token: &TokenRow| {
        let state = match token.revoked_at {
            Some(_) => "revoked",
            None if token.expires_at <= now => "expired",
            None => "valid",
        };
        let tenant = token
            .tenant
            .as_ref()
            .map_or("-", TenantName::as_str)
            .to_owned();
        let (created, expires) = (time(token.created_at), time(token.expires_at));
        [
            token.id.clone(),
            tenant,
            token.role.clone(),
            state.to_owned(),
            created,
            expires,
            token.label.clone(),
        ]
    };
    match output {
        Output::Table => output::table(
            [
                "ID", "TENANT", "ROLE", "STATE", "CREATED", "EXPIRES", "LABEL",
            ],
            &tokens.iter().map(row).collect::<Vec<_>>(),
        ),
        Output::Json => output::json(&tokens),
    }
}
