# Joins what all tasks found into one table, report.tsv, and writes what is worth a look above it, with the reason.
# Argument: which heading the report bears. The two report writers read nothing but this table. Its lines:
#
#   meta     key  value
#   finding  level (high, medium, note)  area  title  reason  count  evidence…
#   section  id  title  lead
#   fact     section  key  label  kind  value
#   columns  section  key|label|kind…
#   row      section  value…
#   total    section  how many there are  file with all of them (or empty)
#
# Kinds: text, code, int, kb, bytes, percent, seconds.
. "${0%/*}/common.sh"

need system.tsv filesystems.tsv switches.tsv processor.tsv reboot.tsv packages.tsv packages-facts.tsv packages-top.tsv \
    packages-broken.tsv accounts.tsv accounts-facts.tsv sockets.tsv sockets-facts.tsv index-facts.tsv changing.tsv \
    newest.tsv owners.tsv special.tsv special-facts.tsv largest.tsv largest-cut.tsv

case $1 in
audit) heading="Host audit" ;;
handover) heading="Host handover" ;;
*) heading="Host report" ;;
esac
tab=$(printf '\t')

# finding LEVEL AREA TITLE REASON: a finding, if standard input has any line. Each line is one piece of evidence, with
# a remark after a tab; six are kept.
finding() {
    awk -F '\t' -v level="$1" -v area="$2" -v title="$3" -v reason="$4" '
        NR <= 6 { evidence = evidence "\t" $1 ($2 == "" ? "" : " (" $2 ")") }
        END { if (NR) printf "finding\t%s\t%s\t%s\t%s\t%d%s\n", level, area, title, reason, NR, evidence }'
}

# value FILE KEY: the value of a key in a table of facts.
value() {
    awk -F '\t' -v key="$2" '$1 == key { print $2; exit }' "$data/$1"
}

# pick FILE PROGRAM: lines printed by an awk program over a table.
pick() {
    awk -F '\t' "$2" "$data/$1"
}

section() { printf 'section\t%s\t%s\t%s\n' "$1" "$2" "$3"; }

# fact SECTION KEY LABEL KIND VALUE: left out when there is no value.
fact() {
    if [ -n "$5" ]; then printf 'fact\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "$5"; fi
}

# columns SECTION KEY|LABEL|KIND…
columns() {
    id=$1
    shift
    printf 'columns\t%s' "$id"
    printf '\t%s' "$@"
    printf '\n'
}

# table SECTION MOST TOTAL FILE: rows from standard input, the first MOST of them.
table() {
    awk -v id="$1" -v most="$2" 'NR <= most { print "row\t" id "\t" $0 }'
    printf 'total\t%s\t%s\t%s\n' "$1" "$3" "$4"
}

