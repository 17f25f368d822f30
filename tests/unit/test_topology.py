"""labctl.language.topology: each rule of the language, and how its violation is told."""

import re

import jsonschema
import pytest
import yaml
from samples import (
    BASE,
    HAPROXY,
    KEEPALIVED,
    NAT,
    NAT_KEEPALIVED,
    SHIPPED,
    TUN,
    VRRP,
    changed,
    option,
    problems,
    second_ipvs,
    told,
)

from labctl.base.errors import InputError, LabError
from labctl.language import topology

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
    ("subnet: 10.10.20.0/24", "subnet: 10.10.20.5/24", 4, "'10.10.20.5/24' is not an IPv4 subnet"),
    ("subnet: 10.10.20.0/24", "subnet: lan", 4, "'lan' is not an IPv4 subnet"),
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
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: ten }", 7, "nodes.rs1.lan: 'ten' is not an IPv4 address."),
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, memory: 64 }", 7, "nodes.rs1.memory"),
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, cpus: 0 }", 7, "nodes.rs1.cpus"),
    ("rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, client: maybe }", 7, "nodes.rs1.client"),
    ("rs1: { lan: 10.10.10.12 }", "rs1:", 7, "nodes.rs1"),
    ("type: httpd", "type: htppd", 12, "services.apache: unknown type 'htppd'. Did you mean 'httpd' or 'ntp'?"),
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
    *(("subnet: 10.10.20.0/24", f"subnet: {subnet}", 4, f"{subnet} is no subnet for machines: {why}. One such as")
      for subnet, why in (
          ("10.10.20.0/31", "its prefix has to be from /8 to /30"),
          ("0.0.0.0/0", "its prefix has to be from /8 to /30"),
          ("126.0.0.0/7", "its prefix has to be from /8 to /30"), ("0.0.0.0/8", "0.0.0.0/8 is 'this network'"),
          ("0.10.0.0/16", "0.0.0.0/8 is 'this network'"), ("127.0.0.0/24", "127.0.0.0/8 is each machine itself"),
          ("169.254.1.0/24", "169.254.0.0/16 is link-local"), ("169.0.0.0/8", "169.254.0.0/16 is link-local"),
          ("224.0.1.0/24", "224.0.0.0/4 is multicast"), ("240.1.0.0/16", "240.0.0.0/4 is reserved"),
          ("255.255.255.0/24", "240.0.0.0/4 is reserved"))),
    (
        "subnet: 10.10.20.0/24",
        "subnet: 10.10.20.0/24, host: 10.10.20.255",
        4,
        "10.10.20.255 is not a host address of 10.10.20.0/24.",
    ),
    (
        "far: { subnet: 10.10.20.0/24 }",
        "far: { subnet: 10.10.20.0/24 }\n  cpus: { subnet: 10.10.30.0/24 }",
        5,
        "'cpus' is a key of nodes and cannot be a network's name.",
    ),
    ("lan: 10.10.10.13", "lan: 10.10.11.13", 8, "10.10.11.13 is not a host address of 'lan' (10.10.10.0/24)."),
    ("lan: 10.10.10.13", "lan: 10.10.10.0", 8, "10.10.10.0 is not a host address of 'lan'"),
    ("lan: 10.10.10.13", "lan: 10.10.10.255", 8, "10.10.10.255 is not a host address of 'lan'"),
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
        "'out' is on no network with a 'host' address, so the physical machine could not reach it; give 'far' a "
        "'host', or put 'out' on another network that has one.",
    ),
    (
        "out: { lan: 10.10.10.14, far: 10.10.20.14 }",
        "out: {}",
        9,
        "'out' is on no network with a 'host' address, so the physical machine could not reach it; add one, or put "
        "'out' on another network that has one.",
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
        14,
        "'second' serves port 80 on 'out' already.",
    ),
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


@pytest.mark.parametrize("text", [BASE, KEEPALIVED, NAT, NAT_KEEPALIVED, TUN, HAPROXY, VRRP, second_ipvs(BASE)])
def test_the_samples_are_sound(text: str) -> None:
    """Otherwise nothing here, nor in the tests of the services, would show anything."""
    assert problems(text) == []


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


