//! The agent: runs at the site, dials out, starts the site's own tasks when told, reports states and numbers only.

pub mod catalogue;
pub mod files;
pub mod health;
// journal
pub mod ledger;
pub mod life;
pub mod users;
