"""labctl.observe.verdict and what is made of verdicts: lines, JSON, JUnit and HTML."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from samples import KEEPALIVED, lab_of, plan_of

from labctl.cli import verdicts as forms
from labctl.labs.record import User
from labctl.observe import report
from labctl.observe.verdict import Check, Measured, Verdict, count

PLAN = plan_of(KEEPALIVED)
STEP = PLAN.node("rs1").steps[-1]
VERDICTS = [
    Verdict(id="web/arp", title="web: one answers <ARP>", subject="web", outcome="passed", seconds=1.25),
    Verdict(id="web/stop", title="web: [b]quick[/b]", subject="web", outcome="failed", message="Too slow: 7 < 9 & so.",
            suspects=(f"rs1/{STEP.name}",), measured=Measured(value=7.25, unit="s", bound=4), seconds=9),
    Verdict(id="packages", title="a package", subject="", outcome="unknown", message="The node 'rs1' is silent.",
            seconds=0),
]
ADVICE = f"The step rs1/{STEP.name} looks wrong: {STEP.title}. 'labctl apply rs1/{STEP.name}' does it again."


def shown(form: str, encoding: str = "utf-8") -> str:
    buffer = io.BytesIO()
    console = Console(file=io.TextIOWrapper(buffer, encoding=encoding), width=40, force_terminal=False, highlight=False)
    with forms.make(form, console, PLAN) as watcher:
        for verdict in VERDICTS:
            watcher.begins(Check(id=verdict.id, title=verdict.title, subject=verdict.subject))
            watcher.ends(verdict)
        watcher.conclude(VERDICTS)
    console.file.flush()
    return buffer.getvalue().decode(encoding)


def test_outcomes_are_counted() -> None:
    assert count(VERDICTS) == {"passed": 1, "failed": 1, "unknown": 1}


def test_people_get_a_line_per_check_with_what_is_wrong_below() -> None:
    assert shown("table").splitlines() == [
        "✓ web: one answers <ARP>  1.2 s",
        "✗ web: [b]quick[/b] (7.2 s, 4.0 s allowed)  9.0 s",
        "    Too slow: 7 < 9 & so.",
        f"    {ADVICE}",
        "? a package: could not check",
        "    The node 'rs1' is silent.",
        "1 passed, 1 failed, 1 could not be checked",
    ]


def test_a_terminal_without_the_marks_gets_words() -> None:
    lines = shown("table", "latin-1").splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["ok", "FAILED", "?", "1"]


def test_other_programs_get_an_object_per_line() -> None:
    lines = [json.loads(line) for line in shown("jsonl").splitlines()]
    assert [line["event"] for line in lines] == ["check", "verdict"] * 3 + ["end"]
    assert [Verdict.model_validate({key: value for key, value in line.items() if key != "event"})
            for line in lines if line["event"] == "verdict"] == VERDICTS
    assert lines[-1] == {"event": "end", "lab": PLAN.lab, "passed": 1, "failed": 1, "unknown": 1}


def test_or_one_document() -> None:
    document = json.loads(shown("json"))
    assert [Verdict.model_validate(each) for each in document.pop("verdicts")] == VERDICTS
    assert document == {"version": 1, "lab": PLAN.lab, "passed": 1, "failed": 1, "unknown": 1}


def test_junit_names_the_lab_whose_it_is_and_what_people_see(tmp_path: Path) -> None:
    student = User(uid=1000, name="student7")
    report.write_junit(tmp_path / "report.xml", lab_of(PLAN, user=student, hostname="pool-3"), VERDICTS)
    suite, = ET.parse(tmp_path / "report.xml").getroot().iter("testsuite")
    assert {name: suite.attrib[name] for name in ("name", "tests", "failures", "errors")} == {
        "name": PLAN.lab, "tests": "3", "failures": "1", "errors": "1"}
    about, *cases = suite
    assert {each.attrib["name"]: each.attrib["value"] for each in about} == {
        "lab": PLAN.lab, "user": "student7", "host": "pool-3"}
    assert [(case.attrib["classname"], case.attrib["name"]) for case in cases] == [
        (PLAN.lab, verdict.title) for verdict in VERDICTS]
    assert [[each.attrib["value"] for each in case.iter("property")] for case in cases] == [
        ["web/arp"], ["web/stop", "7.2 s, 4.0 s allowed"], ["packages"]]
    failure, = suite.iter("failure")
    error, = suite.iter("error")
    assert (failure.attrib["message"], failure.text) == (VERDICTS[1].message, f"{VERDICTS[1].message}\n{ADVICE}")
    assert error.attrib["message"] == VERDICTS[2].message


def test_html_shows_titles_as_they_are(tmp_path: Path) -> None:
    report.write_html(tmp_path / "report.html", PLAN, VERDICTS)
    page = (tmp_path / "report.html").read_text()
    assert "web: one answers &lt;ARP&gt;" in page
    assert "Too slow: 7 &lt; 9 &amp; so." in page
    assert "1 passed, 1 failed, 1 could not be" in page
    assert "http" not in page.replace("httpd", "")


@pytest.mark.parametrize("write", [report.write_junit, report.write_html])
def test_control_characters_of_a_guest_make_no_report_unreadable(write: object, tmp_path: Path) -> None:
    assert callable(write)
    verdict = Verdict(id="x", title="x", subject="", outcome="failed", message="a\x00\x1b[31mb\x9b\nc", seconds=0)
    assert verdict.message == "a\ufffd\ufffd[31mb\ufffd\nc"
    write(tmp_path / "report", lab_of(PLAN) if write is report.write_junit else PLAN, [verdict])
    text = (tmp_path / "report").read_text()
    assert "\x00" not in text
    assert "\x1b" not in text
    if write is report.write_junit:
        ET.fromstring(text)
