//! Which certificates the agent presented: each is of a key that the ledger has a request for, and was signed by the
//! authority whose root the other side presented; so that nothing in it could be chosen by the one who presents it. Used
//! once everything that was captured is known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outpost_certs::identity::AgentIdentity;

use super::account::Kind;
use super::connection::Connection;
use super::handshake::Presented;

type Digest = [u8; 32];

/// What is known of the agent's certificates.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Keys that certificates were asked for, by the ledger.
    pub(super) keys: BTreeSet<Digest>,
    /// The ledger no longer has its beginning, and with it perhaps the request.
    pub(super) is_pruned: bool,
}

/// Accounts for the certificates of every connection; what the ledger can no longer tell is told as lacking.
pub(super) fn check(
    connections: &mut [Connection],
    known: &Known,
    agent: Option<&str>,
) -> Vec<String> {
    let mut lacks = Vec::new();
    let mut chains: BTreeMap<Digest, Vec<Vec<u8>>> = BTreeMap::new();
    for connection in connections {
        let Some(presented) = connection.handshake.presented.take() else {
            continue;
        };
        let judged = judge(connection, &presented, agent).and_then(|key| {
            let first = chains.entry(key).or_insert_with(|| presented.chain.clone());
            match *first == presented.chain {
                true => Ok(key),
                false => Err("a certificate of the same key as another one".to_owned()),
            }
        });
        let (account, bytes) = (&mut connection.account, presented.bytes);
        match judged {
            Ok(key) if known.keys.contains(&key) => account.add(Kind::Certificate, bytes),
            Ok(_) if known.is_pruned => {
                account.add(Kind::Unreadable, bytes);
                lacks.push(format!(
                    "connection {}: the request for the certificate is in no segment that the ledger still has",
                    account.connection
                ));
            }
            Ok(_) => {
                let what = "a certificate of a key that the ledger has no request for";
                account.find(presented.at, bytes, what);
            }
            Err(what) => account.find(presented.at, bytes, what),
        }
    }
    lacks
}

/// The SHA-256 of the leaf's key, if there is nothing against the chain.
fn judge(
    connection: &Connection,
    presented: &Presented,
    agent: Option<&str>,
) -> Result<Digest, String> {
    let name = presented.names.first().map_or("", String::as_str);
    let domain = name
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split('/').next());
    let leaf = presented.chain.first().map_or(&[][..], Vec::as_slice);
    let leaf = AgentIdentity::from_leaf(leaf, domain.unwrap_or_default())
        .map_err(|why| format!("a certificate that is no agent's: {why}"))?;
    if agent.is_some_and(|agent| agent != leaf.spiffe_id) {
        return Err(format!(
            "a certificate of another agent: {}",
            leaf.spiffe_id
        ));
    }
    let at = Duration::from_micros(connection.began_us);
    let roots = connection
        .handshake
        .server_chain
        .get(1..)
        .unwrap_or_default();
    if !outpost_agent_link::leads_to(&presented.chain, roots, at) {
        let what =
            "certificates that do not lead, each needed, to a root that the orchestrator presented";
        return Err(what.to_owned());
    }
    Ok(leaf.public_key_sha256)
}
