"""The servers' configuration, read by the servers: Debian's versions, whatever the guest."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import rendered
from rendered import complaints, unpacked

from labctl.plan.guests import Guest

INTERFACES = ("eth0", "eth1")
"""keepalived wants those that its file names to be there."""

Checker = Callable[[dict[str, str], Path], list[str]]


def keepalived(files: dict[str, str], directory: Path) -> list[str]:
    """What keepalived says about its files."""
    # 2.2 complains of 1.3.5's word, and knows it.
    _written(files, directory, {"/etc/keepalived": str(directory / "etc/keepalived"), "nb_get_retry": "retry"})
    said = complaints([unpacked("usr/sbin/keepalived"), "-t", "-f", directory / "etc/keepalived/keepalived.conf"],
                      INTERFACES)
    # To an ordinary user /usr seems to be nobody's, who is not to be trusted: that says nothing about the files.
    others = [line for line in said if not re.fullmatch(r"Disabling track script \S+ due to insecure", line)]
    return [] if len(others) < len(said) and others == ["exit code 5"] else others


def nginx(files: dict[str, str], directory: Path) -> list[str]:
    """What nginx says about the files of its conf.d."""
    _written(files, directory, {})
    main = directory / "nginx.conf"
    scratch = [f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    main.write_text("\n".join(["user root;", f"pid {directory}/pid;", "error_log stderr;", "events {}", "http {",
                               "access_log off;", *scratch, f"include {directory}/etc/nginx/conf.d/*.conf;", "}", ""]))
    return complaints([unpacked("usr/sbin/nginx"), "-t", "-q", "-c", main])


def httpd(files: dict[str, str], directory: Path) -> list[str]:
    """What Apache says about the files that its packaged configuration includes."""
    written = _written(files, directory, {"/var/www": str(directory / "www")})
    (directory / "www/html").mkdir(parents=True)
    modules = unpacked("usr/lib/apache2/modules")
    main = directory / "httpd.conf"
    main.write_text("\n".join([*(f"LoadModule {name}_module {modules}/mod_{name}.so"
                                 for name in ("mpm_event", "authz_core")),
                               "ServerName localhost", f"PidFile {directory}/pid", "ErrorLog /dev/stderr",
                               "Listen 80", *(f"Include {path}" for path in written), ""]))
    said = complaints([unpacked("usr/sbin/apache2"), "-t", "-f", main])
    return [line for line in said if line != "Syntax OK"]


def haproxy(files: dict[str, str], directory: Path) -> list[str]:
    """What HAProxy says about its file, warnings included."""
    # Its own user is not on this machine.
    (main,) = _written(files, directory, {"user haproxy": "user root", "group haproxy": "group root"})
    said = complaints([unpacked("usr/sbin/haproxy"), "-c", "-dW", "-f", main])
    return [line for line in said if line != "Configuration file is valid"]


DIRECTORIES: dict[Checker, Callable[[Guest], str]] = {
    keepalived: lambda _: "/etc/keepalived",
    nginx: lambda _: "/etc/nginx/conf.d",
    httpd: lambda guest: guest.facts["httpd_conf"],
    haproxy: lambda _: "/etc/haproxy",
}
"""Where in a guest the files of each program are."""


def _written(files: dict[str, str], directory: Path, replaced: dict[str, str]) -> list[Path]:
    """The files, written below a directory, with some words replaced."""
    paths = []
    for path, content in files.items():
        text = content
        for old, new in replaced.items():
            text = text.replace(old, new)
        paths.append(directory / path.lstrip("/"))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(text)
        paths[-1].chmod(0o600)
    return paths


def distinct(program: Checker) -> dict[str, dict[str, str]]:
    """The files for a program by the first node that has them: many nodes have the same."""
    found: dict[tuple[tuple[str, str], ...], str] = {}
    for lab, node in rendered.nodes():
        where = DIRECTORIES[program](lab.guest)
        files = {file.path: file.content for step in node.steps for file in step.write_files
                 if file.path.startswith(f"{where}/")}
        if files:
            found.setdefault(tuple(files.items()), rendered.title(lab, node))
    return {title: dict(files) for files, title in found.items()}


@pytest.mark.parametrize("program", DIRECTORIES, ids=lambda program: program.__name__)
def test_a_server_understands_its_files(program: Checker, tmp_path: Path) -> None:
    said = {title: program(files, tmp_path / str(number))
            for number, (title, files) in enumerate(distinct(program).items())}
    assert said
    assert {title: lines for title, lines in said.items() if lines} == {}


@pytest.mark.parametrize(("program", "word"), [
    (keepalived, "priority"), (nginx, "listen"), (httpd, "Listen"), (haproxy, "balance"),
], ids=["keepalived", "nginx", "httpd", "haproxy"])
def test_a_server_refuses_a_word_that_is_spelt_wrong(program: Checker, word: str, tmp_path: Path) -> None:
    _, files = distinct(program).popitem()
    wrong = {path: content.replace(f"{word} ", f"{word}e ") for path, content in files.items()}
    assert wrong != files
    lines = program(wrong, tmp_path)
    assert any(f"{word}e" in line for line in lines)
    assert lines[-1].startswith("exit code ")
