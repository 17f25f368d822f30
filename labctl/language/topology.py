"""The topology language: turns text into a frozen Topology, or into a list of everything wrong with it. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from labctl.base.errors import InputError, LabError, Problem
from labctl.base.suggest import did_you_mean
from labctl.base.types import NAME_PATTERN, Line, Name
from labctl.base.yamlfile import Document, Location, read
from labctl.language import impair
from labctl.language.services import AnyService, Finding, Service
from labctl.language.services.vrrp import PASSWORD_PATTERN
from labctl.language.site import MAX_NETWORKS, MAX_NODES, Network, Node, Site

_SERVICE: TypeAdapter[AnyService] = TypeAdapter(AnyService)
MAX_SERVICES = 64
_MOST = {"networks": MAX_NETWORKS, "nodes": MAX_NODES, "services": MAX_SERVICES}
_LARGEST_SUBNET, _SMALLEST_SUBNET = 8, 30
_NO_MACHINES = {
    IPv4Network("0.0.0.0/8"): "'this network'",
    IPv4Network("127.0.0.0/8"): "each machine itself",
    IPv4Network("169.254.0.0/16"): "link-local",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}
"""Ranges that hold no machine's address on a segment, and what they are for (RFC 6890)."""
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
"""A name that inet_aton reads as an address, and so do ping, curl and ssh."""


class Topology(Site):
    """What a cluster is: networks, nodes and the services they run."""

    title: Line
    guest: Name | None = None
    services: dict[Name, AnyService] = Field(default_factory=dict, max_length=MAX_SERVICES)


def parse(text: str, file: str | Path, changes: Sequence[str] = ()) -> Topology:
    """Read a topology, after making the `changes` (PATH=VALUE) to it; `file` is its name in messages.

    Raises InputError with every problem found, LabError for a change that cannot be made.
    """
    document = read(text, file)
    if not isinstance(document.data, dict):
        raise InputError(file, [Problem(1, "a topology is a mapping with 'title', 'networks', 'nodes'.")])
    for change in changes:
        _change(document, change)
    too_many = _too_many(document)
    if too_many:
        raise InputError(file, too_many)
    topology: Topology | None = None
    details: list[ErrorDetails] = []
    try:
        topology = Topology.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = [_shape_problem(detail, document) for detail in details]
    findings = _findings(topology) if topology else _partial_findings(document.data, details)
    problems += [_problem(finding.location, finding.message, document) for finding in findings]
    if problems or topology is None:
        raise InputError(file, problems, hint="'labctl schema' prints what a topology may contain.")
    return topology


def _too_many(document: Document) -> list[Problem]:
    """Sections with too many entries. They are reported alone, since checking them further would take minutes."""
    return [_problem((section,), f"{section}: has more than {most} entries.", document)
            for section, most in _MOST.items() if len(_mapping_keys(document.data.get(section))) > most]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a topology file, for editors."""
    schema = Topology.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "labctl topology"
    for model in (schema, *schema["$defs"].values()):
        for value in model.get("properties", {}).values():
            if "patternProperties" in value:
                value["additionalProperties"] = False
    return schema


# ---- Changes -----------------------------------------------------------------------------------------


def _change(document: Document, change: str) -> None:
    """Make a change such as `services.web.scheduler=wrr`. Raises LabError if it cannot be made."""
    path, equals, text = change.partition("=")
    if not equals or not path.isprintable():
        raise LabError(f"--set {change}: this is not PATH=VALUE.", hint="Such as --set services.web.scheduler=wrr.")
    location = tuple(path.split("."))
    place = document.data
    for depth, key in enumerate(location):
        if not isinstance(place, dict):
            raise LabError(f"--set {path}: {_place(location[:depth])} is not a mapping.",
                           hint="A list or a single value is set as a whole.")
        if key not in place and depth < len(location) - 1:
            whole = ".".join(location[:depth + 1])
            raise LabError(f"--set {path}: there is no '{key}' in {_place(location[:depth])}.",
                           hint=f"{did_you_mean(key, place)} --set '{whole}={{...}}' adds it as a whole.")
        place = place.get(key)
    try:
        value = read(text, path)
    except InputError as error:
        raise LabError(f"--set {path}: {error.problems[0].message}",
                       hint="VALUE is YAML: a word, a number, [a, b] or {key: value}.") from None
    document.replace(location, value)


# ---- Rules that look at more than one value -----------------------------------------------------------


def _findings(topology: Topology) -> list[Finding]:
    findings = [*_site_findings(topology), *_service_findings(topology, topology.services)]
    if topology.services and not topology.clients():
        findings.append(Finding(("nodes",), "no node is called 'client' or marked 'client: true'; "
                                            "a lab with services needs one to check them from."))
    return findings


def _partial_findings(data: Mapping[str, Any], details: list[ErrorDetails]) -> list[Finding]:
    """The same rules for the parts that could be read, so that a file's errors come all at once."""
    broken = {detail["loc"][:1] if detail["loc"][:1] != ("services",) else detail["loc"][:2]
              for detail in details}
    if ("networks",) in broken or ("nodes",) in broken:
        return []
    site = Site.model_validate({key: data[key] for key in ("networks", "nodes")})
    findings = list(_site_findings(site))
    entries = data.get("services")
    if isinstance(entries, dict):
        readable = {name: _SERVICE.validate_python(entry) for name, entry in entries.items()
                    if ("services", name) not in broken}
        findings += [finding for finding in _service_findings(site, readable)
                     if not (finding.needs_all and len(readable) < len(entries))]
    return findings


