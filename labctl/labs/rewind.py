"""Labs go back: to a checkpoint of the user's, or to how they were when they first served."""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from uuid import UUID

from labctl.base import paths
from labctl.base.each import of_each
from labctl.base.errors import LabError
from labctl.base.machine import processor
from labctl.base.progress import Progress, Silent
from labctl.base.suggest import did_you_mean
from labctl.base.types import NAME_PATTERN
from labctl.images import store
from labctl.labs.lab import Lab, locked, names, open_lab
from labctl.machines import keys
from labctl.machines.memory import checkpoint
from labctl.machines.memory.checkpoint import Checkpoint
from labctl.plan.domain import Disks, domain_xml
from labctl.plan.plan import Plan, PlannedNode
from labctl.plan.seed import KeyPair, Keys, files

Source: TypeAlias = tuple[Path, Checkpoint]
"""Where something was saved, and what it is."""
_ANY_INSTANCE = UUID(int=0)
"""Saved machines go on in any instance of a lab."""
_GLANCE_SECONDS = 2
"""For each gate of a lab that should be ready already."""
_KEPT_GIB = 10
"""Of labs as they were when they first served, kept to start from; each takes 0.2 to 0.3 GiB per node."""


def save_as(lab: Lab, name: str, note: str, progress: Progress) -> str:
    """Keep the lab as it is now, as a checkpoint of the user's. Raises LabError, also where the name is taken.

    The lab may be broken: returned is why it does not serve, empty if it does.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise LabError(f"'{name}' cannot be the name of a checkpoint.",
                       hint="A name has letters, digits and hyphens, as 'before-exam-2'.")
    home = paths.checkpoints(lab.name) / name
    with locked(lab.name):
        if home.exists():
            raise LabError(f"The lab '{lab.name}' has a checkpoint '{name}' already.",
                           hint=f"'labctl checkpoint rm {name} --lab {lab.name}' removes it.")
        trouble = _trouble(lab)
        late = None
        try:
            late = _save(lab, home, note, trouble)
        finally:
            if set(lab.states().values()) == {"running"}:
                _go_on(lab, late, trouble, progress)
        return trouble


def restore(lab: Lab, name: str, progress: Progress) -> str:
    """Put the lab back to a checkpoint of the user's, and return when it serves. Raises LabError.

    It may have been broken when it was saved: returned is why it did not serve then, empty if it did.
    """
    source = find(lab.name, name)
    _go_back(lab, source, lab.plan.nodes, progress)
    return source[1].trouble


def reset(lab: Lab, nodes: Sequence[PlannedNode], progress: Progress) -> None:
    """Put nodes, or all of the lab, back to how they first served, whatever became of them since.

    Raises LabError where nothing was saved then, and for a node alone whose memory of the others would be wrong.
    """
    home = _configured(lab.plan)
    saved = checkpoint.load(home)
    if saved is None:
        raise LabError(f"How the lab '{lab.name}' was when it first served is not known.",
                       hint=f"'labctl down {lab.name}', then 'labctl up' makes it anew.")
    for node in nodes if len(nodes) < len(lab.plan.nodes) else []:
        for frontend in lab.plan.frontends():
            if frontend.failover and node.name in frontend.holders:
                raise LabError(f"'{node.name}' cannot be reset alone: it shares {frontend.address} with others, "
                               "and would remember who held it then.",
                               hint=f"'labctl reset {lab.name}' resets the lab, 'labctl reboot {node.name}' "
                                    "restarts the node.")
    _go_back(lab, (home, saved), nodes, progress)


def checkpoints(lab: str | None = None) -> dict[Path, Checkpoint]:
    """The checkpoints that users have made of one lab, or of all. Raises LabError for one that cannot be read."""
    homes = sorted(path for path in paths.checkpoints().glob(f"{lab or '*'}/[!.]*") if path.is_dir())
    return {home: found for home in homes if (found := checkpoint.load(home))}


def remove_checkpoint(lab: str | None, name: str) -> str:
    """Remove a checkpoint of a user's; returns the lab it was of. Raises LabError unless there is just one such."""
    homes = [home for home in checkpoints(lab) if home.name == name]
    if len(homes) > 1:
        raise LabError(f"Several labs have a checkpoint '{name}'; say which one with --lab.",
                       hint=f"They are: {', '.join(home.parent.name for home in homes)}.")
    if not homes:
        raise _no_checkpoint(lab, name)
    checkpoint.remove(homes[0])
    return homes[0].parent.name


def gc(days: float | None = None, gib: float | None = None) -> list[str]:
    """Forget how labs were when they first served: see checkpoint.sweep. Returns which ones."""
    in_use = [_configured(open_lab(name).plan) for name in names()]
    return [home.name.rpartition(".")[0] for home in checkpoint.sweep(paths.warm(), in_use, days=days, gib=gib)]


def images_in_use() -> dict[str, list[str]]:
    """Image digest to the labs that run on it, and to what users have saved of labs."""
    result: dict[str, list[str]] = {}
    for name in names():
        result.setdefault(open_lab(name).record.image, []).append(f"the lab '{name}'")
    for home, saved in checkpoints().items():
        result.setdefault(saved.key["image"], []).append(f"the checkpoint '{home.name}' of '{saved.plan.lab}'")
    return result


