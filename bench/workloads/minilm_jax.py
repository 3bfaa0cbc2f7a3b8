"""The MiniLM-L6 encoder in JAX: the checkpoint's weights as arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def encoder(
    compile: Callable[[Callable[..., Any]], Callable[..., Any]],
    weights: Mapping[str, np.ndarray],
    feeds: Mapping[str, np.ndarray],
    *,
    layers: int,
    heads: int,
    epsilon: float,
) -> Callable[[], Any]:
    """The sentence embeddings of `feeds`."""

    def encode(w: dict[str, Any], ids: Any, mask: Any, kinds: Any) -> Any:
        from jax import nn
        from jax import numpy as jnp

        def dense(x: Any, name: str) -> Any:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        def norm(x: Any, name: str) -> Any:
            return nn.standardize(x, axis=-1, epsilon=epsilon) * w[f"{name}.weight"] + w[f"{name}.bias"]

        def split(x: Any, name: str) -> Any:
            return dense(x, name).reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][kinds]
        x = norm(x + w["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
        for layer in range(layers):
            name = f"encoder.layer.{layer}"
            q, k, v = (split(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
            scores = q @ k.swapaxes(2, 3) / math.sqrt(q.shape[-1])
            scores = jnp.where(mask[:, None, None, :] > 0, scores, -jnp.inf)
            mixed = (nn.softmax(scores) @ v).swapaxes(1, 2).reshape(x.shape)
            x = norm(dense(mixed, f"{name}.attention.output.dense") + x, f"{name}.attention.output.LayerNorm")
            inner = nn.gelu(dense(x, f"{name}.intermediate.dense"), approximate=False)
            x = norm(dense(inner, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")
        seen = mask[..., None].astype(jnp.float32)
        pooled = (x * seen).sum(1) / seen.sum(1)
        return pooled / jnp.linalg.norm(pooled, axis=1, keepdims=True)

    function = compile(encode)
    from jax import numpy as jnp

    w = {name: jnp.asarray(array) for name, array in weights.items() if array.dtype == np.float32}
    given = [jnp.asarray(feeds[name]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    return lambda: function(w, *given)
