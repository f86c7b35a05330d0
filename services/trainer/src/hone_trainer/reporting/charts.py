"""Line charts as SVG, for a page without scripts: a point says its value to the mouse that rests on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 16, 44
_MOST = 300
_TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A named line through points (step, value), in the order of their steps."""

    label: str
    points: Sequence[Point]
    is_marked: bool = False
    """Whether each point has a mark; there are few of them then."""


@dataclass(frozen=True)
class _Axes:
    """From values to pixels."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / (self.right - self.left) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def line_chart(title: str, unit: str, curves: Sequence[Curve]) -> str:
    """The curves over the step, as one `<svg>`; an empty text when there is nothing to draw.

    Values that are no finite number are left out. Many points are drawn as the means of neighbours. Colours
    come from the page's style: classes `curve-0`, `curve-1`, ….
    """
    drawn = [Curve(curve.label, _finite(curve.points), curve.is_marked) for curve in curves]
    points = [point for curve in drawn for point in curve.points]
    if not points:
        return ""
    axes = _axes(points)
    parts = [_grid(axes, unit), *(_curve(index, curve, axes) for index, curve in enumerate(drawn))]
    if len(curves) > 1:
        parts.append(_legend(drawn))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">\n'
        + "".join(parts)
        + "</svg>\n"
    )


def thinned(points: Sequence[Point], most: int = _MOST) -> list[Point]:
    """At most `most` points: each the mean value of as many neighbours, at the last one's step."""
    size = _size(points, most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group)) for group in groups]


def ticks(low: float, high: float, most: int = _TICKS) -> list[float]:
    """Round numbers from `low` to `high`, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _size(points: Sequence[Point], most: int) -> int:
    return max(1, -(-len(points) // most))


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[1])]


def _axes(points: Sequence[Point]) -> _Axes:
    """As wide as the points, with some room above and below; a single value has room around it too."""
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    left, right = min(steps), max(steps)
    return _Axes(left, right if right > left else left + 1, low - room, high + room)


def _grid(axes: _Axes, unit: str) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    lines = []
    for value in ticks(axes.bottom, axes.top):
        y = axes.y(value)
        lines.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for step in (step for step in ticks(axes.left, axes.right, 8) if step == round(step)):
        lines.append(f'<text x="{axes.x(step):.1f}" y="{bottom + 18}" text-anchor="middle">{step:.0f}</text>')
    middle = (_LEFT + right) / 2
    lines.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">step</text>')
    lines.append(
        f'<text transform="translate(14 {(_TOP + bottom) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(unit)}</text>'
    )
    return "\n".join(lines) + "\n"


def _curve(index: int, curve: Curve, axes: _Axes) -> str:
    points = curve.points if curve.is_marked else thinned(curve.points)
    size = 1 if curve.is_marked else _size(curve.points, _MOST)
    mean = f" (mean of {size} steps)" if size > 1 else ""
    places = [(axes.x(step), axes.y(value)) for step, value in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = "".join(
        f'<circle class="{_mark(curve, points)}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
        f"<title>{escape(curve.label)}, step {step:.0f}: {_number(value)}{mean}</title></circle>\n"
        for (x, y), (step, value) in zip(places, points, strict=True)
    )
    return f'<g class="curve-{index}">\n<polyline points="{line}"/>\n{marks}</g>\n'


def _mark(curve: Curve, points: Sequence[Point]) -> str:
    # A line through one point cannot be seen.
    return "mark" if curve.is_marked or len(points) == 1 else "spot"


def _legend(curves: Sequence[Curve]) -> str:
    lines = []
    for index, curve in enumerate(curves):
        x, y = _WIDTH - _RIGHT - 170, _TOP + 14 + 20 * index
        lines.append(f'<g class="curve-{index}"><polyline points="{x},{y - 4} {x + 24},{y - 4}"/></g>')
        lines.append(f'<text x="{x + 32}" y="{y}">{escape(curve.label)}</text>')
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.4g}"
