#!/bin/sh
# Stands for a recipe that makes an image of packages alone.
set -eu
echo 'Packages are installed.'
sleep 1
qemu-img create -q -f qcow2 "$1/disk.qcow2" 1M
echo kernel >"$1/vmlinuz"
echo 'curl 7.88' >"$1/packages.txt"
