# Keeps the newest $1 copies; their names begin with their time.
set -eu
keep=$1
removed=0
for dump in $(cd "$BACKUPS" && ls -1 | grep '\.db$' | sort -r | tail -n "+$((keep + 1))"); do
    rm -f "$BACKUPS/$dump" "$BACKUPS/$dump.sha256"
    removed=$((removed + 1))
done
echo "kept up to $keep, removed $removed"
