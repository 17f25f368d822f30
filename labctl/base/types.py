"""The basic values that files and records are made of. Pure."""

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A host name's first label (RFC 1123), so that it can stand in a shell word, a file name and XML."""

Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]*$",
                                        min_length=1, max_length=100)]
"""One line of readable text."""


def _only_text(kind: Any) -> Any:
    def check(value: object) -> object:
        # Python would take a number, and even a truth value, for an address.
        if not isinstance(value, str | IPv4Address | IPv4Network):
            raise PydanticCustomError(kind, "Input is no text")
        return value

    return check


Address = Annotated[IPv4Address, BeforeValidator(_only_text("ip_v4_address"))]
Subnet = Annotated[IPv4Network, BeforeValidator(_only_text("ip_v4_network"))]


class Model(BaseModel):
    """A frozen value without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
