# Writes report.json from the joined table.
. "${0%/*}/common.sh"

need report.tsv

awk -F '\t' '
    BEGIN { for (i = 1; i < 32; i++) escape[sprintf("%c", i)] = sprintf("\\u%04x", i); escape["\""] = "\\\""; escape["\\"] = "\\\\" }
    function text(value,    i, c, out) {
        if (value ~ /^[ !#-[\]-~]*$/) return "\"" value "\""
        out = ""
        for (i = 1; i <= length(value); i++) { c = substr(value, i, 1); out = out ((c in escape) ? escape[c] : c) }
        return "\"" out "\""
    }
    function typed(value, kind) {
        if (kind ~ /^(int|kb|bytes|percent|seconds)$/ && (value ~ /^[1-9][0-9]*$/ || value == "0")) return value
        return text(value)
    }
    # The parts follow each other in the order of the table: meta, findings, sections.
    function enter(new) {
        if (part == new) return
        if (part == "") printf "{\n  \"format\": \"host-report/1\",\n  \"host\": {"
        if (part == "host") printf "\n  },\n  \"findings\": ["
        if (part == "findings") printf "\n  ],\n  \"sections\": ["
        part = (part == "") ? "host" : (part == "host") ? "findings" : "sections"
        items = 0
        enter(new)
    }
    function leave_section() {
        if (section == "") return
        if (inside == "facts") printf "}"
        if (inside == "rows") printf "\n      ]"
        if (total != "") printf ",\n      \"shown\": %d,\n      \"total\": %d", shown, total
        if (all != "") printf ",\n      \"all\": %s", text(all)
        printf "\n    }"
        section = ""
    }
    $1 == "meta" { enter("host"); printf "%s\n    %s: %s", (items++ ? "," : ""), text($2), text($3) }
    $1 == "finding" {
        enter("findings")
        printf "%s\n    {\"level\": %s, \"area\": %s, \"title\": %s, \"reason\": %s, \"count\": %d, \"evidence\": [", (items++ ? "," : ""), text($2), text($3), text($4), text($5), $6
        for (i = 7; i <= NF; i++) printf "%s%s", (i > 7 ? ", " : ""), text($i)
        printf "]}"
    }
    $1 == "section" {
        enter("sections"); leave_section()
        printf "%s\n    {\n      \"id\": %s,\n      \"title\": %s,\n      \"lead\": %s", (items++ ? "," : ""), text($2), text($3), text($4)
        section = $2; inside = ""; total = ""; all = ""; shown = 0
    }
    $1 == "fact" {
        if (inside == "") printf ",\n      \"facts\": {"
        printf "%s%s: %s", (inside == "facts" ? ", " : ""), text($3), typed($6, $5)
        inside = "facts"
    }
    $1 == "columns" {
        if (inside == "facts") printf "}"
        printf ",\n      \"rows\": ["
        inside = "rows"; width = NF - 2
        for (i = 3; i <= NF; i++) { split($i, column, "|"); key[i] = column[1]; kind[i] = column[3] }
    }
    $1 == "row" {
        printf "%s\n        {", (shown++ ? "," : "")
        for (i = 3; i <= width + 2; i++) printf "%s%s: %s", (i > 3 ? ", " : ""), text(key[i]), typed($i, kind[i])
        printf "}"
    }
    $1 == "total" { total = $3; all = $4 }
    END { enter("sections"); leave_section(); printf "\n  ]\n}\n" }
' "$data/report.tsv" >"$scratch/json"
mv -f "$scratch/json" "$OUTPOST_RUN_DIR/report.json"

bytes=$(wc -c <"$OUTPOST_RUN_DIR/report.json" | tr -d ' ')
say "report.json: $bytes bytes"
printf 'report=report.json\nbytes=%s\n' "$bytes" >"$OUTPOST_OUT"
