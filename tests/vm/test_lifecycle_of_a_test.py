"""A test of a lab that does not come to its end."""

import signal
import time

import pytest
from machines import PATIENCE, Labctl, processors

from labctl.base.wait import Deadline, until


@pytest.mark.vm
def test_a_test_that_is_interrupted_leaves_a_lab_that_passes(shared: Labctl) -> None:
    """At the worst moment: a director has just been switched off."""
    with processors("measure"):
        process = shared.start("test", "lvs-dr-keepalived", "-k", "/crash")
        faults = shared.directories["state"] / "labctl/labs/lvs-dr-keepalived/faults.json"
        assert until(lambda: faults.exists() and '"kind": "crash"' in faults.read_text(), Deadline(30 * PATIENCE), 0.1)
        for refused in (["test", "lvs-dr-keepalived"], ["drill", "lvs-dr-keepalived", "crash", "rs1"],
                        ["down", "lvs-dr-keepalived"]):
            assert "A test or drill of the lab 'lvs-dr-keepalived' is running" in shared(*refused, code=2).err
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        out, err = process.communicate(timeout=30 * PATIENCE)
        assert time.monotonic() - interrupted < 1 + PATIENCE
        assert (process.returncode, err) == (130, "labctl: interrupted.\n")
        assert "was switched off, and boots again" in out
        result = shared("test", "lvs-dr-keepalived", "-k", "/arp or /spread or /names_resolve or /clean_stop")
    assert "what it had broken is put back" in result.out
