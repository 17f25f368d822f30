#!/bin/sh
# Installs labctl from a bundle, without a network, and loads the bundle's images and topologies.
#
#   sh install.sh BUNDLE [DIRECTORY]      labctl goes to DIRECTORY, by default ~/.local/share/labctl/venv
#
# Can be run again, also with a newer bundle.
set -eu

die() { printf 'install.sh: %s\n            %s\n' "$1" "$2" >&2; exit 2; }

[ $# -ge 1 ] || die 'The bundle is not named.' 'sh install.sh BUNDLE [DIRECTORY]'
bundle=$1
home=${2:-${XDG_DATA_HOME:-$HOME/.local/share}/labctl/venv}
[ -f "$bundle" ] || die "There is no file '$bundle'." 'sh install.sh BUNDLE [DIRECTORY]'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! { tar -xf "$bundle" -C "$work" manifest.json SHA256SUMS wheels &&
    (cd "$work" && sha256sum -c --quiet SHA256SUMS); }; then
    die "'$bundle' is damaged, or not a bundle of labctl." 'Copy it again from where it was made.'
fi

# Some of the wheels are compiled for one version of Python.
python=python$(sed -n 's/^  "python": "\(.*\)",$/\1/p' "$work/manifest.json")
command -v "$python" >/dev/null ||
    die "The bundle is for $python, which is not installed." "Make the bundle on a machine with this one's Python."
"$python" -m venv "$home" ||
    die "$python could not make a virtual environment in '$home'." \
        "On Debian and Ubuntu it needs the package $python-venv."
home=$(cd "$home" && pwd)
"$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$work/wheels" \
    --force-reinstall cluster-labctl

"$home/bin/labctl" bundle load "$bundle"

# A topology that names no guest uses labctl's default guest, whose image may not be in the bundle.
config=${XDG_CONFIG_HOME:-$HOME/.config}/labctl/config.yaml
default=$("$home/bin/python" -c 'from labctl.plan import guests; print(guests.DEFAULT)')
if ! grep -qs '^guest:' "$config" && ! "$home/bin/labctl" image inspect "$default" >/dev/null 2>&1; then
    guest=$("$home/bin/python" -c 'import json, sys; print(next(iter(json.load(sys.stdin)["images"])))' \
        <"$work/manifest.json")
    mkdir -p "$(dirname "$config")"
    echo "guest: $guest" >>"$config"
    echo "There is no image of $default, so labs use $guest: 'guest: $guest' is now in $config." >&2
fi

cat >&2 <<END
labctl is installed: $home/bin/labctl. Next:
  PATH=$home/bin:\$PATH             have the shell find it (a line for ~/.profile)
  labctl doctor                  what is missing on this machine
  labctl list --topologies       what can be started
  labctl up NAME                 start it
END
