"""Every workload, in the report's order."""

from __future__ import annotations

from workloads import calls, gpt2, minilm, resnet50, streaming

ALL = [*minilm.WORKLOADS, *resnet50.WORKLOADS, *gpt2.WORKLOADS, *streaming.WORKLOADS, *calls.WORKLOADS]
