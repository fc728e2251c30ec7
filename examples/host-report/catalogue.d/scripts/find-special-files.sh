# Picks from the inventory what gives away rights: setuid and setgid programs, files and directories that anybody may
# write, and files whose owner has no account.
. "${0%/*}/common.sh"

need index.tsv

# kind, mode, owner, group, path
awk -F '\t' '
    BEGIN {
        OFS = "\t"
        while ((getline line < "/etc/passwd") > 0) { split(line, p, ":"); if (!(p[3] in user)) user[p[3]] = p[1] }
        while ((getline line < "/etc/group") > 0) { split(line, p, ":"); if (!(p[3] in group)) group[p[3]] = p[1] }
    }
    {
        owner = ($2 in user) ? user[$2] : $2
        team = ($3 in group) ? group[$3] : $3
        file = /^-/
        if (file && substr($1, 4, 1) ~ /[sS]/) print "setuid", $1, owner, team, $6
        if (file && substr($1, 7, 1) ~ /[sS]/) print "setgid", $1, owner, team, $6
        if (substr($1, 9, 1) == "w") {
            if (file) print "world-writable file", $1, owner, team, $6
            else if (substr($1, 10, 1) !~ /[tT]/) print "world-writable directory", $1, owner, team, $6
        }
        if (!($2 in user)) print "owner without account", $1, owner, team, $6
    }' "$data/index.tsv" | sort | put special.tsv

awk -F '\t' '
    { kind[$1]++ }
    END {
        printf "setuid\t%d\nsetgid\t%d\n", kind["setuid"], kind["setgid"]
        printf "world_writable_files\t%d\n", kind["world-writable file"]
        printf "world_writable_directories\t%d\n", kind["world-writable directory"]
        printf "owner_without_account\t%d\n", kind["owner without account"]
    }' "$data/special.tsv" | put special-facts.tsv

say "$(rows "$data/special.tsv") special files"
awk -F '\t' '{ print $1 "=" $2 }' "$data/special-facts.tsv" >"$OUTPOST_OUT"
