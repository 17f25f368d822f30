"""Whatever a user writes is a topology or an InputError, and whatever is a topology becomes a sound lab."""

import re
import string
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import GUESTS, NAT, SHIPPED, keys_of, plan_of

from labctl.base import yamlfile
from labctl.base.errors import InputError, LabError
from labctl.language import topology
from labctl.plan import access, domain, seed
from labctl.plan.plan import Plan

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
def test_plain_data_is_read_as_it_was_written(data: Any) -> None:
    assert yamlfile.read(dumped(data), "f.yaml").data == data


@given(mappings)
def test_any_mapping_is_a_topology_or_refused(data: dict[str, Any]) -> None:
    parsed(dumped(data))


@given(st.sampled_from(SHIPPED), st.data())
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


@given(st.sampled_from(SHIPPED), st.data(), st.one_of(scalars, trees))
def test_a_value_that_is_set_is_as_good_as_one_in_the_file(path: Path, data: st.DataObject, value: Any) -> None:
    tree = yaml.safe_load(path.read_text())
    before, keys, place = dumped(tree), [], tree
    while True:
        keys.append(data.draw(st.sampled_from([*place, "check", "new"])))
        inner = place.get(keys[-1])
        if not (isinstance(inner, dict) and data.draw(st.booleans())):
            break
        place = inner
    place[keys[-1]] = value
    assert outcome(before, [f"{'.'.join(keys)}={dumped(value)}"]) == outcome(dumped(tree), [])


def outcome(text: str, changes: list[str]) -> topology.Topology | set[str]:
    """The topology, or what is wrong with it."""
    try:
        return topology.parse(text, "f.yaml", changes)
    except InputError as error:
        return {problem.message.removesuffix(" It comes from --set.") for problem in error.problems}


@given(st.sampled_from(SHIPPED), any_text)
def test_any_change_is_made_or_refused(path: Path, change: str) -> None:
    for text in (change, f"services.{change}", f"nodes.client={change}", f"services.web={change}"):
        with suppress(LabError):
            topology.parse(path.read_text(), path, [text])


@given(st.sampled_from(SHIPPED), st.data())
def test_a_topology_with_text_changed_is_one_or_refused(path: Path, data: st.DataObject) -> None:
    text = path.read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + data.draw(yamlish) + text[end:]
    parsed(text)


def mapping(**values: object) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({
        key: value if isinstance(value, st.SearchStrategy) else st.just(value) for key, value in values.items()})


def few(*values: str, least: int = 1) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=least, max_size=3, unique=True)


ports = st.sampled_from([80, 8080])
# More sound ones than others, so that a good part of the mixtures is sound.
ADDRESSES = ["20.20.20.100", "20.20.20.101", "20.20.20.102", "20.20.20.11", "10.10.10.100", "10.9.0.1"]
addresses = st.sampled_from(ADDRESSES)
NODES = ["rs1", "rs2", "lvs", "out", "nobody"]
balanced_servers = st.dictionaries(st.sampled_from(["rs1", "rs2", "rs1", "rs2", "out"]), st.integers(1, 3),
                                   min_size=1, max_size=2)
elections = mapping(nopreempt=st.booleans(), unicast=st.booleans())
an_option = st.one_of(
    mapping(real_port=ports),
    mapping(gateway=st.sampled_from(["10.10.10.100", "10.10.10.11", "10.9.0.1"])),
    mapping(snat=st.booleans()),
    mapping(mark=mapping(number=st.integers(1, 2), vips=few(*ADDRESSES), ports=st.lists(ports, max_size=2))),
    mapping(persistence=mapping(per=st.sampled_from(["client", "port", "mark"]))),
    mapping(check=mapping(type=st.sampled_from(["tcp", "http"]))),
    mapping(vrrp=elections),
)
balanced = st.builds(
    lambda service, options: {**service, **{key: value for each in options for key, value in each.items()}},
    mapping(
        type="ipvs", vip=addresses, port=ports, forward=st.sampled_from(["nat", "nat", "dr", "tun"]),
        scheduler=st.sampled_from(["rr", "sh"]), real_servers=balanced_servers,
        directors=st.sampled_from([
            {"ipvsadm": ["lvs"]}, {"ipvsadm": ["lvs"]}, {"ipvsadm": ["out"]}, {"ipvsadm": ["nobody"]},
            {"keepalived": ["lvs"]}, {"keepalived": ["lvs", "out"]}, {"keepalived": ["out", "nobody"]}])),
    st.lists(an_option, max_size=2),
)
valid_services = st.one_of(
    balanced,
    balanced,
    mapping(type="httpd", nodes=few(*NODES), port=st.sampled_from([80, 81])),
    mapping(type="router", node=st.sampled_from(NODES)),
    mapping(type="haproxy", nodes=few(*NODES), servers=balanced_servers, port=ports, server_port=ports),
    mapping(type="vrrp", vip=addresses, nodes=few(*NODES, least=2), port=ports, vrrp=elections),
)


@given(st.lists(valid_services, min_size=1, max_size=3), st.sampled_from(GUESTS))
def test_services_that_are_valid_each_are_a_lab_together_or_refused(
        services: list[dict[str, Any]], guest: str) -> None:
    tree = yaml.safe_load(NAT)
    tree["services"]["web"] = {"type": "httpd", "nodes": ["rs1", "rs2"], "port": 8080}
    tree["services"] |= {f"s{position}": service for position, service in enumerate(services)}
    text = dumped(tree)
    if parsed(text):
        assert plan_of(text, guest=guest).nodes


# ---- Whatever is a topology ---------------------------------------------------------------------------

ODD_NAMES = ["no", "on", "y", "null", "1e3", "0-7", "A-1", "x" * 32]
NUMBER = re.compile("0[xX][0-9a-fA-F]*|[0-9]+")
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
        st.lists(names.filter(lambda name: name != "client" and not NUMBER.fullmatch(name)), min_size=2, max_size=5,
                 unique_by=str.lower)
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
            "forward": draw(st.sampled_from(["dr", "tun"])),
            "scheduler": draw(st.sampled_from(["rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "lblc", "lblcr"])),
            **draw(st.sampled_from([{}, {"check": {"type": "http"}}, {"mark": {"number": number}},
                                    {"persistence": {"per": "client"}}])),
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
@settings(max_examples=settings.default.max_examples // 3)  # All files of a lab are rendered each time.
def test_a_topology_without_mistakes_becomes_a_sound_lab(data: dict[str, Any], guest: str, lab: str) -> None:
    text = dumped(data)
    topology.parse(text, "f.yaml")
    plan = plan_of(text, lab, guest)
    assert Plan.model_validate_json(plan.model_dump_json(exclude={"digest"})).digest == plan.digest
    macs = [interface.mac for node in plan.nodes for interface in node.interfaces]
    assert len(set(macs)) == len(macs)
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
            root = ET.fromstring(domain.domain_xml(plan, UUID(int=1), node, disks, accel))
            assert root.findtext("name") == f"{lab}.{node.name}"
    for network in plan.networks:
        assert ET.fromstring(domain.network_xml(plan, UUID(int=1), network, own_bridge=False)).findtext("name") == \
            f"{lab}.{network.name}"
    config = access.ssh_config(plan, Path("/k"), Path("/h"), Path("/c"), None).splitlines()
    assert all(f"Host {node.name}" in config for node in plan.nodes)
    assert len(access.known_hosts(plan, keys).splitlines()) == len(plan.nodes)
