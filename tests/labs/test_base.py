"""What every node has."""

from collections.abc import Callable

from observe import Observer
from testinfra.host import Host

from labctl.plan import Plan


def test_names_resolve(node: str, plan: Plan, host: Callable[[str], Host], observer: Observer) -> None:
    """every machine's name resolves to its address"""
    expected = {other.name: str(other.interfaces[0].address) for other in plan.nodes if other.name != node}
    output = host(node).run("getent hosts " + " ".join(expected)).stdout
    found = {words[1]: words[0] for words in map(str.split, output.splitlines()) if len(words) > 1}
    wrong = sorted(name for name in expected if found.get(name) != expected[name])
    if wrong:
        observer.blame(f"On '{node}' these names do not resolve as they should: {', '.join(wrong)}.",
                       (node, "base/hosts"))
