"""labctl.topology: each rule of the language, and how its violation is told."""

import jsonschema
import pytest
import yaml
from samples import BASE, KEEPALIVED, SHIPPED, changed, problems, second_ipvs

from labctl import topology
from labctl.errors import InputError

SHAPE = [
    ("title: Test bed\n", "", 1, "'title' is missing in the topology."),
    ("title: Test bed", "title: ''", 1, "title"),
    ("title: Test bed", "title: [a]", 1, "title: input should be a valid string, not a list."),
    ("title: Test bed", "title: 2020-01-01", 1, "title: input should be a valid string, not 2020-01-01."),
    ("title: Test bed", r'title: "two\nlines"', 1, "title: has to be one line of printable text."),
    (
        "title: Test bed",
        "titel: Test bed\ntitle: x",
        1,
        "unknown key 'titel' in the topology. Did you mean 'title'?",
    ),
    (
        "host: 10.10.10.1 }",
        "hots: 10.10.10.1, host: 10.10.10.1 }",
        3,
        "unknown key 'hots' in 'networks.lan'. Did you mean 'host'?",
    ),
    ("subnet: 10.10.20.0/24", "subnet: 10.10.20.5/24", 4, "'10.10.20.5/24' is no IPv4 subnet"),
    ("subnet: 10.10.20.0/24", "subnet: lan", 4, "'lan' is no IPv4 subnet"),
    (
        "rs1: { lan: 10.10.10.12 }",
        "rs1: { lan: 10.10.10.12, memroy: lots }",
        7,
        "unknown key 'memroy' in 'nodes.rs1'. Did you mean 'memory'?",
    ),
    (
        "rs1: { lan: 10.10.10.12 }",
        "rs1: { lna: 10.10.10.12 }",
        7,
        "'lna' is neither a network nor a key of nodes. Did you mean 'lan'?",
    ),
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: ten }", 7, "nodes.rs1.lan: 'ten' is no IPv4 address."),
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, memory: 64 }", 7, "nodes.rs1.memory"),
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, cpus: 0 }", 7, "nodes.rs1.cpus"),
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, client: maybe }", 7, "nodes.rs1.client"),
    ("rs1: { lan: 10.10.10.12 }", "rs1:", 7, "nodes.rs1"),
    ("type: httpd", "type: htpd", 12, "services.apache: unknown type 'htpd'. Did you mean 'httpd'?"),
    ("type: httpd, ", "", 12, "'type' is missing in 'services.apache'."),
    ("nodes: [rs1, rs2]", "nodes: []", 12, "services.apache.nodes"),
    ("    vip: 10.10.10.100\n", "", 13, "'vip' is missing in 'services.web'."),
    (
        "    scheduler: rr\n",
        "    sheduler: rr\n    scheduler: rr\n",
        18,
        "unknown key 'sheduler' in 'services.web'. Did you mean 'scheduler'?",
    ),
    ("port: 80", "port: 65536", 16, "services.web.port"),
    ("port: 80", "port: http", 16, "services.web.port"),
    (
        "port: 80",
        "port: 2020-01-01",
        16,
        "services.web.port: input should be a valid integer, not 2020-01-01.",
    ),
    ("forward: dr", "forward: teleport", 17, "services.web.forward"),
    ("scheduler: rr", "scheduler: random", 18, "services.web.scheduler"),
    ("{ ipvsadm: [lvs] }", "{}", 19, "give either 'ipvsadm: [NODE]' or 'keepalived: [MASTER, BACKUP]'."),
    ("{ ipvsadm: [lvs] }", "{ ipvsadm: [lvs], keepalived: [lvs] }", 19, "give either 'ipvsadm: [NODE]' or"),
    ("{ ipvsadm: [lvs] }", "{ ipvsadm: [lvs, out] }", 19, "use keepalived for several directors."),
    (
        "{ ipvsadm: [lvs] }",
        "{ keepalive: [lvs], ipvsadm: [lvs] }",
        19,
        "unknown key 'keepalive' in 'services.web.directors'. Did you mean 'keepalived'?",
    ),
    ("rs2: 2", "rs2: 0", 20, "services.web.real_servers.rs2"),
    ("{ rs1: 1, rs2: 2 }", "{}", 20, "services.web.real_servers"),
]

