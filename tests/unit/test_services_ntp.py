"""labctl.language.services.ntp: one machine's clock for the others."""

import pytest
from samples import BASE, GUESTS, changed, placed, runs_on, step_of, told, values_of

NTP = BASE[:BASE.index("  apache:")] + "  clock: { type: ntp, server: lvs, clients: [rs1, out] }\n"


@pytest.mark.parametrize(("text", "expected"), [
    (changed("server: lvs", "server: lsv", NTP), [(12, "'lsv' is not a node of this topology. Did you mean 'lvs'?")]),
    (changed("[rs1, out]", "[rs1, oot]", NTP), [(12, "'oot' is not a node of this topology. Did you mean 'out'?")]),
    (changed("[rs1, out]", "[rs1, rs1]", NTP), [(12, "the node 'rs1' is listed twice.")]),
    (changed("[rs1, out]", "[rs1, lvs]", NTP), [(12, "'lvs' is the server already.")]),
    (changed("[rs1, out]", "[]", NTP), [(12, "services.clock.clients: is empty.")]),
    (changed("rs1: { lan: 10.10.10.12 }", "rs1: { other: 10.10.30.12 }", NTP).replace(
        "  far:", "  other: { subnet: 10.10.30.0/24, host: 10.10.30.1 }\n  far:"),
     [(13, "'rs1' and 'lvs' share no network, so the client could not ask for the time.")]),
    (NTP + "  second: { type: ntp, server: rs2, clients: [rs1] }\n",
     [(13, "'clock' sets the clock of 'rs1' already.")]),
    (NTP + "  second: { type: ntp, server: out, clients: [rs2] }\n",
     [(13, "'clock' sets the clock of 'out' already.")]),
])
def test_a_mistake_is_told_at_its_line(text: str, expected: list[tuple[int, str]]) -> None:
    assert told(text) == expected


def test_the_server_comes_first() -> None:
    assert [(each.node, each.step) for each in placed(NTP, "clock")] == [
        ("lvs", "ntp/server"), ("rs1", "ntp/client"), ("out", "ntp/client")]


def test_everybody_on_the_servers_networks_may_ask_at_the_address_next_to_him() -> None:
    text = changed("out: { lan: 10.10.10.14, far: 10.10.20.14 }", "out: { far: 10.10.20.14 }", NTP).replace(
        "far: { subnet: 10.10.20.0/24 }", "far: { subnet: 10.10.20.0/24, host: 10.10.20.1 }")
    assert values_of(text, "lvs", "ntp/server", "clock")["subnets"] == [
        {"address": "10.10.10.0", "mask": "255.255.255.0"}, {"address": "10.10.20.0", "mask": "255.255.255.0"}]
    assert values_of(text, "rs1", "ntp/client", "clock") == {"server": "10.10.10.11"}
    assert values_of(text, "out", "ntp/client", "clock") == {"server": "10.10.20.11"}


@pytest.mark.parametrize("guest", [guest for guest in GUESTS if runs_on(NTP, guest)])
def test_the_server_follows_its_own_clock_and_clients_the_server(guest: str) -> None:
    server = step_of(NTP, "lvs", "ntp/server", "clock", guest)
    client = step_of(NTP, "rs1", "ntp/client", "clock", guest)
    assert "server 127.127.1.0 prefer " in server.write_files[0].content
    assert "server 10.10.10.11 iburst " in client.write_files[0].content
    assert server.units == client.units
