# Accounts of /etc/passwd: who they are, who can log in. The password field is never read further than its place.
. "${0%/*}/common.sh"

# uid, gid, name, home, shell, class (root, human, system), login (yes, no)
awk -F ':' '
    NF < 7 || $1 ~ /^[+#-]/ { next }
    {
        login = ($7 ~ /\/(nologin|false|sync|shutdown|halt)$/) ? "no" : "yes"
        class = ($3 == 0) ? "root" : ($3 >= 1000 && $3 < 60000) ? "human" : "system"
        shell = ($7 == "") ? "/bin/sh" : $7
        printf "%d\t%d\t%s\t%s\t%s\t%s\t%s\n", $3, $4, $1, $6, shell, class, login
    }' /etc/passwd | sort -n | put accounts.tsv

count=$(rows "$data/accounts.tsv")
awk -F '\t' '
    { all++; class[$6]++; if ($7 == "yes") login++ }
    END {
        printf "count\t%d\nuid_0\t%d\nhuman\t%d\nsystem\t%d\nwith_login_shell\t%d\n", all, class["root"], class["human"], class["system"], login
    }' "$data/accounts.tsv" | put accounts-facts.tsv

say "$count accounts"
awk -F '\t' '{ print $1 "=" $2 }' "$data/accounts-facts.tsv" >"$OUTPOST_OUT"
