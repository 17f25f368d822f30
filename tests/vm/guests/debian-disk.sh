#!/bin/sh
# Makes an image of the disk in tests/vm/disk_image.py, as the recipes in cloud-init/images do of distributors'.
# shellcheck source=cloud-init/images/customise.sh
. "$(dirname "$0")/customise.sh"

step 'Install from the mirror'
write /etc/apt/sources.list <<SOURCES
deb [trusted=yes] $MIRROR ./
SOURCES
run apt-get -q update
run apt-get -q -y install labctl-greeting

step 'Make the package repository'
run mkdir "$out/repository"
run cp -r /var/cache/apt/archives/. "$out/repository"
shell "cd $out/repository; rm -rf lock partial; apt-get download -q labctl-greeting; apt-ftparchive packages . >Packages"
shell "dpkg-query -W -f '\${Package} \${Version}\n' >$out/packages.txt"

run rm -f /etc/network/interfaces.d/50-cloud-init
seal
