"""What people type to name a lab, nodes, networks or steps: LAB, LAB/NODE, NODE:NETWORK, NODE/STEP, SERVICE."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from labctl.base.errors import LabError
from labctl.base.suggest import did_you_mean
from labctl.labs import lab
from labctl.labs.lab import Lab
from labctl.plan.plan import PlannedNode
from labctl.plan.steps import Step


def one_lab(name: str | None) -> Lab:
    """The lab of this name, or the only one that is up. Raises LabError with the candidates."""
    if name is not None:
        return lab.open_lab(name)
    labs = lab.labs()
    if not labs:
        for unusable in lab.names():
            _ = lab.open_lab(unusable).plan  # Raises an error that says why the lab is not usable.
        raise LabError("No lab is up.", hint="'labctl up lvs-dr-keepalived' starts one; 'labctl list --topologies' "
                                             "shows what there is.")
    if len(labs) > 1:
        raise LabError("Several labs are up; say which one.",
                       hint=f"They are: {', '.join(each.name for each in labs)}.")
    return labs[0]


def one_node(target: str) -> tuple[Lab, PlannedNode]:
    """The node `LAB/NODE`, or `NODE` if only one lab has such a node. Raises LabError with the candidates."""
    name, slash, node = target.rpartition("/")
    if slash:
        found = lab.open_lab(name)
        return found, found.plan.node(node)
    found = _only_lab_with("node", target, _node_names)
    return found, found.plan.node(target)


def some_steps(target: str) -> tuple[Lab, list[tuple[PlannedNode, Step]]]:
    """The step `NODE/STEP`, or all steps of `SERVICE` in order; each can be preceded by `LAB/`. Raises LabError."""
    place, slash, name = target.rpartition("/")
    if not slash:
        found = _only_lab_with("service", name, _service_names)
        return found, found.plan.steps_of(name)
    if place in lab.names():
        found = lab.open_lab(place)
        # `place` may be a node with the name of a lab.
        if name in _service_names(found) or not any(place in _node_names(each) for each in lab.labs()):
            return found, found.plan.steps_of(name)
    found, node = one_node(place)
    return found, [(node, node.step(name))]


def some_nodes(target: str) -> tuple[Lab, list[PlannedNode]]:
    """The nodes that match a pattern such as `rs*` or `LAB/*`; at least one. Raises LabError."""
    if not any(sign in target for sign in "*?["):
        found, node = one_node(target)
        return found, [node]
    name, _, pattern = target.rpartition("/")
    found = one_lab(name or None)
    nodes = [node for node in found.plan.nodes if fnmatchcase(node.name, pattern)]
    if not nodes:
        raise LabError(f"No node of '{found.name}' matches '{pattern}'.",
                       hint=f"Its nodes are: {', '.join(node.name for node in found.plan.nodes)}.")
    return found, nodes


def lab_of_points(words: Sequence[str]) -> tuple[Lab, list[str]]:
    """The lab that words such as LAB, NODE, NODE:NETWORK and LAB/NETWORK are about, and the words without it.

    Raises LabError with the candidates where it is not one lab.
    """
    names = {word.rpartition("/")[0] for word in words if "/" in word}
    points = [word.rpartition("/")[2] for word in words]
    if len(names) > 1:
        raise LabError(f"These are in several labs: {', '.join(sorted(names))}.",
                       hint="All that is captured at once is in one lab.")
    if names:
        return lab.open_lab(names.pop()), points
    first = points[0].partition(":")[0] if points else None
    found = [each for each in lab.labs() if first in (*_node_names(each), *each.plan.topology.networks)]
    if len(found) == 1:
        return found[0], points
    if not found and points and first in lab.names():
        return lab.open_lab(str(first)), points[1:]
    return one_lab(None), points


def _node_names(found: Lab) -> list[str]:
    return [node.name for node in found.plan.nodes]


def _service_names(found: Lab) -> list[str]:
    return list(found.plan.topology.services)


def _only_lab_with(kind: str, name: str, names_in: Callable[[Lab], list[str]]) -> Lab:
    """The only lab that has a node or service of this name. Raises LabError with the candidates."""
    labs = lab.labs()
    if not labs:
        one_lab(None)
    matches = [each for each in labs if name in names_in(each)]
    if len(matches) > 1:
        options = ", ".join(f"{each.name}/{name}" for each in matches)
        raise LabError(f"Several labs have a {kind} called '{name}'; say which one.", hint=f"They are: {options}.")
    if not matches:
        known = {known for each in labs for known in names_in(each)}
        raise LabError(f"No lab that is up has a {kind} called '{name}'.", hint=did_you_mean(name, known))
    return matches[0]
