# Kernel, distribution, uptime, memory, mounts and a few switches of the kernel.
. "${0%/*}/common.sh"

pretty=$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null | sed 's/^"//; s/"$//' | head -n 1)
cpus=$(grep -c '^processor' /proc/cpuinfo 2>/dev/null) || cpus=1
container=no
if [ -e /.dockerenv ] || [ -e /run/.containerenv ] ||
    grep -qE 'docker|kubepods|containerd|lxc' /proc/1/cgroup 2>/dev/null; then
    container=yes
fi

{
    printf 'hostname\t%s\n' "$(uname -n)"
    printf 'system\t%s\n' "${pretty:-unknown}"
    printf 'kernel\t%s\n' "$(uname -sr)"
    printf 'architecture\t%s\n' "$(uname -m)"
    printf 'cpus\t%s\n' "$cpus"
    printf 'container\t%s\n' "$container"
    printf 'examined_as\t%s\n' "$(id -un 2>/dev/null || id -u)"
    printf 'examined_at\t%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    awk '{ printf "uptime_seconds\t%d\n", $1 }' /proc/uptime 2>/dev/null || true
    awk '{ printf "load\t%s %s %s\n", $1, $2, $3 }' /proc/loadavg 2>/dev/null || true
    awk '
        /^MemTotal:/ { printf "memory_total_kb\t%d\n", $2 }
        /^MemAvailable:/ { printf "memory_available_kb\t%d\n", $2 }
        /^SwapTotal:/ { printf "swap_total_kb\t%d\n", $2 }
        /^SwapFree:/ { printf "swap_free_kb\t%d\n", $2 }' /proc/meminfo 2>/dev/null || true
} | put system.tsv

# Switches which a hardened host has set, with the value that is expected.
while read -r name expected why; do
    value=$(words "/proc/sys/$name")
    if [ -n "$value" ]; then
        printf '%s\t%s\t%s\t%s\n' "$name" "$value" "$expected" "$why"
    fi
done <<'LIST' | put switches.tsv
kernel/randomize_va_space 2 addresses of programs are easier to guess
fs/protected_symlinks 1 links in /tmp can mislead privileged programs
fs/protected_hardlinks 1 users can link files which are not theirs
kernel/dmesg_restrict 1 every user reads the kernel's messages
kernel/tainted 0 the kernel runs foreign or forced modules, or has met an error
LIST

for file in /sys/devices/system/cpu/vulnerabilities/*; do
    [ -r "$file" ] || continue
    printf '%s\t%s\n' "${file##*/}" "$(words "$file")"
done | put processor.tsv

if [ -e /run/reboot-required ] || [ -e /var/run/reboot-required ]; then
    echo yes
else
    echo no
fi | put reboot.tsv

# Only file systems on local disks or in memory are asked: one on a dead server would not answer.
sed 's/\\040/ /g; s/\\011/ /g' /proc/self/mounts 2>/dev/null | awk '
    $3 ~ /^(ext[234]|xfs|btrfs|zfs|f2fs|overlay|vfat|ntfs3?|bcachefs|erofs|squashfs|tmpfs)$/' | clean >"$scratch/mounts"
awk '{ print $2 }' "$scratch/mounts" | grep -vE '^/(proc|sys|etc)/' | sort -u | head -n 40 >"$scratch/points"
: >"$scratch/df"
while read -r point; do
    bounded 2 df -Pk "$point" 2>/dev/null | awk -v point="$point" 'NR == 2 && $2 > 0 {
        for (i = 2; i <= NF; i++) if ($i ~ /%$/) break
        if (i > NF) next
        sub(/%/, "", $i); printf "%s\t%d\t%d\t%d\n", point, $(i - 3), $(i - 2), $i
    }' >>"$scratch/df" || true
done <"$scratch/points"
awk -F '\t' -v mounts="$scratch/mounts" '
    BEGIN {
        while ((getline line < mounts) > 0) {
            split(line, part, " ")
            if (part[2] in type) continue
            type[part[2]] = part[3]; options[part[2]] = part[4]
        }
    }
    {
        kept = ""; n = split(options[$1], flag, ",")
        for (i = 1; i <= n; i++) if (flag[i] ~ /^(ro|rw|nosuid|nodev|noexec)$/) kept = kept (kept == "" ? "" : ",") flag[i]
        printf "%s\t%s\t%s\t%s\t%s\t%s\n", $1, type[$1], $2, $3, $4, kept
    }' "$scratch/df" | sort -t "$(printf '\t')" -k5,5nr -k1,1 | put filesystems.tsv

say "$(uname -sr) on $(uname -n), $(rows "$data/filesystems.tsv") file systems"
{
    echo "kernel=$(uname -r)"
    echo "system=${pretty:-unknown}"
    echo "filesystems=$(rows "$data/filesystems.tsv")"
} | clean >"$OUTPOST_OUT"
