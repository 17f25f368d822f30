"""Reading YAML written by hand: remembers lines, and refuses what no labctl file needs."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from labctl.base.errors import InputError, Problem

Location: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
_MAX_DIGITS = 20


@dataclass
class Document:
    """Plain data, and the line on which each part of it begins."""

    data: Any
    lines: dict[Location, int] = field(default_factory=dict)
    replaced: list[Location] = field(default_factory=list)
    """The parts that another document has replaced."""

    def replace(self, location: Location, other: "Document") -> None:
        """Put another document in the place of a part; the part's parent has to exist.

        Messages about it give the line of the part it replaced, or of the nearest parent in the file.
        """
        line = self.line_of(location)
        *above, last = location
        reduce(getitem, above, self.data)[last] = other.data
        self.lines = {part: number for part, number in self.lines.items() if part[:len(location)] != location}
        self.lines |= dict.fromkeys([location, *((*location, *part) for part in other.lines)], line)
        self.replaced.append(location)

    def line_of(self, location: Location) -> int:
        """The line of a part, or of its nearest parent in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


class _Refused(Exception):
    def __init__(self, mark: Any, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(mark.line + 1 if mark else 1, message)


def read(text: str, name: str | Path) -> Document:
    """Parse one YAML document.

    Mapping keys stay text (a node may be called `no`). Raises InputError for malformed YAML, duplicate keys, anchors
    and aliases, tags, several documents, and excessive nesting or size.
    """
    document = Document(None)
    try:
        if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
            raise _Refused(None, f"the file is larger than {MAX_BYTES // 1024} KiB.")
        _refuse_exotic(text)
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
        if root is not None:
            document.data = _build(root, (), document)
    except _Refused as refused:
        raise InputError(name, [refused.problem]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(filter(None, [error.context, error.problem]))
        raise InputError(name, [Problem(mark.line + 1 if mark else 1, f"not YAML: {reason}.")]) from None
    except (yaml.YAMLError, UnicodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(name, [Problem(1, f"not YAML: {reason}.")]) from None
    return document


def read_file(path: Path) -> Document:
    """Parse the YAML file at `path`. Raises InputError, and OSError if the file cannot be read."""
    return read(path.read_bytes().decode("utf-8", errors="surrogateescape"), path)


def _refuse_exotic(text: str) -> None:
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Refused(event.start_mark, "only one YAML document is allowed in a file.")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Refused(event.start_mark, "anchors and aliases are not allowed; write the value out.")
        tag = getattr(event, "tag", None)
        if tag:
            raise _Refused(event.start_mark, f"the tag '{tag}' is not allowed.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _Refused(event.start_mark, f"nested more than {MAX_DEPTH} levels deep.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _build(node: yaml.Node, location: Location, document: Document) -> Any:
    document.lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*location, index), document) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused(key_node.start_mark, "a key has to be a plain word.")
            key = key_node.value
            if key in result:
                raise _Refused(key_node.start_mark, f"'{key}' is given twice.")
            document.lines[(*location, key)] = key_node.start_mark.line + 1
            result[key] = _build(value_node, (*location, key), document)
        return result
    shown = f"'{node.value[:40]}…'" if len(node.value) > 40 else f"'{node.value}'"
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MAX_DIGITS:
        raise _Refused(node.start_mark, f"{shown} is not a value: a number has at most {_MAX_DIGITS} digits.")
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except (ValueError, OverflowError) as error:
        raise _Refused(node.start_mark, f"{shown} is not a value: {error}.") from None
