"""Labs go back: to a checkpoint of the user's, or to the configured one, which `up` makes when a lab first serves."""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
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
"""Where something was saved, and what it is."""
_ANY_INSTANCE = UUID(int=0)
"""Saved machines go on in any instance of a lab."""
CONFIGURED = "configured"
"""What a checkpoint is called that `up` made of a lab when it first served."""
_GLANCE_SECONDS = 2
"""For each gate of a lab that should be ready already."""
_KEPT_GIB = 10
"""Of configured checkpoints; each takes 0.2 to 0.3 GiB per node."""


def save_as(lab: Lab, name: str, note: str, progress: Progress) -> str:
    """Keep the lab as it is now, as a checkpoint of the user's. Raises LabError, also where the name is taken.

    The lab may be broken: returned is why it does not serve, empty if it does.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise LabError(f"'{name}' cannot be the name of a checkpoint.",
                       hint="A name has letters, digits and hyphens, as 'before-exam-2'.")
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
            late = _save(lab, home, note, trouble)
        finally:
            if set(lab.states().values()) == {"running"}:
                _serve_again(lab, late, trouble, progress)
        return trouble


def restore(lab: Lab, name: str, progress: Progress) -> str:
    """Put the lab back to a checkpoint of the user's, and return when it serves. Raises LabError.

    It may have been broken when it was saved: returned is why it did not serve then, empty if it did.
    """
    lab.host.must(Ability.save)
    with locked(lab.name):
        source = find(lab.name, name)
        _go_back(lab, source, lab.plan.nodes, progress)
    return source[1].trouble


def reset(lab: Lab, nodes: Sequence[PlannedNode], progress: Progress) -> None:
    """Put nodes, or all of the lab, back to the configured checkpoint, whatever became of them since.

    Raises LabError where there is none, and for a node alone whose memory of the others would be wrong.
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
    """See that the machines of a lab run that labctl may have been killed while it saved; False if they cannot.

    Raises LabError for a lab that does not serve then.
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
        hold.release(lab.directory)  # It goes on, though it does not serve.
        raise
    return True


class Kept(NamedTuple):
    """A checkpoint that is there."""

    home: Path
    lab: str
    name: str
    saved: Checkpoint | None
    """None where it cannot be read."""


def checkpoints(lab: str | None = None) -> list[Kept]:
    """The checkpoints there are of one lab, or of all: users' own, and the configured ones."""
    found = [(home, home.parent.name, home.name) for home in paths.checkpoints().glob("[!.]*/[!.]*")]
    found += [(home, home.name.rpartition(".")[0], CONFIGURED) for home in paths.warm().glob("[!.]*")]
    return [Kept(home, of, name, _readable(home)) for home, of, name in sorted(found, key=lambda each: each[1:])
            if home.is_dir() and lab in (None, of)]


def remove_checkpoint(lab: str | None, name: str) -> str:
    """Remove a checkpoint; returns the lab it was of. Raises LabError unless just one lab has such a one."""
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


def gc(days: float | None = None, gib: float | None = None, *, dry: bool = False) -> list[str]:
    """Remove configured checkpoints (see checkpoint.sweep) and what labctl left when it was killed, unless `dry`.

    Returns what that is.
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
    """Image digest to the labs that run on it, and to what users have saved of labs."""
    result: dict[str, list[str]] = {}
    for name in names():
        result.setdefault(remains(name).image or "", []).append(f"the lab '{name}'")
    for kept in checkpoints():
        if kept.saved and kept.name != CONFIGURED:
            result.setdefault(kept.saved.key["image"], []).append(f"the checkpoint '{kept.name}' of '{kept.lab}'")
    return result


def keep_configured(lab: Lab, progress: Progress) -> None:
    """Make the configured checkpoint of a lab that has just booted; that it cannot be made is no failure."""
    progress.say("Making the configured checkpoint, for 'labctl reset' and for the next start.")
    late = None
    try:
        late = _save(lab, _configured(lab.plan))
    except LabError as error:
        progress.say(f"The next start will not be quicker: {error.message}")
    try:
        gc(gib=_KEPT_GIB)
    except (LabError, OSError) as error:  # The lab is up, whatever becomes of others' remains.
        progress.say(f"What is kept of other labs could not be looked through: {error}")
    _serve_again(lab, late, "", Silent())


def start_configured(lab: Lab, progress: Progress, limit: float | None) -> bool:
    """Start the lab from its configured checkpoint; False, and nothing is left of the try, where that cannot be."""
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
    """Start a new lab from what was saved, which may be broken. Raises LabError."""
    home, saved = source
    _must_fit(lab, saved)
    _verify(lab, (home, saved), lab.plan.nodes)
    progress.say(f"Starting from what was saved on {saved.made:%Y-%m-%d %H:%M}.")
    _bring_keys(home, lab)
    _wake(lab, saved, home, lab.plan.nodes, progress, limit)
    lab.record = lab.record.model_copy(update={"trouble": saved.trouble})


def _save(lab: Lab, home: Path, note: str = "", trouble: str = "") -> dict[str, float]:
    ahead = lab.clocks()
    lab.await_question()
    return checkpoint.save(lab.machines, key(lab), home, ahead, note, trouble)


def look(lab: Lab) -> str:
    """Why a lab that has had its time to come up does not serve; empty if it does."""
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
    # If this is cut short, the lab is no lab that serves, and the next 'up' makes it anew.
    with files.filling(lab.directory, None):
        lab.save(ready=False)
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
    """Raise LabError if machines that were saved could not go on here."""
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
    """Wait until a lab serves that goes on after it was held still. Nodes are asked how `late` they are if need be."""
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
    """What has to be the same for saved machines to go on, by what it is called."""
    image = lab.image
    nowhere = Disks(Path("/"), Path("/"), image.kernel, image.initrd, image.media)
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
    """A user's checkpoint. Raises LabError if there is none."""
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
    """Where the configured checkpoint of a plan is: one place for each first boot, whatever its keys."""
    nobody = KeyPair("", "")
    no_keys = Keys(nobody, dict.fromkeys((node.name for node in plan.nodes), nobody))
    seeds = "".join(text for node in plan.nodes for text in seed.files(plan, node, no_keys).values())
    return paths.warm() / f"{plan.lab}.{hashlib.sha256(seeds.encode()).hexdigest()[:16]}"


def _other(differences: Sequence[str]) -> str:
    return f"it was saved with another {' and another '.join(differences)}"
