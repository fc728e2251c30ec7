# Writes "hash  path" of every regular file below $WATCHED, sorted by path. A file that cannot be read is listed as such:
# leaving it out would look like a removal. (File names with line breaks are passed over.)
set -eu
LC_ALL=C
export LC_ALL
umask 077
[ -d "$WATCHED" ] || { echo "$WATCHED is not a directory" >&2; exit 66; }

measured="$OUTPOST_RUN_DIR/measured"
find "$WATCHED" -xdev -type f ! -name '*
*' | sort | while IFS= read -r file; do
    sum=$(sha256sum <"$file" 2>/dev/null) || sum=unreadable
    printf '%s  %s\n' "${sum%% *}" "$file"
done >"$measured.part"
mv "$measured.part" "$measured"
files=$(wc -l <"$measured")
echo "$files files"
echo "files=$files" >>"$OUTPOST_OUT"
