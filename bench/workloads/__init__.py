"""What the benchmarks measure, a module a family; `ALL` is every workload, in the report's order."""

from workloads.all import ALL

__all__ = ["ALL"]
