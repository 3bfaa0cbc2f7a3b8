"""The kit's suites, in the order in which they are run: what stands below comes first."""

from rlx.testing.conformance.suites.registered import SUITES

__all__ = ["SUITES"]
