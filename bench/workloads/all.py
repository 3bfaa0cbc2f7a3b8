"""Every workload, in the report's order."""

from __future__ import annotations

from workloads import attention, calls, gpt2, minilm, products, resnet50, streaming

ALL = [
    *minilm.WORKLOADS,
    *resnet50.WORKLOADS,
    *gpt2.WORKLOADS,
    *products.WORKLOADS,
    *attention.WORKLOADS,
    *streaming.WORKLOADS,
    *calls.WORKLOADS,
]
