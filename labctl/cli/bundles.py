"""Commands for bundles."""

from pathlib import Path
from typing import Annotated

import typer

from labctl.base.errors import LabError
from labctl.cli import display
from labctl.cli.common import bundle_app, command, err, topology_names
from labctl.images import bundle, store
from labctl.labs import rewind
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
) -> None:
    """Pack images, topologies and labctl itself for a machine without a network."""
    names = images or [image.name for image in store.images()]
    if not names:
        raise LabError("There are no images to pack.",
                       hint=f"'labctl image build {guests.buildable().name}' builds one.")
    files = [catalog.find(wanted) for wanted in topologies or []]
    with err.status(f"Packing {file}"):
        contents = bundle.create(file, list(dict.fromkeys(names)), files, overwrite)
    err.print(f"'{file}' ({display.size(file.stat().st_size)}) has {_said(contents)}. On the other machine:\n"
              f"  tar xf {file.name} install.sh\n  sh install.sh {file.name}", markup=False, soft_wrap=True)


@command(None, "labctl bundle load course.tar", name="load", of=bundle_app)
def bundle_load(
    file: FileArgument,
    overwrite: Annotated[bool, typer.Option(
        "--overwrite", help="Replace topologies of yours that have the same name and differ.")] = False,
) -> None:
    """Check a bundle, and add its images to the store and its topologies to yours."""
    with err.status(f"Reading {file}"):
        contents = bundle.load(file, list(rewind.images_in_use()), overwrite)
    err.print(f"Loaded {_said(contents)}.", markup=False, soft_wrap=True)


def _said(contents: bundle.Contents) -> str:
    images = ", ".join(f"{guest} ({manifest.digest[:12]})" for guest, manifest in contents.images.items())
    topologies = f" and the topologies {', '.join(contents.topologies)}" if contents.topologies else ""
    return f"the images {images}{topologies}, of labctl {contents.labctl}"
