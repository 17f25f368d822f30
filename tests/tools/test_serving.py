"""The question whether a lab serves, put by real shells to nginx as a proxy, as labctl configures it.

The netcat beside them is nmap's, which EL 7 and EL 9 have; Debian has it in a package of its own.
"""

import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import rendered

from labctl.labs.readiness import say_status
from labctl.language.services import Frontend

VIP = IPv4Address("10.10.10.100")
WEB_SERVER = """\
import http.server, time

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.2)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"rs1\\n")

    def log_message(self, *_): pass

http.server.HTTPServer(("10.10.10.14", 80), Page).serve_forever()
"""
# What the VIP answers is asked in the proxy's own network; its servers are a program at one of their addresses.
SCENE = """\
ip link set lo up
for address in 10.10.10.100 10.10.10.14; do ip address add $address/32 dev lo; done
python3 -c "$3" &
"$2" -c "$1/nginx.conf" -g 'daemon off;' &
for try in $(seq 100); do
    if { : 3<>/dev/tcp/10.10.10.100/80 && : 3<>/dev/tcp/10.10.10.14/80; } 2>/dev/null; then break; fi
    sleep 0.1
done
PATH=$1/bin:$PATH
eval "$4"
"""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Path]:
    """A directory with the files of a proxy of the lab multi-tier, and a program `nc` that is nmap's."""
    (lab,) = [lab for lab in rendered.labs() if (lab.lab, lab.guest.name) == ("multi-tier", "debian-12")]
    vhosts = [file.content for step in lab.node("ngx1").steps for file in step.write_files
              if file.path.startswith("/etc/nginx/conf.d/")]
    assert len(vhosts) == 2
    scratch = [f"{kind}_temp_path {tmp_path};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    main = ["user root;", f"pid {tmp_path}/pid;", "error_log /dev/null;", "events {}", "http {", "access_log off;",
            *scratch, *(text.replace("listen 80", f"listen {VIP}:80") for text in vhosts), "}", ""]
    (tmp_path / "nginx.conf").write_text("\n".join(main))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nc").symlink_to(rendered.unpacked("usr/bin/ncat"))
    yield tmp_path


def said(scene: Path, question: str) -> str:
    """What a command prints in the scene."""
    done = subprocess.run([*rendered.unshare("-n", "-p", "-f", "--kill-child"), "bash", "-c", SCENE, "bash", scene,
                           rendered.unpacked("usr/sbin/nginx"), WEB_SERVER, question],
                          env=rendered.environment(), capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


def test_a_proxy_says_that_it_serves(scene: Path) -> None:
    assert said(scene, say_status(Frontend(VIP, 80, ["ngx1"], host="www.demo1.com"))) == "HTTP/1.1 200 OK\n"


def test_a_proxy_takes_a_client_that_closes_its_half_for_gone(scene: Path) -> None:
    """So the question is not put by nc."""
    request = r"GET / HTTP/1.0\r\nHost: www.demo1.com\r\n\r\n"
    assert said(scene, f"printf '{request}' | nc -w 5 {VIP} 80") == ""
