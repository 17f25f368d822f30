"""Clocks: whose time a machine follows, and how closely."""

import re

from observe import Observer

from labctl.services import Ntp
from labctl.wait import Deadline, until

_SECONDS = 20
"""From the start of both until the client has chosen its server: two bursts of questions, the clock set between."""
_OFFSET = 128
"""Milliseconds; what ntpd would put right at once (its step threshold)."""
_UNSYNCHRONISED = 16


def test_time_server(ntp_server: tuple[str, str], observer: Observer) -> None:
    """the server tells the time to whoever asks"""
    name, server = ntp_server
    asker = observer.service(name, Ntp).clients[0]
    if not _runs(server, observer) or not until(lambda: _answers(asker, server, observer),
                                                Deadline(_SECONDS * observer.lab.patience)):
        observer.blame(f"'{server}' does not tell '{asker}' the time, or says that its own clock is not set.",
                       (server, "ntp/server"))


def test_clock(ntp_client: tuple[str, str], observer: Observer) -> None:
    """the machine follows the server's clock"""
    name, client = ntp_client
    server = observer.service(name, Ntp).server
    address = str(observer.own_address(client, server))

    def follows() -> bool:
        peers = observer.says(client, "ntpq -pn")
        said = dict(re.findall(r"(\w+)=([^,\s]+)", observer.says(client, "ntpq -c 'rv 0 leap,stratum,refid,offset'")))
        return (f"*{address} " in peers and said.get("refid") == address and said["leap"] == "00"
                and int(said["stratum"]) < _UNSYNCHRONISED and abs(float(said["offset"])) < _OFFSET)

    message = f"The clock of '{client}' does not follow '{server}' within {_OFFSET} ms."
    if not _runs(server, observer):
        observer.blame(message, (server, "ntp/server"))
    if not _runs(client, observer) or not until(follows, Deadline(_SECONDS * observer.lab.patience)):
        guilty = (client, "ntp/client") if _answers(client, server, observer) else (server, "ntp/server")
        observer.blame(message, guilty)


def _runs(node: str, observer: Observer) -> bool:
    """Whether there is anything to wait for."""
    return observer.says(node, f"systemctl is-active {observer.plan.guest.facts['ntp_unit']}") == "active"


def _answers(asker: str, server: str, observer: Observer) -> bool:
    """Whether a server says that its clock is set; ntpdate of ntpd and of NTPsec word it differently."""
    said = observer.says(asker, f"ntpdate -q {observer.own_address(asker, server)} 2>&1")
    strata = re.findall(r"stratum (\d+)| s(\d+) ", said)
    return any(0 < int(first or second) < _UNSYNCHRONISED for first, second in strata)
