"""ResNet-50 v1.5 in JAX: the weights of `resnet50_model` as arguments, channels last, which XLA prefers on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from resnet50_model import EPSILON, STEM, Convolution, blocks, image, weights


def network(compile: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], Any]:
    """The image of `resnet50_model.image`: gives its logits."""

    def logits(w: dict[str, Any], x: Any) -> Any:
        from jax import lax, nn
        from jax import numpy as jnp

        def convolve(c: Convolution, x: Any) -> Any:
            pad, layout = c.kernel // 2, ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(
                x, w[f"{c.name}.weight"], (c.stride,) * 2, [(pad, pad)] * 2, dimension_numbers=layout
            )
            gain = w[f"{c.name}.gamma"] / jnp.sqrt(w[f"{c.name}.variance"] + EPSILON)
            return y * gain + (w[f"{c.name}.beta"] - w[f"{c.name}.mean"] * gain)

        x = nn.relu(convolve(STEM, x))
        x = lax.reduce_window(x, -np.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)])
        for block in blocks():
            first, second, third = block.convolutions
            y = convolve(third, nn.relu(convolve(second, nn.relu(convolve(first, x)))))
            x = nn.relu(y + (x if block.beside is None else convolve(block.beside, x)))
        return x.mean((1, 2)) @ w["classifier.weight"].T + w["classifier.bias"]

    function = compile(logits)
    from jax import numpy as jnp

    w = {name: jnp.asarray(a.transpose(2, 3, 1, 0) if a.ndim == 4 else a) for name, a in weights().items()}
    x = jnp.asarray(image().transpose(0, 2, 3, 1))
    return lambda: function(w, x)
