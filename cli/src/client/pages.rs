//! Lists that come in pages, as one list.

use serde_json::{Value, json};

use super::http::{Ask, Client};
use crate::failure::Failure;
use crate::output::{Out, Steps};

/// As many as are asked for at once; the server gives up to a thousand.
const PAGE: usize = 500;

/// The first `most` items of a list, or all of them: `{"items":[…],"next":…}`, where `next` is the cursor of what is
/// left.
///
/// # Errors
/// The server says no.
pub(super) async fn all(
    client: &Client,
    ask: &Ask<'_>,
    most: Option<usize>,
    what: &'static str,
    out: Out,
) -> Result<Value, Failure> {
    let mut items: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    let mut steps = Steps::new(out, what, most);
    loop {
        let left = most.map_or(PAGE, |most| most - items.len());
        let page = ask
            .clone()
            .with("limit", Some(left.min(PAGE).to_string()))
            .with("cursor", cursor);
        let mut page = client.ask(&page).await?;
        let got = match page.get_mut("items").map(Value::take) {
            Some(Value::Array(got)) => got,
            _ => {
                return Err(Failure::Incompatible(format!(
                    "{} answered a list without items",
                    client.server()
                )));
            }
        };
        let none = got.is_empty();
        items.extend(got);
        cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
        steps.at(items.len(), "");
        let enough = most.is_some_and(|most| items.len() >= most);
        if enough || none || cursor.is_none() {
            return Ok(json!({ "items": items, "next": cursor }));
        }
    }
}
