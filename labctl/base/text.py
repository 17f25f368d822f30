"""Wording for messages, and foreign text made safe for a terminal. Pure."""

import re
from collections.abc import Collection

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that move the cursor, change what is shown already, or reverse text; not the tab and the line feed."""


def visible(text: str) -> str:
    """The text without colours, and with other control characters written out, as `^[` or `\\x9b`."""
    return _CONTROL.sub(_written, _COLOUR.sub("", text.replace("\r\n", "\n")))


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x80:
        return f"^{chr(code ^ 0x40)}"  # As terminals echo it and 'cat -v' prints it.
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def counted(count: int, noun: str) -> str:
    """A number of things: `1 node`, `2 nodes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def these(names: Collection[str], one: str, several: str, none: str = "nobody") -> str:
    """Names as the subject of a sentence, with the verb for `one` or `several` of them; `none` takes that for one."""
    subject = " and ".join(map(repr, names)) or none
    return f"{subject} {several if len(names) > 1 else one}"
