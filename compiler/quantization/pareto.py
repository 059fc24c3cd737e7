"""The trade of accuracy for integer arithmetic, drawn: a self-contained SVG, no library needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50


@dataclass(frozen=True)
class Dot:
    """One choice: `x` the share of multiply-accumulates in integers (0..1), `y` what it reached. `label`: its tooltip."""

    x: float
    y: float
    label: str
    chosen: bool = False


def frontier(dots: Sequence[Dot]) -> list[Dot]:
    """The dots no other one beats in both, from the left."""
    best: list[Dot] = []
    for d in sorted(dots, key=lambda d: (-d.x, -d.y)):
        if not best or d.y > best[-1].y:
            best.append(d)
    return best[::-1]


def pareto_svg(dots: Sequence[Dot], *, title: str, y_label: str, floor: float | None = None) -> str:
    """The plot as text. Dots that are not finite (the float model's infinite SQNR) are left out.

    The frontier is joined, the chosen dot is marked, `floor` is a line: what was asked for.
    """
    shown = [d for d in dots if math.isfinite(d.y) and math.isfinite(d.x)]
    ys = [d.y for d in shown] + ([floor] if floor is not None and math.isfinite(floor) else [])
    low, high = (min(ys), max(ys)) if ys else (0.0, 1.0)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    left = min([0.8, *(math.floor(d.x * 5) / 5 for d in shown)])  # of the axis; it always ends at 1

    def px(x: float) -> float:
        return LEFT + (x - left) / (1 - left) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(WIDTH / 2, 22, title, size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "multiply-accumulates in integers"),
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    for i in range(6):
        share = left + i / 5 * (1 - left)
        x = px(share)
        out += [_line(x, TOP, x, HEIGHT - BOTTOM, "#e5e7eb"), _text(x, HEIGHT - BOTTOM + 18, f"{share:.0%}")]
    for y in ticks:
        out += [_line(LEFT, py(y), WIDTH - RIGHT, py(y), "#e5e7eb"), _text(LEFT - 8, py(y) + 4, f"{y:g}", anchor="end")]
    if floor is not None and math.isfinite(floor):
        out += [
            _line(LEFT, py(floor), WIDTH - RIGHT, py(floor), "#dc2626", dash="6 4"),
            _text(LEFT + 6, py(floor) - 5, "asked for", anchor="start", fill="#dc2626"),
        ]
    out += _dots(shown, px, py)
    return "\n".join([*out, "</svg>\n"])


def _dots(shown: Sequence[Dot], px: Callable[[float], float], py: Callable[[float], float]) -> list[str]:
    best = frontier(shown)
    out = []
    if len(best) > 1:
        path = " ".join(f"{px(d.x):.1f},{py(d.y):.1f}" for d in best)
        out.append(f'<polyline points="{path}" fill="none" stroke="#2563eb" stroke-width="1.5"/>')
    for d in sorted(shown, key=lambda d: d.chosen):
        colour = "#16a34a" if d.chosen else "#2563eb" if d in best else "#9ca3af"
        out.append(
            f'<circle cx="{px(d.x):.1f}" cy="{py(d.y):.1f}" r="{7 if d.chosen else 4}" fill="{colour}">'
            f"<title>{escape(d.label)}</title></circle>"
        )
    return out


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that span [low, high]."""
    span = high - low if high > low else max(abs(high), 1.0) * 0.1
    raw = span / 4
    unit = 10 ** math.floor(math.log10(raw))
    step = unit * next(m for m in (1, 2, 5, 10) if raw <= m * unit)
    first = math.floor(low / step)
    count = max(math.ceil(high / step) - first, 1)
    return [round((first + i) * step, 12) for i in range(count + 1)]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, fill: str = "#111827") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'
