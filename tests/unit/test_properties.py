"""Whatever a user writes is a topology or an InputError, and whatever is a topology becomes a sound lab."""

import re
import string
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import GUESTS, SHIPPED, keys_of, plan_of

from labctl import access, domain, seed, topology, yamlfile
from labctl.errors import InputError
from labctl.plan import Plan

# Text with much more YAML in it than chance would give.
WORDS = [
    *("title", "networks", "nodes", "services", "type", "httpd", "ipvs", "lan", "subnet", "host", "rs1"),
    *("client", "vip", "directors", "keepalived", "ipvsadm", "real_servers", "check", "tcp", "memory"),
    *("cpus", "<<", "=", "10.10.10.0/24", "10.10.10.12", "no", "~", "0x1f", "1_0", "1:30", "2020-01-01", ".inf"),
    *("!!str", "&a", "*a", "---", "...", "%YAML 1.1", "|", ">", "? ", "- ", ": ", "\n", "\n  ", "\n    "),
    *("{", "}", "[", "]", ", ", "'", '"', "#"),
]
yamlish = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), max_size=30).map("".join)
any_text = st.one_of(st.text(), yamlish, st.text(st.characters(exclude_categories=[])))

words = st.one_of(st.sampled_from(WORDS), st.text(max_size=8))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), words, st.dates(),
    st.integers(0, 255).map("10.10.10.{}".format),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)
mappings = st.dictionaries(words, trees, max_size=5)


