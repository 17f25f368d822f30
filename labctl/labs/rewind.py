"""Saving labs and going back to a user's checkpoint, or to the configured one that `up` makes of a lab that serves."""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias
from uuid import UUID

from labctl.base import files, paths
from labctl.base.each import of_each
from labctl.base.errors import LabError
from labctl.base.machine import processor
from labctl.base.progress import Progress, Silent
from labctl.base.suggest import did_you_mean
from labctl.base.types import NAME_PATTERN
from labctl.images import store
from labctl.labs.lab import Lab, labs, locked, names
from labctl.labs.record import remains
from labctl.machines import keys
from labctl.machines.host import Ability
from labctl.machines.memory import checkpoint, hold, template
from labctl.machines.memory.checkpoint import Checkpoint
from labctl.plan import seed
from labctl.plan.domain import Disks, domain_xml
from labctl.plan.plan import Plan, PlannedNode
from labctl.plan.seed import KeyPair, Keys

Source: TypeAlias = tuple[Path, Checkpoint]
"""A checkpoint's directory, and the checkpoint."""
_ANY_INSTANCE = UUID(int=0)
"""Stands for the instance in digests, since saved machines go on in any instance of a lab."""
CONFIGURED = "configured"
"""The name of the checkpoint that `up` makes when a lab first serves."""
_GLANCE_SECONDS = 2
"""For each gate of a lab that should be ready already."""
_KEPT_GIB = 10
"""How much the cache keeps of configured checkpoints; each takes 0.2 to 0.3 GiB per node."""


def save_as(lab: Lab, name: str, note: str, progress: Progress, *, exercise: bool = False) -> str:
    """Save the lab as it is now as a user's checkpoint. Raises LabError, also if the name is taken.

    The lab may be broken. Returns why it does not serve, or "" if it does. A lab that is restored from an `exercise`
    does not tell what is wrong with it, and what is saved of such a lab is an exercise, too.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise LabError(f"'{name}' cannot be the name of a checkpoint.",
                       hint="A name has letters, digits and hyphens, such as 'before-exam-2'.")
    if name == CONFIGURED:
        raise LabError(f"'{CONFIGURED}' is the name of the checkpoint that 'labctl up' makes.",
                       hint="Choose another one.")
    lab.host.must(Ability.save)
    home = paths.checkpoints(lab.name) / name
    with locked(lab.name):
        if lab.held:
            raise LabError(f"The lab '{lab.name}' was held still to be saved when labctl ended.",
                           hint=f"'labctl up {lab.name}' lets it go on.")
        if home.exists():
            raise LabError(f"The lab '{lab.name}' has a checkpoint '{name}' already.",
                           hint=f"'labctl checkpoint rm {name} --lab {lab.name}' removes it.")
        trouble = look(lab)
        late = None
        try:
            late = _save(lab, home, note, trouble, exercise=exercise or lab.record.exercise)
        finally:
            if set(lab.states().values()) == {"running"}:
                _serve_again(lab, late, trouble, progress)
        return trouble


def restore(lab: Lab, name: str, progress: Progress) -> str:
    """Put the lab back to a user's checkpoint, and wait until it serves. Raises LabError.

    The lab may have been broken when it was saved. Returns why it did not serve then, or "" if it did.
    """
    lab.host.must(Ability.save)
    with locked(lab.name):
        source = find(lab.name, name)
        _go_back(lab, source, lab.plan.nodes, progress)
    return source[1].trouble


def reset(lab: Lab, nodes: Sequence[PlannedNode], progress: Progress) -> None:
    """Put nodes, or all of the lab, back to the configured checkpoint, whatever state they are in.

    Raises LabError if there is none, and for a single node that would remember an outdated state of the others.
    """
    lab.host.must(Ability.save)
    for node in nodes if len(nodes) < len(lab.plan.nodes) else []:
        for frontend in lab.plan.frontends():
            if frontend.failover and node.name in frontend.holders:
                raise LabError(f"'{node.name}' cannot be reset alone: it shares {frontend.address} with others, "
                               "and would remember who held it then.",
                               hint=f"'labctl reset {lab.name}' resets the lab, 'labctl reboot {node.name}' "
                                    "restarts the node.")
    with locked(lab.name):
        home = _configured(lab.plan)
        saved = checkpoint.load(home)
        if saved is None:
            raise LabError(f"The lab '{lab.name}' has no configured checkpoint to go back to.",
                           hint=f"'labctl down {lab.name}', then 'labctl up' makes it anew.")
        _go_back(lab, (home, saved), nodes, progress)


def go_on(lab: Lab, progress: Progress) -> bool:
    """Let a lab's machines go on if a labctl was killed while saving them; returns False if they cannot.

    Raises LabError if the lab does not serve then.
    """
    if not lab.held:
        return True
    progress.say(f"The lab '{lab.name}' was held still to be saved when labctl ended; it goes on.")
    try:
        hold.thaw(lab.machines)
    except LabError as error:
        progress.say(f"It cannot go on: {error.message.splitlines()[0]}")
        return False
    checkpoint.forget_unfinished(lab.directory)
    try:
        _serve_again(lab, None, lab.record.trouble, progress)
    except LabError:
        hold.release(lab.directory)  # Its machines go on, though it does not serve.
        raise
    return True


class Kept(NamedTuple):
    """A checkpoint that exists."""

    home: Path
    lab: str
    name: str
    saved: Checkpoint | None
    """None if it cannot be read."""


def checkpoints(lab: str | None = None) -> list[Kept]:
    """All checkpoints of one lab, or of all labs: the user's own, and the configured ones."""
    found = [(home, home.parent.name, home.name) for home in paths.checkpoints().glob("[!.]*/[!.]*")]
    found += [(home, home.name.rpartition(".")[0], CONFIGURED) for home in paths.warm().glob("[!.]*")]
    return [Kept(home, of, name, _readable(home)) for home, of, name in sorted(found, key=lambda each: each[1:])
            if home.is_dir() and lab in (None, of)]


