//! What `serve` is told about certificates.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use outpost_proto::units::duration_ms;

use super::server::Brought;
use super::{LIVES, RECOVER_WITHIN_MOST, life_text};

/// What `serve` is told about certificates.
#[derive(Debug, Clone, Args)]
pub struct CertificateArgs {
    /// How long an agent's certificate holds; it is renewed at a third of that.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = life, env = "OUTPOST_ORCHESTRATOR_AGENT_CERT_TTL")]
    pub agent_cert_ttl: Duration,
    /// An agent that was out of reach until its certificate ended gets another one if that was no longer ago than this;
    /// with 0s it is to be invited again.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = window, env = "OUTPOST_ORCHESTRATOR_RECOVER_WITHIN")]
    pub recover_within: Duration,
    /// And so many times in 30 days.
    #[arg(
        long,
        value_name = "N",
        default_value = "3",
        env = "OUTPOST_ORCHESTRATOR_RECOVERIES"
    )]
    pub recoveries: u16,
    /// How long the server's own certificate holds; it is replaced at a third of that, or on SIGHUP.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = life, env = "OUTPOST_ORCHESTRATOR_SERVER_CERT_TTL")]
    pub server_cert_ttl: Duration,
    /// A certificate chain for the API (PEM, leaf first), instead of one of the own authority; read again when it
    /// changes, and on SIGHUP.
    #[arg(
        long,
        value_name = "FILE",
        requires = "api_key",
        env = "OUTPOST_ORCHESTRATOR_API_CERT"
    )]
    pub api_cert: Option<PathBuf>,
    /// The key that belongs to it (PEM, readable by its owner alone).
    #[arg(
        long,
        value_name = "FILE",
        requires = "api_cert",
        env = "OUTPOST_ORCHESTRATOR_API_KEY"
    )]
    pub api_key: Option<PathBuf>,
}

impl CertificateArgs {
    pub(crate) fn brought(&self) -> Option<Brought> {
        Some(Brought {
            chain: self.api_cert.clone()?,
            key: self.api_key.clone()?,
        })
    }
}

fn life(text: &str) -> Result<Duration, String> {
    let life = Duration::from_millis(duration_ms(text).map_err(|error| error.to_string())?);
    if LIVES.contains(&life) {
        return Ok(life);
    }
    let (least, most) = (life_text(*LIVES.start()), life_text(*LIVES.end()));
    Err(format!(
        "a certificate holds for {least} to {most}: below, a clock that is a little off does harm; above, a stolen key \
         is good for too long"
    ))
}

fn window(text: &str) -> Result<Duration, String> {
    let window = Duration::from_millis(duration_ms(text).map_err(|error| error.to_string())?);
    if window <= RECOVER_WITHIN_MOST {
        return Ok(window);
    }
    let most = life_text(RECOVER_WITHIN_MOST);
    Err(format!(
        "a certificate is recovered {most} after its end at most: beyond, a stolen disk is good for too long"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_have_bounds() {
        assert_eq!(life("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(life("90d"), Ok(Duration::from_secs(90 * 86_400)));
        for text in ["9s", "91d", "1", "-1h"] {
            let why = life(text).unwrap_err();
            assert!(!why.is_empty(), "{text}");
        }
        assert!(life("9s").unwrap_err().contains("10 s to 90 days"));
    }
}