@pytest.mark.parametrize(("line", "message"), [
    ("check: { type: tcp, intervall: 3 }", "unknown key 'intervall' in 'services.web.check'. Did you mean 'interval'?"),
    ("mark: { number: 3, port: [81] }", "unknown key 'port' in 'services.web.mark'. Did you mean 'ports'?"),
    ("persistence: { per: port, time: 9 }",
     "unknown key 'time' in 'services.web.persistence'. Did you mean 'timeout'?"),
    ("vrrp: { nopreemt: true }", "unknown key 'nopreemt' in 'services.web.vrrp'. Did you mean 'nopreempt'?"),
])
def test_an_unknown_key_inside_a_part_that_may_be_left_out_is_told_with_the_nearest(line: str, message: str) -> None:
    assert told(option(line)) == [(21, message)]


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
    assert [problem.line for problem in found if "is not an IPv4" in problem.message] == [line], found


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
    assert any("is not a valid name" in problem.message for problem in problems(yaml.safe_dump(data, sort_keys=False)))


@pytest.mark.parametrize("name", ["a", "A-1", "0-1", "1e3", "no", "x" * 32])
def test_a_host_name_is_a_name(name: str) -> None:
    assert problems(BASE.replace("rs1", f"'{name}'")) == []


@pytest.mark.parametrize("name", ["0", "007", "10", "0x1f", "0X"])
def test_a_number_is_no_host_name(name: str) -> None:
    """`ping 10` asks 0.0.0.10."""
    assert told(BASE.replace("rs1", f"'{name}'")) == [
        (7, f"'{name}' is a number, which programs take for an address; call it 'n{name}'.")]


def test_sections_that_are_too_long_are_told_before_anything_else() -> None:
    """Looking for more in a thousand services took minutes."""
    many = "".join(f"  s{number}: {{ type: nosuch }}\n" for number in range(65))
    assert told(BASE + many) == [(11, "services: has more than 64 entries.")]
    text = changed("nodes:\n", "nodes:\n" + "".join(f"  n{number}: {{}}\n" for number in range(64)))
    assert told(text) == [(5, "nodes: has more than 64 entries.")]
    text = changed("networks:\n", "networks:\n" + "".join(f"  n{number}: {{}}\n" for number in range(8)))
    assert told(text) == [(2, "networks: has more than 8 entries.")]


@pytest.mark.parametrize("mark", ["\u200e", "\u202e", "\u2066", "\u061c"])
def test_a_title_has_nothing_that_turns_its_letters_around(mark: str) -> None:
    assert told(changed("title: Test bed", f"title: Test {mark}bed")) == [
        (1, "title: has to be one line of printable text.")]


@pytest.mark.parametrize("title", ["集群", "מעבדה", "Größe 🙂"])
def test_a_title_may_be_in_any_script(title: str) -> None:
    assert told(changed("title: Test bed", f"title: {title}")) == []


EVERYTHING = changed("rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, memory: 512, cpus: 1, client: false }",
                     BASE) + """\
    check: { type: tcp, interval: 2, timeout: 3, retry: 3 }
    persistence: { per: port, timeout: 300 }
    snat: false
"""


@pytest.mark.parametrize("value", ["true", "'80'", "1.5", "1e1", "'on'"])
@pytest.mark.parametrize("key", ["memory", "cpus", "client", "port", "rs2", "interval", "timeout", "retry", "snat"])
def test_numbers_and_truth_values_are_written_as_such(key: str, value: str) -> None:
    """Python takes true for 1, and text for what it says; an editor with the schema takes neither."""
    text, count = re.subn(rf"\b{key}: [a-z0-9]+", f"{key}: {value}", EVERYTHING)
    assert count
    refused = key not in ("client", "snat") or value != "true"
    assert any(f".{key}: input should be" in message for _, message in told(text)) == refused
    assert bool(list(VALIDATOR.iter_errors(yaml.safe_load(text)))) == refused


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


# ---- Changes from the command line --------------------------------------------------------------------


