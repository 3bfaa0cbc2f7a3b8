"""A roofline as a picture: SVG text, complete in itself.

Both axes are logarithmic: operations a byte to the right, operations a second upwards. A slanting line is a level of
memory, the flat one the arithmetic; a circle is a launch, its area the time that it takes, its title the numbers. How
far a circle is below the lines is what could still be won. Launches that do no arithmetic have no place in it.
"""

from __future__ import annotations

import math
from html import escape

from rlx.runtime.roofline import KernelShare, Roofline

_WIDTH, _HEIGHT, _MARGIN = 760, 420, 56
_COLOURS = {"arithmetic": "#1f77b4", "memory": "#d62728"}


def roofline_svg(roofline: Roofline) -> str:
    """The chart as one <svg> element."""
    shown = [k for k in roofline.kernels if k.report.flops > 0 and k.report.bytes > 0 and k.seconds > 0]
    ceilings = roofline.ceilings
    rates = [(level.name, level.read_bytes) for level in ceilings.levels] + [("memory", ceilings.read_bytes)]
    ridges = [ceilings.flops / rate for _, rate in rates]
    intensity = [k.report.flops / k.report.bytes for k in shown]
    speed = [_speed(k) for k in shown]
    left, right = _decades([*intensity, *ridges])
    bottom, top = _decades([*speed, ceilings.flops])

    def x(value: float) -> float:
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * (math.log10(value) - left) / (right - left)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (math.log10(value) - bottom) / (top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>'
    ]
    for power in range(left, right + 1):
        parts += [
            _line(x(10.0**power), y(10.0**bottom), x(10.0**power), y(10.0**top), "#ddd"),
            _text(x(10.0**power), _HEIGHT - _MARGIN + 16, _power(power), "middle"),
        ]
    for power in range(bottom, top + 1):
        parts += [
            _line(x(10.0**left), y(10.0**power), x(10.0**right), y(10.0**power), "#ddd"),
            _text(_MARGIN - 6, y(10.0**power) + 4, _power(power), "end"),
        ]
    for (name, rate), ridge in zip(rates, ridges, strict=True):
        start = max(10.0**left, 10.0**bottom / rate)
        parts += [
            _line(x(start), y(start * rate), x(ridge), y(ceilings.flops), "#555"),
            _text(x(start) + 4, y(start * rate) - 6, f"{name} {rate / 1e9:.0f} GB/s", "start"),
        ]
    parts += [
        _line(x(min(ridges)), y(ceilings.flops), x(10.0**right), y(ceilings.flops), "#555"),
        _text(x(10.0**right), y(ceilings.flops) - 6, f"{ceilings.flops / 1e9:.0f} GFLOP/s", "end"),
        _text(_WIDTH / 2, _HEIGHT - 16, "operations a byte", "middle"),
        _text(_MARGIN, _MARGIN - 24, "operations a second", "middle"),
    ]
    longest = max((k.seconds for k in shown), default=1.0)
    for kernel, i, s in zip(shown, intensity, speed, strict=True):
        radius = 2 + 14 * math.sqrt(kernel.seconds / longest)
        parts.append(
            f'<circle cx="{x(i):.1f}" cy="{y(s):.1f}" r="{radius:.1f}" fill="{_COLOURS[kernel.bound]}" '
            f'fill-opacity="0.35" stroke="{_COLOURS[kernel.bound]}"><title>{escape(_title(kernel))}</title></circle>'
        )
    return "\n".join([*parts, "</svg>"])


def _speed(kernel: KernelShare) -> float:
    return kernel.report.flops * kernel.launches / kernel.seconds


def _title(kernel: KernelShare) -> str:
    return (
        f"{kernel.step}: {kernel.report.label}, {kernel.seconds * 1e6:.1f} us, "
        f"{_speed(kernel) / 1e9:.1f} GFLOP/s, {kernel.share:.0%} of its {kernel.bound} limit"
    )


def _decades(values: list[float]) -> tuple[int, int]:
    """The powers of ten around the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _power(power: int) -> str:
    return f"1e{power}"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333">{escape(text)}</text>'
