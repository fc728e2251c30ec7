# Opens the inventory of files: takes its lock for the indexer, and writes down which roots it will walk.
#
# The lock is a directory, because mkdir either makes it or finds it there. It is taken here, before the indexer
# starts, so that no reader can slip in between and see half an inventory. The indexer gives it back.
. "${0%/*}/common.sh"

mkdir "$lock" 2>/dev/null || [ -d "$lock" ] || fail 73 "cannot take $lock"

for root in /bin /sbin /usr /etc /opt /srv /var /tmp; do
    # A link (such as /bin on most systems today) leads to a place that is walked anyway.
    if [ -d "$root" ] && [ ! -L "$root" ] && [ -r "$root" ]; then
        printf '%s\n' "$root"
    fi
done | put roots.tsv

# What the agent writes while it looks is no finding about the host: the closest directory that holds both this
# catalogue and the run is left out, unless that would leave out a whole part of the system.
own=$OUTPOST_RUN_DIR
while [ -n "$own" ]; do
    case $0 in
    "$own"/*) break ;;
    esac
    own=${own%/*}
done
case $own in
'' | /tmp | /var | /var/tmp | /var/lib | /usr | /usr/* | /etc | /opt | /srv) own=$OUTPOST_RUN_DIR ;;
esac
printf '%s\n' "$own" | put own.tsv

say "inventory opened: $(rows "$data/roots.tsv") roots"
echo "roots=$(rows "$data/roots.tsv")" >"$OUTPOST_OUT"
