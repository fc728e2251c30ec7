# Takes a snapshot of the inventory: what was changed last, and who owns how much. Argument: how many rows to keep.
#
# It needs the inventory whole, so it refuses while the indexer holds the lock: exit status 75 (try again later).
# Whoever runs it retries; waiting here would only occupy a slot.
. "${0%/*}/common.sh"

top=$1
if [ -d "$lock" ]; then
    fail 75 "the inventory is being written: its lock is held ($lock); try again later"
fi
[ -r "$data/index.tsv" ] || fail 75 "there is no inventory yet; try again later"

tab=$(printf '\t')
awk -F '\t' '/^-/ { print $5 "\t" $4 "\t" $6 }' "$data/index.tsv" | sort -t "$tab" -k1,1r -k3 | head -n "$top" | put newest.tsv
awk -F '\t' '
    BEGIN { while ((getline line < "/etc/passwd") > 0) { split(line, p, ":"); if (!(p[3] in user)) user[p[3]] = p[1] } }
    /^-/ { files[$2]++; bytes[$2] += $4 }
    END { for (uid in files) printf "%s\t%s\t%d\t%.0f\n", uid, (uid in user ? user[uid] : "unknown"), files[uid], bytes[uid] }' \
    "$data/index.tsv" | sort -t "$tab" -k4,4nr -k1,1n | head -n "$top" | put owners.tsv

say "snapshot taken: $(rows "$data/newest.tsv") newest files, $(rows "$data/owners.tsv") owners"
{
    echo "owners=$(rows "$data/owners.tsv")"
    echo "newest=$(head -n 1 "$data/newest.tsv" | cut -f 1)"
} >"$OUTPOST_OUT"
