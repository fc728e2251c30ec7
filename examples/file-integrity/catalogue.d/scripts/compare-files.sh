# Compares what was measured with $ACCEPTED. The first time, or when asked to, what was measured becomes the accepted
# state.
set -eu
LC_ALL=C
export LC_ALL
umask 077
accept=$1
measured="$OUTPOST_RUN_DIR/measured"
[ -r "$measured" ] || { echo "nothing was measured in this run" >&2; exit 66; }

if [ ! -e "$ACCEPTED" ] || [ "$accept" = true ]; then
    mkdir -p "$(dirname "$ACCEPTED")"
    cp "$measured" "$ACCEPTED.part"
    mv "$ACCEPTED.part" "$ACCEPTED"
    echo "accepted: $(wc -l <"$ACCEPTED") files"
    exit 0
fi

if diff "$ACCEPTED" "$measured" >"$OUTPOST_RUN_DIR/changes"; then
    echo "nothing changed"
    exit 0
fi
echo "changed (< accepted, > found):"
grep '^[<>]' "$OUTPOST_RUN_DIR/changes"
exit 1
