"""heartbeat 3.0.6 may get stuck: one node then waits for the other for an hour, and does not end before.

It happens to one that is asked for an address that is on its way. A node that just got it agrees to the next move; the
other one has not heard yet that this one is over, and forgets its own question (ask_for_resources in hb_resource.c).
"""

import time
from collections.abc import Iterator

import pytest
from machines import PATIENCE, Labctl

from labctl.base.wait import Deadline, until

VIP = "10.10.10.100"
AWAY = "/run/heartbeat-watch.away"
"""Where the watch remembers which heartbeat it has told to hand the address over."""
TOOLS = "/usr/share/heartbeat"
SETTLED = "cl_status rscstatus | grep -qv transition"
OVERRIDE = "/run/systemd/system/heartbeat.service.d"
SHORT = f"mkdir -p {OVERRIDE}; printf '[Service]\\nTimeoutStopSec=3\\n' >{OVERRIDE}/test.conf; systemctl daemon-reload"
"""The node's own limit is for a machine that is slow, and has something to do."""

pytestmark = pytest.mark.parametrize("lab", ["nginx-heartbeat"], indirect=True, scope="session")


@pytest.fixture
def first(lab: str, labs: Labctl) -> Iterator[str]:
    """The node that holds the address; it holds it again in the end."""
    node = f"{lab}/C7B1"
    yield node
    labs("exec", node, "sh", "-c", f"rm -rf {OVERRIDE}; systemctl daemon-reload")
    labs("reset", lab)


def holds(node: str, labs: Labctl) -> bool:
    """Whether a node has the address."""
    return bool(labs("exec", node, "ip", "-o", "-4", "address", "show", "to", VIP).out)


def stand_by(node: str, labs: Labctl) -> None:
    """Have a node give the address to the other one."""
    labs("exec", node, "sh", "-c", f"{TOOLS}/hb_standby all")
    assert until(lambda: not holds(node, labs), Deadline(10 * PATIENCE))
    labs("exec", node, "sh", "-c", f"until {SETTLED}; do sleep 1; done")


@pytest.mark.vm
def test_a_heartbeat_that_does_not_end_is_ended_and_its_address_goes(first: str, labs: Labctl) -> None:
    stand_by(first, labs)
    # It waits for the word of its own child that the address is there.
    labs("exec", first, "sh", "-c", f"{TOOLS}/hb_takeover local; until pgrep -f '[t]akegroup'; do sleep 0.1; done; "
                                    "kill -9 $(pgrep -n -P $(systemctl show -p MainPID heartbeat | cut -d = -f 2))")
    assert until(lambda: holds(first, labs), Deadline(10 * PATIENCE))
    time.sleep(PATIENCE)
    assert labs("exec", first, "sh", "-c", SETTLED, code=None).code, "heartbeat is not stuck"
    labs("exec", first, "sh", "-c", SHORT)
    labs("undo", f"{first}/heartbeat")
    assert not holds(first, labs)
    assert "heartbeat: " not in labs("exec", first, "ps", "ax").out


@pytest.mark.vm
def test_the_watch_leaves_it_to_a_heartbeat_that_was_started_anew(first: str, labs: Labctl) -> None:
    """That gets the address back by itself, and of two who ask for it one may get no answer."""
    stand_by(first, labs)
    labs("exec", first, "sh", "-c", f"echo MainPID=1 >{AWAY}")
    assert until(lambda: labs("exec", first, "test", "-e", AWAY, code=None).code, Deadline(3 * PATIENCE))
    assert not holds(first, labs)
    labs("exec", first, "sh", "-c", f"systemctl show -p MainPID heartbeat >{AWAY}")
    assert until(lambda: holds(first, labs), Deadline(10 * PATIENCE))
