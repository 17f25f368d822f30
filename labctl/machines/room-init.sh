#!/bin/sh
# The first process of a room: makes a place for libvirtd that nobody else shares, and reaps orphans in it.
#
#   room-init.sh ROOM CACHE SOCKETS [BRIDGE=ADDRESS/PREFIX | BRIDGE=]...
#
# Runs as root of fresh network, mount and pid namespaces (and of a user namespace for an ordinary user).
set -eu
room=$1 cache=$2 sockets=$3
shift 3

# A directory of our own in place of DIR: what was there is still there, through links.
shadow() {
    below=$room/shadow$1
    mkdir -p "$below"
    mount --rbind "$1" "$below"
    mount -t tmpfs -o mode=0755 labctl "$1"
    find "$below" -mindepth 1 -maxdepth 1 ! -name libvirt -exec ln -s -t "$1" {} +
    mkdir "$1/libvirt"
}
for directory in /etc /run /var/lib /var/log /var/cache; do shadow "$directory"; done
for directory in lib log; do
    mkdir -p "$room/$directory"
    mount --bind "$room/$directory" "/var/$directory/libvirt"
done
mkdir -p "$cache"
mount --bind "$cache" /var/cache/libvirt
# libvirt reads the state of its bridges there; an old kernel may refuse a second mount, and it copes.
mount -t sysfs sysfs /sys 2>/dev/null || true

# Debian's libvirt looks this user up before it reads which one it is told to use.
if ! getent passwd libvirt-qemu >/dev/null; then
    rm /etc/passwd /etc/group
    { cat "$room/shadow/etc/passwd" && echo 'libvirt-qemu:x:0:0::/:/bin/false'; } >/etc/passwd
    { cat "$room/shadow/etc/group" && echo 'libvirt-qemu:x:0:'; } >/etc/group
fi

cat >/etc/libvirt/libvirtd.conf <<CONF
unix_sock_dir = "$sockets"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
CONF
# Without 'cpu-unavailable-features' libvirt asks each new machine for all features of its processor at once, and not in
# 250 questions, which take a third of a second.
cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
capability_filters = ["cpu-unavailable-features"]
CONF

ip link set lo up
for bridge in "$@"; do
    ip link add "${bridge%%=*}" type bridge forward_delay 0
    if [ -n "${bridge#*=}" ]; then ip address add "${bridge#*=}" dev "${bridge%%=*}"; fi
    ip link set "${bridge%%=*}" up
done

# Not exec: as process 1 libvirtd would not reap the QEMUs it has detached, and would wait 40 s for each to go.
libvirtd -f /etc/libvirt/libvirtd.conf &
wait $!
