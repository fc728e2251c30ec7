# Copies $DATABASE into $BACKUPS with SQLite's own online backup. The copy gets its name only when it is whole; the
# next tasks learn the name through $OUTPOST_OUT.
set -eu
umask 077

[ -r "$DATABASE" ] || { echo "$DATABASE cannot be read" >&2; exit 66; }
mkdir -p "$BACKUPS"

# One name for one run: a second attempt writes the same copy anew.
dump="$BACKUPS/$(date -u +%Y%m%dT%H%M%SZ).$OUTPOST_RUN.db"
for earlier in "$BACKUPS"/*."$OUTPOST_RUN".db; do
    if [ -e "$earlier" ]; then dump=$earlier; fi
done

part="$dump.part"
rm -f "$part"
trap 'rm -f "$part"' EXIT
sqlite3 -bail "$DATABASE" ".timeout 60000" ".backup '$part'"
sync "$part" 2>/dev/null || sync
mv "$part" "$dump"

echo "dump=$dump" >>"$OUTPOST_OUT"
echo "$(wc -c <"$dump") bytes in $dump"
