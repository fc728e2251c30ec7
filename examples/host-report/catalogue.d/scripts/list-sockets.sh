# Listening sockets, decoded from /proc/net: protocol, address, port, reach, uid, user, and the port's usual name.
. "${0%/*}/common.sh"

case $(uname -m) in
s390* | ppc64 | ppc | mips | mips64 | sparc*) order=big ;;
*) order=little ;;
esac

: >"$scratch/all"
for proto in tcp tcp6 udp udp6; do
    [ -r "/proc/net/$proto" ] || continue
    # State 0A is LISTEN; a UDP socket without a peer is in state 07.
    awk -v proto="$proto" -v order="$order" '
        function hex(text,    i, value) {
            value = 0
            for (i = 1; i <= length(text); i++) value = value * 16 + index("0123456789ABCDEF", toupper(substr(text, i, 1))) - 1
            return value
        }
        function word(text) { # eight digits as the kernel prints a 32-bit word, in network order
            if (order == "big") return text
            return substr(text, 7, 2) substr(text, 5, 2) substr(text, 3, 2) substr(text, 1, 2)
        }
        function v4(text) {
            return hex(substr(text, 1, 2)) "." hex(substr(text, 3, 2)) "." hex(substr(text, 5, 2)) "." hex(substr(text, 7, 2))
        }
        function v6(text,    i, j, best, from, group, out) {
            if (substr(text, 1, 24) == "00000000000000000000FFFF") return "::ffff:" v4(substr(text, 25))
            for (i = 0; i < 8; i++) {
                group[i] = tolower(substr(text, i * 4 + 1, 4))
                sub(/^0+/, "", group[i])
                if (group[i] == "") group[i] = "0"
            }
            best = 1; from = -1
            for (i = 0; i < 8; i++) {
                for (j = i; j < 8 && group[j] == "0"; j++) { }
                if (j - i > best) { best = j - i; from = i }
            }
            out = ""
            for (i = 0; i < 8; i++) {
                if (i == from) { out = out "::"; i += best - 1; continue }
                out = out (out == "" || out ~ /:$/ ? "" : ":") group[i]
            }
            return out
        }
        NR > 1 && ($4 == "0A" || (proto ~ /^udp/ && $4 == "07")) {
            split($2, local, ":")
            if (length(local[1]) == 8) address = v4(word(local[1]))
            else {
                text = ""
                for (i = 0; i < 4; i++) text = text word(substr(local[1], i * 8 + 1, 8))
                address = v6(toupper(text))
            }
            reach = "network"
            if (address ~ /^127\./ || address == "::1" || address ~ /^::ffff:127\./) reach = "this machine"
            printf "%s\t%s\t%d\t%s\t%d\n", proto, address, hex(local[2]), reach, $8
        }' "/proc/net/$proto" >>"$scratch/all" 2>/dev/null || true
done

awk -F '\t' '
    BEGIN {
        OFS = "\t"
        while ((getline line < "/etc/passwd") > 0) { split(line, p, ":"); if (!(p[3] in user)) user[p[3]] = p[1] }
        while ((getline line < "/etc/services") > 0) {
            if (line ~ /^#/) continue
            split(line, p, /[ \t]+/)
            if (!(p[2] in service)) service[p[2]] = p[1]
        }
    }
    {
        kind = $1; sub(/6$/, "", kind)
        name = ($3 "/" kind in service) ? service[$3 "/" kind] : ""
        print $1, $2, $3, $4, $5, ($5 in user ? user[$5] : $5), name
    }' "$scratch/all" | sort -u | sort -t "$(printf '\t')" -k4,4 -k3,3n -k1,1 | put sockets.tsv

awk -F '\t' '
    { all++; if ($4 == "network") open++; if ($1 ~ /^tcp/) tcp++ }
    END { printf "count\t%d\ntcp\t%d\nudp\t%d\nreachable_from_network\t%d\n", all, tcp, all - tcp, open }' "$data/sockets.tsv" |
    put sockets-facts.tsv

say "$(rows "$data/sockets.tsv") listening sockets"
awk -F '\t' '{ print $1 "=" $2 }' "$data/sockets-facts.tsv" >"$OUTPOST_OUT"
