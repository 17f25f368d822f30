"""The basic values that files and records are made of. Pure."""

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A host name's label (RFC 1123); safe in a shell word, a file name and XML."""

_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff"
_BIDIRECTIONAL = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Characters that change the direction of text (UAX 9, section 2): a terminal would show it in another order."""
Line = Annotated[str, StringConstraints(pattern=f"^[^{_CONTROLS}{_BIDIRECTIONAL}]*$", min_length=1, max_length=100)]
"""One line of readable text."""

Number = Annotated[int, Field(strict=True)]
"""A whole number; rejects booleans, text and 1.0, which Python would accept."""
Flag = Annotated[bool, Field(strict=True)]
"""true or false; rejects 1 and "on"."""
Port = Annotated[Number, Field(ge=1, le=65535)]
"""A TCP port."""


def _only_text(kind: Any) -> Any:
    def check(value: object) -> object:
        # Python would accept a number, and even a boolean, as an address.
        if not isinstance(value, str | IPv4Address | IPv4Network):
            raise PydanticCustomError(kind, "Input is no text")
        return value

    return check


Address = Annotated[IPv4Address, BeforeValidator(_only_text("ip_v4_address"))]
Subnet = Annotated[IPv4Network, BeforeValidator(_only_text("ip_v4_network"))]


class Model(BaseModel):
    """A frozen value without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