file_findings() {
    pick special.tsv '($1 == "setuid" || $1 == "setgid") && (substr($2, 6, 1) == "w" || substr($2, 9, 1) == "w") { print $5 "\t" $2 }' |
        finding high files "Privileged programs that others may change" \
            "Whoever may write such a program runs code with the rights of its owner. Take the write permission away."
    pick special.tsv '
        BEGIN {
            n = split("su sudo doas passwd chsh chfn chage newgrp gpasswd mount umount pkexec fusermount fusermount3 ping ping6 crontab at dbus-daemon-launch-helper ssh-keysign polkit-agent-helper-1 unix_chkpwd pam_extrausers_chkpwd expiry wall write write.ul bsd-write ssh-agent utempter userhelper newuidmap newgidmap chrome-sandbox bbsuid pam_timestamp_check grub2-set-bootflag locate plocate mlocate sg mount.nfs mount.cifs ntfs-3g Xorg.wrap snap-confine dotlockfile mail-lock mail-unlock mail-touchlock postdrop postqueue exim4 sudoedit usernetctl lockdev", name, " ")
            for (i = 1; i <= n; i++) usual[name[i]] = 1
        }
        $1 == "setuid" || $1 == "setgid" {
            n = split($5, part, "/")
            if (!(part[n] in usual) || $5 !~ /^\/(usr\/)?(bin|sbin|lib|libexec)\//) print $5 "\t" $1 " " $3 ":" $4
        }' |
        finding high files "Setuid or setgid programs beyond the usual ones" \
            "They run with the rights of their owner for everybody who starts them. Each should be known and needed; if it is not, take the bit away (chmod u-s or g-s)."
    pick special.tsv '$1 == "world-writable file" && $5 ~ /^\/(etc|usr|bin|sbin|opt)\// { print $5 "\t" $3 }' |
        finding high files "System files that anybody may change" \
            "Programs and settings in these places are trusted by the system. Any account could alter what runs here."
    pick special.tsv '$1 == "world-writable file" && $5 !~ /^\/(etc|usr|bin|sbin|opt)\// { print $5 "\t" $3 }' |
        finding medium files "Data files that anybody may change" \
            "Any account can alter or empty them, and what reads them will believe it."
    pick special.tsv '$1 == "world-writable directory" { print $5 "\t" $3 }' |
        finding medium files "Shared directories without the sticky bit" \
            "Any account can delete or replace the files of others there. The sticky bit (chmod +t) prevents it."
    pick special.tsv '$1 == "owner without account" { print $5 "\tuid " $3 }' |
        finding medium files "Files whose owner is not in /etc/passwd" \
            "The next account that is given this number will own them. Unless a directory service knows it, hand the files to an account that exists."
}

account_findings() {
    pick accounts.tsv '$1 == 0 && $3 != "root" { print $3 "\t" $5 }' |
        finding high accounts "Accounts with all rights besides root" \
            "User number 0 is root under whatever name. A second one is rarely meant and easily overlooked."
    pick accounts.tsv '{ names[$1] = names[$1] " " $3; n[$1]++ } END { for (u in n) if (n[u] > 1 && u != 0) print "uid " u ":" names[u] }' |
        finding medium accounts "User numbers shared by several accounts" \
            "The system tells users apart by number only: these accounts can read and change each other's files."
    pick accounts.tsv '$6 == "system" && $7 == "yes" { print $3 "\t" $5 }' |
        finding medium accounts "Service accounts that can log in" \
            "A service needs no shell. Unless somebody works under this name, give it /usr/sbin/nologin."
}

socket_findings() {
    pick sockets.tsv '$4 == "network" && $1 ~ /^tcp/ { print $2 " port " $3 "\t" ($7 == "" ? "" : $7 ", ") $6 }' |
        finding medium network "TCP ports open to the network" \
            "These accept connections on more than the loopback address. Each should be meant for others; if not, bind it to 127.0.0.1 or close it in the firewall."
    pick sockets.tsv '$4 == "network" && $1 ~ /^udp/ { print $2 " port " $3 "\t" ($7 == "" ? "" : $7 ", ") $6 }' |
        finding note network "UDP sockets open to the network" \
            "Name lookups and time clients look like this as well; what answers strangers should be known."
}

system_findings() {
    pick filesystems.tsv '$2 !~ /^(squashfs|erofs)$/ && $5 >= 90 { print $1 "\t" $5 " % used" }' |
        finding high storage "File systems almost full" "Services fail in odd ways when they cannot write. Free some space or enlarge them."
    pick filesystems.tsv '$2 !~ /^(squashfs|erofs)$/ && $5 >= 80 && $5 < 90 { print $1 "\t" $5 " % used" }' |
        finding note storage "File systems filling up" "More than four fifths are used. The largest directories below say by what."
    pick filesystems.tsv '$1 ~ /^\/(tmp|var\/tmp|dev\/shm|home)$/ && $6 !~ /nosuid/ { print $1 "\t" $6 }' |
        finding note storage "Places for everybody that honour setuid" \
            "A file system where any account may write needs no setuid programs: mount it with nosuid."
    pick system.tsv '$1 == "memory_total_kb" { all = $2 } $1 == "memory_available_kb" { left = $2 }
        END { if (all > 0 && left / all < 0.1) printf "%d of %d MiB available\n", left / 1024, all / 1024 }' |
        finding medium system "Memory is scarce" "Less than a tenth is available. The kernel may soon end processes to free some."
    pick system.tsv '$1 == "uptime_seconds" && $2 > 180 * 86400 { printf "%d days\n", $2 / 86400 }' |
        finding medium system "Not restarted for more than half a year" \
            "Kernel updates take effect at a restart only, and nobody knows whether the machine would still come up."
    pick reboot.tsv '$1 == "yes" { print "/run/reboot-required" }' |
        finding medium system "A restart is due" "An update was installed that takes effect at the next restart."
    pick processor.tsv '$2 ~ /^Vulnerable/ { print $1 "\t" $2 }' |
        finding medium system "Processor weaknesses without a remedy in place" \
            "The kernel knows these and reports itself as vulnerable. It matters most where people who do not trust each other share the machine."
    pick switches.tsv '$2 < $3 || ($3 == 0 && $2 != 0) { print $1 " = " $2 "\tusual: " $3 "; " $4 }' |
        finding note system "Kernel settings short of the usual hardening" \
            "Each has a safer value which most systems can run with; sysctl sets it."
    pick packages-broken.tsv '{ print $1 "\t" $4 }' |
        finding medium packages "Packages that are not completely installed" "An installation stopped half-way. Such a package may not work and blocks later updates."
    pick changing.tsv '{ print $2 "\t" $1 }' |
        finding note files "Files that changed while the inventory was taken" \
            "Two walks, a second or more apart, saw them differ. Logs and databases do that; programs and settings should not."
}

{
    file_findings
    account_findings
    socket_findings
    system_findings
    refused=$(value index-facts.tsv refused)
    if [ "$refused" -gt 0 ]; then
        echo "$refused directories${tab}examined as $(value system.tsv examined_as)" |
            finding note files "Places that could not be read" "They are closed to the account of this run, so the lists about files say nothing of them."
    fi
} | awk -F '\t' '{ print index("high  mediumnote", $2) "\t" $0 }' | sort -s -t "$tab" -k1,1n | cut -f 2- |
    head -n 30 >"$scratch/findings"

{
    printf 'meta\theading\t%s\n' "$heading"
    sed 's/^/meta\t/' "$data/system.tsv" | awk -F '\t' '$2 ~ /^(hostname|system|kernel|architecture|examined_as|examined_at|container)$/'
    cat "$scratch/findings"

    section system "System" "What runs here and what it has."
    fact system system "System" text "$(value system.tsv system)"
    fact system kernel "Kernel" text "$(value system.tsv kernel)"
    fact system architecture "Architecture" text "$(value system.tsv architecture)"
    fact system cpus "Processors" int "$(value system.tsv cpus)"
    fact system uptime_seconds "Up for" seconds "$(value system.tsv uptime_seconds)"
    fact system load "Load (1, 5, 15 min)" text "$(value system.tsv load)"
    fact system memory_total_kb "Memory" kb "$(value system.tsv memory_total_kb)"
    fact system memory_available_kb "Memory available" kb "$(value system.tsv memory_available_kb)"
    fact system swap_total_kb "Swap" kb "$(value system.tsv swap_total_kb)"
    fact system container "In a container" text "$(value system.tsv container)"
    columns system "mount|File system|code" "type|Type|text" "size_kb|Size|kb" "used_kb|Used|kb" "used_percent|Used|percent" "options|Options|text"
    table system 20 "$(rows "$data/filesystems.tsv")" "" <"$data/filesystems.tsv"

    section packages "Packages" "What the distribution installed; the largest first."
    fact packages manager "Kept by" text "$(value packages-facts.tsv manager)"
    fact packages count "Installed" int "$(value packages-facts.tsv count)"
    fact packages total_kb "Together" kb "$(value packages-facts.tsv total_kb)"
    fact packages unfinished "Not complete" int "$(value packages-facts.tsv unfinished)"
    columns packages "name|Package|code" "version|Version|text" "size_kb|Size|kb"
    cut -f 1-3 "$data/packages-top.tsv" | table packages 100 "$(value packages-facts.tsv count)" host/packages.tsv

    section sockets "Listening sockets" "Who answers on which address; open to the network first."
    fact sockets tcp "TCP" int "$(value sockets-facts.tsv tcp)"
    fact sockets udp "UDP" int "$(value sockets-facts.tsv udp)"
    fact sockets reachable_from_network "Open to the network" int "$(value sockets-facts.tsv reachable_from_network)"
    columns sockets "protocol|Protocol|text" "address|Address|code" "port|Port|text" "service|Usual service|text" "reach|Reachable from|text" "user|User|text"
    pick sockets.tsv '{ print $1 "\t" $2 "\t" $3 "\t" $7 "\t" $4 "\t" $6 }' | table sockets 40 "$(rows "$data/sockets.tsv")" host/sockets.tsv

    section accounts "Accounts" "Those who can log in first. Passwords are not looked at."
    fact accounts count "Accounts" int "$(value accounts-facts.tsv count)"
    fact accounts uid_0 "With all rights (uid 0)" int "$(value accounts-facts.tsv uid_0)"
    fact accounts human "People (uid from 1000)" int "$(value accounts-facts.tsv human)"
    fact accounts with_login_shell "With a login shell" int "$(value accounts-facts.tsv with_login_shell)"
    columns accounts "name|Account|code" "uid|Uid|text" "class|Class|text" "login|Login shell|text" "shell|Shell|code" "home|Home|code"
    pick accounts.tsv '{ print ($7 == "yes" ? 0 : 1) "\t" $1 "\t" $3 "\t" $1 "\t" $6 "\t" $7 "\t" $5 "\t" $4 }' |
        sort -t "$tab" -k1,1n -k2,2n | cut -f 3- | table accounts 40 "$(rows "$data/accounts.tsv")" host/accounts.tsv

    section special "Files that give away rights" "Setuid and setgid programs, and what anybody may write. Searched to five levels of the system's directories."
    fact special setuid "Setuid" int "$(value special-facts.tsv setuid)"
    fact special setgid "Setgid" int "$(value special-facts.tsv setgid)"
    fact special world_writable_files "World-writable files" int "$(value special-facts.tsv world_writable_files)"
    fact special world_writable_directories "World-writable directories" int "$(value special-facts.tsv world_writable_directories)"
    columns special "kind|Kind|text" "mode|Mode|code" "owner|Owner|text" "group|Group|text" "path|Path|code"
    table special 60 "$(rows "$data/special.tsv")" host/special.tsv <"$data/special.tsv"

    cut_short=$(tr '\n' ' ' <"$data/largest-cut.tsv")
    section largest "Largest directories" "To three levels; a directory includes those inside it.${cut_short:+ Not measured to the end: $cut_short}"
    columns largest "path|Directory|code" "size_kb|Size|kb"
    pick largest.tsv '{ print $2 "\t" $1 }' | table largest 100 "$(rows "$data/largest.tsv")" ""

    section newest "Changed last" "The newest files of the inventory, in the machine's own time."
    fact newest files "Files in the inventory" int "$(value index-facts.tsv files)"
    fact newest directories "Directories" int "$(value index-facts.tsv directories)"
    fact newest bytes "Bytes in files" bytes "$(value index-facts.tsv bytes)"
    fact newest bounded "Cut at its limit" text "$(value index-facts.tsv bounded)"
    columns newest "changed|Changed|text" "size|Size|bytes" "path|Path|code"
    table newest 100 "$(value index-facts.tsv files)" host/index.tsv <"$data/newest.tsv"

    section owners "Owners" "Whose files the inventory holds."
    columns owners "uid|Uid|text" "user|Account|code" "files|Files|int" "bytes|Bytes|bytes"
    table owners 100 "$(rows "$data/owners.tsv")" "" <"$data/owners.tsv"
} >"$scratch/report"
put report.tsv <"$scratch/report"

count=$(awk -F '\t' '$1 == "finding"' "$data/report.tsv" | wc -l | tr -d ' ')
high=$(awk -F '\t' '$1 == "finding" && $2 == "high"' "$data/report.tsv" | wc -l | tr -d ' ')
say "$count findings, $high of them serious"
awk -F '\t' '$1 == "finding" { print "  " $2 ": " $4 " (" $6 ")" }' "$data/report.tsv"
printf 'findings=%s\nserious=%s\n' "$count" "$high" >"$OUTPOST_OUT"