SITE = [
    (
        "far: { subnet: 10.10.20.0/24 }",
        "far: { subnet: 10.10.10.128/25 }",
        4,
        "10.10.10.128/25 overlaps 'lan'",
    ),
    ("subnet: 10.10.20.0/24", "subnet: 10.10.20.0/31", 4, "10.10.20.0/31 is no subnet for machines"),
    ("subnet: 10.10.20.0/24", "subnet: 127.0.0.0/24", 4, "127.0.0.0/24 is no subnet for machines"),
    ("subnet: 10.10.20.0/24", "subnet: 224.0.1.0/24", 4, "224.0.1.0/24 is no subnet for machines"),
    (
        "subnet: 10.10.20.0/24",
        "subnet: 10.10.20.0/24, host: 10.10.20.255",
        4,
        "10.10.20.255 is no host address of 10.10.20.0/24.",
    ),
    (
        "far: { subnet: 10.10.20.0/24 }",
        "far: { subnet: 10.10.20.0/24 }\n  cpus: { subnet: 10.10.30.0/24 }",
        5,
        "'cpus' is a key of nodes and cannot be a network's name.",
    ),
    ("lan: 10.10.10.13", "lan: 10.10.11.13", 8, "10.10.11.13 is no host address of 'lan' (10.10.10.0/24)."),
    ("lan: 10.10.10.13", "lan: 10.10.10.0", 8, "10.10.10.0 is no host address of 'lan'"),
    ("lan: 10.10.10.13", "lan: 10.10.10.255", 8, "10.10.10.255 is no host address of 'lan'"),
    ("lan: 10.10.10.13", "lan: 10.10.10.12", 8, "10.10.10.12 is the address of 'rs1' already."),
    (
        "lan: 10.10.10.13",
        "lan: 10.10.10.1",
        8,
        "10.10.10.1 is the address of the physical machine on 'lan' already.",
    ),
    (
        "out: { lan: 10.10.10.14, far: 10.10.20.14 }",
        "out: { far: 10.10.20.14 }",
        9,
        "'out' is on no network with a 'host' address",
    ),
    (
        "out: { lan: 10.10.10.14, far: 10.10.20.14 }",
        "out: {}",
        9,
        "'out' is on no network with a 'host' address",
    ),
    ("out: {", "RS1: {", 9, "'RS1' and 'rs1' are the same host name."),
    ("client:", "customer:", 5, "no node is called 'client' or marked 'client: true'"),
]

SERVICES = [
    ("nodes: [rs1, rs2]", "nodes: [rs1, rs2, rs3]", 12, "'rs3' is not a node of this topology. Did you mean"),
    ("nodes: [rs1, rs2]", "nodes: [rs1, rs2, rs1]", 12, "the node 'rs1' is listed twice."),
    (
        "nodes: [rs1, rs2] }",
        "nodes: [rs1, rs2] }\n  second: { type: httpd, nodes: [out] }\n"
        "  third: { type: httpd, nodes: [out] }",
        13,
        "'third' serves port 80 on 'out' already.",
    ),
    (
        "vip: 10.10.10.100",
        "vip: 10.10.10.13",
        15,
        "10.10.10.13 is the address of 'rs2'; a VIP needs one of its own.",
    ),
    ("vip: 10.10.10.100", "vip: 10.10.10.1", 15, "10.10.10.1 is the physical machine's address on 'lan'."),
    ("vip: 10.10.10.100", "vip: 10.10.10.255", 15, "10.10.10.255 is the network or broadcast address"),
    ("vip: 10.10.10.100", "vip: 192.168.0.100", 15, "192.168.0.100 is in no network of this topology."),
    ("ipvsadm: [lvs]", "ipvsadm: [lsv]", 19, "'lsv' is not a node of this topology. Did you mean 'lvs'?"),
    ("rs2: 2", "rs9: 2", 20, "'rs9' is not a node of this topology."),
    ("rs2: 2", "lvs: 2", 20, "'lvs' is a director of this service already."),
    ("rs2: 2", "out: 2", 20, "nothing serves port 80 on 'out'"),
    ("ipvsadm: [lvs]", "keepalived: [lvs, lvs]", 19, "the node 'lvs' is listed twice."),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), [*SHAPE, *SITE, *SERVICES])
def test_a_mistake_is_told_at_its_line(old: str, new: str, line: int, message: str) -> None:
    found = problems(changed(old, new))
    assert [problem.line for problem in found if message in problem.message] == [line], found


