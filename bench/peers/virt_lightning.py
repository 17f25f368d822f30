"""virt-lightning: machines from a YAML file, configured by cloud-init."""

from pathlib import Path

import yaml
from common import CONFIGURE, MEMORY, PAGE, Peer, Row, Sandbox, main, measure, write_disk

UNLOCK = "usermod -p '*' root"
"""Its cloud-init data lock the password of root, and an sshd without PAM, as the image has it, then refuses his key."""


def bench(directory: Path, nodes: list[str]) -> list[Row]:
    """The image is in its pool, as after `vl pull`."""
    sandbox = Sandbox(directory)
    with sandbox.open(libvirt=True):
        # The place is fixed. In these namespaces it would be in memory; so it is made a part of libvirt's.
        kept = directory / "room/lib/virt-lightning"
        (kept / "pool/upstream").mkdir(parents=True)
        sandbox.run("ln", "-s", "/var/lib/libvirt/virt-lightning", "/var/lib/virt-lightning")
        write_disk(kept / "pool/upstream/golden.qcow2")
        addresses = {node: f"192.168.123.{10 + number}" for number, node in enumerate(nodes)}
        (sandbox.home / "virt-lightning.yaml").write_text(
            yaml.safe_dump([machine(node, address) for node, address in addresses.items()]))
        return [measure(sandbox, Peer(
            name=sandbox.run("virt-lightning", "--version").strip(),
            up=["vl", "up"],
            down=[["vl", "down"]],
            address=addresses.get,
            rights="root once, for its directory below /var/lib; then group libvirt",
            remarks=[
                "'vl up' returns when something on each machine answers as SSH does; it waits for no configuration.",
                "It takes what KVM it finds, and emulates only where libvirt knows of none.",
                "It has cloud-init lock root's password. The image's sshd would refuse him then, so a command on the "
                "node unlocks it, and SSH works only once that has run.",
                "The CPU model cannot be chosen: it is the host's.",
                "Nothing checks that the machines do what they should.",
            ],
        ), nodes)]


def machine(node: str, address: str) -> dict[str, object]:
    """An entry of its file."""
    return {
        "name": node, "distro": "golden", "memory": MEMORY, "vcpus": 1, "networks": [{"ipv4": address}],
        "meta_data_media_type": "disk",
        "runcmd": [UNLOCK, f"echo {node} >{PAGE}", CONFIGURE],
    }


if __name__ == "__main__":
    main(str(__doc__), bench)
