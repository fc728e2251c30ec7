# Walks the roots twice and writes the inventory: one line per file and directory, with what changed between the walks.
# Holds the inventory's lock (taken by open-inventory) and gives it back when the inventory is whole.
. "${0%/*}/common.sh"

most=60000 # lines: bounds the time and the space on a machine with very many files
need roots.tsv own.tsv
own=$(cat "$data/own.tsv")

# With -q a line break inside a name cannot pretend to be another line.
quiet=
if ls -dq / >/dev/null 2>&1; then quiet=q; fi

# `ls -ldn` of files and directories to five levels down, /usr/share only to its first. Refusals are counted.
listing() {
    while read -r root; do
        bounded 5 find "$root" -xdev \
            \( -path "$own" -o -path '/usr/share/*/*' -o -path '/*/*/*/*/*/*' \) -prune \
            -o \( -type f -o -type d \) -exec ls "-ldn$quiet" {} + 2>>"$scratch/refused" || true
    done <"$data/roots.tsv" | head -n "$most"
}

# mode, uid, gid, size, time (local), path. `ls` gives the year or the time of day; the other follows from today.
walk() {
    : >"$scratch/refused"
    listing | tr '\t' '?' | clean |
        awk -v today="$(date '+%Y %m %d')" '
            BEGIN { split(today, now, " ") }
            {
                at = index($0, " /")
                if (at == 0 || substr($1, 1, 1) !~ /[-d]/) next
                month = (index("JanFebMarAprMayJunJulAugSepOctNovDec", $6) + 2) / 3
                if ($8 ~ /:/) {
                    year = now[1] - ((month * 100 + $7 > now[2] * 100 + now[3] + 1) ? 1 : 0)
                    time = $8
                } else { year = $8; time = "00:00" }
                printf "%s\t%d\t%d\t%s\t%04d-%02d-%02d %s\t%s\n", substr($1, 1, 10), $3, $4, $5, year, month, $7, time, substr($0, at + 1)
            }' | sort -t "$(printf '\t')" -k6
}

walk >"$scratch/first"
# The second walk begins well after the first, so that a file being written has time to show it.
sleep 2
walk >"$scratch/second"
[ -s "$scratch/second" ] || fail 66 "the walk found nothing: no root can be read"

awk -F '\t' -v first="$scratch/first" '
    BEGIN { while ((getline line < first) > 0) { split(line, f, "\t"); seen[f[6]] = line } }
    /^-/ && !($6 in seen) { print "new\t" $6; next }
    /^-/ && seen[$6] != $0 { print "changed\t" $6 }' "$scratch/second" | put changing.tsv
{
    awk -F '\t' '/^-/ { files++; bytes += $4 } /^d/ { directories++ }
        END { printf "files\t%d\ndirectories\t%d\nbytes\t%.0f\n", files, directories, bytes }' "$scratch/second"
    printf 'changing\t%s\n' "$(rows "$data/changing.tsv")"
    printf 'refused\t%s\n' "$(grep -ciE 'permission denied|not permitted' "$scratch/refused")"
    printf 'bounded\t%s\n' "$(awk -v most="$most" 'END { print (NR >= most) ? "yes" : "no" }' "$scratch/second")"
} | put index-facts.tsv
put index.tsv <"$scratch/second"

awk -F '\t' '{ print $1 "=" $2 }' "$data/index-facts.tsv" >"$OUTPOST_OUT"
say "$(rows "$data/index.tsv") entries indexed, $(rows "$data/changing.tsv") changed meanwhile; lock released"
rmdir "$lock" 2>/dev/null || [ ! -d "$lock" ] || fail 73 "cannot release $lock"
