#!/bin/sh
# Runs a program as root of a user namespace. From in there it says at its standard input, a socket, that the namespace
# is made, and waits until somebody outside has given it its ids and answers.
#
#   user-namespace.sh MACHINES PROGRAM [ARGUMENT]...
#
# MACHINES is the user that machines run as, by the number it has outside, where that is not whoever runs this; else 0.
# A file of its own, so that security modules can tell it from other programs: see docs/security.md.
set -eu
machines=$1
shift
enter='echo >&0 && read -r _ && exec "$@" </dev/null'

if [ "$machines" = 0 ] || [ ! -c /dev/kvm ]; then
    exec unshare --user sh -c "$enter" sh "$@"
fi

# Root's machines run as a user that may open no device, so they see a /dev/kvm of their own. Where none can be made, as
# in many containers, they see the one that is there.
# shellcheck disable=SC2016
exec unshare --mount --propagation private sh -c '
    enter=$0 machines=$1
    shift
    if mount -t tmpfs labctl /tmp; then
        if mknod -m 600 /tmp/kvm c $(stat -c "0x%t 0x%T" /dev/kvm) && chown "$machines" /tmp/kvm; then
            mount --bind /tmp/kvm /dev/kvm
        fi
        umount /tmp
    fi 2>/dev/null
    exec unshare --user sh -c "$enter" sh "$@"
' "$enter" "$machines" "$@"
