"""Drills in a real lab: what clients notice is measured, judged and drawn, and whatever happens, it heals."""

import json
import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from machines import PATIENCE, Labctl, processors

from labctl.base.wait import Deadline, until

LAB = "lvs-dr-keepalived"


@pytest.mark.vm
def test_a_holder_that_is_stopped_is_drilled_and_drawn(shared: Labctl, tmp_path: Path) -> None:
    picture = tmp_path / "drill.svg"
    result = shared("drill", LAB, "stop", "lvs-m", "keepalived", "--svg", str(picture), "-o", "json", use="measure")
    drill, = json.loads(result.out)["drills"]
    assert {verdict["id"].partition("/")[2]: verdict["outcome"] for verdict in drill["verdicts"]} == {
        "takeover": "passed", "return": "passed", "home": "passed"}
    assert set(drill["servers"]) == {"rs1", "rs2"}
    held = [each["who"] for each in drill["held"]]
    assert (held[0], held[-1], set(held)) == ("lvs-m", "lvs-m", {"lvs-m", "lvs-s"})
    told = [(event["node"], event["text"]) for event in drill["events"] if event["at"] > 0]
    # The election is told in its order, by three nodes whose clocks differ by minutes.
    for earlier, later in ((("lvs-m", "loses 10.10.10.100"), ("lvs-s", "has 10.10.10.100")),
                           (("lvs-s", "is MASTER"), ("lvs-m", "is MASTER"))):
        assert told.index(earlier) < told.index(later)
    assert drill["error"] < 0.1 * PATIENCE
    assert ET.parse(picture).getroot().tag.endswith("svg")


@pytest.mark.vm
def test_a_drill_that_is_interrupted_heals(shared: Labctl) -> None:
    with processors("measure"):
        process = shared.start("drill", LAB, "drain", "rs1")
        assert process.stderr
        faults = shared.directories["state"] / "labctl/labs" / LAB / "faults.json"
        assert until(lambda: faults.exists() and "ipvsadm" in faults.read_text(), Deadline(30 * PATIENCE), 0.1)
        assert "A test or drill of the lab" in shared("drill", LAB, "crash", "rs1", code=2).err
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 130
    assert "heals." in err
    table = shared("exec", f"{LAB}/lvs-m", "ipvsadm -Ln").out
    assert {line.split()[3] for line in table.splitlines() if "->" in line and "Route" in line} == {"1"}


@pytest.mark.vm
def test_a_lab_is_watched(shared: Labctl) -> None:
    lines = [json.loads(line) for line in shared("watch", LAB, "--for", "4", "-o", "jsonl").out.splitlines()]
    assert lines[-1]["event"] == "end"
    assert set(lines[-1]["answered"]) == {"rs1", "rs2"}
    assert [line["holders"] for line in lines if line["event"] == "second"][-1] == ["lvs-m"]


@pytest.mark.vm
def test_a_lab_is_seen_at_one_moment(shared: Labctl) -> None:
    seen = json.loads(shared("top", LAB, "--once", "-o", "json").out)
    assert {node["name"]: (node["state"], node["lacks"]) for node in seen["nodes"]} == {
        name: ("running", {}) for name in ("lvs-m", "lvs-s", "rs1", "rs2", "client")}
    assert seen["vips"] == [{"address": "10.10.10.100", "holders": ["lvs-m"], "silent": []}]
    assert [(row["director"], row["current"], row["server"], row["weight"]) for row in seen["table"]] == [
        (director, director == "lvs-m", server, 1) for director in ("lvs-m", "lvs-s") for server in ("rs1", "rs2")]
    assert sum(row["packets"] for row in seen["table"] if row["current"]) > 0
    assert {one["server"] for one in seen["answers"] if sum(one["seconds"])} == {"rs1", "rs2"}
    assert seen["faults"] == []
