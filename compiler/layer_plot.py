"""A picture of layer errors: one self-contained SVG file, a row a layer, dB to the right. No plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.layer_errors import LayerError, LayerErrors

_ROW, _TOP, _LEFT, _WIDE, _RIGHT = 16, 64, 340, 560, 60
_LONGEST_NAME = 46
_COLOURS = {"weights": "#c0392b", "output range": "#d68910", "computation": "#7d3c98"}
_TOTAL = "#34495e"
_MOST_DB = 80.0
"""Errors smaller than this are drawn at the right edge."""


def layer_plot(errors: LayerErrors, title: str) -> str:
    """The SVG's text. Rows in execution order: a dot for the layer's own error, coloured by its cause, and a line that
    joins the total errors. Further left is worse; each row's figures show where the pointer rests on it."""
    rows = list(errors.layers)
    finite = [d for e in rows for d in (e.own_db, e.total_db) if math.isfinite(d)]
    low = min(0.0, 10 * math.floor(min(finite, default=0.0) / 10))
    high = min(_MOST_DB, max(low + 10, 10 * math.ceil(max(finite, default=10.0) / 10)))
    height = _TOP + _ROW * len(rows) + 20
    width = _LEFT + _WIDE + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
        *_legend(),
        *_axis(low, high, height),
        _total_line(rows, low, high),
        *(part for i, e in enumerate(rows) for part in _row(e, i, low, high, e is errors.born)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(db: float, low: float, high: float) -> float:
    return round(_LEFT + _WIDE * (min(max(db, low), high) - low) / (high - low), 1)


def _y(row: int) -> float:
    return _TOP + _ROW * (row + 0.5)


def _legend() -> Iterator[str]:
    x = 10
    for name, colour in _COLOURS.items():
        yield f'<circle cx="{x + 5}" cy="36" r="4" fill="{colour}"/><text x="{x + 13}" y="40">own: {name}</text>'
        x += 120
    yield f'<path d="M{x} 36h20" stroke="{_TOTAL}" stroke-width="1.5"/><text x="{x + 25}" y="40">total</text>'
    yield f'<text x="{_LEFT + _WIDE}" y="40" text-anchor="end">SQNR in dB, further left is worse</text>'


def _axis(low: float, high: float, height: int) -> Iterator[str]:
    step = 10 if high - low <= 100 else 20
    for db in range(int(low), int(high) + 1, step):
        x = _x(db, low, high)
        yield f'<path d="M{x} {_TOP}V{height - 20}" stroke="#e5e8e8"/>'
        yield f'<text x="{x}" y="{_TOP - 4}" text-anchor="middle" fill="#707b7c">{db}</text>'


def _total_line(rows: Sequence[LayerError], low: float, high: float) -> str:
    points = " ".join(f"{_x(e.total_db, low, high)},{_y(i)}" for i, e in enumerate(rows))
    return f'<polyline points="{points}" fill="none" stroke="{_TOTAL}" stroke-width="1.5"/>'


def _row(e: LayerError, i: int, low: float, high: float, worst: bool) -> Iterator[str]:
    y = _y(i)
    name = e.name if len(e.name) <= _LONGEST_NAME else "…" + e.name[-_LONGEST_NAME + 1 :]
    weight = ' font-weight="bold"' if worst else ""
    figures = f"own {_say(e.own_db)}, inherited {_say(e.inherited_db)}, total {_say(e.total_db)}"
    about = f"{e.name} ({e.op_type}): {figures}" + (f"; mostly {e.cause}" if e.cause else "")
    yield f"<g><title>{escape(about)}</title>"
    yield f'<rect x="0" y="{y - _ROW / 2}" width="{_LEFT + _WIDE}" height="{_ROW}" fill="transparent"/>'
    yield f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end"{weight}>{escape(name)}</text>'
    if e.own_db < math.inf:
        colour = _COLOURS[e.cause]
        yield f'<circle cx="{_x(e.own_db, low, high)}" cy="{y}" r="{6 if worst else 4}" fill="{colour}"/>'
    yield "</g>"


def _say(db: float) -> str:
    return "none" if db == math.inf else "not finite" if db == -math.inf else f"{db:.1f} dB"
