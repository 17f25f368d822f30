"""A user's own tests of a real lab: those of docs/how-to/own-tests.md."""

import re
import sys
from pathlib import Path

import pytest
from machines import ROOT, Labctl, processors

LAB = "lvs-dr-keepalived"
PAGE = ROOT / "docs/how-to/own-tests.md"


@pytest.mark.vm
def test_the_page_is_right(shared: Labctl, tmp_path: Path) -> None:
    file = tmp_path / "test_own.py"
    file.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    # Nobody knows what else is installed here, or whether labctl is.
    plugins = [word for name in ("testinfra.plugin", "labctl.observe.pytest_plugin") for word in ("-p", name)]
    with processors("measure"):
        result = shared.run([sys.executable, "-m", "pytest", *plugins, "--labctl-lab", LAB, str(file)],
                            code=None, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert "= 3 passed in " in result.out, result.out + result.err
    assert shared.json("faults", LAB)["faults"] == []
