//! Many runs out of few: copies of what a store wrote itself, made inside the database.
//!
//! Each copy has ids of its own that begin with its own later time, as the core makes them, so that its rows lie where
//! those of a server lie that has grown for a year. Rows are inserted in the order of their tables and indexes are built
//! at the end, because that is what makes it fast. Nothing may have the database open meanwhile.

use std::path::Path;

use rusqlite::{Connection, Result};

/// Between the beginnings of two copies, in microseconds: more than the original took.
pub(crate) const APART_US: u32 = 3_600_000_000;
/// The tables that a run lies in.
const TABLES: [&str; 3] = ["run", "task", "attempt"];

/// Copies all runs that are over until each is there `times` times.
///
/// # Errors
/// The database's.
pub(crate) fn multiply(file: &Path, times: usize) -> Result<()> {
    let mut db = Connection::open(file)?;
    db.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF; \
         PRAGMA cache_size = -1000000; PRAGMA temp_store = FILE;",
    )?;
    let tx = db.transaction()?;
    tx.execute_batch(
        "CREATE TEMP TABLE copy (run TEXT NOT NULL PRIMARY KEY, of TEXT NOT NULL, later INTEGER NOT NULL) \
         STRICT, WITHOUT ROWID",
    )?;
    let mut draw = tx.prepare(
        "INSERT INTO copy SELECT printf('%012x', (created_at + ?1) / 1000) || lower(hex(randomblob(10))), run, ?1 \
         FROM run WHERE live = 0 ORDER BY run",
    )?;
    for copy in 1..times {
        draw.execute([i64::from(APART_US).saturating_mul(i64::try_from(copy).unwrap_or(0))])?;
    }
    drop(draw);
    let indexes = tx
        .prepare("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN (?1, ?2, ?3)")?
        .query_map(TABLES, |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(String, String)>>>()?;
    for (name, _) in &indexes {
        tx.execute_batch(&format!("DROP INDEX {name}"))?;
    }
    for table in TABLES {
        copy_table(&tx, table)?;
    }
    for (_, sql) in &indexes {
        tx.execute_batch(sql)?;
    }
    tx.execute_batch("DROP TABLE copy")?;
    tx.commit()?;
    db.execute_batch("PRAGMA journal_mode = WAL")
}

/// Every column as it was, but ids and times, in columns and in the record alike.
fn copy_table(db: &Connection, table: &str) -> Result<()> {
    let columns = db
        .prepare("SELECT name FROM pragma_table_info(?1)")?
        .query_map([table], |row| row.get(0))?
        .collect::<Result<Vec<String>>>()?;
    let has = |name: &str| columns.iter().any(|column| column == name);
    let attempt = "substr(copy.run, 1, 22) || substr(old.attempt, 13, 10)";
    let mut record = "replace(old.record, old.run, copy.run)".to_owned();
    if has("attempt") {
        record = format!("replace({record}, old.attempt, {attempt})");
    }
    for time in ["created_at", "finished_at"] {
        if has(time) {
            record = format!("replace({record}, old.{time}, old.{time} + copy.later)");
        }
    }
    let value = |column: &String| match column.as_str() {
        "run" => "copy.run".to_owned(),
        "attempt" => attempt.to_owned(),
        "record" => record.clone(),
        "created_at" | "finished_at" => format!("old.{column} + copy.later"),
        other => format!("old.{other}"),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    // What is read from the table it is written to would be put aside whole first.
    db.execute_batch(&format!(
        "CREATE TEMP TABLE source AS SELECT * FROM main.{table} ORDER BY run; \
         CREATE INDEX temp.source_by_run ON source (run); \
         INSERT INTO main.{table} ({}) SELECT {} FROM copy CROSS JOIN source AS old ON old.run = copy.of \
         ORDER BY copy.run; \
         DROP TABLE source;",
        columns.join(", "),
        values.join(", ")
    ))
}

/// Ids of so many runs, spread over all.
///
/// # Errors
/// The database's.
pub(crate) fn some_runs(file: &Path, count: usize) -> Result<Vec<String>> {
    let db = Connection::open(file)?;
    let newest: i64 = db.query_row("SELECT max(created_at) FROM run", [], |row| row.get(0))?;
    let oldest: i64 = db.query_row("SELECT min(created_at) FROM run", [], |row| row.get(0))?;
    let mut statement = db.prepare("SELECT run FROM run WHERE run >= ?1 ORDER BY run LIMIT 1")?;
    let count = i64::try_from(count).unwrap_or(1).max(1);
    let begin = |place: i64| {
        format!(
            "{:012x}",
            (oldest + (newest - oldest) / count * place) / 1000
        )
    };
    (0..count)
        .map(|place| statement.query_row([begin(place)], |row| row.get(0)))
        .collect()
}
