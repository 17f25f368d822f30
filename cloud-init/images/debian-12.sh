#!/bin/sh
# Builds the golden debian-12 image without root: everything the course uses is in it, switched off.
#
#   MIRROR=URL SECURITY_MIRROR=URL debian-12.sh OUTPUT_DIRECTORY
#
# Leaves disk.qcow2 (an unpartitioned ext4 file system), vmlinuz, initrd.img, waiting_args, packages.txt, and media.img: a
# file system labelled 'media' with a package repository, the only one that a lab's machines know.
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
  iptables nftables ipset conntrack procps psmisc less nano vim-tiny apt-utils"
# What can be installed from the media: the course's own packages, and what it installs by hand.
media="ipvsadm keepalived haproxy nginx-light apache2 heartbeat ntpsec ntpsec-ntpdate gcc make lrzsz"

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
  kmod-static-nodes.service systemd-fsck-root.service systemd-remount-fs.service systemd-sysusers.service
  systemd-random-seed.service systemd-tmpfiles-setup-dev.service systemd-user-sessions.service
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

media="$media"
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
# Only systemd-user-sessions, which is masked, would remove /run/nologin again.
rm /usr/lib/tmpfiles.d/systemd-nologin.conf
printf 'auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n' >/etc/network/interfaces

# The serial console is the way in when the network is broken; root needs no password there, but has to press Enter:
# logging in for nobody would cost each boot two seconds under TCG.
mkdir -p /etc/systemd/system/serial-getty@ttyS0.service.d
cat >/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --wait-cr --keep-baud 115200 - $TERM
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

# Hooks of ifup that nothing here needs cost seconds under TCG.
rm -f /etc/network/if-*.d/ethtool /etc/network/if-*.d/ntpsec-ntpdate /etc/network/if-*.d/resolved
# Of the 370 devices and subsystems that udev is told about at each boot, only these need a module or are waited for;
# and most of its rules are for devices that nobody has.
mkdir -p /etc/systemd/system/systemd-udev-trigger.service.d
cat >/etc/systemd/system/systemd-udev-trigger.service.d/labctl.conf <<'UNIT'
[Service]
ExecStart=
ExecStart=/bin/sh -c 'for device in /sys/bus/virtio/devices/* /sys/class/block/* /sys/class/net/* /sys/class/tty/ttyS0; \
                      do echo add >$$device/uevent; done'
UNIT
(cd /lib/udev/rules.d && ls | grep -vxE '(50-udev-default|60-block|60-persistent-storage|80-drivers|99-systemd).rules' | xargs rm)
# Only keys are asked for, and nobody keeps accounts of sessions: without PAM, and without starting sshd anew for each
# connection (-r), a login costs a quarter of what it does with them, which is 1.7 s under TCG. A line in the journal for
# each would be an eighth of the rest.
printf '%s\n' 'UsePAM no' 'LogLevel ERROR' >/etc/ssh/sshd_config.d/labctl.conf
echo 'SSHD_OPTS=-r' >/etc/default/ssh
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\nExecStartPre=\n' >/etc/systemd/system/ssh.service.d/labctl.conf

# A machine that is saved to be the memory of many (kernel argument 'labctl.identity=later') has everything up but
# what depends on who it is. Its last process has cloud-init loaded, waits for the seed's disk to be plugged in,
# gives up what must not be shared, and runs cloud-init's stages in forks of itself. Elsewhere, they run as ever.
mkdir -p /usr/local/lib/labctl
cat >/usr/local/lib/labctl/identity <<'PYTHON'
#!/usr/bin/python3
import fcntl
import importlib
import os
import socket
import struct
import subprocess
import sys
import time
import traceback
import uuid
from pathlib import Path

from cloudinit.cmd.main import main

LOADED = ("config.cc_write_files", "config.cc_set_hostname", "config.cc_users_groups", "config.cc_ssh",
          "config.cc_runcmd", "config.cc_scripts_user", "distros.debian", "distros.parsers.hostname",
          "distros.ug_util", "mergers.m_dict", "mergers.m_list", "mergers.m_str", "net.eni",
          "sources.DataSourceNoCloud", "sources.DataSourceNone")
STAGES = "/run/labctl-stages"
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207


def tell(line: str) -> None:
    with open("/dev/console", "w") as console:
        console.write(f"{line}\n")


def find_seed() -> Path | None:
    """The disk whose volume name, where ISO 9660 has it, is cidata."""
    for disk in sorted(Path("/dev").glob("vd?")):
        with disk.open("rb") as content:
            content.seek(32808)
            if content.read(32).strip() == b"cidata":
                return disk
    return None


def wait_for_seed() -> Path:
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)  # NETLINK_KOBJECT_UEVENT
    events.bind((0, 1))
    subprocess.run(["udevadm", "settle"], check=False)
    tell("labctl: waiting for an identity")
    while not (seed := find_seed()):
        events.recv(65536)
    return seed


