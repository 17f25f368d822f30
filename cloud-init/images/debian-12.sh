#!/bin/sh
# Builds the golden debian-12 image without root: everything the course uses is in it, switched off.
#
#   MIRROR=URL SECURITY_MIRROR=URL debian-12.sh OUTPUT_DIRECTORY
#
# Leaves disk.qcow2 (an unpartitioned ext4 file system), vmlinuz, initrd.img and packages.txt.
# As an ordinary user it needs subordinate ids, as rootless podman does.
set -eu

# Parts of the build run as subordinate users, who may enter neither the caller's home nor the directories that he
# may have put before the system's own in PATH.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
cd /

out=$1
suite=bookworm
disk_size=4G
packages="
  linux-image-cloud-amd64 systemd-sysv udev kmod busybox-static zstd e2fsprogs
  cloud-init python3 ifupdown iproute2 openssh-server ca-certificates
  ipvsadm keepalived haproxy nginx-light apache2 heartbeat ntpsec ntpsec-ntpdate
  curl tcpdump iputils-arping iputils-ping net-tools traceroute ethtool netcat-openbsd
  iptables nftables ipset conntrack procps psmisc less nano vim-tiny"

# The services that a lab switches on itself.
services="apache2 nginx keepalived heartbeat haproxy ntpsec nftables apache-htcacheclean"
# What only costs time in a guest that lives for an hour and has no uplink.
noise="
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
  fstrim.timer logrotate.timer ntpsec-rotate-stats.timer ntpsec-systemd-netif.path
  apparmor.service cloud-init-hotplugd.socket getty@tty1.service getty-static.service logd.service
  modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@fuse.service
  modprobe@loop.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
  dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount
  sys-kernel-debug.mount sys-kernel-tracing.mount systemd-journal-flush.service
  systemd-networkd-wait-online.service systemd-pstore.service systemd-update-utmp.service
  systemd-update-utmp-runlevel.service ifupdown-pre.service"

work=$(mktemp -d "$out/build.XXXXXX")
configure=$work/configure.sh

in_user_namespace() {
    if [ "$(id -u)" = 0 ]; then "$@"; else unshare --map-root-user --map-auto "$@"; fi
}
trap 'in_user_namespace rm -rf "$work"' EXIT

# ---- What is changed in the fresh system; runs inside it, as its root. --------------------------------
cat >"$configure" <<CONFIGURE
set -eu
export DEBIAN_FRONTEND=noninteractive

