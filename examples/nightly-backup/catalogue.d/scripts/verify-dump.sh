# A copy that was never read back is a hope. Checks its integrity and that it has every table of the database.
set -eu
dump=$(sed -n 's/^dump=//p' "$OUTPOST_RUN_DIR/out/dump.env")
[ -s "$dump" ] || { echo "there is no copy $dump" >&2; exit 66; }

verdict=$(sqlite3 -readonly "$dump" 'PRAGMA integrity_check')
[ "$verdict" = ok ] || { echo "the copy is damaged: $verdict" >&2; exit 1; }

tables="SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
wanted=$(sqlite3 -readonly "$DATABASE" "$tables")
found=$(sqlite3 -readonly "$dump" "$tables")
[ "$wanted" = "$found" ] || { echo "the copy's tables are not the database's" >&2; exit 1; }

# Beside the copy, so that it can be checked again years later.
sum=$(sha256sum "$dump")
echo "${sum%% *}  $(basename "$dump")" >"$dump.sha256"
echo "verified: $dump"