def _service_findings(site: Site, services: Mapping[str, Service]) -> Iterator[Finding]:
    for name, service in services.items():
        for location, message, needs_all in service.findings(site, name, services):
            yield Finding(("services", name, *location), message, needs_all)


def _site_findings(site: Site) -> Iterator[Finding]:
    yield from _network_findings(site.networks)
    seen_names: dict[str, str] = {}
    seen_addresses = {network.host: f"the physical machine on '{name}'"
                      for name, network in site.networks.items() if network.host}
    for name, node in site.nodes.items():
        here: Location = ("nodes", name)
        if name.lower() == "localhost":
            yield Finding(here, "'localhost' is every machine's name for itself.")
        if _NUMBER.fullmatch(name):
            yield Finding(here, f"'{name}' is a number, which programs take for an address; call it 'n{name}'.")
        if name.lower() in seen_names:
            yield Finding(here, f"'{name}' and '{seen_names[name.lower()]}' are the same host name.")
        seen_names[name.lower()] = name
        for network, address in node.addresses.items():
            yield from _address_findings(site, name, network, address)
            if address in seen_addresses:
                yield Finding((*here, network), f"{address} is the address of {seen_addresses[address]} already.")
            else:
                seen_addresses[address] = f"'{name}'"
        if not any(network in site.networks and site.networks[network].host for network in node.addresses):
            inner = next((network for network in node.addresses if network in site.networks), "")
            mend = f"give '{inner}' a 'host'" if inner else "add one"
            yield Finding(here, f"'{name}' is on no network with a 'host' address, so the physical machine could not "
                                f"reach it; {mend}, or put '{name}' on another network that has one.")


def _network_findings(networks: Mapping[str, Network]) -> Iterator[Finding]:
    for position, (name, network) in enumerate(networks.items()):
        here: Location = ("networks", name)
        subnet = network.subnet
        if name in Node.model_fields:
            yield Finding(here, f"'{name}' is a key of nodes and cannot be a network's name.")
        reserved = next((f"{part} is {what}" for part, what in _NO_MACHINES.items() if subnet.overlaps(part)), "")
        if not _LARGEST_SUBNET <= subnet.prefixlen <= _SMALLEST_SUBNET:
            reserved = f"its prefix has to be from /{_LARGEST_SUBNET} to /{_SMALLEST_SUBNET}"
        if reserved:
            yield Finding((*here, "subnet"), f"{subnet} is no subnet for machines: {reserved}. One such as "
                                             "10.10.10.0/24 is.")
        elif network.host and not _is_host(network.host, subnet):
            yield Finding((*here, "host"), f"{network.host} is not a host address of {subnet}.")
        for other_name, other in list(networks.items())[:position]:
            if subnet.overlaps(other.subnet):
                yield Finding((*here, "subnet"), f"{subnet} overlaps '{other_name}' ({other.subnet}).")


def _address_findings(site: Site, name: str, network: str, address: IPv4Address) -> Iterator[Finding]:
    here: Location = ("nodes", name, network)
    if network not in site.networks:
        known = [*site.networks, *Node.model_fields]
        yield Finding(here, f"'{network}' is neither a network nor a key of nodes. {did_you_mean(network, known)}")
        return
    subnet = site.networks[network].subnet
    if not _is_host(address, subnet):
        yield Finding(here, f"{address} is not a host address of '{network}' ({subnet}).")


def _is_host(address: IPv4Address, subnet: IPv4Network) -> bool:
    return address in subnet and address not in (subnet.network_address, subnet.broadcast_address)


# ---- Pydantic's errors in our words ------------------------------------------------------------------


