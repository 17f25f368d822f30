"""labctl, measured as its peers are: with nothing kept from before, then cold, then warm."""

import sys
from pathlib import Path

import yaml
from common import GUEST, Peer, Row, Sandbox, main, measure

from labctl.base import paths

LAB = "bench"


def bench(directory: Path, nodes: list[str]) -> list[Row]:
    """Three times up and down, in a sandbox without a libvirt: labctl brings its own."""
    sandbox = Sandbox(directory)
    (directory / "run").mkdir(mode=0o700)
    (sandbox.home / "lab.yaml").write_text(yaml.safe_dump({
        "title": "Machines with a page each",
        "networks": {"lan": {"subnet": "10.10.10.0/24", "host": "10.10.10.1"}},
        # One of them has to be the client; it serves its page like the others.
        "nodes": {node: {"lan": f"10.10.10.{10 + number}", "client": node == nodes[-1]}
                  for number, node in enumerate(nodes)},
        "services": {"apache": {"type": "httpd", "nodes": nodes}},
    }, sort_keys=False))
    # The image store is the user's; everything else is the sandbox's.
    labctl = ["env", f"XDG_RUNTIME_DIR={directory / 'run'}", f"XDG_DATA_HOME={paths.images().parents[1]}",
              sys.executable, "-m", "labctl"]
    up = [*labctl, "up", "lab.yaml", "--name", LAB, "--guest", GUEST]
    ssh_config = sandbox.home / f".local/state/labctl/labs/{LAB}/ssh_config"
    with sandbox.open(libvirt=False):
        return [measure(sandbox, Peer(
            name=f"labctl, {title}", up=words, down=[[*labctl, "down", LAB]],
            address=lambda node: node if ssh_config.exists() else None,
            rights="none; an ordinary user needs subordinate ids",
            ssh=["-F", str(ssh_config)], remarks=[remark],
        ), nodes) for title, words, remark in (
            ("the first lab ever", up, "This boots a machine to keep its memory, from which nodes start, and saves the "
                                       "lab; what is left is what it keeps."),
            ("cold", [*up, "--cold"], "Nodes start from the memory of a machine that was kept before."),
            ("warm", up, "The lab is restored as it was saved."),
        )]


if __name__ == "__main__":
    main(str(__doc__), bench)