def remove_checkpoint(lab: str | None, name: str) -> str:
    """Remove a checkpoint, and return its lab's name. Raises LabError unless exactly one lab has such a checkpoint."""
    found = [kept for kept in checkpoints(lab) if kept.name == name]
    labs = sorted({kept.lab for kept in found})
    if len(labs) > 1:
        raise LabError(f"Several labs have a checkpoint '{name}'; say which one with --lab.",
                       hint=f"They are: {', '.join(labs)}.")
    if not labs:
        raise _no_checkpoint(lab, name)
    with locked(labs[0]):
        for kept in found:
            checkpoint.remove(kept.home)
    return labs[0]


@contextmanager
def receiving(wanted: Mapping[str, datetime], overwrite: bool) -> Iterator[dict[str, Path]]:
    """Directories for the files of checkpoints from another machine, which are users' checkpoints after the block.

    They are named LAB/NAME, with when each was made. Raises LabError, before the block, for a lab that is being
    changed, and for a checkpoint of that name which was made at another time, unless `overwrite`; after it, for files
    that are no checkpoint.
    """
    with ExitStack() as stack:
        for lab in sorted({full.partition("/")[0] for full in wanted}):
            stack.enter_context(locked(lab))
        homes = {}
        for full, made in wanted.items():
            lab, _, name = full.partition("/")
            home = paths.checkpoints(lab) / name
            there = _readable(home)
            if home.exists() and not overwrite and (there is None or there.made != made):
                raise LabError(f"The lab '{lab}' has another checkpoint '{name}' already.",
                               hint="'--overwrite' replaces it; nothing was loaded.")
            home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            homes[full] = stack.enter_context(
                checkpoint.receiving(home, lab, lambda digest: store.find_digest(digest).disk))
        yield homes


def gc(days: float | None = None, gib: float | None = None, *, dry: bool = False) -> list[str]:
    """Remove configured checkpoints as checkpoint.sweep does, and what a killed labctl left, unless `dry`.

    Returns descriptions of what it removes.
    """
    found = [f"the directory '{path}'" for path in template.sweep(dry=dry)]
    for root in (paths.warm(), *paths.checkpoints().glob("*")):
        for path, at_work in checkpoint.leftovers(root).items():
            with suppress(LabError), locked(at_work) if at_work else nullcontext():
                found.append(f"the directory '{path}'")
                if not dry:
                    shutil.rmtree(path, ignore_errors=True)
    in_use = [_configured(lab.plan) for lab in labs()]
    swept = checkpoint.sweep(paths.warm(), in_use, days=days, gib=gib, dry=dry)
    return [*found, *(f"the configured checkpoint of '{home.name.rpartition('.')[0]}'" for home in swept)]


