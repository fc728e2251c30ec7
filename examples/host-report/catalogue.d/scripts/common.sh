# What the scripts beside this one share: strictness, where things lie, and how to write them. Sourced, never run.
#
# Every script may be killed at any moment and started again. So a file appears under its name only when it is whole
# (`put`), and nothing a script does depends on how often it has run.

set -eu
LC_ALL=C
export LC_ALL
umask 077

data="$OUTPOST_RUN_DIR/host"          # what the tasks of one run hand to each other
lock="$OUTPOST_RUN_DIR/inventory.lock" # held by the one task that may write the inventory
mkdir -p "$data"

scratch=$(mktemp -d "$data/.tmp.XXXXXX" 2>/dev/null) || {
    scratch="$data/.tmp.$$"
    mkdir -p "$scratch"
}
trap 'rm -rf "$scratch"' EXIT
trap 'exit 143' TERM INT HUP

# say TEXT…: one line for the log of this attempt, which stays at the site.
say() {
    printf '%s\n' "$*"
}

# fail STATUS TEXT…: says why on standard error and ends the attempt.
fail() {
    status=$1
    shift
    printf '%s\n' "$*" >&2
    exit "$status"
}

# need NAME…: ends the attempt unless the tasks before this one have left these tables.
need() {
    for name in "$@"; do
        [ -r "$data/$name" ] || fail 66 "$data/$name is missing: the task that writes it has not run in this run's directory"
    done
}

# clean: passes printable ASCII, tabs and valid UTF-8; any other byte becomes `?`. File names hold anything, and what
# reads the tables further down (HTML, JSON) must not have to care.
clean() {
    awk '
        BEGIN { for (i = 128; i < 256; i++) code[sprintf("%c", i)] = i }
        /^[\t -~]*$/ { print; next }
        {
            out = ""; n = length($0)
            for (i = 1; i <= n; i++) {
                c = substr($0, i, 1)
                if (c == "\t" || (c >= " " && c <= "~")) { out = out c; continue }
                b = code[c]; k = 0
                if (b >= 194 && b <= 223) k = 1
                else if (b >= 224 && b <= 239) k = 2
                else if (b >= 240 && b <= 244) k = 3
                ok = (k > 0 && i + k <= n)
                for (j = 1; ok && j <= k; j++) {
                    t = code[substr($0, i + j, 1)]
                    if (t < 128 || t > 191) ok = 0
                    if (j == 1 && ((b == 224 && t < 160) || (b == 237 && t > 159) || (b == 240 && t < 144) || (b == 244 && t > 143))) ok = 0
                }
                # C1 control characters are valid UTF-8 and as unwelcome as the ASCII ones.
                if (ok && b == 194 && t < 160) { out = out "?"; i += k; continue }
                if (ok) { out = out substr($0, i, k + 1); i += k } else out = out "?"
            }
            print out
        }'
}

# put NAME: standard input becomes the file $data/NAME, at once and whole.
put() {
    clean >"$scratch/put"
    mv -f "$scratch/put" "$data/$1"
}

# rows FILE: how many lines it has.
rows() {
    awk 'END { print NR }' "$1"
}

# bounded SECONDS COMMAND…: the command, ended after that time where `timeout` exists; elsewhere the attempt's own
# timeout is the bound.
bounded() {
    if command -v timeout >/dev/null 2>&1; then
        timeout "$@"
    else
        shift
        "$@"
    fi
}

# words FILE…: the first line of the first of these files that can be read, or nothing.
words() {
    for file in "$@"; do
        if [ -r "$file" ] && head -n 1 "$file" 2>/dev/null; then
            return 0
        fi
    done
}
