"""labctl.cli: commands that start nothing, as they are typed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import refused, typed
from pretend import pretend
from samples import BASE, plan_of, recorded, second_ipvs

from labctl.base import config
from labctl.labs.lab import open_lab, under_test
from labctl.labs.ssh import Ssh
from labctl.language import catalog
from labctl.machines.private_room import PrivateRoom

# ---- new ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "file", "shown"), [
    ("exam", "exam.yaml", "./exam.yaml"),
    ("exam.yaml", "exam.yaml", "./exam.yaml"),
    ("sub/exam.yaml", "sub/exam.yaml", "./sub/exam.yaml"),
    ("./exam", "exam", "./exam"),
])
def test_a_new_topology_is_the_text_of_another_one(tmp_path: Path, name: str, file: str, shown: str) -> None:
    (tmp_path / "sub").mkdir()
    text = b"# Why it is so.\r\n" + BASE.replace("Test bed", "Prüfung").encode()
    (tmp_path / "own.yaml").write_bytes(text)
    result = typed("new", name, "--from", "own.yaml")
    assert (tmp_path / file).read_bytes() == text
    assert result.stdout == ""
    assert f"labctl lint {shown} " in result.stderr
    assert f"labctl up {shown} " in result.stderr
    assert catalog.load(catalog.find(shown)).title == "Prüfung"


def test_a_shipped_topology_can_be_copied_under_its_own_name(tmp_path: Path) -> None:
    typed("new", "lvs-dr", "--from", "lvs-dr")
    assert (tmp_path / "lvs-dr.yaml").read_bytes() == catalog.names()["lvs-dr"].read_bytes()


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("precious\n")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")
    assert "'mine.yaml' exists already" in refused("new", "mine", "--from", "lvs-dr").message
    assert "'link.yaml' exists already" in refused("new", "link", "--from", "lvs-dr").message
    assert (tmp_path / "mine.yaml").read_text() == "precious\n"
    assert not (tmp_path / "nowhere").exists()


def test_without_a_topology_to_begin_with_the_list_is_named() -> None:
    assert "labctl list --topologies" in refused("new", "mine").hint


def test_an_unknown_topology_is_told_with_the_nearest(tmp_path: Path) -> None:
    assert "'lvs-dr'" in refused("new", "mine", "--from", "lvs-rd").hint
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize("name", ["my_lab", "", "..", "x" * 33, "a b.yaml"])
def test_a_file_that_could_not_be_a_lab_is_not_written(tmp_path: Path, name: str) -> None:
    assert "is not a valid name for a lab" in refused("new", name, "--from", "lvs-dr").message
    assert not list(tmp_path.glob("*.yaml"))


# ---- --set --------------------------------------------------------------------------------------------------


def test_set_changes_the_plan_and_the_steps() -> None:
    def plan(*words: str) -> Any:
        return json.loads(typed("plan", "lvs-dr", "-o", "json", *words).stdout)

    before, after = plan(), plan("--set", "services.web.scheduler=wrr", "--set", "nodes.rs1.memory=512")
    assert after["topology"]["services"]["web"]["scheduler"] == "wrr"
    assert next(node["memory"] for node in after["nodes"] if node["name"] == "rs1") == 512
    assert after["digest"] != before["digest"]
    assert "-s wrr" in typed("steps", "lvs-dr", "lvs", "--set", "services.web.scheduler=wrr").stdout


def test_set_of_what_is_not_there_is_refused() -> None:
    assert "Did you mean 'web'?" in refused("up", "lvs-dr", "--set", "services.wbe.scheduler=wrr").hint


# ---- --offline ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "variable", "offline"), [
    ((), None, None), (("--offline",), None, "1"), (("--online",), None, "0"),
    ((), "true", "1"), ((), "no", "0"), (("--online",), "1", "0"),
])
def test_the_command_line_says_whether_labctl_is_offline_and_then_the_variable(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], variable: str | None, offline: str | None,
) -> None:
    if variable:
        monkeypatch.setenv(config.OFFLINE, variable)
    typed(*words, "list")
    assert os.environ.get(config.OFFLINE) == offline


@pytest.mark.parametrize("words", [["ssh", "rs1"], ["exec", "*", "true"], ["test"], ["reset"], ["reboot", "rs1"],
                                   ["apply", "web"], ["undo", "web"], ["console", "rs1"], ["ssh-config"], ["status"],
                                   ["down"]])
def test_offline_a_lab_on_another_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    recorded(plan_of(BASE, "lab"), libvirt_uri="qemu+ssh://elsewhere/system")
    monkeypatch.setattr(Ssh, "run", lambda *_, **__: pytest.fail("asks a node that is elsewhere"))
    assert "labctl is offline, so it does not connect to 'qemu+ssh://elsewhere/system'" in refused(
        "--offline", *words).message
    assert "lab" in typed("--offline", "list").stdout


# ---- Labs that only seem to be there ------------------------------------------------------------------------


def steps_in_json(node: str) -> dict[str, bool | None]:
    found = json.loads(typed("status", "-o", "json").stdout)
    assert found["version"] == 2
    entry, = (entry for entry in found["nodes"] if entry["node"] == node)
    return {step["name"]: step["applied"] for step in entry["steps"]}


def test_status_tells_which_steps_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    typed("undo", "rs1/arp")
    nodes.silent = {"rs2"}
    del nodes.states["out"]
    rows = {line.split()[0]: line.rstrip() for line in typed("status").stdout.splitlines()}
    assert rows["lvs"].endswith(" 4/4")
    assert rows["rs1"].endswith(" 5/6, undone: arp")
    assert rows["rs2"].endswith(" ?")
    assert " off " in rows["out"]
    assert rows["out"].endswith(" ?")
    assert steps_in_json("rs1") == {
        "hosts": True, "packages": True, "page": True, "httpd": True, "arp": False, "vip-lo": True}
    assert set(steps_in_json("rs2").values()) == {None}
    typed("apply", "rs1/arp")
    assert set(steps_in_json("rs1").values()) == {True}


def test_an_exercise_does_not_tell_which_steps_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    typed("undo", "rs1/arp")
    open_lab("lab").save(exercise=True, trouble="rs1 says too much.")
    said = typed("status").stdout
    assert "arp" not in said
    assert "which steps are done is not shown" in said
    assert {line.split()[-1] for line in said.splitlines() if line.startswith(("lvs ", "rs1 ", "rs2 "))} == {"?"}
    assert set(steps_in_json("rs1").values()) == {None}
    assert json.loads(typed("status", "-o", "json").stdout)["exercise"] is True
    nodes.done.clear()
    assert "not done" not in typed("undo", "web").stderr
    assert "undo rs1/arp" in nodes.done


def test_status_of_a_lab_whose_room_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch).run = lambda *_, **__: pytest.fail("asks a node that is gone")  # type: ignore[method-assign]
    monkeypatch.setattr(PrivateRoom, "is_open", lambda _: False)
    assert set(steps_in_json("rs1").values()) == {None}
    assert "gone" in typed("status").stdout


def test_a_node_whose_qemu_hangs_is_shown_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    nodes.hanging = {"rs1"}
    rows = {line.split()[0]: line.rstrip() for line in typed("status").stdout.splitlines()}
    assert " hangs " in rows["rs1"]
    assert rows["rs1"].endswith(" ?")
    for words in (["reboot", "rs1"], ["test"], ["checkpoint", "save", "x"]):
        error = refused(*words)
        assert error.message == "The node 'rs1' hangs: its QEMU does not answer libvirt."
        assert "'labctl reset lab'" in error.hint
    assert nodes.boots["rs1"] == 1


@pytest.mark.parametrize("words", [
    ["apply", "lab/rs1/arp"], ["undo", "other/web", "lab/web"], ["start", "lab/rs1"], ["stop", "lab/rs1"],
    ["reboot", "lab/rs1"], ["reboot", "--force", "lab/rs1"], ["reset", "lab"], ["reset", "lab/rs1"],
])
def test_a_lab_that_is_tested_is_not_changed_meanwhile(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    other, nodes = pretend(monkeypatch, "other"), pretend(monkeypatch)
    with under_test("lab"):
        error = refused(*words)
    assert (error.message, error.hint) == ("A test or drill of the lab 'lab' is running.", "Try again when it is done.")
    assert nodes.done == other.done == []


def test_a_step_or_a_service_is_undone_from_its_end_and_applied_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = pretend(monkeypatch)
    web = ["lvs/vip", "lvs/rules", "rs1/arp", "rs1/vip-lo", "rs2/arp", "rs2/vip-lo"]
    assert typed("undo", "web").stderr.splitlines() == [f"{step}: undone" for step in reversed(web)]
    assert typed("apply", "lab/web").stderr.splitlines() == [f"{step}: done" for step in web]
    typed("undo", "rs1/page")
    typed("apply", "lab/rs1/page")
    assert nodes.done == [*(f"undo {step}" for step in reversed(web)), *(f"apply {step}" for step in web),
                          "undo rs1/page", "apply rs1/page"]


def test_what_is_undone_already_does_not_keep_a_service_from_being_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    typed("undo", "lvs/rules")
    nodes.done.clear()
    assert "lvs/rules: was not done\n" in typed("undo", "web").stderr
    assert "undo lvs/rules" not in nodes.done
    assert "undo lvs/vip" in nodes.done
    typed("undo", "lvs/rules")
    assert nodes.done[-1] == "undo lvs/rules", "it may have failed halfway the first time"


def test_a_service_is_looked_for_in_all_labs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No lab is up" in refused("undo", "web").message
    pretend(monkeypatch)
    assert "Did you mean 'web'?" in refused("undo", "wbe").hint
    assert "The lab 'lab' has no service called 'wbe'" in refused("undo", "lab/wbe").message
    assert "has a node called 'alb'" in refused("undo", "alb/web").message
    assert "'rs1' has no step called 'apr'" in refused("undo", "rs1/apr").message
    pretend(monkeypatch, "rs1", second_ipvs(BASE))
    assert "They are: lab/web, rs1/web." in refused("undo", "web").hint
    assert "lvs/rules.shop: undone" in typed("undo", "shop").stderr
    assert "Several labs have a node called 'rs1'" in refused("undo", "rs1/arp").message
    assert "lvs/rules.shop: done" in typed("apply", "rs1/shop").stderr


def test_status_tells_who_holds_each_vip(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    assert typed("status").stdout.splitlines()[-1] == "10.10.10.100: 'lvs' holds it"
    typed("undo", "lvs/vip")
    assert typed("status").stdout.splitlines()[-1] == "10.10.10.100: nobody holds it"
    assert json.loads(typed("status", "-o", "json").stdout)["vips"] == {"10.10.10.100": {"lvs": False}}
    nodes.silent = {"lvs"}
    assert typed("status").stdout.splitlines()[-1] == "10.10.10.100: 'lvs' does not answer"
    assert json.loads(typed("status", "-o", "json").stdout)["vips"] == {"10.10.10.100": {"lvs": None}}


@pytest.mark.parametrize("words", [["list"], ["image", "list"], ["checkpoint", "list"]])
def test_where_there_is_nothing_data_is_an_empty_list(words: list[str]) -> None:
    for output in ("json", "yaml"):
        assert typed(*words, "-o", output).stdout == "[]\n"
    result = typed(*words)
    assert result.stdout == ""
    assert result.stderr
