"""labctl capture and trace in the labs that are up for all tests."""

import json
import subprocess
from pathlib import Path

import pytest
from machines import PATIENCE, Labctl


@pytest.mark.vm
def test_shared_lab_is_captured(shared: Labctl, tmp_path: Path) -> None:
    """One request by direct routing, at both sides of the director, and without SSH, by which labctl asks for it."""
    file = tmp_path / "dr.pcapng"
    words = shared.command("capture", "lvs-dr/client", "lvs-dr/rs1", "lvs-dr/rs2", "lvs-dr/lan", "--vip",
                           "-w", str(file), "--for", str(3 * PATIENCE))
    with shared.start(*words[3:]) as capturing:
        assert capturing.stderr
        assert "Capturing at client:lan, rs1:lan, rs2:lan, lan" in capturing.stderr.readline()
        for _ in range(2):
            shared("exec", "lvs-dr/client", "curl -s http://10.10.10.100/")
        capturing.terminate()
        _, errors = capturing.communicate(timeout=20 * PATIENCE)
    assert capturing.returncode == 0, errors
    read = subprocess.run(["tshark", "-r", file, "-Y", "tcp.flags == 0x002", "-T", "fields", "-e",
                           "frame.interface_name", "-e", "ip.dst"], check=True, capture_output=True, text=True).stdout
    rows = [line.split("\t") for line in read.splitlines()]
    assert {address for _, address in rows} == {"10.10.10.100"}
    names = [name for name, _ in rows]
    assert {name: names.count(name) for name in names} == {"client:lan": 2, "rs1:lan": 1, "rs2:lan": 1, "lan": 4}


@pytest.mark.vm
def test_request_is_followed(shared: Labctl, tmp_path: Path) -> None:
    picture = tmp_path / "way.svg"
    traced = json.loads(shared("trace", "lvs-dr", "-o", "json", "--svg", str(picture)).out)
    ways = [(hop["sender"], hop["receiver"]) for hop in traced["hops"]]
    server = ways[-1][0]
    assert (traced["status"], ways) == (200, [("client", "lvs"), ("lvs", server), (server, "client")])
    assert [(hop["note"] or {}).get("step") for hop in traced["hops"]] == [None, "lvs/rules", f"{server}/vip-lo"]
    assert traced["hops"][1]["note"]["rewritten"][0] == "destination MAC only"
    assert server in picture.read_text()


@pytest.mark.vm
def test_request_that_is_not_answered_is_explained(shared: Labctl) -> None:
    servers = [f"lvs-dr/{server}/vip-lo" for server in ("rs1", "rs2")]
    shared("undo", *servers)
    try:
        said = shared("trace", "lvs-dr", code=1).out
    finally:
        shared("apply", *servers)
    assert "received the request and did not answer." in said
    assert "it has no address 10.10.10.100 ('labctl apply lvs-dr/rs" in said.replace("\n    ", " ")
