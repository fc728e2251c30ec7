//! `tenant create` and `tenant list`.

use super::{open, time};
use crate::cli::{Failure, TenantCommand};
use crate::driver::clock::wall;
use crate::output::{self, Output};

pub(crate) async fn run(command: TenantCommand, output: Output) -> Result<(), Failure> {
    match command {
        TenantCommand::Create { dir, tenant } => {
            let access = open(dir).await?;
            if !access
                .create_tenant(&tenant, wall())
                .await
                .map_err(Failure::failed)?
            {
                return Err(Failure::refused(format!(
                    "there is a tenant `{tenant}` already"
                )));
            }
            match output {
                Output::Table => output::line(&format!("tenant {tenant} created")),
                Output::Json => output::json(&serde_json::json!({ "tenant": tenant })),
            }
            access.close().await;
        }
        TenantCommand::List { dir } => {
            let access = open(dir).await?;
            let tenants = access.list_tenants().await.map_err(Failure::failed)?;
            let row = |row: &crate::store::access::TenantRow| {
                [row.tenant.to_string(), time(row.created_at)]
            };
            match output {
                Output::Table => output::table(
                    ["TENANT", "CREATED"],
                    &tenants.iter().map(row).collect::<Vec<_>>(),
                ),
                Output::Json => output::json(&tenants),
            }
            access.close().await;
        }
    }
    Ok(())
}
