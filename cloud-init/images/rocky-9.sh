#!/bin/sh
# Makes the golden rocky-9 image of Rocky Linux 9 GenericCloud: everything the labs use is in it, switched off.
#
# Runs in the machine that builds; what it finds and leaves is in customise.sh. It was written where no Rocky Linux could
# be had: labctl names the step that fails.
# shellcheck disable=SC2086 # Lists of names are words.
# shellcheck source=cloud-init/images/customise.sh
. "$(dirname "$0")/customise.sh"

packages="
  ipvsadm keepalived haproxy nginx httpd
  curl tcpdump iputils net-tools nmap-ncat traceroute ethtool bind-utils
  iptables-nft ipset conntrack-tools psmisc procps-ng less nano vim-minimal python3
  createrepo_c dnf-plugins-core"
# What can be installed from the media: the labs' own packages, and what is installed by hand.
media="ipvsadm keepalived haproxy nginx httpd gcc make lrzsz"

# The services that a lab switches on itself, and what only costs time in a guest that lives for an hour. NetworkManager
# stays, as nothing else here sets addresses.
services="ipvsadm keepalived haproxy nginx httpd chronyd firewalld kdump rpcbind.service rpcbind.socket dnf-makecache.timer"

step 'Use the repositories by their own addresses, not by lists of mirrors'
run rm -f /etc/yum.repos.d/*.repo
for name in BaseOS AppStream extras; do
    write "/etc/yum.repos.d/$name.repo" <<REPOSITORY
[$name]
name=$name
baseurl=${MIRROR%/}/pub/rocky/9/$name/x86_64/os/
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9
REPOSITORY
done

step 'Install the packages of the labs'
# curl takes the place of the curl-minimal that the image may have.
run dnf -y install --allowerasing $packages

step 'Make the package repository of the media disk'
run mkdir -p "$out/repository"
run dnf -y download --resolve --arch x86_64,noarch --destdir="$out/repository" $media
for package in $media; do shell "ls $out/repository/$package-[0-9]*"; done
run createrepo_c -q "$out/repository"

step 'Switch services off, and SELinux, which the labs do without'
switch_off $services
# By the kernel's argument: since Enterprise Linux 9 the configuration file alone leaves half of it on.
run sed -i 's/^SELINUX=.*/SELINUX=disabled/' /etc/selinux/config

step 'Have network interfaces called as in the labs, and root on the serial console'
run grubby --update-kernel=ALL --remove-args='rhgb quiet crashkernel' \
    --args='selinux=0 net.ifnames=0 biosdevname=0 console=ttyS0'
write /etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --wait-cr --keep-baud 115200,57600,38400,9600 - $TERM
UNIT

step 'Wait for nothing that a lab does not have: no DNS, no DHCP, no cloud'
write /etc/ssh/sshd_config.d/10-labctl.conf <<'SSHD'
UseDNS no
GSSAPIAuthentication no
SSHD
write /etc/cloud/cloud.cfg.d/90-labctl.cfg <<'CLOUD'
datasource_list: [NoCloud]
CLOUD
write /etc/NetworkManager/conf.d/labctl.conf <<'MANAGER'
[main]
no-auto-default=*
MANAGER
shell 'rm -f /etc/sysconfig/network-scripts/ifcfg-eth* /etc/NetworkManager/system-connections/*'

only_media
seal
