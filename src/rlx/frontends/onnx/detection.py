"""NonMaxSuppression: how many boxes it keeps depends on data, so it is computed where the data is known at import."""

from __future__ import annotations

import numpy as np

from rlx.frontends.onnx.site import Site, handles
from rlx.ir.graph import Value


@handles("NonMaxSuppression")
def non_max_suppression(site: Site) -> Value:
    """Rows (batch, class, box) of the boxes kept, best first within each class."""
    boxes = site.array(0, "number of selected boxes").astype(np.float64)
    scores = site.array(1, "number of selected boxes")
    most, overlap, least = (site.maybe_array(i, "limits") for i in (2, 3, 4))
    limit = int(most.reshape(-1)[0]) if most is not None else 0
    overlap_limit = float(overlap.reshape(-1)[0]) if overlap is not None else 0.0
    threshold = float(least.reshape(-1)[0]) if least is not None else -np.inf
    corners = _corners(boxes, bool(site.attr("center_point_box", 0)))
    rows = [
        (batch, kind, index)
        for batch, kind in np.ndindex(*scores.shape[:2])
        for index in _keep(corners[batch], scores[batch, kind], limit, overlap_limit, threshold)
    ]
    return site.b.literal(np.array(rows, dtype=np.int64).reshape(-1, 3))


def _corners(boxes: np.ndarray, centred: bool) -> np.ndarray:
    """(low, low, high, high) of each box, from that in any order or from centre and size."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if centred:
        first, second = first - second / 2, first + second / 2
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def _keep(boxes: np.ndarray, scores: np.ndarray, limit: int, overlap: float, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if len(kept) >= limit:
            break
        if scores[index] > threshold and all(_overlap(boxes[index], boxes[k]) <= overlap for k in kept):
            kept.append(int(index))
    return kept


def _overlap(x: np.ndarray, y: np.ndarray) -> float:
    """Intersection over union."""
    sides = np.minimum(x[2:], y[2:]) - np.maximum(x[:2], y[:2])
    if (sides <= 0).any():
        return 0.0
    shared = float(sides.prod())
    union = float((x[2:] - x[:2]).prod() + (y[2:] - y[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0
