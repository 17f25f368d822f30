"""Verdicts as files: JUnit's XML for programs, and an HTML page for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from jinja2 import Environment

from labctl.labs.lab import Lab
from labctl.observe.verdict import Verdict, count, text
from labctl.plan.plan import Plan

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Checks of the lab {{ plan.lab }}</title>
<style>
  body { font-family: sans-serif; margin: 2em }
  td, th { padding: .3em .8em; text-align: left; vertical-align: top }
  tr { border-bottom: 1px solid #ccc }
  table { border-collapse: collapse }
  .passed { color: #070 } .failed { color: #b00 } .unknown { color: #960 }
  pre { white-space: pre-wrap; margin: .3em 0 }
</style>
<h1>{{ plan.lab }}: {{ plan.topology.title }}</h1>
<p>{{ plan.guest.title }}. {{ counts.passed }} passed, {{ counts.failed }} failed, {{ counts.unknown }} could not be
checked.</p>
<table>
<tr><th>Outcome</th><th>Check</th><th>Seconds</th></tr>
{% for verdict in verdicts %}
<tr id="{{ verdict.id }}"><td class="{{ verdict.outcome }}">{{ verdict.outcome }}</td>
<td>{{ verdict.title }}{% if verdict.measured %} ({{ verdict.measured }}){% endif %}
{% if verdict.message %}<pre>{{ text(verdict, plan) }}</pre>{% endif %}</td>
<td>{{ "%.1f"|format(verdict.seconds) }}</td></tr>
{% endfor %}
</table>
</html>
""")


def write_junit(file: Path, lab: Lab, verdicts: Sequence[Verdict]) -> None:
    """Write a JUnit report; the lab is the test suite, and checks are named by their titles.

    The suite's properties name the lab, its user and its host.
    """
    counts, plan = count(verdicts), lab.plan
    suite = ET.Element("testsuite", {
        "name": plan.lab, "tests": str(len(verdicts)), "failures": str(counts["failed"]),
        "errors": str(counts["unknown"]), "time": f"{sum(verdict.seconds for verdict in verdicts):.3f}"})
    _properties(suite, {"lab": lab.name, "user": lab.record.user.name, "host": lab.record.hostname})
    for verdict in verdicts:
        case = ET.SubElement(suite, "testcase", {"classname": plan.lab, "name": verdict.title,
                                                 "time": f"{verdict.seconds:.3f}"})
        facts = {"id": verdict.id, **({"measured": str(verdict.measured)} if verdict.measured else {})}
        _properties(case, facts)
        if verdict.outcome != "passed":
            kind = "failure" if verdict.outcome == "failed" else "error"
            ET.SubElement(case, kind, {"message": verdict.message}).text = text(verdict, plan)
    root = ET.Element("testsuites")
    root.append(suite)
    file.write_bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _properties(of: ET.Element, facts: Mapping[str, str]) -> None:
    properties = ET.SubElement(of, "properties")
    for name, value in facts.items():
        ET.SubElement(properties, "property", {"name": name, "value": value})


def write_html(file: Path, plan: Plan, verdicts: Sequence[Verdict]) -> None:
    """Write an HTML page that needs no other files."""
    file.write_text(_PAGE.render(plan=plan, verdicts=verdicts, counts=count(verdicts), text=text), encoding="utf-8")
