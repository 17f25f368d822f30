"""labctl.plan.steps: templates stay what they are, whatever is filled in."""

import re
from pathlib import Path

import jinja2
import pytest
import yaml
from samples import GUESTS

from labctl.base.resources import STEPS
from labctl.base.yamlfile import read_file
from labctl.language.services import Placement
from labctl.plan import guests
from labctl.plan.steps import File, Step, Template, apply_script, render, undo_script

VALUES = {"vips": ["10.0.0.100"], "interface": "eth0"}


@pytest.mark.parametrize("path", sorted(STEPS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(STEPS)))
def test_every_step_says_what_why_and_how_to_take_it_back(path: Path) -> None:
    data = read_file(path).data
    assert data.keys() <= Template.model_fields.keys()
    assert re.fullmatch(r"[A-Z].*[^.]", data["title"])
    assert data["why"].strip().removesuffix("{% endif %}").endswith(".")
    assert data["undo"]
    assert data.get("write_files") or data.get("runcmd")


def test_an_unknown_variable_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="interface"):
        render(Placement("lvs", "ipvs/vip", {"vips": ["10.0.0.100"]}), "vip", "web", guests.load("debian-12"),
               secret="key")


@pytest.mark.parametrize("name", GUESTS)
def test_a_step_is_filled_in_with_service_node_and_guest(name: str) -> None:
    guest = guests.load(name)
    page = render(Placement("rs1", "httpd/page"), "page", "apache", guest, secret="key")
    assert (page.name, page.kind, page.service) == ("page", "httpd/page", "apache")
    assert [(file.path, file.content) for file in page.write_files] == [
        (f"{guest.facts['docroot']}/index.html", "rs1\n")
    ]
    server = render(Placement("rs1", "httpd/httpd"), "httpd", "a", guest, secret="key")
    assert server.units == [guest.facts["httpd_unit"]]


@pytest.mark.parametrize(
    "value", ["x\n- evil: [1]\n", "'\"}]", "{{ 7 * 7 }}", "{% raw %}", "&a *b !c", "# no"]
)
def test_values_cannot_change_the_structure(value: str) -> None:
    guest = guests.load("debian-12")
    honest = render(Placement("lvs", "ipvs/vip", VALUES), "vip", "web", guest, secret="key")
    odd = render(Placement("lvs", "ipvs/vip", {**VALUES, "vips": [value]}), "vip", "web", guest, secret="key")
    assert odd.model_dump_json() == honest.model_dump_json().replace("10.0.0.100", yaml_free(value))
    assert value in odd.write_files[0].content


def yaml_free(value: str) -> str:
    """A value as JSON writes it inside a string."""
    return Step(name=value, kind="", service=None, title="", why="", undo=["x"]).model_dump_json().split(
        '"name":"')[1].split('","kind"')[0]


STEP = Step(
    name="n",
    kind="k/n",
    service=None,
    title="Title",
    why="Because.",
    undo=["rm -f /etc/x", "sysctl -a"],
    write_files=[
        File(path="/etc/a/x", content="one $HOME\n`two`\n", permissions="0600"),
        File(path="/x", content="\n"),
    ],
    runcmd=["echo a", "echo b"],
)


def test_a_step_is_done_by_a_script_that_stops_at_the_first_failure() -> None:
    assert apply_script(STEP) == """\
set -e
rm -f /var/lib/labctl/steps/n
mkdir -p '/etc/a'
cat >'/etc/a/x' <<'END-OF-FILE'
one $HOME
`two`
END-OF-FILE
chmod 0600 '/etc/a/x'
mkdir -p '/'
cat >'/x' <<'END-OF-FILE'

END-OF-FILE
chmod 0644 '/x'
echo a
echo b
mkdir -p /var/lib/labctl/steps
touch /var/lib/labctl/steps/n
sync
"""


def test_a_step_is_taken_back_by_a_script() -> None:
    assert undo_script(STEP) == ('set -e\nsystemctl() { command systemctl "$@" --no-reload; }\n'
                                 "rm -f /var/lib/labctl/steps/n\nrm -f /etc/x\nsysctl -a\nsync\n")


@pytest.mark.parametrize("wrong", [
    {"path": "etc/x", "content": "a\n"},
    {"path": "/etc/x", "content": "no newline"},
    {"path": "/etc/x", "content": "a\n", "permissions": "644"},
    {"path": "/etc/x", "content": "a\n", "owner": "root"},
])
def test_a_file_is_whole(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="File"):
        File(**wrong)


def test_a_fragment_of_the_guests_family_goes_before_the_common_one() -> None:
    """Where a step differs by family there is one file per family, and together they serve every guest."""
    families = {guests.load(name).family for name in GUESTS}
    for path in STEPS.rglob("*.yaml"):
        kind, _, family = path.stem.partition(".")
        if family:
            assert family in families, path
            missing = [one for one in families if not path.with_name(f"{kind}.{one}.yaml").exists()]
            assert not missing or path.with_name(f"{kind}.yaml").exists(), path


def test_step_files_are_yaml_that_others_read_alike() -> None:
    """Editors and cloud-init's own tools know nothing of our reader."""
    for path in STEPS.rglob("*.yaml"):
        assert yaml.safe_load(path.read_text()) == read_file(path).data
