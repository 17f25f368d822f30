#!/bin/sh
# Makes the golden centos-7 image of CentOS 7 GenericCloud: everything the course uses is in it, switched off.
#
# Runs in the machine that builds; what it finds and leaves is in customise.sh. It was written where no CentOS could be
# had: labctl names the step that fails.
# shellcheck disable=SC2086 # Lists of names are words.
# shellcheck source=cloud-init/images/customise.sh
. "$(dirname "$0")/customise.sh"

packages="
  ipvsadm keepalived haproxy nginx httpd ntp ntpdate
  curl tcpdump iputils net-tools nmap-ncat traceroute ethtool bind-utils
  iptables ipset conntrack-tools psmisc procps-ng less nano vim-minimal
  libtool-ltdl perl-TimeDate yum-utils"
# What can be installed from the media: the course's own packages, and what it installs by hand.
media="ipvsadm keepalived haproxy nginx httpd ntp ntpdate gcc make lrzsz"
tools="
  bash coreutils gcc make autoconf automake libtool libtool-ltdl-devel pkgconfig which gettext bison flex
  glib2-devel libxml2-devel bzip2 bzip2-devel libuuid-devel zlib-devel gnutls-devel ncurses-devel pam-devel
  python-devel perl rpm-build createrepo net-tools iputils shadow-utils systemd"

# The services that a lab switches on itself, and what only costs time in a guest that lives for an hour.
services="
  ipvsadm keepalived haproxy nginx httpd ntpd ntpdate heartbeat logd
  chronyd firewalld NetworkManager postfix kdump tuned rpcbind.service rpcbind.socket nfs-client.target"

# As Debian publishes them, with the sums in its signed descriptions of the source packages (heartbeat_3.0.6-13.dsc and
# cluster-glue_1.0.12-21.dsc). The first is the same file as 958e11be8686.tar.bz2 of hg.linux-ha.org. The agents' sum is
# that of Gentoo's signed Manifest of sys-cluster/resource-agents (February 2015).
sources=https://deb.debian.org/debian/pool/main
heartbeat_sha256=851d2add2c129fef9fede764fec80229e1f6e7295e0e979950d10258648b462c
glue_sha256=23dc0854e6adaf61ba18930018a769a38530543683a39960f245e9ee6f13b4e5
agents=https://github.com/ClusterLabs/resource-agents/archive/v3.9.6.tar.gz
agents_sha256=39722cdee68ff96d06788f05f325bd21ec2fc59c59d847e5e4b23c6df23bf678

# NAME URL KEY [OPTION=VALUE]...: a package repository.
repository() {
    name=$1 url=$2 key=$3
    shift 3
    { printf '[%s]\nname=%s\nbaseurl=%s\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-%s\n' \
          "$name" "$name" "$url" "$key"
      for option in "$@"; do echo "$option"; done
    } | write "/etc/yum.repos.d/$name.repo"
}

