"""What a room's first process does meanwhile, by itself."""

import re
import subprocess
from pathlib import Path

from labctl.machines import private_room


def test_consoles_that_grow_without_end_are_cut_to_their_ends(tmp_path: Path) -> None:
    """And whoever appends to them goes on at the end."""
    found = re.search(r"^trim\(\) \{\n.*?^\}\n", private_room._INIT.read_text(), re.DOTALL | re.MULTILINE)
    assert found
    large, small = tmp_path / "rs 1.log", tmp_path / "rs2.log"
    large.write_bytes(b"x" * 3 * 2**20 + b"the end\n")
    small.write_bytes(b"small\n")
    with large.open("ab", buffering=0) as qemu:
        subprocess.run(["sh", "-c", f'{found[0]} trim "$1" 2M', "sh", tmp_path], check=True, timeout=60)
        qemu.write(b"and on\n")
    text = large.read_bytes()
    assert text.endswith(b"xthe end\nand on\n")
    assert len(text) == 2**20 + len("and on\n")
    assert small.read_bytes() == b"small\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rs 1.log", "rs2.log"]
