# id,country,amount: the header decides whether this is the right file.
set -eu
umask 077
[ -r "$ORDERS" ] || { echo "$ORDERS cannot be read" >&2; exit 66; }
[ "$(head -n 1 "$ORDERS")" = "id,country,amount" ] || { echo "$ORDERS has another header than id,country,amount" >&2; exit 65; }

raw="$OUTPOST_RUN_DIR/raw.csv"
cp "$ORDERS" "$raw.part"
mv "$raw.part" "$raw"
{
    echo "file=$raw"
    echo "rows=$(($(wc -l <"$raw") - 1))"
} >>"$OUTPOST_OUT"
