"""A lab's life as users see it."""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from machines import PATIENCE, Labctl, processors

from labctl.base import namespace
from labctl.base.wait import Deadline, until


@pytest.mark.vm
def test_two_labs_with_the_same_addresses(shared: Labctl) -> None:
    rows = shared.json("list")
    assert [(row["lab"], row["state"]) for row in rows] == [("lvs-dr", "up"), ("lvs-dr-keepalived", "up")]
    machines = {shared("exec", f"{lab}/rs1", "cat", "/etc/machine-id").out for lab in ("lvs-dr", "lvs-dr-keepalived")}
    assert len(machines) == 2, "both labs' rs1 has the address 10.10.10.12, and they are two machines"


@pytest.mark.vm
def test_whoever_breaks_out_of_a_machine_is_nobody(shared: Labctl) -> None:
    disks = f"{shared.directories['state']}/labctl/labs/lvs-dr/disks/".encode()
    seen = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if disks in (process / "cmdline").read_bytes() and (process / "comm").read_text().startswith("qemu"):
                seen.append(dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines()))
    assert len(seen) == 4
    for status in seen:
        assert status["Uid"].split()[1] == str(namespace.machine_user() or os.getuid())
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert os.getuid() or int(status["CapEff"], 16) == 0


@pytest.mark.vm
def test_up_twice_changes_nothing(shared: Labctl) -> None:
    before = shared("exec", "lvs-dr/lvs", "cat", "/proc/sys/kernel/random/boot_id").out
    assert "is up already" in shared("up", "lvs-dr").err
    assert shared("exec", "lvs-dr/lvs", "cat", "/proc/sys/kernel/random/boot_id").out == before


@pytest.mark.vm
def test_what_the_image_lacks_is_installed_from_its_disk(shared: Labctl) -> None:
    install = "apt-get -qq update; apt-get -qq -y -s install gcc; apt-get -qq -y install lrzsz >&2; rz --version"
    said = shared("exec", "lvs-dr/client", "sh", "-ec", install).out
    assert "Inst gcc " in said
    assert "lrzsz" in said


@pytest.mark.vm
def test_another_plan_under_the_same_name_is_refused(shared: Labctl, tiny: str) -> None:
    assert "made from another topology" in shared("up", tiny, "--name", "lvs-dr", code=2).err
    assert "or --set" in shared("up", "lvs-dr", "--set", "services.web.scheduler=wrr", code=2).err
    assert {row["lab"] for row in shared.json("list")} == {"lvs-dr", "lvs-dr-keepalived"}


@pytest.mark.vm
def test_status_and_targets(shared: Labctl) -> None:
    status = shared.json("status", "lvs-dr")
    assert {node["node"]: node["state"] for node in status["nodes"]} == dict.fromkeys(
        ["lvs", "rs1", "rs2", "client"], "running")
    assert shared("ssh", "lvs-s", "hostname").out.strip() == "lvs-s"
    assert "Several labs have a node called 'rs1'" in shared("ssh", "rs1", "true", code=2).err
    assert "Did you mean 'lvs-s'" in shared("ssh", "lvs-x", "true", code=2).err
    assert "Several labs are up" in shared("status", code=2).err
    assert "matches 'x*'" in shared("exec", "lvs-dr/x*", "true", code=2).err
    assert shared("exec", "lvs-dr/rs*", "hostname").out == "rs1: rs1\nrs2: rs2\n"


def undone(shared: Labctl) -> set[str]:
    """The steps of lvs-dr that are not done."""
    return {f"{node['node']}/{step['name']}" for node in shared.json("status", "lvs-dr")["nodes"]
            for step in node["steps"] if step["applied"] is not True}


@pytest.mark.vm
def test_a_service_is_taken_off_and_put_back(shared: Labctl) -> None:
    fetch = ("exec", "lvs-dr/client", "curl", "-sf", "-m", "20", "http://10.10.10.100/")
    assert undone(shared) == set()
    shared("undo", "lvs-dr/rs1/vip-lo")
    assert undone(shared) == {"rs1/vip-lo"}
    shared("undo", "lvs-dr/web")
    assert undone(shared) == {"lvs/vip", "lvs/rules", "rs1/arp", "rs1/vip-lo", "rs2/arp", "rs2/vip-lo"}
    assert shared(*fetch, code=None).code
    shared("apply", "lvs-dr/web")
    assert undone(shared) == set()
    assert shared(*fetch).out in ("rs1\n", "rs2\n")


@pytest.mark.vm
def test_reboot_returns_when_the_lab_serves_again(shared: Labctl) -> None:
    boots = ("exec", "lvs-dr/*", "cat", "/proc/sys/kernel/random/boot_id")
    before = set(shared(*boots).out.splitlines())
    assert "The lab 'lvs-dr' serves again" in shared("reboot", "lvs-dr/rs*").err
    assert {line.split(":")[0] for line in set(shared(*boots).out.splitlines()) - before} == {"rs1", "rs2"}
    assert undone(shared) == set()
    assert shared("exec", "lvs-dr/client", "curl", "-sf", "http://10.10.10.100/").out in ("rs1\n", "rs2\n")


@pytest.mark.vm
def test_a_node_is_shut_down_and_started_again(shared: Labctl) -> None:
    shared("stop", "lvs-dr/rs1")
    assert {node["node"]: node["state"] for node in shared.json("status", "lvs-dr")["nodes"]}["rs1"] == "off"
    assert "The node 'rs1' is off" in shared("ssh", "lvs-dr/rs1", "true", code=2).err
    assert "The lab 'lvs-dr' serves again" in shared("start", "lvs-dr/rs*").err
    assert undone(shared) == set()


