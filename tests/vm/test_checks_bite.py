"""What no step stands for, broken by hand: the check that is about it fails, and suspects the right step."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import failures, labs_of, planned
from machines import Labctl

from labctl.language.services import Ipvs


@dataclass(frozen=True)
class Sabotage:
    """Shell commands for a node, the check that notices, and the step it should suspect and that mends it."""

    lab: str
    node: str
    do: str
    check: str
    suspect: str = ""
    mend: str = ""
    """Where doing the step again does not mend it."""


SCHEDULERS = {name: service.virtual for name, service in planned("lvs-schedulers").topology.services.items()
              if isinstance(service, Ipvs)}
OTHERS = {"rr": "wrr", "wrr": "rr", "lc": "wlc", "wlc": "lc", "sed": "wlc", "nq": "sed", "sh": "rr", "dh": "sh",
          "lblc": "dh", "lblcr": "lblc"}
"""For each algorithm another one, which is mistaken for it most easily."""


DROP_IN = "/etc/systemd/system/keepalived.service.d"

SABOTAGE = {
    # The servers' replies bear the wrong address.
    "masquerading instead of direct routing": Sabotage(
        "lvs-dr", "lvs", "ipvsadm -e -t 10.10.10.100:80 -r 10.10.10.12:80 -m", "packet_path", "lvs/rules"),
    # Alternates just as well, but all replies pass the director, and the servers see its address.
    "a proxy instead of IPVS": Sabotage(
        "lvs-dr", "lvs",
        "ipvsadm -S -n >/tmp/rules; ipvsadm -C; printf 'defaults\n mode http\n timeout connect 9s\n timeout client 9s\n"
        " timeout server 9s\nlisten web\n bind 10.10.10.100:80\n server rs1 10.10.10.12:80\n"
        " server rs2 10.10.10.13:80\n' >/tmp/proxy.cfg; haproxy -D -p /tmp/proxy.pid -f /tmp/proxy.cfg",
        "packet_path", "lvs/rules", "kill $(cat /tmp/proxy.pid); ipvsadm-restore </tmp/rules"),
    "a director that no longer looks at its servers": Sabotage(
        "lvs-dr-keepalived", "lvs-m", "pkill -STOP -x keepalived", "dead_server", "lvs-m/keepalived",
        "pkill -CONT -x keepalived"),
    "a director that is content with an open port": Sabotage(
        "lvs-dr-keepalived", "lvs-m",
        "sed -i 's/HTTP_GET/TCP_CHECK/; /url {/,/}/d' /etc/keepalived/conf.d/web.conf; systemctl reload keepalived",
        "refused_page", "lvs-m/keepalived"),
    "a backup that is not there when the MASTER crashes": Sabotage(
        "lvs-dr-keepalived", "lvs-s", "systemctl stop keepalived", "crash", "lvs-s/keepalived"),
    "a backup that hears nobody, but does not care": Sabotage(
        "lvs-dr-keepalived", "lvs-s", "systemctl stop keepalived", "partition", "lvs-s/keepalived"),
    "a holder that leaves without a word": Sabotage(
        "lvs-dr-keepalived", "lvs-m",
        # Held first: a child of its that sees the parent killed would still say good-bye, if it got the time.
        f"mkdir -p {DROP_IN}; printf '[Service]\\nExecStop=/usr/bin/pkill -STOP -x keepalived\\nKillSignal=SIGKILL\\n' "
        f">{DROP_IN}/mute.conf; systemctl daemon-reload",
        "clean_stop", "lvs-m/keepalived", f"rm -r {DROP_IN}; systemctl daemon-reload"),
    "a server that reaches nobody": Sabotage(
        "lvs-nat", "rs2", "iptables -A OUTPUT -p tcp --dport 5001:5009 -j DROP", "own_connections",
        mend="iptables -F OUTPUT"),
    "advertisements that only one hears": Sabotage(
        "lvs-dr-keepalived", "lvs-m",
        "sed -i 's/advert_int 1/&\\n    unicast_src_ip 10.10.10.11\\n    unicast_peer {\\n 10.10.10.14\\n }/' "
        "/etc/keepalived/conf.d/web.conf; systemctl reload keepalived", "advertisements", "lvs-m/keepalived"),
    "a priority that nobody chose": Sabotage(
        "lvs-dr-keepalived", "lvs-m",
        "sed -i 's/priority 150/priority 140/' /etc/keepalived/conf.d/web.conf; systemctl reload keepalived",
        "advertisements", "lvs-m/keepalived"),
    "a firewall": Sabotage(
        "lvs-dr", "rs2", "iptables -A INPUT -p tcp --dport 9 -j DROP", "firewall", mend="iptables -F"),
    "an address that is gone": Sabotage(
        "base", "C7B2", "ip address del 20.20.20.12/24 dev eth1", "addresses",
        mend="ip address add 20.20.20.12/24 dev eth1"),
    "a watch that looks at somebody else": Sabotage(
        "haproxy-keepalived", "lb1",
        "sed -i s/127.0.0.1:80/10.10.10.12:80/ /etc/keepalived/conf.d/vip.conf; systemctl reload keepalived",
        "program_dies", "lb2/keepalived", "sed -i s/10.10.10.12:80/127.0.0.1:80/ /etc/keepalived/conf.d/vip.conf; "
        "systemctl reload keepalived"),
    "a script that is content with an open port": Sabotage(
        "lvs-nat-healthcheck", "lvs",
        "sed -i 's/curl -sf.*/nc -z -w 1 $1 80/' /usr/local/sbin/lvs-check-web; systemctl restart lvs-check-web",
        "refused_page or dead_server", "lvs/healthcheck"),
    "a script that logs nothing": Sabotage(
        "lvs-nat-healthcheck", "lvs",
        "sed -i s,^log=.*,log=/dev/null, /usr/local/sbin/lvs-check-web; systemctl restart lvs-check-web",
        "log", "lvs/healthcheck"),
    "no persistence": Sabotage(
        "lvs-persistence", "lvs", "ipvsadm -E -t 20.20.20.101:80 -s rr", "(stay or second) and ppc", "lvs/rules.ppc"),
    "persistence for longer": Sabotage(
        "lvs-persistence", "lvs", "ipvsadm -E -f 3 -s rr -p 60", "templates", "lvs/rules.pfmc"),
    "long packets that get lost": Sabotage(
        "lvs-tun", "router", "iptables -A FORWARD -m length --length 1300: -j DROP", "long_packets",
        mend="iptables -F FORWARD"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sabotage" in metafunc.fixturenames:
        labs = labs_of(metafunc.config.getoption("--thorough"))
        tried = {what: each for what, each in SABOTAGE.items() if each.lab in labs}
        metafunc.parametrize(("lab", "sabotage"), [(each.lab, each) for each in tried.values()], indirect=["lab"],
                             ids=[f"{each.lab}: {what}" for what, each in tried.items()], scope="session")


@pytest.mark.vm
def test_sabotage_is_noticed(lab: str, sabotage: Sabotage, labs: Labctl, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    node = f"{lab}/{sabotage.node}"
    measures = sabotage.check in ("crash", "clean_stop", "partition", "program_dies", "advertisements")
    try:
        labs("exec", node, "sh", "-c", sabotage.do)
        labs("test", lab, "-k", sabotage.check, "--junit", str(report), code=1,
             use="measure" if measures else None)
    finally:
        if sabotage.mend:
            labs("exec", node, "sh", "-c", sabotage.mend)
        else:
            labs("apply", f"{lab}/{sabotage.suspect}")
    found = failures(report)
    assert found
    if sabotage.suspect:
        assert f"The step {sabotage.suspect} looks wrong" in " ".join(found.values())


@pytest.mark.vm
@pytest.mark.parametrize("lab", ["lvs-schedulers"], indirect=True)
def test_another_algorithm_under_each_name_is_noticed(lab: str, labs: Labctl, tmp_path: Path) -> None:
    assert OTHERS.keys() == SCHEDULERS.keys()
    report = tmp_path / "report.xml"
    changes = [f"ipvsadm -E {SCHEDULERS[name]} -s {other}" for name, other in OTHERS.items()]
    try:
        labs("exec", f"{lab}/lvs", "sh", "-ec", "; ".join(changes))
        about_algorithms = "spread or connections or hash or destination or overload"
        labs("test", lab, "-k", about_algorithms, "--junit", str(report), code=1)
    finally:
        for name in OTHERS:
            labs("apply", f"{lab}/lvs/rules.{name}")
    said = " ".join(failures(report).values())
    assert [name for name in OTHERS if f"The step lvs/rules.{name} looks wrong" not in said] == []