@pytest.mark.parametrize(("old", "new", "message"), [
    ("port: 80", "port: 8080", "nothing serves port 8080 on 'rs1'"),
    ("port: 80", "port: 8080", "nothing serves port 8080 on 'rs2'"),
    ("vip: 10.10.10.100", "vip: 10.10.20.100", "'rs1' is not on 'far', the VIP's segment"),
    ("vip: 10.10.10.100", "vip: 10.10.20.100", "'rs2' is not on 'far', the VIP's segment"),
])
def test_a_rule_broken_by_several_nodes_names_each(old: str, new: str, message: str) -> None:
    assert [message in problem.message for problem in problems(changed(old, new))].count(True) == 1


def test_two_services_cannot_share_a_vip() -> None:
    text = second_ipvs(BASE, vip="10.10.10.100")
    assert [(problem.line, problem.message) for problem in problems(text)] == \
        [(23, "10.10.10.100 is the VIP of 'web' already.")]


def test_the_sample_is_sound() -> None:
    """Otherwise nothing above would show anything."""
    assert problems(BASE) == problems(KEEPALIVED) == problems(second_ipvs(BASE)) == []


def test_all_mistakes_are_told_at_once_even_beside_ones_of_shape() -> None:
    text = BASE
    for old, new in (("title: Test bed", "titel: Test bed"), ("lan: 10.10.10.13", "lan: 10.10.10.12"),
                     ("nodes: [rs1, rs2]", "nodes: [rs1, rs3]"), ("vip: 10.10.10.100", "vip: 10.10.10.13"),
                     ("scheduler: rr", "scheduler: random")):
        text = changed(old, new, text)
    found = problems(text)
    assert [problem.line for problem in found] == [1, 1, 8, 12, 18]


def test_a_broken_service_does_not_hide_or_invent_mistakes_of_others() -> None:
    """What serves port 80 is not known while the httpd service cannot be read, so that rule keeps silent."""
    text = changed("nodes: [rs1, rs2]", "nodes: rs1")
    assert [problem.line for problem in problems(text)] == [12]
    text = changed("vip: 10.10.10.100", "vip: 192.168.0.100", text)
    assert [problem.line for problem in problems(text)] == [12, 15]


@pytest.mark.parametrize("key", ["ipvs", "httpd"])
@pytest.mark.parametrize("value", ["1", "{ x: 1 }"])
def test_an_unknown_key_called_like_a_type_is_an_unknown_key(key: str, value: str) -> None:
    """Pydantic puts the type into an error's location, where it must not be taken for the key."""
    text = changed("    port: 80\n", f"    {key}: {value}\n    x: 1\n    port: 80\n")
    text = changed("nodes: [rs1, rs2] }", f"nodes: [rs1, rs2], {key}: {value}, x: 1 }}", text)
    found = {(problem.line, problem.message.partition(".")[0]) for problem in problems(text)}
    assert found >= {(12, f"unknown key '{key}' in 'services"), (12, "unknown key 'x' in 'services"),
                     (16, f"unknown key '{key}' in 'services"), (17, "unknown key 'x' in 'services")}


def test_a_missing_key_is_missed_in_the_service_whatever_else_is_in_it() -> None:
    text = changed("    vip: 10.10.10.100\n", "    ipvs: 1\n")
    assert "'vip' is missing in 'services.web'." in [problem.message for problem in problems(text)]


@pytest.mark.parametrize(
    "place", ["title: Test bed", "memory: 512", "port: 80", "lan: 10.10.10.12", "rs1: 1"]
)
def test_a_number_too_long_to_print_is_an_input_error(place: str) -> None:
    text = changed("rs2: { lan", "rs2: { memory: 512, lan")
    key = place.partition(":")[0]
    assert problems(changed(place, f"{key}: 0x{'f' * 4000}", text))


@pytest.mark.parametrize(
    ("old", "line"),
    [
        ("subnet: 10.10.20.0/24", 4),
        ("host: 10.10.10.1 ", 3),
        ("lan: 10.10.10.12", 7),
        ("vip: 10.10.10.100", 15),
    ],
)
@pytest.mark.parametrize("value", ["no", "168430097", "1:30", "1.5", "[10, 10, 10, 9]", "2020-01-01"])
def test_an_address_is_text(old: str, line: int, value: str) -> None:
    """Python would take a number, and even a truth value, for an address."""
    found = problems(changed(old, f"{old.partition(':')[0]}: {value} "))
    assert [problem.line for problem in found if "is no IPv4" in problem.message] == [line], found


