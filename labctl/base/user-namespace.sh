#!/bin/sh
# Runs a program as root of a new user namespace. Its standard input is a socket: once the namespace exists, this script
# writes a line there and waits for one, which its parent writes after it has given the namespace its ids.
#
#   user-namespace.sh MACHINES PROGRAM [ARGUMENT]...
#
# MACHINES is the user id, outside the namespace, that machines run as; 0 if it is the caller's own.
# This is a separate file so that security modules can tell it from other programs: see docs/security.md.
set -eu
machines=$1
shift
enter='echo >&0 && read -r _ && exec "$@" </dev/null'

if [ "$machines" = 0 ] || [ ! -c /dev/kvm ]; then
    exec unshare --user sh -c "$enter" sh "$@"
fi

# Root's machines run as a user that may open no device, so they get a /dev/kvm of their own. Where none can be created,
# as in many containers, they see the existing one.
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
