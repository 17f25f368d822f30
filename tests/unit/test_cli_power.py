"""labctl.cli: nodes are switched on and off and restarted, in labs that only seem to be there."""

import pytest
from commands import refused, typed
from pretend import pretend

from labctl.base.progress import GATES
from labctl.labs import power
from labctl.labs.lab import open_lab


def test_reboot_returns_when_the_lab_serves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    said = typed("reboot", "rs*").stderr
    assert [node for node, boot in nodes.boots.items() if boot > 1] == ["rs1", "rs2"]
    assert sorted(nodes.done) == ["close rs1", "close rs2"]
    assert all(f"rs1: {gate}\n" in said for gate in GATES)
    assert said.endswith("The lab 'lab' serves again.\n")


def test_a_reboot_expects_no_service_of_a_step_that_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    typed("undo", "rs1/httpd")
    assert "rs1: units\n" in typed("reboot", "rs1").stderr


def test_what_was_taken_away_is_told_where_the_lab_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_GLANCE_SECONDS", 0.01)
    nodes = pretend(monkeypatch)
    nodes.page = "HTTP/1.1 502 Bad Gateway"
    typed("undo", "lvs/rules")
    said = typed("reboot", "rs1").stderr.splitlines()[-1]
    assert said.startswith("The nodes are ready. The lab does not serve: 'client' gets HTTP status 502")
    assert said.endswith("Note that the step 'lvs/rules' is undone.")
    del nodes.states["rs2"]
    assert typed("reboot", "rs1").stderr.splitlines()[-1] == (
        "The nodes are ready. Note that 'rs2' is off, and the step 'lvs/rules' is undone.")


def test_of_an_exercise_it_is_not_told_what_was_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_GLANCE_SECONDS", 0.01)
    nodes = pretend(monkeypatch)
    open_lab("lab").save(exercise=True)
    assert typed("reboot", "rs1").stderr.endswith("The lab 'lab' serves again.\n")
    nodes.page = "HTTP/1.1 502 Bad Gateway"
    told = []
    for words in (["undo", "lvs/rules"], ["apply", "lvs/rules"]):
        typed(*words)
        told.append(typed("reboot", "rs1").stderr.splitlines()[-1])
        assert told[-1].endswith("Note that the lab is an exercise, which need not serve.")
    assert told[0] == told[1]


@pytest.mark.parametrize("verb", ["reboot", "stop"])
def test_a_node_that_does_not_answer_is_left_alone_unless_its_plug_may_be_pulled(
    monkeypatch: pytest.MonkeyPatch, verb: str,
) -> None:
    nodes = pretend(monkeypatch)
    nodes.silent = {"rs1"}
    error = refused(verb, "rs*")
    assert error.message == f"The node 'rs1' does not answer, so it cannot be told to {verb}."
    assert f"'labctl {verb} --force rs1'" in error.hint
    assert nodes.done == []
    assert set(nodes.boots.values()) == {1}
    assert nodes.states["rs2"] == "running"
    typed(verb, "--force", "rs1")
    assert nodes.done == ["crash rs1", "start rs1"] if verb == "reboot" else ["crash rs1"]


def test_a_node_is_switched_off_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    assert typed("stop", "rs1").stderr == "'rs1' is off.\n"
    assert "rs1" not in nodes.states
    for words in (["ssh", "rs1", "true"], ["exec", "rs*", "true"], ["cp", "rs1:/x", "."], ["apply", "rs1/arp"],
                  ["undo", "rs1/arp"], ["reboot", "rs1"]):
        error = refused(*words)
        assert (error.message, error.hint) == ("The node 'rs1' is off.", "'labctl start lab/rs1' starts it.")
    assert typed("stop", "rs1").stderr == "'rs1' is off.\n"
    said = typed("start", "rs*").stderr
    assert "'rs2' runs already.\n" in said
    assert said.endswith("The lab 'lab' serves again.\n")
    assert nodes.done == ["crash rs1", "crash rs1", "crash rs1", "start rs1"]


def test_a_node_that_does_not_go_down_is_switched_off_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_STOP_SECONDS", 0.01)
    nodes = pretend(monkeypatch)
    nodes.stubborn = {"rs1"}
    assert typed("stop", "rs1").stderr.splitlines() == [
        "'rs1' did not go down in 0 s, and is switched off.", "'rs1' is off."]
    assert nodes.done == ["crash rs1"]


def test_a_paused_node_is_not_booted_beside_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    nodes.states["rs1"] = "paused"
    assert "reboot --force rs1" in refused("start", "rs1").hint
    assert nodes.done == []
    typed("reboot", "--force", "rs1")
    assert nodes.done == ["crash rs1", "start rs1"]


def test_a_node_that_does_not_come_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    nodes.after_boot = "crashed"
    error = refused("reboot", "--force", "lab/rs1")
    assert "'rs1' did not pass the gate 'booting': the machine is crashed" in error.message
    assert "labctl logs rs1" in error.hint
