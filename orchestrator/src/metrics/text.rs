//! Prometheus' text format, version 0.0.4, which every scraper and `promtool` read.
//!
//! The registry writes OpenMetrics, which names a counter without its `_total` and adds units and an end mark.

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;

/// Adds a registry's numbers to a text.
pub(super) fn append(to: &mut String, registry: &Registry) {
    let mut open_metrics = String::new();
    // Writing to a string cannot fail.
    let _ = encode_registry(&mut open_metrics, registry);
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some((name, text)) = described(line, "# HELP ") {
            // Said once it is known whether it is a counter's.
            help = Some((name, text));
        } else if let Some((name, kind)) = described(line, "# TYPE ") {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take() {
                to.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            to.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            to.push_str(line);
            to.push('\n');
        }
    }
}

fn described<'a>(line: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(mark)?.split_once(' ')
}
