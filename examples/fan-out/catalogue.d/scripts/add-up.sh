# Every region that ran before has left its count in this run's directory.
set -eu
total=0
for out in "$OUTPOST_RUN_DIR"/out/count-*.env; do
    count=$(sed -n 's/^count=//p' "$out")
    total=$((total + count))
done
echo "total=$total" >>"$OUTPOST_OUT"
echo "$total readings in all"
