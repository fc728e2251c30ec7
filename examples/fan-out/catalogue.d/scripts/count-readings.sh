# A region without readings has none: that is a result, not an error.
set -eu
region=$1
file="$READINGS/$region.log"
count=0
if [ -r "$file" ]; then count=$(wc -l <"$file"); fi
echo "region=$region" >>"$OUTPOST_OUT"
echo "count=$count" >>"$OUTPOST_OUT"
echo "$region: $count"
