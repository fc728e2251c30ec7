# The largest directories, to three levels. Argument: how many. Each root is measured for two seconds at most, all of them at once.
. "${0%/*}/common.sh"

top=$1
: >"$scratch/cut"
for root in /usr /var /opt /srv /home /root /etc /tmp; do
    [ -d "$root" ] && [ ! -L "$root" ] && [ -r "$root" ] || continue
    {
        status=0
        bounded 2 du -xk "$root" >"$scratch/du.${root#/}" 2>/dev/null || status=$?
        if [ "$status" -ge 124 ]; then echo "$root" >>"$scratch/cut"; fi
    } &
done
wait

# `du` prints a directory after what it holds, so a measurement that was cut short still names the parts it finished.
find "$scratch" -name 'du.*' -exec cat {} + | clean | awk -F '\t' '/^[0-9]+\t\// && split($2, part, "/") <= 4' |
    sort -t "$(printf '\t')" -k1,1nr -k2 | head -n "$top" | put largest.tsv
put largest-cut.tsv <"$scratch/cut"

say "$(rows "$data/largest.tsv") directories, $(rows "$data/largest-cut.tsv") roots not measured to the end"
{
    echo "largest=$(head -n 1 "$data/largest.tsv" | cut -f 2)"
    echo "largest_kb=$(head -n 1 "$data/largest.tsv" | cut -f 1)"
} >"$OUTPOST_OUT"
