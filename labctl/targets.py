"""What people type to name a lab or a node: LAB, LAB/NODE, NODE, or nothing."""

from fnmatch import fnmatchcase

from labctl import lab
from labctl.errors import LabError
from labctl.lab import Lab
from labctl.plan import PlannedNode
from labctl.suggest import did_you_mean


def one_lab(name: str | None) -> Lab:
    """The lab of this name, or the only one there is. Raises LabError with the candidates."""
    if name is not None:
        return lab.open_lab(name)
    names = lab.names()
    if not names:
        raise LabError("No lab is up.", hint="'labctl up lvs-dr-keepalived' starts one; 'labctl list --topologies' "
                                             "shows what there is.")
    if len(names) > 1:
        raise LabError("Several labs are up; say which one.", hint=f"They are: {', '.join(names)}.")
    return lab.open_lab(names[0])


def one_node(target: str) -> tuple[Lab, PlannedNode]:
    """The node `LAB/NODE`, or `NODE` where only one lab has such a node. Raises LabError with the candidates."""
    name, slash, node = target.rpartition("/")
    if slash:
        found = lab.open_lab(name)
        return found, found.plan.node(node)
    labs = [lab.open_lab(name) for name in lab.names()]
    if not labs:
        one_lab(None)
    matches = [(candidate, planned) for candidate in labs for planned in candidate.plan.nodes
               if planned.name == target]
    if len(matches) > 1:
        options = ", ".join(f"{candidate.name}/{target}" for candidate, _ in matches)
        raise LabError(f"Several labs have a node called '{target}'; say which one.", hint=f"They are: {options}.")
    if not matches:
        known = [planned.name for candidate in labs for planned in candidate.plan.nodes]
        raise LabError(f"No lab that is up has a node called '{target}'.", hint=did_you_mean(target, known))
    return matches[0]


def some_nodes(target: str) -> tuple[Lab, list[PlannedNode]]:
    """The nodes that a pattern such as `rs*` or `LAB/*` names; at least one. Raises LabError."""
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
