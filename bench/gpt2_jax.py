"""GPT-2 small in JAX: the weights of `gpt2_model` as arguments, caches as arguments too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gpt2_model import CONTEXT, EPSILON, HEAD, HEADS, LAYERS, PREFILL, WIDTH, decode_feeds, prefill_feeds, weights

Weights = Mapping[str, Any]


def _layers(w: Weights, ids: Any, positions: Any, mix: Callable[[Any, Any, Any, int], Any]) -> Any:
    """Logits. mix: the attention of one layer, from q, k and v [1, heads, tokens, width of a head]."""
    from jax import nn

    def norm(x: Any, name: str) -> Any:
        return nn.standardize(x, axis=-1, epsilon=EPSILON) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte"][ids] + w["wpe"][positions]
    for layer in range(LAYERS):
        joined = linear(norm(x, f"{layer}.norm1"), f"{layer}.attention").reshape(*x.shape[:2], 3, HEADS, HEAD)
        q, k, v = (joined[:, :, i].swapaxes(1, 2) for i in range(3))
        mixed = mix(q, k, v, layer).swapaxes(1, 2).reshape(*x.shape[:2], WIDTH)
        x = x + linear(mixed, f"{layer}.projection")
        inner = nn.gelu(linear(norm(x, f"{layer}.norm2"), f"{layer}.inner"), approximate=True)
        x = x + linear(inner, f"{layer}.outer")
    return norm(x, "norm") @ w["wte"].T


def _attend(q: Any, k: Any, v: Any, seen: np.ndarray | None) -> Any:
    from jax import nn
    from jax import numpy as jnp

    scores = q @ k.swapaxes(2, 3) * (1 / math.sqrt(HEAD))
    return nn.softmax(scores if seen is None else jnp.where(seen, scores, -jnp.inf)) @ v


def _weights() -> dict[str, Any]:
    from jax import numpy as jnp

    return {name: jnp.asarray(array) for name, array in weights().items()}


def prefill(compile: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], Any]:
    """The prompt of `prefill_feeds`: gives its logits."""
    seen = np.tri(PREFILL, dtype=bool)[None, None]

    def prompt(w: Weights, ids: Any) -> Any:
        return _layers(w, ids, np.arange(PREFILL)[None], lambda q, k, v, layer: _attend(q, k, v, seen))

    function = compile(prompt)
    w, ids = _weights(), prefill_feeds()["ids"]
    return lambda: function(w, ids)


def decode(compile: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], Any]:
    """The step of `decode_feeds`, over caches of the whole context: gives its logits."""

    def step(w: Weights, ids: Any, position: Any, caches: list[Any]) -> Any:
        def mix(q: Any, k: Any, v: Any, layer: int) -> Any:
            keys = caches[2 * layer].at[:, :, CONTEXT - 1 :].set(k)
            values = caches[2 * layer + 1].at[:, :, CONTEXT - 1 :].set(v)
            return _attend(q, keys, values, None)

        return _layers(w, ids, position, mix)

    function = compile(step)
    from jax import numpy as jnp

    feeds, w = decode_feeds(), _weights()
    padding = ((0, 0), (0, 0), (0, 1), (0, 0))
    caches = [
        jnp.asarray(np.pad(feeds[f"past_{part}.{layer}"], padding))
        for layer in range(LAYERS)
        for part in ("key", "value")
    ]
    return lambda: function(w, feeds["ids"], feeds["position"], caches)