step 'Use the repositories of 7.9.2009, which are no longer where the image looks for them'
run rm -f /etc/yum.repos.d/*.repo
optional=
if [ "${ISO:-}" ]; then
    run mkdir -p "$work/iso"
    run mount -o ro "$ISO" "$work/iso"
    repository disc "file://$work/iso" CentOS-7 cost=1
    optional=skip_if_unavailable=1
fi
for name in os updates extras; do
    repository "$name" "${MIRROR%/}/7.9.2009/$name/x86_64/" CentOS-7 $optional
done
run yum -y -q install epel-release
run rm -f /etc/yum.repos.d/epel*.repo
repository epel https://archives.fedoraproject.org/pub/archive/epel/7/x86_64/ EPEL-7

step "Install the course's packages"
run yum -y install $packages
# yum goes on without those that it does not find.
run rpm -q $packages

# In a system of its own, so that no compiler and no header gets into the image.
step 'Install what builds heartbeat'
chroot=$work/build
run mkdir -p "$chroot/dev" "$chroot/proc" "$chroot/rpm/SOURCES" "$chroot/rpm/SPECS"
run yum -y --installroot="$chroot" --releasever=7 --setopt=reposdir=/etc/yum.repos.d install $tools
run chroot "$chroot" rpm -q $tools
run mount --bind /dev "$chroot/dev"
run mount -t proc proc "$chroot/proc"
run chroot "$chroot" groupadd -r haclient
run chroot "$chroot" useradd -r -g haclient -d /var/lib/heartbeat/cores/hacluster -s /sbin/nologin hacluster

step 'Fetch the sources of heartbeat'
fetch "$sources/c/cluster-glue/cluster-glue_1.0.12.orig.tar.bz2" "$glue_sha256" "$chroot/rpm/SOURCES/cluster-glue.tar.bz2"
fetch "$agents" "$agents_sha256" "$chroot/rpm/SOURCES/resource-agents.tar.gz"
fetch "$sources/h/heartbeat/heartbeat_3.0.6.orig.tar.bz2" "$heartbeat_sha256" "$chroot/rpm/SOURCES/heartbeat.tar.bz2"

# What they have in common: libraries are all they require, and all that is installed is in the package, manual pages
# and Python modules under any suffix.
write "$chroot/rpm/common.inc" <<'SPEC'
%global debug_package %{nil}
%global __requires_exclude ^(/|perl|python)
%global flags --enable-fatal-warnings=no --disable-static --with-daemon-user=hacluster --with-daemon-group=haclient
SPEC
write "$chroot/rpm/list" <<'SCRIPT'
cd "$1"
find . \( -type f -o -type l -o -type d -empty \) | sed -e 's,^\.,,' -e '/\/man\//s,$,*,' -e '/\.py$/s,$,*,' -e 's,.*,"&",'
SCRIPT

write "$chroot/rpm/SPECS/cluster-glue.spec" <<'SPEC'
%include /rpm/common.inc
Name: cluster-glue
Version: 1.0.12
Release: 1.labctl
Summary: What heartbeat shares with other cluster programs
License: GPLv2+ and LGPLv2+
Source0: cluster-glue.tar.bz2
Requires: perl python perl-TimeDate
Requires(pre): shadow-utils
%description
Libraries and tools for messaging, logging and plugins.
%prep
%setup -q -n cluster-glue_1.0.12.orig
%build
./autogen.sh
%configure %{flags} --localstatedir=%{_var} --with-systemdsystemunitdir=%{_unitdir} LIBS=-luuid
make
%install
make install DESTDIR=%{buildroot}
find %{buildroot} -name '*.la' -delete
rm -rf %{buildroot}%{_var}/run
sh /rpm/list %{buildroot} >files
%pre
getent group haclient >/dev/null || groupadd -r haclient
getent passwd hacluster >/dev/null ||
    useradd -r -g haclient -d %{_var}/lib/heartbeat/cores/hacluster -s /sbin/nologin hacluster
%post -p /sbin/ldconfig
%postun -p /sbin/ldconfig
%files -f files
%defattr(-,root,root)
SPEC

write "$chroot/rpm/SPECS/resource-agents.spec" <<'SPEC'
%include /rpm/common.inc
Name: resource-agents
Version: 3.9.6
Release: 1.labctl
Summary: Scripts that start and stop what machines take over from each other
License: GPLv2+ and LGPLv2+
Source0: resource-agents.tar.gz
Requires: cluster-glue iproute iputils psmisc perl
%description
Scripts for the Open Cluster Framework, such as IPaddr2, which holds an address.
%prep
%setup -q
# Elsewhere its version is that of its git repository.
echo %{version} >.tarball-version
%build
./autogen.sh
%configure %{flags} --localstatedir=%{_var} --with-ras-set=linux-ha
make
%install
make install DESTDIR=%{buildroot}
rm -rf %{buildroot}%{_var}/run
mkdir -p %{buildroot}%{_prefix}/lib/tmpfiles.d
echo 'd /run/resource-agents 1755 root root -' >%{buildroot}%{_prefix}/lib/tmpfiles.d/resource-agents.conf
sh /rpm/list %{buildroot} >files
%files -f files
%defattr(-,root,root)
SPEC

write "$chroot/rpm/SPECS/heartbeat.spec" <<'SPEC'
%include /rpm/common.inc
Name: heartbeat
Version: 3.0.6
Release: 1.labctl
Summary: Messaging and membership for two machines that share an address
License: GPLv2 and LGPLv2+
Source0: heartbeat.tar.bz2
Requires: cluster-glue resource-agents iproute iputils psmisc perl python
%description
Machines that tell each other that they live, and take over what the other one held.
%prep
%setup -q -n Heartbeat-3-0-958e11be8686
%build
./bootstrap
%configure %{flags} --localstatedir=%{_var} LIBS=-luuid
# Without the manual pages, which it would make in any case: with an xsltproc to make them the other two would make
# documents as well.
make man_MANS=
%install
make install man_MANS= DESTDIR=%{buildroot}
find %{buildroot} -name '*.la' -delete
# The unit takes the place of the script, and /run is empty at each boot.
rm -rf %{buildroot}%{_var}/run %{buildroot}%{_sysconfdir}/init.d %{buildroot}%{_sysconfdir}/rc.d/init.d
mkdir -p %{buildroot}%{_unitdir} %{buildroot}%{_prefix}/lib/tmpfiles.d
cat >%{buildroot}%{_unitdir}/heartbeat.service <<'UNIT'
[Unit]
Description=heartbeat: who lives, and who holds what
After=network.target syslog.target

[Service]
Type=forking
PIDFile=/var/run/heartbeat.pid
ExecStart=%{_libexecdir}/heartbeat/heartbeat
ExecStop=%{_libexecdir}/heartbeat/heartbeat -k
KillMode=process
TimeoutStopSec=120

[Install]
WantedBy=multi-user.target
UNIT
cat >%{buildroot}%{_prefix}/lib/tmpfiles.d/heartbeat.conf <<'DIRECTORIES'
d /run/heartbeat 0755 root root -
d /run/heartbeat/ccm 0750 hacluster haclient -
d /run/heartbeat/dopd 0750 hacluster haclient -
d /run/heartbeat/rsctmp 1755 root root -
DIRECTORIES
sh /rpm/list %{buildroot} >files
%post -p /sbin/ldconfig
%postun -p /sbin/ldconfig
%files -f files
%defattr(-,root,root)
SPEC

for package in cluster-glue resource-agents heartbeat; do
    step "Build and install $package"
    run chroot "$chroot" rpmbuild -bb --define '_topdir /rpm' "/rpm/SPECS/$package.spec"
    run chroot "$chroot" sh -c "rpm -i --nodeps /rpm/RPMS/x86_64/$package-*.rpm"
    # Two headers define the same; heartbeat's wins.
    shell "sed -i '/define HA_HBCONF_DIR/d' $chroot/usr/include/heartbeat/glue_config.h"
    shell "yum -y install $chroot/rpm/RPMS/x86_64/$package-*.rpm"
done

step 'Make the package repository of the media disk'
run mkdir -p "$chroot/repository"
run yumdownloader --resolve --archlist=x86_64 --destdir="$chroot/repository" $media
shell "cp $chroot/rpm/RPMS/x86_64/*.rpm $chroot/repository"
for package in $media; do shell "ls $chroot/repository/$package-[0-9]*"; done
run chroot "$chroot" createrepo -q /repository
run mv "$chroot/repository" "$out/repository"
run umount "$chroot/proc" "$chroot/dev"

step 'Switch services off, and SELinux, which the course does without'
switch_off $services
run systemctl enable network
# Disabled, not permissive: labels cost each boot and each setsebool time, and nobody reads what it would refuse.
run sed -i 's/^SELINUX=.*/SELINUX=disabled/' /etc/selinux/config

step 'Have network interfaces called as in the course, and root on the serial console'
# The image's kernel has its console there already.
run grubby --update-kernel=ALL --remove-args='rhgb quiet crashkernel' --args='net.ifnames=0 biosdevname=0'
write /etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --wait-cr --keep-baud 115200,38400,9600 %I $TERM
UNIT

step 'Wait for nothing that a lab does not have: no DNS, no DHCP, no cloud'
shell "sed -i -e '/^#*UseDNS/d' -e '/^#*GSSAPIAuthentication/d' /etc/ssh/sshd_config"
shell "sed -i -e '1i UseDNS no' -e '1i GSSAPIAuthentication no' /etc/ssh/sshd_config"
write /etc/cloud/cloud.cfg.d/90-labctl.cfg <<'CLOUD'
datasource_list: [NoCloud]
CLOUD
shell 'rm -f /etc/sysconfig/network-scripts/ifcfg-eth* /etc/udev/rules.d/70-persistent-net.rules'

only_media
seal