def images_in_use() -> dict[str, list[str]]:
    """For each image's digest, the labs and user's checkpoints that need it."""
    result: dict[str, list[str]] = {}
    for name in names():
        result.setdefault(remains(name).image or "", []).append(f"the lab '{name}'")
    for kept in checkpoints():
        if kept.saved and kept.name != CONFIGURED:
            result.setdefault(kept.saved.key["image"], []).append(f"the checkpoint '{kept.name}' of '{kept.lab}'")
    return result


def keep_configured(lab: Lab, progress: Progress) -> None:
    """Make the configured checkpoint of a lab that has just booted; goes on if that fails."""
    progress.say("Making the configured checkpoint, for 'labctl reset' and for the next start.")
    late = None
    try:
        late = _save(lab, _configured(lab.plan))
    except LabError as error:
        progress.say(f"The next start will not be quicker: {error.message}")
    try:
        gc(gib=_KEPT_GIB)
    except (LabError, OSError) as error:  # This does not concern the lab, which is up.
        progress.say(f"Old configured checkpoints could not be removed: {error}")
    _serve_again(lab, late, "", Silent())


def start_configured(lab: Lab, progress: Progress, limit: float | None) -> bool:
    """Start the lab from its configured checkpoint; if that fails, returns False and leaves nothing."""
    home = _configured(lab.plan)
    try:
        saved = checkpoint.load(home)
        if saved is None:
            return False
        start(lab, (home, saved), progress, limit)
    except LabError as error:
        progress.say(f"The lab boots: {error.message.splitlines()[0]}")
        if lab.ssh_config.exists():
            for node in lab.plan.nodes:
                lab.crash(node)
        for name in ("disks", "seeds", "consoles"):
            shutil.rmtree(lab.directory / name, ignore_errors=True)
        return False
    return True


def start(lab: Lab, source: Source, progress: Progress, limit: float | None) -> None:
    """Start a new lab from a checkpoint, which may be of a broken lab. Raises LabError."""
    home, saved = source
    _must_fit(lab, saved)
    _verify(lab, (home, saved), lab.plan.nodes)
    progress.say(f"Starting from what was saved on {saved.made:%Y-%m-%d %H:%M}.")
    with files.filling(lab.directory, None):  # Before it goes on, since 'status' can be asked at any moment.
        lab.save(trouble=saved.trouble, exercise=saved.exercise)
    _bring_keys(home, lab)
    _wake(lab, saved, home, lab.plan.nodes, progress, limit)


def _save(lab: Lab, home: Path, note: str = "", trouble: str = "", *, exercise: bool = False) -> dict[str, float]:
    ahead = lab.clocks()
    lab.await_question()
    return checkpoint.save(lab.machines, key(lab), home, ahead, note, trouble, exercise=exercise)


def look(lab: Lab) -> str:
    """Why a lab that has come up before does not serve; empty if it does."""
    try:
        gates = lab.gates(Silent(), _GLANCE_SECONDS * lab.patience)
        gates.look()
    except LabError as error:
        return error.message.splitlines()[0]
    return ""


def _go_back(lab: Lab, source: Source, nodes: Sequence[PlannedNode], progress: Progress) -> None:
    home, saved = source
    everything = len(nodes) == len(lab.plan.nodes)
    _must_fit(lab, saved)
    if not everything and lab.held:
        raise LabError(f"The lab '{lab.name}' was held still to be saved when labctl ended.",
                       hint=f"'labctl up {lab.name}' lets it go on; 'labctl reset {lab.name}' resets all of it.")
    if not everything and keys.read(home / "keys", lab.plan) != keys.read(lab.directory / "keys", lab.plan):
        raise LabError(f"What is saved of the lab '{lab.name}' is of an earlier start, when it had other keys.",
                       hint=f"'labctl reset {lab.name}' resets all of it.")
    _verify(lab, source, nodes)
    # If this is interrupted, the lab counts as not ready, and the next 'up' makes it anew.
    with files.filling(lab.directory, None):
        lab.save(ready=False, exercise=saved.exercise if everything else lab.record.exercise)
    lab.forget_faults(nodes)
    try:
        of_each(nodes, lab.crash)
        if everything:
            shutil.rmtree(lab.directory / "disks", ignore_errors=True)
            hold.release(lab.directory)
            _bring_keys(home, lab)
        _wake(lab, saved, home, nodes, progress)
    except LabError as error:
        error.hint = f"'labctl down {lab.name}', then 'labctl up' makes the lab anew."
        raise
    with files.filling(lab.directory, None):
        lab.save(ready=True, trouble=saved.trouble if everything else "")


def _readable(home: Path) -> Checkpoint | None:
    try:
        return checkpoint.load(home)
    except LabError:
        return None


