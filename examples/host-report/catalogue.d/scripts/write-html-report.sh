# Writes report.html from the joined table: one page that needs nothing but itself.
. "${0%/*}/common.sh"

need report.tsv

cat >"$scratch/style" <<'CSS'
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2430; --soft: #5b6776; --line: #dfe4ea;
  --accent: #2458a6; --bar: #c9d8ee; --high: #b3261e; --medium: #9a5b00; --note: #3c6e91; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1a2028; --ink: #e4e9ef; --soft: #98a4b3;
  --line: #2c3541; --accent: #8ab4f8; --bar: #2d456b; --high: #ff8a80; --medium: #f0b354; --note: #86bde0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
header p { margin: .25rem 0 0; color: var(--soft); }
.kicker { text-transform: uppercase; letter-spacing: .09em; font-size: .78rem; font-weight: 600; color: var(--accent); }
h1 { margin: .1rem 0 0; font-size: 2.1rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 1.2rem; }
.lead { margin: .15rem 0 .9rem; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 1.25rem; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.tile { padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin-bottom: 1.25rem; font-size: .9rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
section { padding: 1.1rem 1.25rem 1.25rem; margin-bottom: 1.25rem; scroll-margin-top: 1rem; }
.findings { list-style: none; margin: .75rem 0 0; padding: 0; display: grid; gap: .75rem; }
.findings > li { border: 1px solid var(--line); border-left: 4px solid var(--tone); border-radius: .4rem; padding: .65rem .9rem .75rem; }
.high { --tone: var(--high); } .medium { --tone: var(--medium); } .note { --tone: var(--note); }
.findings h3 { margin: 0; font-size: 1rem; display: flex; flex-wrap: wrap; gap: .15rem .6rem; align-items: baseline; }
.level { color: var(--tone); font-size: .74rem; font-weight: 700; text-transform: uppercase; letter-spacing: .05em; }
.count { color: var(--soft); font-weight: 400; font-size: .85rem; margin-left: auto; }
.findings p { margin: .2rem 0 .4rem; color: var(--soft); }
.findings ul { margin: 0; padding: 0; list-style: none; font-size: .86rem; display: grid; gap: .1rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .5rem 1.5rem; margin: 0 0 1rem; }
dt { color: var(--soft); font-size: .82rem; } dd { margin: 0; font-weight: 500; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: .8rem; }
th, td { padding: .36rem .75rem .36rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.bar { min-width: 8.5rem; background: linear-gradient(to left, var(--bar) var(--w), transparent var(--w)) no-repeat 0 50% / calc(100% - .75rem) 1.35em; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.more, .none { color: var(--soft); font-size: .85rem; margin: .7rem 0 0; }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 2.5rem; }
@media print { body { background: none; } nav { display: none; } section { break-inside: avoid-page; } }
CSS

awk -F '\t' -v style="$scratch/style" '
    function esc(value) {
        gsub(/&/, "\\&amp;", value); gsub(/</, "\\&lt;", value); gsub(/>/, "\\&gt;", value)
        gsub(/"/, "\\&quot;", value); gsub(/\047/, "\\&#39;", value)
        return value
    }
    function grouped(value,    out) {
        if (value !~ /^[0-9]+$/) return esc(value)
        out = ""
        while (length(value) > 3) { out = "&#8239;" substr(value, length(value) - 2) out; value = substr(value, 1, length(value) - 3) }
        return value out
    }
    function size(bytes,    i) {
        i = 1
        while (bytes >= 1024 && i < 6) { bytes /= 1024; i++ }
        return sprintf((i == 1 || bytes >= 100) ? "%.0f %s" : "%.1f %s", bytes, unit[i])
    }
    function span(seconds) {
        if (seconds >= 86400) return sprintf("%d d %d h", seconds / 86400, seconds % 86400 / 3600)
        if (seconds >= 3600) return sprintf("%d h %d min", seconds / 3600, seconds % 3600 / 60)
        return sprintf("%d min", seconds / 60)
    }
    function shown(value, kind) {
        if (value == "") return ""
        if (kind == "code") return "<code>" esc(value) "</code>"
        if (kind == "int") return grouped(value)
        if (kind == "kb" && value ~ /^[0-9]+$/) return size(value * 1024)
        if (kind == "bytes" && value ~ /^[0-9]+$/) return size(value)
        if (kind == "percent") return esc(value) "&nbsp;%"
        if (kind == "seconds") return span(value)
        return esc(value)
    }
    function numeric(kind) { return kind ~ /^(int|kb|bytes|percent|seconds)$/ }
    function tile(value, label) { if (value != "") printf "<div class=\"tile\"><b>%s</b><span>%s</span></div>\n", value, label }

    BEGIN { split("B KiB MiB GiB TiB PiB", unit, " "); word["high"] = "Look now"; word["medium"] = "Worth a look"; word["note"] = "Good to know" }
    $1 == "meta" { meta[$2] = $3 }
    $1 == "finding" { found[++findings] = $0; if ($2 == "high") serious++ }
    $1 == "section" { id[++sections] = $2; title[$2] = $3; lead[$2] = $4 }
    $1 == "fact" { fact[$2, ++facts[$2]] = $0; of[$2, $3] = shown($6, $5) }
    $1 == "columns" { columns[$2] = $0 }
    $1 == "row" { row[$2, ++rows[$2]] = $0 }
    $1 == "total" { total[$2] = $3; all[$2] = $4 }

    # The last sized column of a section carries bars, relative to the largest value; a percentage is its own measure.
    function table(s,    head, n, i, r, cell, kind, label, bar, most, width, part) {
        n = split(columns[s], head, "\t")
        if (n < 3) return
        bar = 0
        for (i = 3; i <= n; i++) {
            split(head[i], part, "|"); label[i] = part[2]; kind[i] = part[3]
            if (kind[i] == "percent" || (bar == 0 && i == n && kind[i] ~ /^(kb|bytes)$/)) bar = i
        }
        if (rows[s] == 0) { print "<p class=\"none\">None.</p>"; return }
        most = (bar && kind[bar] == "percent") ? 100 : 0
        if (bar && !most) for (r = 1; r <= rows[s]; r++) { split(row[s, r], cell, "\t"); if (cell[bar] + 0 > most) most = cell[bar] + 0 }
        print "<div class=\"scroll\"><table><thead><tr>"
        for (i = 3; i <= n; i++) printf "<th scope=\"col\"%s>%s</th>", (numeric(kind[i]) ? " class=\"n\"" : ""), esc(label[i])
        print "</tr></thead><tbody>"
        for (r = 1; r <= rows[s]; r++) {
            split(row[s, r] "\t\t\t\t\t\t\t\t", cell, "\t")
            printf "<tr>"
            for (i = 3; i <= n; i++) {
                if (i == bar && most > 0) {
                    width = cell[i] * 100 / most
                    printf "<td class=\"n bar\" style=\"--w:%.1f%%\">%s</td>", (width > 100 ? 100 : width), shown(cell[i], kind[i])
                } else printf "<td%s>%s</td>", (numeric(kind[i]) ? " class=\"n\"" : ""), shown(cell[i], kind[i])
            }
            print "</tr>"
        }
        print "</tbody></table></div>"
        if (total[s] > rows[s]) {
            printf "<p class=\"more\">%s of %s shown", grouped(rows[s]), grouped(total[s])
            if (all[s] != "") printf "; all of them are in <code>%s</code> beside this page", esc(all[s])
            print ".</p>"
        }
    }

    END {
        print "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
        print "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src \047none\047; style-src \047unsafe-inline\047\">"
        printf "<title>%s: %s</title>\n<style>\n", esc(meta["heading"]), esc(meta["hostname"])
        while ((getline line < style) > 0) print line
        print "</style>\n</head>\n<body>\n<header>"
        printf "<div class=\"kicker\">%s</div>\n<h1>%s</h1>\n", esc(meta["heading"]), esc(meta["hostname"])
        stamp = meta["examined_at"]; sub(/T/, " ", stamp); sub(/Z$/, " UTC", stamp)
        printf "<p>%s &middot; %s &middot; %s &middot; examined %s as <code>%s</code></p>\n", esc(meta["system"]), esc(meta["kernel"]), esc(meta["architecture"]), esc(stamp), esc(meta["examined_as"])
        print "<div class=\"tiles\">"
        tile(findings + 0, "findings, " (serious + 0) " to look at now")
        tile(of["packages", "count"], "packages")
        tile(of["sockets", "reachable_from_network"], "sockets open to the network")
        tile(of["accounts", "with_login_shell"], "accounts with a login shell")
        tile(of["special", "setuid"], "setuid programs")
        tile(of["system", "memory_available_kb"], "of " of["system", "memory_total_kb"] " memory available")
        print "</div>\n<nav><a href=\"#findings\">Worth a look</a>"
        for (k = 1; k <= sections; k++) printf "<a href=\"#%s\">%s</a>\n", esc(id[k]), esc(title[id[k]])
        print "</nav>\n</header>\n<main>\n<section id=\"findings\">\n<h2>Worth a look</h2>"
        if (findings == 0) print "<p class=\"none\">Nothing stood out.</p>"
        else {
            print "<ul class=\"findings\">"
            for (k = 1; k <= findings; k++) {
                n = split(found[k], f, "\t")
                printf "<li class=\"%s\"><h3><span class=\"level\">%s</span>%s<span class=\"count\">%s</span></h3><p>%s</p><ul>", esc(f[2]), word[f[2]], esc(f[4]), grouped(f[6]), esc(f[5])
                for (i = 7; i <= n; i++) printf "<li><code>%s</code></li>", esc(f[i])
                if (f[6] > n - 6) printf "<li>and %s more</li>", grouped((f[6] - n + 6) "")
                print "</ul></li>"
            }
            print "</ul>"
        }
        print "</section>"
        for (k = 1; k <= sections; k++) {
            s = id[k]
            printf "<section id=\"%s\">\n<h2>%s</h2>\n<p class=\"lead\">%s</p>\n", esc(s), esc(title[s]), esc(lead[s])
            if (facts[s] > 0) {
                print "<dl>"
                for (i = 1; i <= facts[s]; i++) { split(fact[s, i], f, "\t"); printf "<div><dt>%s</dt><dd>%s</dd></div>\n", esc(f[4]), shown(f[6], f[5]) }
                print "</dl>"
            }
            table(s)
            print "</section>"
        }
        print "</main>\n<footer>Gathered with the tools every system has, and written on this machine. The same facts for programs are in <code>report.json</code>; the full lists are in <code>host/</code>.</footer>\n</body>\n</html>"
    }
' "$data/report.tsv" >"$scratch/html"
mv -f "$scratch/html" "$OUTPOST_RUN_DIR/report.html"

bytes=$(wc -c <"$OUTPOST_RUN_DIR/report.html" | tr -d ' ')
say "report.html: $bytes bytes"
printf 'report=report.html\nbytes=%s\n' "$bytes" >"$OUTPOST_OUT"
