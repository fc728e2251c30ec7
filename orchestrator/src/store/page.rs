//! Pages of lists: what one is, and where the next one begins.

use outpost_proto::ids::RunId;
use serde::de::DeserializeOwned;

use super::StoreError;

/// Most items of one page.
pub const PAGE: u32 = 1000;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<String>,
}

/// Cuts the one item read beyond the page, whose presence says that there is a next one.
pub(super) fn page<T>(mut items: Vec<T>, limit: u32, place: impl Fn(&T) -> String) -> Page<T> {
    let limit = limit as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(place) } else { None };
    Page { items, next }
}

/// The place of a run in a list: when it was created, and its id.
pub(super) fn run_cursor(text: &str) -> Result<(i64, String), StoreError> {
    let (time, run) = text.split_once('-').ok_or(StoreError::BadCursor)?;
    let time = i64::from_str_radix(time, 16).map_err(|_| StoreError::BadCursor)?;
    let run: RunId = run.parse().map_err(|_| StoreError::BadCursor)?;
    Ok((time, run.to_string()))
}

pub(super) fn parse<T: DeserializeOwned>(table: &'static str, json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Record { table, error })
}

pub(super) fn parse_all<T: DeserializeOwned>(
    table: &'static str,
    rows: Vec<String>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(|json| parse(table, json)).collect()
}

pub(super) fn parse_one<T: DeserializeOwned>(
    table: &'static str,
    row: Option<String>,
) -> Result<Option<T>, StoreError> {
    row.map(|json| parse(table, &json)).transpose()
}
