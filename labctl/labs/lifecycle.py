"""Bringing labs up and taking them down."""

import os
import re
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from labctl.base import paths, signals
from labctl.base.errors import LabError
from labctl.base.machine import available_memory, free_disk
from labctl.base.progress import Progress
from labctl.images import accel, store
from labctl.images.store import Image
from labctl.labs import leftovers, rewind
from labctl.labs.journal import Journal
from labctl.labs.lab import Lab, locked, names, open_lab
from labctl.labs.record import Record, Unreadable, remains, save_plan
from labctl.machines import keys, sockets
from labctl.machines.existing_libvirt import ExistingLibvirt
from labctl.machines.host import Ability
from labctl.machines.memory import template
from labctl.plan.domain import Accel, network_xml
from labctl.plan.plan import Plan, PlannedNode

_OVERHEAD_MIB = {"kvm": 100, "tcg": 320}
"""What QEMU needs in addition to the guest's memory; under TCG this includes translated code."""
_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DISK_MIB = 400
"""What one node writes to its overlay in an ordinary lab."""


def accelerator(wanted: str, host: str | None) -> tuple[Accel, str]:
    """The accelerator, and a line for the user, as accel.choose returns them; for another machine libvirt is asked."""
    if wanted == "auto" and host and urlsplit(host).netloc:
        from labctl.machines.provider import Provider  # noqa: PLC0415 (loading libvirt takes longer than most commands)

        nobodys = Provider(ExistingLibvirt(host), UUID(int=0))
        return ("kvm", "") if nobodys.has_kvm() else ("tcg", f"There is no KVM at '{host}'.")
    return accel.choose(wanted)


def up(plan: Plan, chosen: Accel, host: str | None, progress: Progress, *, limit: float | None = None,
       keep: bool = False, cold: bool = False, start: str | None = None, once: bool = False) -> Lab:
    """Bring a lab up and return when it serves; one that is up already is left as it is.

    It starts from the checkpoint `start` or, unless `cold` or `once`, from the configured checkpoint; otherwise it
    boots, and is saved unless `once`. `limit` (seconds) replaces the deadline of every readiness gate.
    Raises LabError after removing everything it made, unless `keep`, which leaves a failed lab for inspection.
    """
    with locked(plan.lab):
        existing = _existing(plan, progress)
        if existing:
            return existing
        image = store.current(plan.guest)
        instance = uuid4()
        lab = Lab(Record(id=instance, name=plan.lab, sockets=sockets.place(instance), libvirt_uri=host, accel=chosen,
                         image=image.manifest.digest), plan)
        if start:
            lab.host.must(Ability.save)
        source = rewind.find(plan.lab, start) if start else None
        saves = not once and Ability.save in lab.host.abilities
        _check_resources(plan, chosen, host)
        if host:
            lab.provider.must_be_free(plan.lab)
        leftovers.clear(plan.lab)
        try:
            lab.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            lab.save()
            save_plan(plan.lab, plan)
            lab.host.open(plan, lambda process: lab.save(room=process))
            for network in plan.networks:
                lab.provider.create_network(network_xml(plan, lab.record.id, network, lab.host.own_bridges))
            if source:
                rewind.start(lab, source, progress, limit)
            elif cold or not saves or not rewind.start_configured(lab, progress, limit):
                _boot(lab, image, progress, limit)
                if saves:
                    rewind.keep_configured(lab, progress)
            lab.save(ready=True)
        except BaseException as error:
            if not (keep and isinstance(error, LabError)):
                with signals.passed_over():
                    _remove(lab)
            raise
        return lab


def down(name: str, *, force: bool = False, host: str | None = None) -> None:
    """Remove a lab and everything that belongs to it, also if its record cannot be read.

    `force` also removes a lab without a record, what is here of a lab on another machine, and a lab of which something
    cannot be removed. `name` may then be a lab's id, and `host` the URI of its libvirt.
    Raises LabError if there is no such lab, or if something could not be removed.
    """
    if force and re.fullmatch(_ID, name):
        instance = UUID(name)
        if host:
            _at_libvirt(host, instance)
        name = leftovers.name_of(instance) or name
        if host and name == str(instance):
            return
    with locked(name), signals.passed_over():
        if name not in names() and leftovers.exist(name):
            if not force:
                raise LabError(f"No lab called '{name}' is up, but something is left of one.",
                               hint=f"'labctl gc --dry-run' shows what, 'labctl down --force {name}' removes it.")
            leftovers.clear(name)
            return
        try:
            lab = open_lab(name, any_host=force)
        except Unreadable:
            found = remains(name)
            if found.libvirt_uri and found.id:
                _at_libvirt(found.libvirt_uri, found.id)
            leftovers.clear(name)
        else:
            _remove(lab, force=force)


def _at_libvirt(uri: str, instance: UUID) -> None:
    failures = leftovers.provider_at(uri, instance).remove_all()
    if failures:
        raise LabError(f"Not all of the lab at '{uri}' could be removed: {'; '.join(failures)}.")


