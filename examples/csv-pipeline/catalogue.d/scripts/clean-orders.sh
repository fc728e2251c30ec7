# A row is valid with a number as id, two capital letters as country and an amount with at most two decimals.
set -eu
LC_ALL=C
export LC_ALL
umask 077
most=$1
given() { sed -n "s/^$1=//p" "$OUTPOST_RUN_DIR/out/extract.env"; }
raw=$(given file)
rows=$(given rows)

valid="$OUTPOST_RUN_DIR/valid.csv"
awk -F, 'NR == 1 || (NF == 3 && $1 ~ /^[0-9]+$/ && $2 ~ /^[A-Z][A-Z]$/ && $3 ~ /^[0-9]+(\.[0-9][0-9]?)?$/)' "$raw" >"$valid.part"
mv "$valid.part" "$valid"

kept=$(($(wc -l <"$valid") - 1))
rejected=$((rows - kept))
echo "$kept of $rows rows are valid"
{
    echo "file=$valid"
    echo "rows=$kept"
    echo "rejected=$rejected"
} >>"$OUTPOST_OUT"
if [ $((rejected * 100)) -gt $((rows * most)) ]; then
    echo "$rejected of $rows rows were rejected, which is more than $most %" >&2
    exit 65
fi
