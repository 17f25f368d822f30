"""What is observed in a lab: answers, a director's connections; and the parsing of their listings."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from textwrap import shorten

from labctl.plan.plan import PlannedNode

_QUAD = r"\d+\.\d+\.\d+\.\d+"
_CONNECTION = re.compile(
    rf"^(?P<protocol>TCP|IP)\s+(?P<minutes>\d+):(?P<seconds>\d+)\s+(?P<state>\S+)\s+"
    rf"(?P<client>{_QUAD}):(?P<client_port>\d+)\s+(?P<virtual>{_QUAD}):(?P<virtual_port>\d+)\s+"
    rf"(?P<server>{_QUAD}):(?P<server_port>\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Connection:
    """An entry of a director's connection table; client port 0 is a persistence template."""

    state: str
    expires: int
    """Seconds"""
    client: IPv4Address
    client_port: int
    virtual: IPv4Address
    virtual_port: int
    server: IPv4Address


@dataclass(frozen=True)
class Load:
    """The connections that a director counts for a real server: open ones and past ones."""

    active: int = 0
    inactive: int = 0


@dataclass(frozen=True)
class Answer:
    """The answer to a request; HTTP status 0 means that there was none."""

    status: int
    page: str

    @property
    def names(self) -> list[str]:
        """The machines that the page names: first the one that answered, then the one that it asked, and so on."""
        return self.page.split()

    @property
    def server(self) -> str:
        """The machine that answered; empty if the page names none."""
        return self.names[0] if self.names else ""

    def __str__(self) -> str:
        if self.status != 200:
            return f"HTTP status {self.status}" if self.status else "no answer"
        return f"'{shorten(self.page, 40)}'"


def told(answers: Sequence[Answer]) -> str:
    """Answers for people: each different one, with how often it came."""
    return ", ".join(f"{count} × {answer}" for answer, count in Counter(map(str, answers)).items()) or "no answer"


def connections(listing: str) -> list[Connection]:
    """The entries in the output of `ipvsadm -Lnc`."""
    return [Connection(row["state"], 60 * int(row["minutes"]) + int(row["seconds"]),
                       IPv4Address(row["client"]), int(row["client_port"]),
                       IPv4Address(row["virtual"]), int(row["virtual_port"]), IPv4Address(row["server"]))
            for row in _CONNECTION.finditer(listing)]


def mac_to_node(nodes: Iterable[PlannedNode]) -> dict[str, str]:
    """The node of each interface's MAC address."""
    return {interface.mac: node.name for node in nodes for interface in node.interfaces}
