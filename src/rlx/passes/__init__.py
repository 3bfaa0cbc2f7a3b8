"""Graph to graph: composites inlined, constants folded, equal nodes merged, dead ones dropped, and nodes grouped."""

from rlx.passes.fuse import fuse as fuse
from rlx.passes.group import Group as Group
from rlx.passes.inline import dispatch_report as dispatch_report
from rlx.passes.legalize import legalize as legalize
from rlx.passes.pipeline import optimize as optimize
