#!/bin/sh
# The first process of a private room: gives libvirtd directories and networks of its own, and reaps orphans.
#
#   room-init.sh labctl-room:ID ROOM CACHE SOCKETS MACHINES KVM [CLOSED PATH]... -- [BRIDGE=ADDRESS/PREFIX | BRIDGE=]...
#
# labctl finds the room by the lab's ID. The script runs as root of fresh user, network, mount and pid namespaces.
# MACHINES is the user that QEMU runs as, and KVM an additional group of that user, or empty. CLOSED is a directory that
# this user may not enter, on the way to the lab's PATH.
set -eu
umask 022
room=$2 cache=$3 sockets=$4 machines=$5 kvm=$6
shift 6
# Programs that remove old files leave locked directories alone (tmpfiles.d(5)).
exec 9<"$sockets"
flock -s 9
new=$room/new
mkdir -p "$new"

# Replace each directory that the machines' user may not enter by one that contains only the lab's paths.
closed=
while [ "$1" != -- ]; do
    if [ "$1" != "$closed" ]; then
        if [ -n "$closed" ]; then mount -n --move "$new" "$closed"; fi
        closed=$1
        mount -t tmpfs -o mode=0755 labctl "$new"
    fi
    mkdir -p "$new/${2#"$1"/}"
    mount --rbind "$2" "$new/${2#"$1"/}"
    shift 2
done
if [ -n "$closed" ]; then mount -n --move "$new" "$closed"; fi
shift

# Replace DIR by a directory of our own, with links to what was there. It is built elsewhere and then moved, since the
# lab's own files may be below DIR.
shadow() {
    mount -t tmpfs -o mode=0755 labctl "$new"
    mkdir "$new/.outside" "$new/libvirt"
    mount --rbind "$1" "$new/.outside"
    mount -n --move "$new" "$1"
    find "$1/.outside" -mindepth 1 -maxdepth 1 ! -name libvirt -exec ln -s -t "$1" {} +
}
for directory in /etc /run /var/lib /var/log /var/cache; do shadow "$directory"; done
for directory in lib log; do
    mkdir -p "$room/$directory"
    mount --bind "$room/$directory" "/var/$directory/libvirt"
done
mkdir -p "$cache"
mount --bind "$cache" /var/cache/libvirt
# libvirt reads the state of its bridges in /sys. An old kernel may refuse the mount; libvirt works without it.
mount -t sysfs sysfs /sys 2>/dev/null || true

# Debian's libvirt looks up its default user before it reads which one to use. A machine gets only the groups that
# /etc/group lists for its user, not those of the user who started the room.
rm /etc/passwd /etc/group
{ cat /etc/.outside/passwd && echo 'libvirt-qemu:x:0:0::/:/bin/false'; } >/etc/passwd
{ cat /etc/.outside/group && echo 'libvirt-qemu:x:0:' && if [ -n "$kvm" ]; then echo "labctl-kvm:x:$kvm:root"; fi; } >/etc/group

# A request about a hanging machine occupies a client's slot and a worker until it ends, so there are plenty of both.
cat >/etc/libvirt/libvirtd.conf <<CONF
max_client_requests = 100
max_workers = 100
unix_sock_dir = """$sockets"""
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
CONF
# If QEMU seems to lack 'cpu-unavailable-features', libvirt asks each new machine for all features of its processor at
# once, not in 250 questions, which would take a third of a second.
cat >/etc/libvirt/qemu.conf <<CONF
user = "+$machines"
group = "+$machines"
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

# Cut each console's log that grows too large to its end, since a guest may write without limit. QEMU appends to them.
trim() {
    find "$1" -name '*.log' -size +"$2" | while read -r log; do
        tail -c 1M "$log" >"$log.end" && : >"$log" && cat "$log.end" >>"$log"
        rm -f "$log.end"
    done
}
while sleep 30; do trim "$room/../consoles" 64M; done 2>/dev/null &

# Not exec: as process 1 libvirtd would not reap detached QEMUs, and would wait 40 s for each of them to end.
libvirtd -f /etc/libvirt/libvirtd.conf &
wait $!
