"""labctl.cli.display: how things look."""

import io
import json

import pytest
import yaml
from rich.console import Console
from samples import KEEPALIVED, plan_of

from labctl.cli import display


def printed(width: int = 80) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, force_terminal=False), out


@pytest.mark.parametrize(("count", "text"), [
    (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (5 * 1024**2, "5 MiB"), (1.5 * 1024**3, "1.5 GiB"),
    (2048 * 1024**3, "2048.0 GiB"),
])
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert display.size(count) == text


def test_data_is_the_same_as_json_and_yaml() -> None:
    value = {"b": [1, None, "no", "一"], "a": {"c": True}}
    assert json.loads(display.data(value, "json")) == value == yaml.safe_load(display.data(value, "yaml"))
    assert display.data(value, "yaml").startswith("b:")
    assert "一" in display.data(value, "json")


def test_a_table_shows_its_cells_as_they_are_and_whole() -> None:
    console, out = printed(width=20)
    display.table(console, ["NAME", "TEXT"], [["[red]a[/]", "x" * 40], ["b", ""]])
    heading, first, second = out.getvalue().splitlines()
    assert heading.split() == ["NAME", "TEXT"]
    assert first.split() == ["[red]a[/]", "x" * 40]
    assert second.split() == ["b"]


def test_a_cell_cannot_move_the_cursor() -> None:
    console, out = printed()
    display.table(console, ["NOTE"], [["\x1b[2J\x9b31m"]])
    assert out.getvalue().splitlines()[1].strip() == "^[[2J\\x9b31m"


def test_progress_on_a_pipe_is_a_line_per_event() -> None:
    console, out = printed()
    with display.PlainProgress(console) as progress:
        progress.say("[bold] stays as it is " + "x" * 100)
        progress.passed("rs1", "ssh")
    first, second = out.getvalue().splitlines()
    assert first == "[bold] stays as it is " + "x" * 100
    assert second.endswith(" s  rs1: ssh")


def test_a_download_on_a_pipe_is_a_few_lines() -> None:
    console, out = printed()
    with display.PlainTransfer(console) as transfer:
        for here in (*range(600), *range(500, 1001)):
            transfer.moved(here * 2**20, 1000 * 2**20)
        transfer.say("[bold] stays as it is")
        transfer.moved(7, None)
    assert out.getvalue().splitlines() == [
        "250 MiB of 1000 MiB", "500 MiB of 1000 MiB", "750 MiB of 1000 MiB", "1000 MiB of 1000 MiB",
        "[bold] stays as it is"]


def test_a_download_on_a_terminal_is_a_bar() -> None:
    out = io.StringIO()
    with display.LiveTransfer(Console(file=out, width=80, force_terminal=True)) as transfer:
        transfer.say("[bold] stays as it is")
        transfer.moved(0, None)
        transfer.moved(2**20, 4 * 2**20)
    assert "[bold] stays as it is" in out.getvalue()
    assert "1.0/4.0 MiB" in out.getvalue()


def test_rows_of_nodes() -> None:
    plan = plan_of()
    applied = {"lvs": {"hosts", "packages", "vip", "rules"}, "rs1": {"hosts", "packages", "page", "vip-lo"},
               "rs2": set()}
    rows = display.mapping_rows({node.name: "running" for node in plan.nodes},
                                {node.name: applied.get(node.name) for node in plan.nodes}, plan.nodes)
    assert rows[0] == ["lvs", "running", "eth0 10.10.10.11/24, eth1 10.10.20.11/24", "384 MiB", "4/4"]
    assert [row[-1] for row in rows[1:]] == [
        "4/6, undone: httpd, arp", "0/6, undone: hosts, packages, page, httpd, arp, vip-lo", "?", "?"]


def test_a_sheet_has_each_step_with_reason_files_commands_and_the_way_back() -> None:
    plan = plan_of(KEEPALIVED)
    lines: list[str] = []
    display.sheet(plan, plan.nodes, lines.append)
    text = "\n".join(lines)
    assert text.startswith("# Test bed\n\n## lvs (eth0 10.10.10.11, eth1 10.10.20.11)\n")
    for node in plan.nodes:
        for step in node.steps:
            assert f"{step.title} ({node.name}/{step.name})" in text
            assert step.why in text
            for file in step.write_files:
                assert f"Write {file.path}" in text
            for command in [*step.runcmd, *step.undo]:
                assert f"    {command.splitlines()[0]}" in text
    assert "(mode 0600)" in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_events_for_other_programs_are_an_object_per_line() -> None:
    console, out = printed(width=20)
    with display.JsonLines(console) as progress:
        progress.say("[bold] stays as it is, 一 " + "x" * 40)
        progress.passed("rs1", "ssh")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first == {"event": "message", "text": "[bold] stays as it is, 一 " + "x" * 40}
    assert out.getvalue().isascii()
    assert {key: second[key] for key in ("event", "node", "gate")} == {"event": "gate", "node": "rs1", "gate": "ssh"}