def _verify(lab: Lab, source: Source, nodes: Sequence[PlannedNode]) -> None:
    home, saved = source
    keys.read(home / "keys", lab.plan)
    checkpoint.verify(saved, home, nodes, lab.image.disk)


def _bring_keys(home: Path, lab: Lab) -> None:
    with files.filling(lab.directory, None):
        keys.bring(home / "keys", lab.directory / "keys", lab.plan)
        lab.write_access()


def _must_fit(lab: Lab, saved: Checkpoint) -> None:
    """Raise LabError if the saved machines could not go on here."""
    differences = checkpoint.differences(saved, key(lab))
    if differences:
        raise LabError(f"What is saved of the lab '{lab.name}' cannot go on: {_other(differences)}.",
                       hint=f"'labctl down {lab.name}', then 'labctl up' boots it.")


def _wake(lab: Lab, saved: Checkpoint, home: Path, nodes: Sequence[PlannedNode], progress: Progress,
          limit: float | None = None) -> None:
    late = checkpoint.restore(saved, home, nodes, lab.machines)
    for node in nodes:
        progress.passed(node.name, "defined")
    _wait(lab, nodes, late, saved.trouble, progress, limit)


def _serve_again(lab: Lab, late: Mapping[str, float] | None, trouble: str, progress: Progress) -> None:
    """Wait until a lab that was held still serves. If `late` is None, nodes are asked how late their clocks are."""
    late = late or {node: -ahead for node, ahead in lab.clocks().items()}
    _wait(lab, lab.plan.nodes, late, trouble, progress)
    hold.release(lab.directory)


def _wait(lab: Lab, nodes: Sequence[PlannedNode], late: Mapping[str, float], trouble: str, progress: Progress,
          limit: float | None = None) -> None:
    """Let nodes whose clocks are `late` pass their gates, and the lab serve, unless there was `trouble` before."""
    gates = lab.gates(progress, limit)
    if trouble:
        gates.put_clocks_forward(nodes, late)
    else:
        gates.wait_for_nodes(nodes, late=late)
        gates.wait_for_service()


def key(lab: Lab) -> dict[str, str]:
    """Values that have to be the same for saved machines to go on, by name."""
    image = lab.image
    # By their names alone: the image is below the user's home, and a checkpoint may come from another user's.
    kernel, initrd, media = (file and Path("/", file.name) for file in (image.kernel, image.initrd, image.media))
    nowhere = Disks(Path("/"), Path("/"), kernel, initrd, media)
    machines = "".join(domain_xml(lab.plan, _ANY_INSTANCE, node, nowhere, lab.record.accel) for node in lab.plan.nodes)
    return {
        "topology": lab.plan.digest,
        "image": image.manifest.digest,
        "QEMU or libvirt": lab.provider.versions(),
        "processor": processor(),
        "accelerator": lab.record.accel,
        "machines": hashlib.sha256(machines.encode()).hexdigest(),
    }


def find(lab: str, name: str) -> Source:
    """A user's checkpoint. Raises LabError if there is none with this name."""
    if name == CONFIGURED:
        raise LabError(f"The checkpoint '{CONFIGURED}' is not a user's.",
                       hint="'labctl reset' goes back to it, and 'labctl up' starts from it.")
    home = paths.checkpoints(lab) / name
    saved = checkpoint.load(home) if re.fullmatch(NAME_PATTERN, name) else None
    if saved is None:
        raise _no_checkpoint(lab, name)
    return home, saved


def _no_checkpoint(lab: str | None, name: str) -> LabError:
    known = [kept.name for kept in checkpoints(lab) if kept.name != CONFIGURED]
    of_lab = f"The lab '{lab}' has" if lab else "There is"
    return LabError(f"{of_lab} no checkpoint '{name}'.",
                    hint=did_you_mean(name, known) if known else "'labctl checkpoint save NAME' makes one.")


def _configured(plan: Plan) -> Path:
    """The directory of a plan's configured checkpoint, which depends on everything in the first boot except keys."""
    nobody = KeyPair("", "")
    no_keys = Keys(nobody, dict.fromkeys((node.name for node in plan.nodes), nobody))
    seeds = "".join(text for node in plan.nodes for text in seed.files(plan, node, no_keys).values())
    return paths.warm() / f"{plan.lab}.{hashlib.sha256(seeds.encode()).hexdigest()[:16]}"


def _other(differences: Sequence[str]) -> str:
    return f"it was saved with another {' and another '.join(differences)}"