def be_unique(seed: Path) -> None:
    now = float(Path("/sys/class/rtc/rtc0/since_epoch").read_text()) + 0.5
    time.clock_settime(time.CLOCK_REALTIME, now)
    # What the device had read ahead was saved with the memory, and is the same everywhere: go well past it.
    with open("/dev/hwrng", "rb", buffering=0) as device:
        fresh = b"".join(device.read(64) for _ in range(8))
    fresh += seed.read_bytes()[:65536] + struct.pack("d", now)
    with open("/dev/random", "wb", buffering=0) as pool:
        for start in range(0, len(fresh), 512):
            part = fresh[start:start + 512]
            fcntl.ioctl(pool, RNDADDENTROPY, struct.pack("ii", 256 if start == 0 else 0, len(part)) + part)
        fcntl.ioctl(pool, RNDRESEEDCRNG)
    # The journal's directory is named after the machine; the journal itself stays open in it.
    old, new = Path("/etc/machine-id").read_text().strip(), uuid.uuid4().hex
    Path("/etc/machine-id").write_text(f"{new}\n")
    for journals in ("/run/log/journal", "/var/log/journal"):
        if Path(journals, old).exists():
            Path(journals, old).rename(Path(journals, new))
    tell("labctl: this machine has an identity")


def run_stage(arguments: list[str]) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        sys.argv = ["/usr/bin/cloud-init", *arguments]
        status = int(main(list(sys.argv)) or 0)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


for name in LOADED:
    importlib.import_module(f"cloudinit.{name}")
be_unique(wait_for_seed())
stages = socket.socket(socket.AF_UNIX)
stages.bind(STAGES)
stages.listen()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
arguments: list[str] = []
while arguments[:1] != ["modules"]:
    request, _ = stages.accept()
    arguments = request.recv(1000).decode().split()
    request.sendall(b"%d" % run_stage(arguments))
    request.close()
os.unlink(STAGES)
PYTHON
cat >/usr/local/lib/labctl/cloud-init <<'SCRIPT'
#!/bin/sh
[ -S /run/labctl-stages ] || exec /usr/bin/cloud-init "$@"
exit "$(echo "$@" | nc -U -N /run/labctl-stages)"
SCRIPT
chmod 755 /usr/local/lib/labctl/*
cat >/etc/systemd/system/labctl-identity.service <<'UNIT'
[Unit]
Description=Wait for an identity
ConditionKernelCommandLine=labctl.identity=later
After=basic.target
Before=cloud-init-local.service network-pre.target

[Service]
Type=notify
NotifyAccess=all
RemainAfterExit=yes
ExecStart=/usr/local/lib/labctl/identity
KillMode=process
TimeoutStartSec=infinity
TasksMax=infinity
StandardOutput=journal+console

[Install]
WantedBy=cloud-init.target
UNIT
systemctl enable labctl-identity.service 2>/dev/null
# Nothing in the basic system waits for cloud-init, so all of it can be up before the machine knows who it is. That it
# is disabled, as it is after the first boot, its generator would find out, which does not run.
for unit in cloud-init-local cloud-init cloud-final; do
    sed -e '/^Before=sysinit.target/d' -e '/^\[Unit\]/a ConditionPathExists=!/etc/cloud/cloud-init.disabled' \
        -e 's|/usr/bin/cloud-init|/usr/local/lib/labctl/cloud-init|' \
        "/lib/systemd/system/$unit.service" >"/etc/systemd/system/$unit.service"
done

# All generators run at each daemon-reload, for three seconds under TCG. What they would come to is written down.
mkdir -p /etc/systemd/system-generators
for generator in /lib/systemd/system-generators/*; do
    name=$(basename "$generator")
    if [ "$name" != systemd-fstab-generator ]; then ln -s /dev/null "/etc/systemd/system-generators/$name"; fi
done
systemctl add-wants multi-user.target cloud-init.target rc-local.service 2>/dev/null
systemctl add-wants getty.target serial-getty@ttyS0.service 2>/dev/null

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
$b mount -t ext4 -o rw,noatime /dev/vda /new || exec $b sh </dev/console >/dev/console 2>&1
exec $b switch_root /new /sbin/init
INIT
chmod 755 "$tree/init"
(cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null | zstd -q -9 >/boot/initrd.img)
rm -rf "$tree" /boot/initrd.img-*

dpkg-query -W -f '${Package} ${Version}\n' >/packages.txt

# A package that is installed is not downloaded as a dependency, so it is asked for by name.
mkdir -p /repository
cd /repository
apt-get install -q -y --no-install-recommends --download-only -o Dir::Cache::archives=/repository $media
apt-get download -q $media
rm -rf lock partial
apt-ftparchive packages . >Packages
apt-ftparchive release . >/tmp/Release && mv /tmp/Release Release
cd /
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
    mv "$1/root/boot/initrd.img" "$1/root/packages.txt" "$1/root/repository" "$1/"
    mke2fs -q -t ext4 -O ^has_journal -m 0 -L media -d "$1/repository" "$1/media.img" \
        "$(($(du -sk "$1/repository" | cut -f1) * 12 / 10 + 2048))k"
    # What the build used is nobody else'"'"'s business, and could not be reached from a lab.
    rm -f "$1/root/etc/resolv.conf"
    : >"$1/root/etc/apt/sources.list"
    mke2fs -q -t ext4 -L root -d "$1/root" -E lazy_itable_init=0,lazy_journal_init=0 "$1/disk.raw" "$2"
' build "$work" "$disk_size"
qemu-img convert -O qcow2 "$work/disk.raw" "$out/disk.qcow2"
cp "$work/vmlinuz" "$work/initrd.img" "$work/packages.txt" "$work/media.img" "$out/"
echo labctl.identity=later >"$out/waiting_args"