@pytest.mark.parametrize(("change", "old", "new"), [
    ("services.web.scheduler=wrr", "scheduler: rr", "scheduler: wrr"),
    ("services.web.real_servers={rs1: 3}", "{ rs1: 1, rs2: 2 }", "{ rs1: 3 }"),
    ("services.apache.nodes=[rs2, rs1]", "[rs1, rs2]", "[rs2, rs1]"),
    ("services.web.check={type: tcp, interval: 5}", "    port: 80\n",
     "    port: 80\n    check: { type: tcp, interval: 5 }\n"),
    ("nodes.rs1.memory=512", "rs1: { lan: 10.10.10.12 }", "rs1: { lan: 10.10.10.12, memory: 512 }"),
    ("title=a = b", "title: Test bed", "title: a = b"),
])
def test_a_change_is_as_good_as_an_edit(change: str, old: str, new: str) -> None:
    assert topology.parse(BASE, "lab.yaml", [change]) == topology.parse(changed(old, new), "lab.yaml")


def test_changes_are_made_in_their_order() -> None:
    made = topology.parse(BASE, "lab.yaml", ["nodes.new={lan: 10.10.10.15}", "nodes.new.cpus=2", "nodes.new.cpus=3"])
    assert made.nodes["new"].cpus == 3


@pytest.mark.parametrize(("change", "line", "message"), [
    ("services.web.forward=lc", 17, "services.web.forward: input should be 'dr', 'nat' or 'tun', not 'lc'."),
    ("services.web.sheduler=wrr", 13, "unknown key 'sheduler' in 'services.web'. Did you mean 'scheduler'?"),
    ("services.web.directors={ipvsadm: [lvx]}", 19, "'lvx' is not a node of this topology. Did you mean 'lvs'?"),
    ("services.web.directors={}", 19, "services.web.directors: give either 'ipvsadm: [NODE]' or"),
    ("services.shop={type: httpd}", 11, "'nodes' is missing in 'services.shop'."),
    ("nodes.rs1.memroy=512", 7, "unknown key 'memroy' in 'nodes.rs1'. Did you mean 'memory'?"),
    ("titel=x", 1, "unknown key 'titel' in the topology. Did you mean 'title'?"),
    ("title=", 1, "title: input should be a valid string"),
])
def test_what_is_wrong_with_a_change_has_the_line_of_its_place(change: str, line: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        topology.parse(BASE, "lab.yaml", [change])
    problem, = caught.value.problems
    assert problem.message.startswith(message)
    assert problem.message.endswith(" It comes from --set.")
    assert problem.line == line


def test_what_a_change_makes_wrong_elsewhere_is_told_of_the_file() -> None:
    with pytest.raises(InputError) as caught:
        topology.parse(BASE, "lab.yaml", ["services.apache.nodes=[rs1]", "title="])
    assert [(problem.line, problem.message.endswith("--set.")) for problem in caught.value.problems] == [
        (1, True), (20, False)]


@pytest.mark.parametrize(("change", "message", "hint"), [
    ("services.web", "not PATH=VALUE", "services.web.scheduler=wrr"),
    ("services.\udc80={}", "not PATH=VALUE", "services.web.scheduler=wrr"),
    ("services.wbe.scheduler=rr", "there is no 'wbe' in 'services'", "Did you mean 'web'?"),
    ("service.web.scheduler=rr", "there is no 'service' in the topology", "Did you mean 'services'?"),
    ("services.web.check.interval=5", "there is no 'check' in 'services.web'", "--set 'services.web.check={...}'"),
    ("services.apache.nodes.0=rs2", "'services.apache.nodes' is not a mapping", "as a whole"),
    ("services.web.port.x=1", "'services.web.port' is not a mapping", "as a whole"),
    ("nodes.rs1.memory=[1", "--set nodes.rs1.memory: not YAML", "VALUE is YAML"),
    ("nodes.rs1.memory=&x 5", "anchors and aliases", "VALUE is YAML"),
])
def test_a_change_that_cannot_be_made_is_told_with_the_way_out(change: str, message: str, hint: str) -> None:
    with pytest.raises(LabError) as caught:
        topology.parse(BASE, "lab.yaml", [change])
    assert message in caught.value.message
    assert hint in caught.value.hint
