"""Each step in turn is undone: the check that guards it fails and names it, and passes once it is applied again."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import GUEST, Labctl, failures

from labctl import catalog, guests, plan

QUICK = "names or own_page or arp or spread"
# The checks that notice each kind of step missing; all others have to stay green.
GUARDS = {
    "base/hosts": {"test_names_resolve"},
    "httpd/page": {"test_own_page", "test_spread"},
    "httpd/httpd": {"test_own_page", "test_spread"},
    "ipvs/arp": {"test_arp", "test_spread"},
    "ipvs/vip-lo": {"test_spread"},
    "ipvs/vip": {"test_arp", "test_spread"},
    "ipvs/rules": {"test_spread"},
    "ipvs/keepalived": {"test_arp"},
}
BACKUP = "lvs-s"


def _steps() -> list[tuple[str, str, str]]:
    found = []
    for lab in ("lvs-dr", "lvs-dr-keepalived"):
        planned = plan.make(catalog.load(catalog.find(lab)), lab, guests.load(GUEST))
        found += [(lab, f"{node.name}/{step.name}", step.kind) for node in planned.nodes for step in node.steps]
    return found


@pytest.mark.vm
@pytest.mark.parametrize(("lab", "step", "kind"), _steps())
def test_undone_step_is_noticed(lab: str, step: str, kind: str, labs: Labctl, tmp_path: Path) -> None:
    backup = step.startswith(f"{BACKUP}/") and kind == "ipvs/keepalived"
    expression = "clean_stop" if backup else QUICK
    guards = {"test_clean_stop"} if backup else GUARDS[kind]
    report = tmp_path / "report.xml"

    labs("undo", f"{lab}/{step}")
    labs("test", lab, "-k", expression, "--junit", str(report), code=1)
    failed = failures(report)
    assert {name.partition("[")[0] for name in failed} <= guards
    assert any(f"The step {step} looks wrong" in message for message in failed.values()), failed

    labs("apply", f"{lab}/{step}")
    labs("test", lab, "-k", expression)


@dataclass(frozen=True)
class Sabotage:
    """Shell commands for a node, the check that notices, and the step it should suspect."""

    lab: str
    node: str
    do: str
    mend: str
    check: str
    suspect: str


# What no step stands for, so that the remaining checks are seen to fail as well.
SABOTAGE = {
    # A scheduler that sends one client to one server for ever.
    "sticky scheduler": Sabotage(
        "lvs-dr", "lvs", "ipvsadm -E -t 10.10.10.100:80 -s sh", "ipvsadm -E -t 10.10.10.100:80 -s rr",
        "spread", "lvs/rules"),
    # The servers' replies bear the wrong address.
    "masquerading instead of direct routing": Sabotage(
        "lvs-dr", "lvs", "ipvsadm -e -t 10.10.10.100:80 -r 10.10.10.12:80 -m",
        "ipvsadm -e -t 10.10.10.100:80 -r 10.10.10.12:80 -g", "packet_path", "lvs/rules"),
    # Alternates just as well, but all replies pass the director, and the servers see its address.
    "a proxy instead of IPVS": Sabotage(
        "lvs-dr", "lvs",
        "ipvsadm -S -n >/tmp/rules; ipvsadm -C; printf 'defaults\n mode http\n timeout connect 9s\n timeout client 9s\n"
        " timeout server 9s\nlisten web\n bind 10.10.10.100:80\n server rs1 10.10.10.12:80\n"
        " server rs2 10.10.10.13:80\n' >/tmp/proxy.cfg; haproxy -D -p /tmp/proxy.pid -f /tmp/proxy.cfg",
        "kill $(cat /tmp/proxy.pid); ipvsadm-restore </tmp/rules", "packet_path", "lvs/rules"),
    "a director that no longer looks at its servers": Sabotage(
        "lvs-dr-keepalived", "lvs-m", "pkill -STOP -x keepalived", "pkill -CONT -x keepalived",
        "dead_server", "lvs-m/keepalived"),
    "a backup that is not there when the MASTER crashes": Sabotage(
        "lvs-dr-keepalived", "lvs-s", "systemctl stop keepalived", "systemctl start keepalived",
        "crash", "lvs-s/keepalived"),
}


@pytest.mark.vm
@pytest.mark.parametrize("sabotage", SABOTAGE.values(), ids=SABOTAGE.keys())
def test_sabotage_is_noticed(sabotage: Sabotage, labs: Labctl, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    target = f"{sabotage.lab}/{sabotage.node}"
    try:
        labs("exec", target, "sh", "-c", sabotage.do)
        labs("test", sabotage.lab, "-k", sabotage.check, "--junit", str(report), code=1)
    finally:
        labs("exec", target, "sh", "-c", sabotage.mend)
    assert f"The step {sabotage.suspect} looks wrong" in " ".join(failures(report).values())
    labs("test", sabotage.lab, "-k", sabotage.check)


@pytest.mark.vm
@pytest.mark.parametrize("lab", ["lvs-dr", "lvs-dr-keepalived"])
def test_everything_is_green(lab: str, labs: Labctl, tmp_path: Path) -> None:
    junit, html = tmp_path / "report.xml", tmp_path / "report.html"
    result = labs("test", lab, "--junit", str(junit), "--html", str(html))
    assert "0 failed" in result.out
    assert failures(junit) == {}
    assert "test_spread" in html.read_text()
