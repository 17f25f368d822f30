"""Clocks: whose time a machine follows, and how closely."""

from dataclasses import dataclass

from labctl.base.wait import Deadline, until
from labctl.language.services import Ntp
from labctl.observe.observer import Observer

_SECONDS = 20
"""From the start of both until the client has chosen its server: two bursts of questions, the clock set between."""
_FORGETS_SECONDS = 8 * 16
"""A client trusts the quickest of the last eight answers, which are up to 16 s (maxpoll 4) apart. A server that has
booted may have another time, and the client then needs as long to forget what it was told before (RFC 5905, 10)."""
_OFFSET_SECONDS = 0.128
"""What ntpd would put right at once (its step threshold)."""
_UNSYNCHRONISED = 16
_ALARM = 3
"""A leap indicator: the clock is not set."""
_HERE = "127.0.0.1"


@dataclass(frozen=True)
class Clock:
    """An NTP server's answer."""

    leap: int
    stratum: int
    reference: str
    """The server that it follows."""
    offset: float
    """By how many seconds its clock is ahead of the asking node's."""

    @property
    def is_set(self) -> bool:
        """Whether its time can be trusted."""
        return self.leap != _ALARM and 0 < self.stratum < _UNSYNCHRONISED


def test_time_server(ntp_server: tuple[str, str], observer: Observer) -> None:
    """the server tells the time to every machine that asks"""
    name, server = ntp_server
    asker = observer.service(name, Ntp).clients[0]
    address = str(observer.own_address(asker, server))
    if not _runs(server, observer) or not until(lambda: _tells(asker, address, observer),
                                                Deadline(_SECONDS * observer.lab.patience)):
        observer.blame(f"'{server}' does not tell '{asker}' the time, or says that its own clock is not set.",
                       (server, "ntp/server"))


def test_clock(ntp_client: tuple[str, str], observer: Observer) -> None:
    """the machine follows the server's clock"""
    name, client = ntp_client
    server = observer.service(name, Ntp).server
    address = str(observer.own_address(client, server))

    def follows() -> bool:
        said = _clocks(client, observer, _HERE, address)
        own, other = said.get(_HERE), said.get(address)
        return bool(own and other and own.is_set and own.reference == address and abs(other.offset) < _OFFSET_SECONDS)

    message = f"The clock of '{client}' does not follow '{server}' within {_OFFSET_SECONDS} s."
    if not _runs(server, observer):
        observer.blame(message, (server, "ntp/server"))
    if not _runs(client, observer) or not until(
            follows, Deadline(_SECONDS * observer.lab.patience + _FORGETS_SECONDS)):
        guilty = (client, "ntp/client") if _tells(client, address, observer) else (server, "ntp/server")
        observer.blame(message, guilty)


def _runs(node: str, observer: Observer) -> bool:
    """Whether there is anything to wait for."""
    return observer.says(node, f"systemctl is-active {observer.plan.guest.facts['ntp_unit']}") == "active"


def _tells(asker: str, address: str, observer: Observer) -> bool:
    """Whether a server answers, and its clock is set."""
    said = _clocks(asker, observer, address)
    return address in said and said[address].is_set


def _clocks(asker: str, observer: Observer, *addresses: str) -> dict[str, Clock]:
    """The answers that a node gets, by server."""
    lines = map(str.split, observer.says(asker, observer.python("sntp", *addresses)).splitlines())
    return {address: Clock(int(leap), int(stratum), reference, float(offset))
            for address, leap, stratum, reference, offset in lines}
