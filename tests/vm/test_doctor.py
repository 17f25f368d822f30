"""`labctl doctor --guest`: what labs take for granted of an image, asked of a machine that runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from machines import GUEST, PATIENCE, Labctl

from labctl.plan import guests

_WITH_OTHER_GUESTS = "import sys, pathlib, labctl.plan.guests as g; g.GUESTS = pathlib.Path(sys.argv.pop(1)); " \
                     "import labctl.__main__; labctl.__main__.main()"


@pytest.mark.vm
@pytest.mark.thorough
def test_all_holds_for_our_image(labctl: Labctl) -> None:
    result = labctl("doctor", "--guest", GUEST, timeout=120 * PATIENCE)
    assert "✗" not in result.out
    assert "✓ unit keepalived: disabled inactive" in result.out
    assert labctl.leftovers() == []
    assert not list(Path(labctl.environment["XDG_CACHE_HOME"]).glob("labctl/warm/*")), "nothing is saved of it"


@pytest.mark.vm
def test_what_does_not_hold_is_found(labctl: Labctl, tmp_path: Path) -> None:
    """The image is debian-12's; what is said of it is wrong in several ways, and nothing else is found."""
    text = (guests.GUESTS / f"{GUEST}.yaml").read_text()
    for right, wrong in (("docroot: /var/www/html", "docroot: /srv/www"), ("ntp_unit: ntpsec", "ntp_unit: ntpd"),
                         ("keepalived: 2.2.7", "keepalived: 1.3.5"), ("http_retry: retry", "http_retry: try_again"),
                         ("install lrzsz", "install no-such-package"), ("python: /usr/bin", "python: /opt/bin"),
                         ("rm -f /etc/nginx/sites-enabled/default", "rm -f /etc/nginx/no-such-site")):
        assert right in text
        text = text.replace(right, wrong)
    (tmp_path / f"{GUEST}.yaml").write_text(text)
    result = subprocess.run([sys.executable, "-c", _WITH_OTHER_GUESTS, str(tmp_path), "doctor", "--guest", GUEST],
                            env={**os.environ, **labctl.environment}, capture_output=True, text=True,
                            timeout=120 * PATIENCE, check=False)
    assert result.returncode == 1, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines() if line.startswith("✗")] == [
        "✗ a package that is not installed", "✗ package keepalived", "✗ python /opt/bin/python3", "✗ docroot /srv/www",
        "✗ keepalived knows 'try_again'", "✗ nginx without its packaged site", "✗ unit ntpd"]
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_ctrl_c_leaves_nothing(labctl: Labctl) -> None:
    process = labctl.start("doctor", "--guest", GUEST)
    assert process.stderr is not None
    for line in process.stderr:
        if "booting" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 130, err
    assert labctl.leftovers() == []