for service in $(echo $services); do systemctl disable \$service.service; done 2>/dev/null
for unit in $(echo $noise); do systemctl mask \$unit; done 2>/dev/null
# With a System V script beside its unit, each 'systemctl enable' costs seconds of perl and shell.
rm -f /etc/rc?.d/[SK]*
for script in /etc/init.d/*; do
    name=\$(basename "\$script")
    if [ -e "/lib/systemd/system/\$name.service" ]; then rm "\$script"; fi
done
CONFIGURE
cat >>"$configure" <<'CONFIGURE'
cat >/etc/systemd/system/ipvsadm.service <<'UNIT'
[Unit]
Description=IPVS rules
ConditionPathExists=/etc/ipvsadm.rules
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'exec ipvsadm-restore </etc/ipvsadm.rules'
ExecStop=/sbin/ipvsadm -C

[Install]
WantedBy=multi-user.target
UNIT
rm -f /etc/init.d/ipvsadm

echo '/dev/vda / ext4 noatime 0 1' >/etc/fstab
# Empty, not 'uninitialized': that would be a first boot, which enables every service again.
: >/etc/machine-id
rm -f /etc/ssh/ssh_host_* /etc/hostname /var/log/*.log /var/www/html/index*.html
printf 'auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n' >/etc/network/interfaces

# The serial console is the way in when the network is broken; root there needs no password.
mkdir -p /etc/systemd/system/serial-getty@ttyS0.service.d
cat >/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM
UNIT

# Each cloud-init stage starts Python anew, at ten seconds each under TCG. Only the modules that a seed uses
# are left, and none of them is in the third of the four stages.
systemctl mask cloud-config.service 2>/dev/null
cat >/etc/cloud/cloud.cfg <<'CLOUD'
datasource_list: [NoCloud]
disable_root: false
preserve_hostname: false
users: []
def_log_file: /var/log/cloud-init.log
output: {all: '>> /var/log/cloud-init-output.log'}
log_cfgs:
  - |
    [loggers]
    keys=root
    [handlers]
    keys=file
    [formatters]
    keys=line
    [logger_root]
    level=INFO
    handlers=file
    [handler_file]
    class=FileHandler
    level=INFO
    formatter=line
    args=('/var/log/cloud-init.log', 'a')
    [formatter_line]
    format=%(asctime)s %(filename)s %(levelname)s: %(message)s
cloud_init_modules: [write-files, set_hostname, users-groups, ssh, runcmd]
cloud_config_modules: []
cloud_final_modules: [scripts-user]
system_info:
  distro: debian
  network: {renderers: [eni]}
  paths: {cloud_dir: /var/lib/cloud, templates_dir: /etc/cloud/templates}
  ssh_svcname: ssh
CLOUD
rm -f /etc/cloud/cloud.cfg.d/*
echo 'datasource: NoCloud' >/etc/cloud/ds-identify.cfg

# A root file system behind virtio needs five modules and no udev: a busybox and a list of them do.
tree=$(mktemp -d)
version=$(ls /lib/modules)
mkdir -p "$tree/bin" "$tree/modules" "$tree/dev" "$tree/proc" "$tree/new"
cp /bin/busybox "$tree/bin/busybox"
modprobe --set-version "$version" --all --show-depends virtio_pci virtio_blk ext4 |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$tree/list"
while read -r module; do cp "$module" "$tree/modules/"; done <"$tree/list"
sed -i 's|.*/||' "$tree/list"
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod /modules/$module; done </list
until [ -b /dev/vda ]; do $b sleep 0.1; done
$b mount -t ext4 -o ro,noatime /dev/vda /new || exec $b sh </dev/console >/dev/console 2>&1
exec $b switch_root /new /sbin/init
INIT
chmod 755 "$tree/init"
(cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null | zstd -q -9 >/boot/initrd.img)
rm -rf "$tree" /boot/initrd.img-*

dpkg-query -W -f '${Package} ${Version}\n' >/packages.txt
rm -f /var/cache/debconf/*-old
CONFIGURE

# ---- The build. ----------------------------------------------------------------------------------------
mmdebstrap --variant=minbase --components=main \
    --include="$(echo $packages | tr ' ' ,)" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt=force-confold \
    --essential-hook='mkdir "$1/etc/initramfs-tools"' \
    --essential-hook='echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"' \
    --customize-hook="copy-in '$configure' /" \
    --customize-hook='chroot "$1" sh /configure.sh && rm "$1/configure.sh"' \
    "$suite" "$work/root.tar" \
    "deb $MIRROR $suite main" "deb $MIRROR $suite-updates main" "deb $SECURITY_MIRROR $suite-security main"

mkdir "$work/root"
in_user_namespace sh -eu -c '
    tar -C "$1/root" -xf "$1/root.tar" --exclude=./dev/* --numeric-owner
    rm "$1/root.tar"
    cp --dereference "$1/root/vmlinuz" "$1/vmlinuz"
    mv "$1/root/boot/initrd.img" "$1/root/packages.txt" "$1/"
    mke2fs -q -t ext4 -L root -d "$1/root" -E lazy_itable_init=0,lazy_journal_init=0 "$1/disk.raw" "$2"
' build "$work" "$disk_size"
qemu-img convert -O qcow2 "$work/disk.raw" "$out/disk.qcow2"
cp "$work/vmlinuz" "$work/initrd.img" "$work/packages.txt" "$out/"
