"""Commands for images and their bases."""

from pathlib import Path
from typing import Annotated

import typer

from labctl.base import config, paths
from labctl.cli import display
from labctl.cli.common import (
    DataOutput,
    Output,
    OutputOption,
    command,
    err,
    image_app,
    out,
    print_data,
)
from labctl.images import bases, store
from labctl.labs import rewind
from labctl.plan import guests

MirrorOption = Annotated[str | None, typer.Option(
    "--mirror", envvar="LABCTL_MIRROR", metavar="URL", show_default=False,
    help="The package mirror to build from instead of the distributor's own.")]


@command(None, "labctl image list", name="list", of=image_app)
def image_list(output: OutputOption = Output.table) -> None:
    """List the images in the store, and the bases that images are made from."""
    images, pulled = store.images(), bases.bases()
    if output is not Output.table:
        print_data([*({"image": image.name, "kind": "image", "digest": image.manifest.digest,
                  "built": image.manifest.built.isoformat(), "size": image.size} for image in images),
               *({"image": base.manifest.guest, "kind": "base", "digest": base.manifest.sha256,
                  "added": base.manifest.added.isoformat(), "size": base.manifest.size,
                  "verified": base.manifest.verified, "origin": base.manifest.origin} for base in pulled)], output)
    elif images or pulled:
        display.table(out, ["IMAGE", "KIND", "DIGEST", "DATE", "SIZE"], [
            *([image.name, "image", image.manifest.digest[:12], f"{image.manifest.built:%Y-%m-%d %H:%M}",
               display.size(image.size)] for image in images),
            *([base.manifest.guest, _kind(base), base.manifest.sha256[:12], f"{base.manifest.added:%Y-%m-%d %H:%M}",
               display.size(base.manifest.size)] for base in pulled)])
    else:
        err.print(f"There are no images. 'labctl image build {guests.buildable().name}' builds one.")


@command(None, "labctl image build debian-12", name="build", of=image_app)
def image_build(
    name: Annotated[str, typer.Argument(help="A guest.", autocompletion=guests.names, show_default=False)],
    mirror: MirrorOption = None,
    iso: Annotated[Path | None, typer.Option(
        "--iso", envvar="LABCTL_ISO", metavar="FILE", show_default=False,
        help="An installation disc to install from; what it lacks comes from the mirror.")] = None,
) -> None:
    """Build a guest's image, from packages alone or from a base that was pulled or imported; needs no root."""
    guest = guests.load(name)
    log = paths.cache() / f"build-{name}.log"
    # The mirror in the settings is a Debian mirror.
    mirror = mirror or (config.load().mirror if guest.family == "debian" else None)
    with err.status(f"Building {name}; the log is {log}"):
        image = store.build(guest, mirror, log, list(rewind.images_in_use()), iso,
                            lambda text: err.print(text, markup=False))
    err.print(f"Built {name}: {display.size(image.size)}, {len(image.manifest.packages)} packages.", markup=False)


@command(None, "labctl image pull centos-7", name="pull", of=image_app)
def image_pull(
    name: Annotated[str, typer.Argument(metavar="GUEST", help="A guest.", autocompletion=guests.names,
                                        show_default=False)],
    mirror: Annotated[str | None, typer.Option(
        "--mirror", envvar="LABCTL_PULL_MIRROR", metavar="URL", show_default=False,
        help="A copy of the distributor's directory to pull from instead, as in the README.")] = None,
) -> None:
    """Download and verify the distributor's image of a guest, the base that its image is made from."""
    guest = guests.load(name)
    with display.LiveTransfer(err) if err.is_terminal else display.PlainTransfer(err) as transfer:
        base = bases.pull(guest, mirror, transfer)
    _say_base(base)


@command(None, "labctl image import centos-7 CentOS-7-x86_64-GenericCloud-2009.qcow2", name="import",
         of=image_app)
def image_import(
    name: Annotated[str, typer.Argument(metavar="GUEST", help="A guest.", autocompletion=guests.names,
                                        show_default=False)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A qcow2 image; it is copied.", show_default=False)],
    unverified: Annotated[bool, typer.Option(
        "--unverified", help="Import it whatever its sha256 is; the base is marked as unverified.")] = False,
) -> None:
    """Import a file of yours as the base of a guest's image."""
    guest = guests.load(name)
    with err.status(f"Copying {file}"):
        base = bases.import_(guest, file, unverified)
    _say_base(base)


def _say_base(base: bases.Base) -> None:
    said = base.manifest
    err.print(f"The {_kind(base)} of '{said.guest}' is {base.disk} ({display.size(said.size)}, sha256 {said.sha256}).",
              markup=False, soft_wrap=True)


def _kind(base: bases.Base) -> str:
    return "base" if base.manifest.verified else "unverified base"


@command(None, "labctl image inspect debian-12", name="inspect", of=image_app)
def image_inspect(
    name: Annotated[str, typer.Argument(help="An image.", show_default=False)],
    output: Annotated[DataOutput, typer.Option("--output", "-o", help="How to print it.")] = DataOutput.yaml,
) -> None:
    """Show what is in an image, and what it was made from."""
    image = store.find(name)
    print_data({"version": 1, "image": name, "digest": image.manifest.digest, "path": str(image.path),
           **image.manifest.model_dump(mode="json")}, output)


@command(None, "labctl image rm centos-7", name="rm", of=image_app)
def image_rm(name: Annotated[str, typer.Argument(help="An image.", show_default=False)]) -> None:
    """Remove a guest's image from the store; if there is none, its base, and what is left of a pull that broke off."""
    if not store.exists(name) and bases.remove(name):
        err.print(f"The base of '{name}' is gone.", markup=False)
        return
    digest = store.find(name).manifest.digest
    store.remove(name, rewind.images_in_use().get(digest, []))
    kept = f" Its base is kept; another 'labctl image rm {name}' removes it." if bases.exists(name) else ""
    err.print(f"The image '{name}' is gone.{kept}", markup=False, soft_wrap=True)