def keep_configured(lab: Lab, progress: Progress) -> None:
    """Keep a lab that has just booted, for `reset` and for the next start; that it cannot be kept is no failure."""
    progress.say("Saving the lab, for 'labctl reset' and for the next start.")
    late = None
    try:
        late = _save(lab, _configured(lab.plan))
        gc(gib=_KEPT_GIB)
    except LabError as error:
        progress.say(f"The next start will not be quicker: {error.message}")
    _go_on(lab, late, "", Silent())


def start_configured(lab: Lab, progress: Progress, limit: float | None) -> bool:
    """Start the lab as it was when it first served; False, and nothing is left of the try, where that cannot be."""
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
    checkpoint.verify(saved, home, lab.plan.nodes)
    progress.say(f"Starting from what was saved on {saved.made:%Y-%m-%d %H:%M}.")
    _bring_keys(home, lab)
    _wake(lab, saved, home, lab.plan.nodes, progress, limit)
    lab.record = lab.record.model_copy(update={"trouble": saved.trouble})


def _save(lab: Lab, home: Path, note: str = "", trouble: str = "") -> dict[str, float]:
    ahead = lab.clocks()
    lab.await_question()
    return checkpoint.save(lab.plan, key(lab), lab.directory, home, lab.provider, ahead, note, trouble)


def _trouble(lab: Lab) -> str:
    """Why a lab that has had its time to come up does not serve; empty if it does."""
    try:
        gates = lab.gates(Silent(), _GLANCE_SECONDS * lab.patience)
        gates.wait_for_nodes(lab.plan.nodes)
        gates.wait_for_service()
    except LabError as error:
        return error.message.splitlines()[0]
    return ""


def _go_back(lab: Lab, source: Source, nodes: Sequence[PlannedNode], progress: Progress) -> None:
    home, saved = source
    everything = len(nodes) == len(lab.plan.nodes)
    with locked(lab.name):
        _must_fit(lab, saved)
        if not everything and keys.read(home / "keys", lab.plan) != keys.read(lab.directory / "keys", lab.plan):
            raise LabError(f"What is saved of the lab '{lab.name}' is of an earlier start, when it had other keys.",
                           hint=f"'labctl reset {lab.name}' resets all of it.")
        checkpoint.verify(saved, home, nodes)
        # If this is cut short, the lab is no lab that serves, and the next 'up' makes it anew.
        lab.save(lab.record.model_copy(update={"ready": False}))
        of_each(nodes, lab.crash)
        if everything:
            shutil.rmtree(lab.directory / "disks", ignore_errors=True)
            _bring_keys(home, lab)
        try:
            _wake(lab, saved, home, nodes, progress)
        except LabError as error:
            error.hint = f"'labctl down {lab.name}', then 'labctl up' makes the lab anew."
            raise
        lab.save(lab.record.model_copy(update={"ready": True, "trouble": saved.trouble if everything else ""}))


def _bring_keys(home: Path, lab: Lab) -> None:
    checkpoint.bring_keys(home, lab.directory)
    lab.write_access()


def _must_fit(lab: Lab, saved: Checkpoint) -> None:
    """Raise LabError if machines that were saved could not go on here."""
    differences = checkpoint.differences(saved, key(lab))
    if differences:
        raise LabError(f"What is saved of the lab '{lab.name}' cannot go on: {_other(differences)}.",
                       hint=f"'labctl down {lab.name}', then 'labctl up' boots it.")


def _wake(lab: Lab, saved: Checkpoint, home: Path, nodes: Sequence[PlannedNode], progress: Progress,
          limit: float | None = None) -> None:
    late = checkpoint.restore(saved, home, nodes, lab.directory, lab.provider)
    for node in nodes:
        progress.passed(node.name, "defined")
    _wait(lab, nodes, late, saved.trouble, progress, limit)


def _go_on(lab: Lab, late: Mapping[str, float] | None, trouble: str, progress: Progress) -> None:
    """Let a lab that was held still to be saved serve again. Where it could not be, nobody knows for how long."""
    late = late or {node: -ahead for node, ahead in lab.clocks().items()}
    _wait(lab, lab.plan.nodes, late, trouble, progress)


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
    image = store.find(lab.plan.guest.name)
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
    home = paths.checkpoints(lab) / name
    saved = checkpoint.load(home)
    if saved is None:
        raise _no_checkpoint(lab, home.name)
    return home, saved


def _no_checkpoint(lab: str | None, name: str) -> LabError:
    known = [home.name for home in checkpoints(lab)]
    of_lab = f"The lab '{lab}' has" if lab else "There is"
    return LabError(f"{of_lab} no checkpoint '{name}'.",
                    hint=did_you_mean(name, known) if known else "'labctl checkpoint save NAME' makes one.")


def _configured(plan: Plan) -> Path:
    """Where a lab is kept as it was when it first served: one place for each first boot, whatever its keys."""
    nobody = KeyPair("", "")
    no_keys = Keys(nobody, dict.fromkeys((node.name for node in plan.nodes), nobody))
    seeds = "".join(text for node in plan.nodes for text in files(plan, node, no_keys).values())
    return paths.warm() / f"{plan.lab}.{hashlib.sha256(seeds.encode()).hexdigest()[:16]}"


def _other(differences: Sequence[str]) -> str:
    return f"it was saved with another {' and another '.join(differences)}"