def _shape_problem(detail: ErrorDetails, document: Document) -> Problem:  # noqa: PLR0912 (one branch per kind of error)
    location = _location_in_file(detail["loc"], document)
    where = ".".join(str(part) for part in location) or "the file"
    last = str(detail["loc"][-1]) if detail["loc"] else ""
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            known = _known_keys(location[:-1], document)
            text = f"unknown key '{last}' in {_place(location[:-1])}. {did_you_mean(last, known)}"
        case "missing":
            text = f"'{last}' is missing in {_place(location)}."
        case "union_tag_invalid":
            text = f"{where}: unknown type '{context['tag']}'. {did_you_mean(str(context['tag']), _service_types())}"
        case "union_tag_not_found":
            text = f"'type' is missing in {_place(location)}. {did_you_mean('', _service_types())}"
        case "string_pattern_mismatch" if context.get("pattern") == NAME_PATTERN:
            text = f"{where}: {detail['input']!r} is not a valid name: letters, digits and '-', at most 32 characters."
        case "string_pattern_mismatch" if context.get("pattern") == PASSWORD_PATTERN:
            text = f"{where}: {detail['input']!r} is not a valid VRRP password: letters, digits, '.', '_' and '-', " \
                   "at most 8 characters."
        case "string_pattern_mismatch" if context.get("pattern") in impair.FORMS:
            text = f"{where}: {detail['input']!r} is not a {impair.FORMS[context['pattern']]}."
        case "string_pattern_mismatch":
            text = f"{where}: has to be one line of printable text."
        case "ip_v4_address" | "ip_v4_network":
            kind = "address" if detail["type"] == "ip_v4_address" else "subnet such as 10.10.10.0/24"
            text = f"{where}: {detail['input']!r} is not an IPv4 {kind}."
            if last not in Node.model_fields and location[:1] == ("nodes",) and len(location) == 3:
                known = [*_mapping_keys(document.data.get("networks")), *Node.model_fields]
                text = text if last in known else f"unknown key '{last}' in {_place(location[:-1])}. " \
                                                  f"{did_you_mean(last, known)}"
        case "dict_type" | "model_type" | "model_attributes_type":
            text = f"{where}: has to be a mapping, not {_given(detail['input'])}."
        case "string_type" if isinstance(detail["input"], bool | int | float):
            text = f"{where}: has to be text, so {_given(detail['input'])} needs quotes around it."
        case "list_type" | "tuple_type":
            text = f"{where}: has to be a list, not {_given(detail['input'])}."
        case "too_short":
            text = f"{where}: is empty."
        case "too_long":
            text = f"{where}: has more than {context['max_length']} entries."
        case "value_error":
            text = f"{where}: {context['error']}."
        case _:
            message = detail["msg"][:1].lower() + detail["msg"][1:]
            text = f"{where}: {message}, not {_given(detail['input'])}."
    return _problem(location, text, document)


def _problem(location: Location, text: str, document: Document) -> Problem:
    if any(location[:len(part)] == part for part in document.replaced):
        text += " It comes from --set."
    return Problem(document.line_of(location), text)


def _location_in_file(loc: tuple[int | str, ...], document: Document) -> Location:
    """Drop what pydantic adds to a location: a union's tag, '[key]', the name of a missing field."""
    location: Location = ()
    for position, part in enumerate(loc):
        if position == 2 and loc[0] == "services":
            continue  # The type, which tells the union's members apart; it is not in the file.
        if (*location, part) in document.lines:
            location = (*location, part)
    return location


def _given(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, bool):
        return "true" if value else "false"
    return (repr(value) if isinstance(value, str) else str(value))[:60]


def _place(location: Location) -> str:
    return "'" + ".".join(str(part) for part in location) + "'" if location else "the topology"


def _mapping_keys(value: Any) -> list[str]:
    return [str(key) for key in value] if isinstance(value, dict) else []


@cache
def _service_types() -> list[str]:
    return list(_SERVICE.json_schema()["discriminator"]["mapping"])


def _known_keys(location: Location, document: Document) -> list[str]:
    model: type[BaseModel] = Topology
    rest = list(location)
    if rest[:1] == ["services"]:
        entry = document.data["services"][rest[1]]
        model = next(subclass for subclass in Service.__subclasses__()
                     if get_args(subclass.model_fields["type"].annotation) == (entry["type"],))
        rest = rest[2:]
    elif rest[:1] == ["networks"]:
        model, rest = Network, rest[2:]
    for part in rest:
        annotation = model.model_fields[str(part)].annotation
        inner = next((each for each in (annotation, *get_args(annotation))  # `Check`, or `Check | None`
                      if isinstance(each, type) and issubclass(each, BaseModel)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)
