//! Looks tokens up. What was found is remembered for a second, so that a burst of requests asks the database once, and
//! a revoked token is of no use a second later.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use outpost_proto::name::TenantName;

use super::attempts::Attempts;
use super::bearer::{self, Bearer, same};
use super::{AuthError, Caller, Role};
use crate::store::access::Access;

/// How long what the database said counts.
const FRESH: Duration = Duration::from_secs(1);
/// Tokens remembered: those of many more clients than one orchestrator has.
const TOKENS: usize = 1024;

/// Decides whose a request is.
#[derive(Debug)]
pub struct Guard {
    access: Access,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    /// By hash of the secret: tokens that were valid when last looked up.
    known: BTreeMap<String, Known>,
    attempts: Attempts,
}

#[derive(Debug, Clone)]
struct Known {
    id: Arc<str>,
    tenant: Option<TenantName>,
    role: Role,
    expires_at: u64,
    looked_up: Instant,
}

impl Guard {
    /// Over these tokens.
    #[must_use]
    pub fn new(access: Access) -> Self {
        let memory = Memory {
            known: BTreeMap::new(),
            attempts: Attempts::new(Instant::now()),
        };
        Self {
            access,
            memory: Mutex::new(memory),
        }
    }

    /// Whose token that is. `from` is where the request came from, as far as known; `now` is in microseconds since
    /// 1970.
    ///
    /// Wrong tokens are limited by place before the database is asked; a token that was valid a while ago is looked up
    /// in any case, so that guesses from the same place keep nobody out.
    ///
    /// # Errors
    /// [`AuthError`]
    pub fn caller(
        &self,
        header: Option<&HeaderValue>,
        from: Option<IpAddr>,
        now: u64,
    ) -> Result<Caller, AuthError> {
        let result = match bearer::parse(header) {
            Ok(bearer) => self.look_up(&bearer, from, now),
            Err(error) => Err(error),
        };
        match &result {
            Err(AuthError::Malformed | AuthError::Unknown | AuthError::Expired) => {
                self.memory().attempts.failed(from, Instant::now());
            }
            Ok(_)
            | Err(
                AuthError::Missing | AuthError::NoTenant | AuthError::TooMany | AuthError::Store(_),
            ) => {}
        }
        result
    }

    /// Looks a token up anew the next time it is used.
    pub fn forget(&self, id: &str) {
        self.memory().known.retain(|_, known| *known.id != *id);
    }

    fn look_up(
        &self,
        bearer: &Bearer<'_>,
        from: Option<IpAddr>,
        now: u64,
    ) -> Result<Caller, AuthError> {
        if let Some(known) = self.remembered(bearer, from)? {
            return known.caller(now);
        }
        let row = self.access.token_by_hash(&bearer.hash)?;
        let valid = row.filter(|row| same(&row.hash, &bearer.hash) && same(&row.id, bearer.id));
        let valid = valid.filter(|row| row.revoked_at.is_none());
        let found = valid.and_then(|row| Some((Role::from_word(&row.role)?, row)));
        let Some((role, row)) = found else {
            self.memory().known.remove(&bearer.hash);
            return Err(AuthError::Unknown);
        };
        let known = Known {
            id: row.id.into(),
            tenant: row.tenant,
            role,
            expires_at: row.expires_at,
            looked_up: Instant::now(),
        };
        self.memory().remember(&bearer.hash, known.clone());
        known.caller(now)
    }

    /// What is known for sure; an error when there is nothing and no more guesses are allowed from there.
    fn remembered(
        &self,
        bearer: &Bearer<'_>,
        from: Option<IpAddr>,
    ) -> Result<Option<Known>, AuthError> {
        let mut memory = self.memory();
        if let Some(known) = memory.known.get(&bearer.hash) {
            if !same(&known.id, bearer.id) {
                return Err(AuthError::Unknown);
            }
            return Ok((known.looked_up.elapsed() < FRESH).then(|| known.clone()));
        }
        if memory.attempts.allowed(from, Instant::now()) {
            Ok(None)
        } else {
            Err(AuthError::TooMany)
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn remember(&mut self, hash: &str, known: Known) {
        if self.known.len() >= TOKENS && !self.known.contains_key(hash) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.looked_up);
            if let Some(oldest) = oldest.map(|(hash, _)| hash.clone()) {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(hash.to_owned(), known);
    }
}

impl Known {
    fn caller(self, now: u64) -> Result<Caller, AuthError> {
        if self.expires_at <= now {
            return Err(AuthError::Expired);
        }
        let tenant = self.tenant.ok_or(AuthError::NoTenant)?;
        Ok(Caller {
            tenant,
            role: self.role,
            token_id: self.id,
        })
    }
}
