"""labctl.labs.lifecycle, as far as no lab is needed for it."""

import signal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from samples import plan_of, recorded

from labctl.base import paths, signals
from labctl.base.errors import LabError
from labctl.base.progress import Silent
from labctl.images import store
from labctl.labs import lab, lifecycle, rewind
from labctl.labs.ssh import Ssh
from labctl.machines.existing_libvirt import ExistingLibvirt
from labctl.machines.memory import checkpoint
from labctl.machines.private_room import PrivateRoom
from labctl.machines.provider import Provider
from labctl.plan.domain import network_xml


def test_clean_up_leaves_signals_ignored_that_were_ignored_before() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.passed_over():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_up_tells_what_is_wrong_with_a_lab_that_is_up_and_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    made = recorded(plan)
    monkeypatch.setattr(PrivateRoom, "is_open", lambda _: True)
    monkeypatch.setattr(lab.Lab, "provider", SimpleNamespace(
        states=lambda: {node.name: "paused" if node.name == "rs1" else "running" for node in plan.nodes},
        hangs=lambda _: False))
    monkeypatch.setattr(Ssh, "run", lambda *_: pytest.fail("asks a node"))
    with pytest.raises(LabError, match=r"is up, but it does not serve: .*'rs1' .* the machine is paused") as caught:
        lifecycle.up(plan, "tcg", None, Silent())
    assert caught.value.hint.startswith("'labctl reset lab'")
    monkeypatch.setattr(lab.Lab, "provider", SimpleNamespace(
        states=lambda: {node.name: "running" for node in plan.nodes if node.name != "rs1"}, hangs=lambda _: False))
    with pytest.raises(LabError) as caught:
        lifecycle.up(plan, "tcg", None, Silent())
    assert caught.value.hint.startswith("'labctl start lab/rs1' switches it on; 'labctl reset lab'")
    made.save(trouble="It was broken when it was saved.")
    assert lifecycle.up(plan, "tcg", None, Silent()).record.trouble


def test_up_makes_nothing_where_the_name_is_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, other = plan_of(), uuid4()
    theirs = Provider(ExistingLibvirt("test:///default"), other)
    theirs.create_network(network_xml(plan, other, plan.networks[0], own_bridge=False))
    image: Any = SimpleNamespace(manifest=SimpleNamespace(digest="sha"))
    monkeypatch.setattr(store, "current", lambda _: image)
    try:
        with pytest.raises(LabError, match="has a lab called 'lab' already"):
            lifecycle.up(plan, "tcg", "test:///default", Silent())
        assert theirs.instances() == {other: "lab"}
        assert not paths.lab("lab").exists()
    finally:
        assert theirs.remove_all() == []
        theirs.close()


def test_a_lab_stays_up_when_what_is_kept_of_others_cannot_be_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another labctl removes it at the same time."""
    said: list[str] = []
    progress: Any = SimpleNamespace(say=said.append)
    made = recorded(plan_of())

    def vanished(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/cache/warm/other")

    monkeypatch.setattr(rewind, "_save", lambda *_: {})
    monkeypatch.setattr(rewind, "_serve_again", lambda *_: None)
    monkeypatch.setattr(checkpoint, "sweep", vanished)
    rewind.keep_configured(made, progress)
    assert "Old configured checkpoints could not be removed" in said[-1]


def test_the_image_of_a_lab_is_the_one_it_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "find", lambda _: pytest.fail("asks which image has the guest's name now"))
    asked: list[str] = []
    monkeypatch.setattr(store, "find_digest", lambda digest: asked.append(digest) or "the image")
    assert recorded(plan_of(), image="abc").image == "the image"
    assert asked == ["abc"]
    assert rewind.images_in_use() == {"abc": ["the lab 'lab'"]}
