# One line per country, the largest total first.
set -eu
LC_ALL=C
export LC_ALL
umask 077
valid=$(sed -n 's/^file=//p' "$OUTPOST_RUN_DIR/out/clean.env")
mkdir -p "$REPORTS"
report="$REPORTS/by-country.$OUTPOST_RUN.csv"
{
    echo "country,orders,total"
    # Cents, so that nothing is lost in rounding.
    awk -F, 'NR > 1 {
        split($3, part, "."); cents = part[1] * 100 + substr(part[2] "00", 1, 2)
        orders[$2]++; total[$2] += cents
    } END {
        for (country in orders) printf "%s,%d,%d.%02d\n", country, orders[country], total[country] / 100, total[country] % 100
    }' "$valid" | sort -t, -k3,3nr -k1,1
} >"$report.part"
mv "$report.part" "$report"
echo "report=$report" >>"$OUTPOST_OUT"
echo "written: $report"