def _existing(plan: Plan, progress: Progress) -> Lab | None:
    if plan.lab not in names():
        return None
    lab = open_lab(plan.lab)
    if lab.record.ready and lab.host.is_open() and rewind.go_on(lab, progress):
        if lab.plan.digest == plan.digest:
            progress.say(f"The lab '{plan.lab}' is up already.")
            _must_serve(lab)
            return lab
        raise LabError(f"A lab called '{plan.lab}' is up, made from another topology, guest or --set.",
                       hint=f"'labctl down {plan.lab}' removes it; '--name NAME' starts a second one beside it.")
    progress.say(f"The lab '{plan.lab}' did not come up, or its machine was restarted; making it anew.")
    _remove(lab)
    return None


def _must_serve(lab: Lab) -> None:
    """Raise LabError, with a remedy, if a lab that is up does not serve, unless it was broken when it was saved, or is
    an exercise.
    """
    trouble = "" if lab.record.trouble or lab.record.exercise else rewind.look(lab)
    if trouble:
        off = [f"{lab.name}/{name}" for name, state in lab.states().items() if state == "off"]
        start = f"'labctl start {off[0]}' switches it on; " if off else ""
        reset = f"'labctl reset {lab.name}' puts it back to how it was; " if Ability.save in lab.host.abilities else ""
        broken = Journal(lab.directory).faults()
        heal = f"'labctl heal --lab {lab.name} --all' puts back what is broken on purpose; " if broken else ""
        raise LabError(f"The lab '{lab.name}' is up, but it does not serve: {trouble}",
                       hint=f"{heal}{start}{reset}'labctl down {lab.name}', then 'labctl up' makes it anew.")


def _boot(lab: Lab, image: Image, progress: Progress, limit: float | None) -> None:
    """Bring all nodes up from nothing."""
    if not (lab.directory / "keys").exists():
        keys.make(lab.directory / "keys", lab.plan)
    lab.write_access()
    memories = _memories(lab, image, progress)

    def start(node: PlannedNode) -> None:
        booted = memories.get(_size(node))
        try:
            lab.start(node, booted)
        except LabError as error:
            if booted is None:
                raise
            template.forget(booted)
            progress.say(f"'{node.name}' could not start from memory, and boots: {error.message.splitlines()[0]}")
            lab.start(node)
        progress.passed(node.name, "defined")

    holders = {name for frontend in lab.plan.frontends() for name in frontend.holders}
    # Nodes that hold an address come last, so that they find the servers behind it healthy.
    nodes = sorted(lab.plan.nodes, key=lambda node: node.name in holders)
    # Under TCG each start keeps a processor busy; more starts at once only compete for the caches
    # (docs/performance.md).
    at_once = os.cpu_count() if lab.record.accel == "tcg" else None
    gates = lab.gates(progress, limit)
    gates.wait_for_nodes(nodes, start=start, at_once=at_once)
    gates.wait_for_service()


def _memories(lab: Lab, image: Image, progress: Progress) -> dict[tuple[int, int], template.Template]:
    """The template for nodes of each size; empty if starting from one is not possible or not quicker than a boot."""
    if lab.record.accel == "kvm" or lab.record.libvirt_uri or not image.waiting_args:
        return {}
    memories = {}
    for size, node in {_size(node): node for node in lab.plan.nodes}.items():
        try:
            memories[size] = template.prepare(lab.plan, node, lab.record.accel, image, lab.provider, lab.directory,
                                             lab.patience, progress)
        except LabError as error:
            progress.say(f"No machine could be booted for others to start from, so each node boots: "
                         f"{error.message.splitlines()[0]}")
    return memories


def _size(node: PlannedNode) -> tuple[int, int]:
    return node.memory, node.cpus


def _remove(lab: Lab, *, force: bool = False) -> None:
    """Remove all of a lab that exists; goes on past failures and reports them together.

    The record stays while anything else of the lab is left, unless `force`.
    """
    failures: list[str] = []
    try:
        if lab.record.libvirt_uri:
            failures += lab.provider.remove_all()
        lab.host.close()
    except LabError as error:
        failures.append(error.message)
    if not failures or force:
        try:
            leftovers.clear(lab.name)
        except LabError as error:
            failures.append(error.message)
    if failures:
        raise LabError(f"Not all of the lab '{lab.name}' could be removed: {'; '.join(failures)}",
                       hint="" if force else f"'labctl down {lab.name}' tries again; 'labctl down --force {lab.name}' "
                                             "forgets the lab, whatever is left of it.")


def _check_resources(plan: Plan, chosen: Accel, host: str | None) -> None:
    free, directory = free_disk(paths.labs())
    needed = _DISK_MIB * len(plan.nodes)
    if free < needed:
        raise LabError(f"The lab '{plan.lab}' needs {needed} MiB of disk in '{directory}', and {free} MiB are free.",
                       hint="'labctl image list' and 'labctl list' show what takes space.")
    if host:
        return
    memory = sum(node.memory + _OVERHEAD_MIB[chosen] for node in plan.nodes)
    available = available_memory()
    if available < memory:
        raise LabError(f"The lab '{plan.lab}' needs {memory} MiB of memory, and {available} MiB are available.",
                       hint="'labctl list' shows what is up; 'memory:' in the topology gives a node less.")
