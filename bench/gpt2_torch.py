"""GPT-2 small in PyTorch: the weights of `gpt2_model` as a module's parameters, so that inductor can freeze them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from gpt2_model import EPSILON, HEAD, HEADS, LAYERS, PREFILL, WIDTH, decode_feeds, prefill_feeds, weights
from torch.nn import functional as F

if TYPE_CHECKING:
    Compile = Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]]


class _Gpt2(torch.nn.Module):
    """ids, positions, caches -> logits. Without caches the prompt is causal; with caches, a key and a value [1, heads,
    context, width] a layer, the last place of each is written in place before it is read.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, array in weights().items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(array))

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        rows = torch.addmm(getattr(self, f"{name}_bias"), x.flatten(0, 1), getattr(self, f"{name}_weight"))
        return rows.unflatten(0, x.shape[:2])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"), EPSILON)

    def _mix(self, x: torch.Tensor, caches: tuple[torch.Tensor, ...]) -> torch.Tensor:
        q, k, v = (part.unflatten(2, (HEADS, HEAD)).transpose(1, 2) for part in x.split(WIDTH, 2))
        if not caches:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        keys, values = caches
        keys[:, :, -1:], values[:, :, -1:] = k, v
        return F.scaled_dot_product_attention(q, keys, values)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, *caches: torch.Tensor) -> torch.Tensor:
        x = self.wte[ids] + self.wpe[positions]
        for layer in range(LAYERS):
            own = caches[2 * layer : 2 * layer + 2]
            mixed = self._mix(self._linear(self._norm(x, f"{layer}_norm1"), f"{layer}_attention"), own)
            x = x + self._linear(mixed.transpose(1, 2).flatten(2), f"{layer}_projection")
            inner = F.gelu(self._linear(self._norm(x, f"{layer}_norm2"), f"{layer}_inner"), approximate="tanh")
            x = x + self._linear(inner, f"{layer}_outer")
        return F.linear(self._norm(x, "norm"), self.wte)


def prefill(compile: Compile) -> Callable[[], torch.Tensor]:
    """The prompt of `prefill_feeds`: gives its logits."""
    ids, positions = torch.from_numpy(prefill_feeds()["ids"]), torch.arange(PREFILL)[None]
    function = compile(_Gpt2().eval())
    return lambda: function(ids, positions)


def decode(compile: Compile) -> Callable[[], torch.Tensor]:
    """The step of `decode_feeds`, writing the new key and value into caches in place: gives its logits."""
    feeds = {name: torch.from_numpy(array) for name, array in decode_feeds().items()}
    caches = [
        F.pad(feeds[f"past_{part}.{layer}"], (0, 0, 0, 1)) for layer in range(LAYERS) for part in ("key", "value")
    ]
    function = compile(_Gpt2().eval())
    return lambda: function(feeds["ids"], feeds["position"], *caches)
