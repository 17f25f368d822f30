"""Commands for bundles."""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from labctl.base.errors import LabError
from labctl.cli import display
from labctl.cli.common import bundle_app, command, err, topology_names
from labctl.images import bundle, store
from labctl.labs import record, rewind
from labctl.language import catalog
from labctl.plan import guests

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The bundle, a tar file.", show_default=False)]


@command(None, "labctl bundle create course.tar --image debian-12 --topology ./exam.yaml", name="create",
         of=bundle_app)
def bundle_create(
    file: FileArgument,
    images: Annotated[list[str] | None, typer.Option(
        "--image", metavar="GUEST", help="Only this image; may be repeated. By default all of the store.",
        autocompletion=guests.names, show_default=False)] = None,
    topologies: Annotated[list[str] | None, typer.Option(
        "--topology", metavar="TOPOLOGY", help="A topology of yours, by file or name; may be repeated. Shipped ones "
        "are part of labctl.", autocompletion=topology_names, show_default=False)] = None,
    checkpoints: Annotated[list[str] | None, typer.Option(
        "--checkpoint", metavar="LAB/NAME", help="A checkpoint of yours, for machines of the same kind; may be "
        "repeated.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
) -> None:
    """Pack images, topologies and labctl itself for a machine without a network."""
    names = images or [image.name for image in store.images()]
    if not names:
        raise LabError("There are no images to pack.",
                       hint=f"'labctl image build {guests.buildable().name}' builds one.")
    files = [catalog.find(wanted) for wanted in topologies or []]
    digests = {store.find(name).manifest.digest for name in names}
    kept = {wanted: _kept(wanted, digests) for wanted in checkpoints or []}
    with err.status(f"Packing {file}"):
        contents = bundle.create(file, list(dict.fromkeys(names)), files, overwrite, kept)
    err.print(f"'{file}' ({display.size(file.stat().st_size)}) has {_said(contents)}. On the other machine:\n"
              f"  tar xf {file.name} install.sh\n  sh install.sh {file.name}", markup=False, soft_wrap=True)


@command(None, "labctl bundle load course.tar", name="load", of=bundle_app)
def bundle_load(
    file: FileArgument,
    overwrite: Annotated[bool, typer.Option(
        "--overwrite", help="Replace topologies and checkpoints of yours that have the same name and differ.")] = False,
) -> None:
    """Check a bundle, and add its images to the store and its topologies and checkpoints to yours."""
    with err.status(f"Reading {file}"):
        contents = bundle.load(file, list(rewind.images_in_use()), overwrite, rewind.receiving)
    err.print(f"Loaded {_said(contents)}.", markup=False, soft_wrap=True)


def _said(contents: bundle.Contents) -> str:
    images = ", ".join(f"{guest} ({manifest.digest[:12]})" for guest, manifest in contents.images.items())
    topologies = f" and the topologies {', '.join(contents.topologies)}" if contents.topologies else ""
    checkpoints = f" and the checkpoints {', '.join(contents.checkpoints)}" if contents.checkpoints else ""
    return f"the images {images}{topologies}{checkpoints}, of labctl {contents.labctl}"


def _kept(wanted: str, digests: Collection[str]) -> tuple[Path, datetime]:
    """A checkpoint to pack, whose image has to be one of those that are packed, as its directory and its time."""
    lab, slash, name = wanted.partition("/")
    if not slash:
        raise LabError(f"'{wanted}' names no checkpoint.", hint="LAB/NAME does; 'labctl checkpoint list' shows both.")
    record.check_name(lab)
    home, saved = rewind.find(lab, name)
    if saved.key["image"] not in digests:
        raise LabError(f"The checkpoint '{name}' of the lab '{lab}' is of an image that is not packed.",
                       hint="'labctl image list' shows the digests of images; one that was built anew is another one.")
    return home, saved.made