@pytest.mark.vm
def test_a_node_that_panicked_is_switched_off_and_on(shared: Labctl) -> None:
    shared("undo", "lvs-dr/rs2/httpd")
    shared("exec", "lvs-dr/rs2", "nohup sh -c 'sleep 1; echo c >/proc/sysrq-trigger' >/dev/null 2>&1 &")
    assert until(lambda: "Kernel panic" in shared("logs", "lvs-dr/rs2").out, Deadline(30 * PATIENCE))
    started = time.monotonic()
    assert "The node 'rs2' does not answer" in shared("reboot", "lvs-dr/rs2", code=2).err
    assert time.monotonic() - started < 30
    shared("reboot", "--force", "lvs-dr/rs2")
    assert undone(shared) == {"rs2/httpd"}, "it was not waited for"
    shared("apply", "lvs-dr/rs2/httpd")


@pytest.mark.vm
def test_files_are_copied_to_nodes_between_them_and_back(shared: Labctl, tmp_path: Path) -> None:
    there, back = tmp_path / "a tree", tmp_path / "back"
    (there / "deep").mkdir(parents=True)
    (there / "deep" / "-x").write_bytes(bytes(range(256)))
    back.mkdir()
    shared("cp", "-r", str(there), "lvs-dr/rs1:/tmp/")
    shared("cp", "-r", "lvs-dr/rs1:/tmp/a tree", "lvs-dr/client:")
    shared("cp", "-r", "lvs-dr/client:a tree", str(back))
    assert (back / "a tree" / "deep" / "-x").read_bytes() == bytes(range(256))
    error = shared("cp", "lvs-dr/client:a tree", "lvs-dr/client:nowhere", str(back), code=2).err
    assert "nowhere: No such file" in error
    assert "'-r' copies directories" in error


@pytest.mark.vm
def test_a_line_of_shell_and_words_get_there(shared: Labctl) -> None:
    assert shared("exec", "lvs-dr/rs*", "--", "hostname | tr a-z A-Z; exit 3", code=3).out == "rs1: RS1\nrs2: RS2\n"
    assert shared("ssh", "lvs-dr/rs1", "--", "printf", "%s", "a  b|c").out == "a  b|c"


@pytest.mark.vm
def test_exit_codes_pass_through(shared: Labctl) -> None:
    shared("ssh", "lvs-dr/rs1", "exit 7", code=7)
    shared("exec", "lvs-dr/rs1", "sh", "-c", "exit 9", code=9)
    shared("exec", "lvs-dr/rs1", "exit 255", code=255)


@pytest.mark.vm
def test_plain_ssh_from_outside_verifies_host_keys(shared: Labctl, tmp_path: Path) -> None:
    config = shared("ssh-config", "lvs-dr").out.strip()
    command = ["ssh", "-F", config, "-o", "ControlPath=none", "-o", "BatchMode=yes"]
    known = subprocess.run([*command, "rs1", "hostname"], capture_output=True, text=True, timeout=10 * PATIENCE,
                           check=False)
    assert known.stdout == "rs1\n"
    strange = tmp_path / "known_hosts"
    strange.write_text("rs1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n")
    refused = subprocess.run([*command, "-o", f"UserKnownHostsFile={strange}", "rs1", "hostname"],
                             capture_output=True, text=True, timeout=10 * PATIENCE, check=False)
    assert refused.returncode == 255
    assert refused.stdout == ""


@pytest.mark.vm
def test_logs_show_the_console(shared: Labctl) -> None:
    assert "Linux version" in shared("logs", "lvs-dr/rs1").out


@pytest.mark.vm
def test_no_check_matches(shared: Labctl) -> None:
    shared("test", "lvs-dr", "-k", "nothing_is_called_this", code=3)


@pytest.mark.vm
def test_a_check_that_cannot_be_made_is_not_a_failed_one(shared: Labctl) -> None:
    config = shared("ssh-config", "lvs-dr").out.strip()
    shared("exec", "lvs-dr/client", "systemctl", "stop", "ssh")
    subprocess.run(["ssh", "-F", config, "-O", "exit", "client"], capture_output=True, timeout=60, check=False)
    try:
        said = shared("test", "lvs-dr", "-k", "spread", code=2).out
        assert "could not check" in said
        assert "The node 'client' " in said
        assert "CommandResult" not in said
    finally:
        shared("reset", "lvs-dr/client")


@pytest.mark.vm
def test_from_up_to_nothing_left(labctl: Labctl, tiny: str) -> None:
    """Two instances of one topology; all of the second is gone after down, the first is as it was."""
    with processors("start"):
        one = labctl.start("up", tiny, "--name", "one")
        assert one.stderr is not None
        for line in one.stderr:
            if "defined" in line:
                break
        second_try = labctl("up", tiny, "--name", "one", code=2)
        assert "Another labctl is changing the lab 'one'" in second_try.err
        labctl("up", tiny, "--name", "two")
        out, err = one.communicate(timeout=60 * PATIENCE)
        assert one.returncode == 0, out + err
    labctl("down", "two")
    assert [row["lab"] for row in labctl.json("list")] == ["one"]
    assert labctl("exec", "client", "curl", "-s", "http://web/").out == "web\n"
    labctl("test", "one")
    labctl("down")
    assert labctl.leftovers() == []
    assert "No lab called 'one' is up" in labctl("down", "one", code=2).err
    assert "No lab is up" in labctl("test", code=2).err