@pytest.mark.parametrize(("old", "new"), [
    ("nodes: [rs1, rs2]", f"nodes: [{', '.join(['rs1'] * 40_000)}]"),
    ("nodes: [rs1, rs2]", f"nodes: [{', '.join(f'n{number}' for number in range(20_000))}]"),
    ("{ rs1: 1, rs2: 2 }", "{" + ", ".join(f"n{number}: 1" for number in range(20_000)) + "}"),
], ids=["same", "unknown", "real servers"])
def test_long_lists_are_refused_as_such(old: str, new: str) -> None:
    """A topology has at most 64 nodes: comparing more names with them takes seconds and helps nobody."""
    assert len(problems(changed(old, new))) < 10


@pytest.mark.parametrize("name", [
    *("a b", "a;reboot", "$(id)", "`id`", "a'b", 'a"b', "a&b", "a|b", "a>b", "<a>", "a]]>", "{{a}}"),
    *("a/b", "../a", "a.b", "a_b", "-a", "a-", "%h", "*", "!a", "#a", "ä", "", "x" * 33),
    *("a\n", "\na", "a\nb", "a\tb", "a\0b", "a\u2028b"),
])
@pytest.mark.parametrize("kind", ["lan", "rs1", "apache", "web"])
def test_a_name_that_would_need_quoting_is_refused(kind: str, name: str) -> None:
    """Names become shell words, file names, XML and host names as they are."""
    data = yaml.safe_load(BASE)
    for section in ("networks", "nodes", "services"):
        data[section] = {(name if key == kind else key): value for key, value in data[section].items()}
    assert any("is no name" in problem.message for problem in problems(yaml.safe_dump(data, sort_keys=False)))


@pytest.mark.parametrize("name", ["a", "A-1", "0", "1e3", "no", "x" * 32])
def test_a_host_name_is_a_name(name: str) -> None:
    assert problems(BASE.replace("rs1", f"'{name}'")) == []


@pytest.mark.parametrize("text", ["", "[]", "text", "1", "- a\n- b\n"])
def test_what_is_no_mapping_is_no_topology(text: str) -> None:
    assert [problem.message for problem in problems(text)] == \
        ["a topology is a mapping with 'title', 'networks', 'nodes'."]


def test_a_topology_needs_no_services_and_then_no_client() -> None:
    text = changed("client:", "other:", BASE[:BASE.index("services:")])
    assert topology.parse(text, "lab.yaml").services == {}


def test_any_node_can_be_marked_as_a_client() -> None:
    text = changed("client: {", "far-away: { client: true,")
    assert topology.parse(text, "lab.yaml").clients() == ["far-away"]


def test_the_first_address_is_eth0() -> None:
    site = topology.parse(BASE, "lab.yaml")
    assert [site.interface("lvs", "lan"), site.interface("lvs", "far")] == ["eth0", "eth1"]


def test_the_message_names_the_file_and_the_hint_what_to_read() -> None:
    with pytest.raises(InputError) as caught:
        topology.parse("title: x\n", "my/lab.yaml")
    assert caught.value.message.startswith("'my/lab.yaml' has 2 problems.\nmy/lab.yaml:1: ")
    assert "labctl schema" in caught.value.hint


# ---- The JSON Schema ----------------------------------------------------------------------------------

VALIDATOR = jsonschema.Draft202012Validator(topology.json_schema())


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(topology.json_schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_topologies_are_sound_by_parser_and_schema(path: "object") -> None:
    text = path.read_text()
    topology.parse(text, path.name)
    assert list(VALIDATOR.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(("old", "new"), [
    ("title: Test bed", "titel: Test bed"),
    ("host: 10.10.10.1 }", "host: 10.10.10.1, mtu: 1500 }"),
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, memroy: 512 }"),
    ("type: httpd", "type: htpd"),
    ("    scheduler: rr\n", "    scheduler: rr\n    persistence: 5\n"),
    ("ipvsadm: [lvs]", "ipvsadm: [lvs], heartbeat: [lvs]"),
    ("port: 80", "port: http"),
    ("rs1: { lan", "'r s': { lan"),
    ("far: { subnet", "f_r: { subnet"),
    ("web:", "w.b:"),
    ("{ rs1: 1, rs2: 2 }", "{ 'r s': 1 }"),
])
def test_the_schema_marks_in_an_editor_what_the_parser_refuses(old: str, new: str) -> None:
    text = changed(old, new)
    assert problems(text)
    assert list(VALIDATOR.iter_errors(yaml.safe_load(text)))
