"""kcli: a plan of machines, configured by cloud-init."""

from pathlib import Path

import yaml
from common import CONFIGURE, MEMORY, PAGE, Peer, Row, Sandbox, main, measure, write_disk

POOL = "/var/lib/libvirt/images"


def bench(directory: Path, nodes: list[str]) -> list[Row]:
    """The image is in kcli's pool and the network is there, as on a machine where kcli has been used before."""
    sandbox = Sandbox(directory)
    with sandbox.open(libvirt=True):
        sandbox.run("kcli", "create", "pool", "-p", POOL, "default")
        sandbox.run("kcli", "create", "network", "-c", "192.168.122.0/24", "default")
        write_disk(directory / "room/lib/images/golden.qcow2")
        sandbox.run("virsh", "-q", "pool-refresh", "default")
        (sandbox.home / "plan.yml").write_text(yaml.safe_dump({node: machine(node) for node in nodes}))
        version = sandbox.run("kcli", "version").split()
        return [measure(sandbox, Peer(
            name=f"kcli {next(word for word in version if word[0].isdigit())}",
            up=["kcli", "create", "plan", "-f", "plan.yml", "bench"],
            down=[["kcli", "delete", "plan", "--yes", "bench"]],
            address=sandbox.address,
            rights="group libvirt, or root",
            remarks=[
                "'kcli create plan' returns when the machines have been started, and does not say when they are ready.",
                "Its cloud-init disk is a SATA CD, which the image's kernel has no driver for; 'qemuextra' gives the "
                "machine the same file as a virtio disk.",
                "Nothing checks that the machines do what they should.",
            ],
        ), nodes)]


def machine(node: str) -> dict[str, object]:
    """A node of the plan."""
    return {
        "image": "golden.qcow2", "memory": MEMORY, "numcpus": 1, "cpumodel": "qemu64", "nets": ["default"],
        "files": [{"path": PAGE, "content": node, "mode": "0644"}],
        "cmds": [CONFIGURE],
        "qemuextra": f"-drive file={POOL}/{node}.ISO,format=raw,readonly=on,if=none,id=seed "
                     "-device virtio-blk-pci,drive=seed,addr=0x1d",
    }


if __name__ == "__main__":
    main(str(__doc__), bench)
