# Installed packages with version and size, whatever the distribution keeps its list in. Argument: how many of the
# largest to show in the report; the whole list stays in packages.tsv.
. "${0%/*}/common.sh"

top=$1
list="$scratch/list" # name, version, KiB, state (ok or what is wrong)

from_dpkg_status='
    function flush() {
        if (name != "") {
            if (status ~ / not-installed$| config-files$/) { name = ""; return }
            state = (status ~ / installed$/) ? "ok" : status
            printf "%s\t%s\t%d\t%s\n", name, version, size, state
        }
        name = ""; version = ""; size = 0; status = ""
    }
    /^Package: / { flush(); name = $2 }
    /^Version: / { version = $2 }
    /^Installed-Size: / { size = $2 }
    /^Status: / { status = substr($0, 9) }
    END { flush() }'
from_apk='
    function flush() { if (name != "") printf "%s\t%s\t%d\tok\n", name, version, size / 1024; name = ""; size = 0 }
    /^P:/ { flush(); name = substr($0, 3) }
    /^V:/ { version = substr($0, 3) }
    /^I:/ { size = substr($0, 3) }
    END { flush() }'
from_pacman='
    FNR == 1 && name != "" { printf "%s\t%s\t%d\tok\n", name, version, size / 1024; name = "" }
    want != "" { if (want == "n") name = $0; if (want == "v") version = $0; if (want == "s") size = $0; want = ""; next }
    /^%NAME%$/ { want = "n" }
    /^%VERSION%$/ { want = "v" }
    /^%SIZE%$/ { want = "s" }
    END { if (name != "") printf "%s\t%s\t%d\tok\n", name, version, size / 1024 }'

if [ -r /var/lib/dpkg/status ]; then
    manager=dpkg
    awk "$from_dpkg_status" /var/lib/dpkg/status >"$list"
elif [ -r /lib/apk/db/installed ]; then
    manager=apk
    awk "$from_apk" /lib/apk/db/installed >"$list"
elif [ -r /usr/lib/apk/db/installed ]; then
    manager=apk
    awk "$from_apk" /usr/lib/apk/db/installed >"$list"
elif command -v rpm >/dev/null 2>&1; then
    manager=rpm
    bounded 15 rpm -qa --qf '%{NAME}\t%{VERSION}-%{RELEASE}\t%{SIZE}\n' |
        awk -F '\t' '{ printf "%s\t%s\t%d\tok\n", $1, $2, $3 / 1024 }' >"$list"
elif [ -d /var/lib/pacman/local ]; then
    manager=pacman
    find /var/lib/pacman/local -name desc -type f -exec cat {} + 2>/dev/null | awk "$from_pacman" >"$list"
else
    manager=none
    : >"$list"
fi

sort "$list" | put packages.tsv
tab=$(printf '\t')
sort -t "$tab" -k3,3nr -k1,1 "$list" | head -n "$top" | put packages-top.tsv
awk -F '\t' '$4 != "ok"' "$data/packages.tsv" | put packages-broken.tsv
count=$(rows "$data/packages.tsv")
{
    printf 'manager\t%s\n' "$manager"
    printf 'count\t%s\n' "$count"
    awk -F '\t' '{ sum += $3 } END { printf "total_kb\t%.0f\n", sum }' "$data/packages.tsv"
    printf 'unfinished\t%s\n' "$(rows "$data/packages-broken.tsv")"
} | put packages-facts.tsv

say "$count packages by $manager"
printf 'manager=%s\ncount=%s\n' "$manager" "$count" >"$OUTPOST_OUT"
