"""labctl.language.site: values of networks and nodes."""

from ipaddress import IPv4Address

import pydantic
import pytest

from labctl.language.site import Node, Site

SITE = Site.model_validate({
    "networks": {"lan": {"subnet": "10.0.0.0/24", "host": "10.0.0.1"}, "far": {"subnet": "10.0.1.0/24"}},
    "nodes": {"a": {"far": "10.0.1.2", "memory": 512, "lan": "10.0.0.2"}, "client": {"lan": "10.0.0.3"}},
})


@pytest.mark.parametrize(
    ("address", "network"), [("10.0.0.9", "lan"), ("10.0.1.9", "far"), ("10.0.2.9", None)]
)
def test_an_address_is_in_the_network_whose_subnet_holds_it(address: str, network: str | None) -> None:
    assert SITE.network_of(IPv4Address(address)) == network


def test_interfaces_are_counted_in_the_order_of_the_file_and_only_they() -> None:
    assert SITE.interface("a", "far") == "eth0"
    assert SITE.interface("a", "lan") == "eth1"


def test_a_site_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        SITE.nodes["a"].memory = 1
    with pytest.raises(pydantic.ValidationError):
        SITE.networks["lan"].host = None


def test_a_node_survives_json() -> None:
    node = SITE.nodes["a"]
    assert Node.model_validate_json(node.model_dump_json()) == node
    assert list(node.addresses) == ["far", "lan"]
