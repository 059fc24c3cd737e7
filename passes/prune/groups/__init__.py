"""Which channels must go together, and how to remove them."""

from edgec.passes.prune.groups.atoms import find_groups
from edgec.passes.prune.groups.dimensions import Dimension
from edgec.passes.prune.groups.group import Atom, Group
from edgec.passes.prune.groups.removal import remove

__all__ = ["Atom", "Dimension", "Group", "find_groups", "remove"]