class Dumper(yaml.SafeDumper):
    """No anchors: the same value twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def dumped(data: object) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False)


def parsed(text: str) -> topology.Topology | None:
    """The topology, or nothing where the text is none; anything but an InputError fails the test."""
    try:
        return topology.parse(text, "f.yaml")
    except InputError as error:
        end = (
            len(re.findall("[\n\r\x85\u2028\u2029]", text)) + 2
        )  # what is missing is missing after the last line
        assert error.problems
        assert all(1 <= problem.line <= end for problem in error.problems)
        assert all(problem.message.strip() for problem in error.problems)
        return None


# ---- Whatever a user writes ---------------------------------------------------------------------------


@given(any_text)
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    parsed(text)
    try:
        yamlfile.read(text, "f.yaml")
    except InputError as error:
        assert len(error.problems) == 1


@given(st.binary(max_size=60))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    path = Path("any.yaml")
    path.write_bytes(data)
    try:
        yamlfile.read_file(path)
    except InputError as error:
        assert len(error.problems) == 1


@given(trees)
@settings(max_examples=200)
def test_plain_data_is_read_as_it_was_written(data: Any) -> None:
    assert yamlfile.read(dumped(data), "f.yaml").data == data


@given(mappings)
@settings(max_examples=150)
def test_any_mapping_is_a_topology_or_refused(data: dict[str, Any]) -> None:
    parsed(dumped(data))


@given(st.sampled_from(SHIPPED), st.data())
@settings(max_examples=300)
def test_a_topology_with_parts_changed_is_one_or_refused(path: Path, data: st.DataObject) -> None:
    tree = yaml.safe_load(path.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place = tree
        for _ in range(data.draw(st.integers(0, 3))):
            inner = [part for part in (place.values() if isinstance(place, dict) else place)
                     if isinstance(part, dict | list) and part]
            if not inner:
                break
            place = data.draw(st.sampled_from(inner))
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        match data.draw(st.sampled_from(["drop", "replace", "add", "rename"])):
            case "drop":
                del place[key]
            case "add" if isinstance(place, dict):
                place[data.draw(words)] = data.draw(trees)
            case "rename" if isinstance(place, dict):
                place[data.draw(words)] = place.pop(key)
            case _:
                place[key] = data.draw(trees)
        if not tree:
            break
    parsed(dumped(tree))


@given(st.sampled_from(SHIPPED), st.data())
@settings(max_examples=200)
def test_a_topology_with_text_changed_is_one_or_refused(path: Path, data: st.DataObject) -> None:
    text = path.read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + data.draw(yamlish) + text[end:]
    parsed(text)


# ---- Whatever is a topology ---------------------------------------------------------------------------

ODD_NAMES = ["no", "on", "y", "null", "1e3", "007", "0x1f", "1", "A-1", "x" * 32]
LETTERS = string.ascii_letters + string.digits
names = st.one_of(st.sampled_from(ODD_NAMES), st.text(LETTERS, min_size=1, max_size=6),
                  st.builds("{}-{}".format, st.text(LETTERS, min_size=1, max_size=3),
                            st.text(LETTERS, min_size=1, max_size=3)))


def some(values: list[str], smallest: int, most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=smallest, max_size=most, unique=True)


@st.composite
def topologies(draw: st.DrawFn) -> dict[str, Any]:
    """A topology without mistakes."""
    nets = draw(
        st.lists(
            names.filter(lambda name: name not in ("memory", "cpus", "client")),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    nodes = draw(
        st.lists(names.filter(lambda name: name != "client"), min_size=2, max_size=5, unique_by=str.lower)
    )
    servers = draw(some(nodes, 1, len(nodes) - 1))
    directors = [node for node in nodes if node not in servers][:3]
    placed = {}
    for number, node in enumerate([*nodes, "client"], start=2):
        extra = draw(some(nets[1:], 0, 2)) if len(nets) > 1 else []
        placed[node] = {net: f"10.{nets.index(net)}.0.{number}"
                        for net in draw(st.permutations([nets[0], *extra]))}
    services: dict[str, Any] = {"web": {"type": "httpd", "nodes": servers}}
    balanced = draw(st.lists(names.filter(lambda name: name != "web"), max_size=3, unique=True))
    for number, name in enumerate(balanced, start=100):
        kind = draw(st.sampled_from(["ipvsadm", "keepalived"]))
        services[name] = {
            "type": "ipvs",
            "vip": f"10.0.0.{number}",
            "port": 80,
            "forward": "dr",
            "scheduler": draw(st.sampled_from(["rr", "wrr"])),
            "directors": {kind: directors[:1] if kind == "ipvsadm" else directors},
            "real_servers": {
                server: draw(st.integers(1, 65535)) for server in draw(some(servers, 1, len(servers)))
            },
        }
    return {
        "title": draw(
            st.text(
                st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\ufffe\uffff"),
                min_size=1,
                max_size=30,
            )
        ),
        "networks": {
            net: {"subnet": f"10.{number}.0.0/24", "host": f"10.{number}.0.1"}
            for number, net in enumerate(nets)
        },
        "nodes": placed,
        "services": services,
    }


@given(topologies(), st.sampled_from(GUESTS), names)
@settings(max_examples=30)
def test_a_topology_without_mistakes_becomes_a_sound_lab(data: dict[str, Any], guest: str, lab: str) -> None:
    text = dumped(data)
    topology.parse(text, "f.yaml")
    plan = plan_of(text, lab, guest)
    assert Plan.model_validate_json(plan.model_dump_json(exclude={"digest"})).digest == plan.digest
    everything = [interface.mac for node in plan.nodes for interface in node.interfaces]
    everything += [str(node.uuid) for node in plan.nodes]
    assert len(set(everything)) == len(everything)
    keys = keys_of(plan)
    for node in plan.nodes:
        step_names = [step.name for step in node.steps]
        assert len(set(step_names)) == len(step_names)
        files = {name: yaml.safe_load(text) for name, text in seed.files(plan, node, keys).items()}
        assert files["meta-data"]["local-hostname"] == node.name
        assert files["user-data"]["write_files"] == [
            file.model_dump() for step in node.steps for file in step.write_files]
        assert [entry["mac_address"] for entry in files["network-config"]["config"]] == \
            [interface.mac for interface in node.interfaces]
        disks = domain.Disks(overlay=Path("/lab/disk"), seed=Path("/lab/seed"))
        for accel in ("kvm", "tcg"):
            root = ET.fromstring(domain.domain_xml(plan, node, disks, accel))
            assert root.findtext("name") == f"{lab}.{node.name}"
    for network in plan.networks:
        assert ET.fromstring(domain.network_xml(plan, network, own_bridge=False)).findtext("name") == \
            f"{lab}.{network.name}"
    config = access.ssh_config(plan, Path("/k"), Path("/h"), Path("/c"), None).splitlines()
    assert all(f"Host {node.name}" in config for node in plan.nodes)
    assert len(access.known_hosts(plan, keys).splitlines()) == len(plan.nodes)
