# What recipes have in common that make an image of a distributor's; a recipe reads it first:
#
#   . "$(dirname "$0")/customise.sh"
#
# Such a recipe runs once, as root of the machine that builds. It finds in its environment
#
#   MIRROR   URL of the distributor's packages
#   ISO      the device with an installation disc, if there is one
#
# and leaves in $out packages.txt (a name and a version per line) and, if there is to be a media disk, a directory
# 'repository' with a package repository. It has room to work in $work, which is no part of the image.
# With DRY_RUN=1 it prints what it would do, and does nothing.
# shellcheck shell=sh
set -eu
export LC_ALL=C work=/run/labctl out=/run/labctl/out

# Announce a step; if the recipe fails, labctl names the last one.
step() {
    printf '==> %s\n' "$*"
}

# Run a command, or print it.
run() {
    if [ "${DRY_RUN:-}" ]; then printf '    %s\n' "$*"; else "$@"; fi
}

# SCRIPT: the same for what a shell has to read.
shell() {
    if [ "${DRY_RUN:-}" ]; then printf '    %s\n' "$1"; else sh -c "set -e; $1"; fi
}

# PATH: write what comes on the standard input to a file, or print it.
write() {
    if [ "${DRY_RUN:-}" ]; then
        printf '    %s:\n' "$1"
        while IFS= read -r line; do printf '        %s\n' "$line"; done
    else
        mkdir -p "${1%/*}"
        cat >"$1"
    fi
}

# URL SHA256 FILE: fetch a file that has to be the one meant.
fetch() {
    run curl -fsSL --retry 3 -o "$3" "$1"
    shell "echo '$2  $3' | sha256sum -c -"
}

# UNIT...: off until a step of a lab switches it on; one that is not there is off already.
switch_off() {
    for unit in "$@"; do shell "systemctl disable $unit 2>/dev/null || true"; done
}

# Where packages are RPMs: name them for labctl, and leave no repository but that of the media disk.
only_media() {
    step 'Write down what is installed, and leave no repository but that of the media disk'
    shell "rpm -qa --queryformat '%{NAME} %{VERSION}-%{RELEASE}\\n' >$out/packages.txt"
    shell 'rm -rf /etc/yum.repos.d/*.repo /var/cache/yum /var/cache/dnf'
}

# The last step: machines made of the image are not this one, and not each other.
seal() {
    step 'Seal the image'
    shell 'rm -rf /var/lib/cloud/* /run/cloud-init/*'
    # Empty, not absent: that would be a first boot, which enables services as the distributor likes them.
    shell ': >/etc/machine-id'
    run rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed /etc/hostname
    shell 'rm -rf /etc/ssh/ssh_host_* /root/.ssh /root/.bash_history /tmp/* /var/tmp/*'
    shell ': >/etc/resolv.conf'
    shell 'rm -rf /var/log/journal/*; find /var/log -type f -exec truncate -s 0 {} +'
}
