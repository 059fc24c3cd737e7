"""Sliding windows: kernel, strides, dilations and padding of Conv, ConvTranspose and the pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.graph import attribute, ir


class Contradiction(Exception):
    """Attributes and shapes of a node that do not fit each other."""


@dataclass(frozen=True)
class Window:
    """One entry for each spatial axis. `before` and `after`: padding, explicit whatever `auto_pad` said."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def padded(self) -> bool:
        return any(self.before) or any(self.after)

    def same(self, spatial: Sequence[int]) -> bool:
        """Whether the padding is what "SAME" means to TensorFlow for an input of this size: ceil(size / stride) steps,
        the odd element behind (tensorflow.org: tf.nn, notes on padding)."""
        return all(
            (b, a) == (total // 2, total - total // 2)
            for b, a, total in zip(self.before, self.after, self._same_totals(spatial), strict=True)
        )

    def _same_totals(self, spatial: Sequence[int]) -> list[int]:
        return [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(spatial, self.kernel, self.strides, self.dilations, strict=True)
        ]


def window(node: ir.Node, spatial: Sequence[int], kernel: Sequence[int] | None = None) -> Window:
    """The window of a Conv or pool over an input of size `spatial`. `kernel`: of a Conv, whose weight says it.

    `ceil_mode` of pools is part of the output's shape, not of the window: see `ceil_padding`.

    Raises:
        Contradiction: an attribute has another number of axes than the input, or is not positive.
    """
    n = len(spatial)
    k = tuple(kernel or attribute(node, "kernel_shape"))
    strides = tuple(attribute(node, "strides") or (1,) * n)
    dilations = tuple(attribute(node, "dilations") or (1,) * n)
    if not (len(k) == len(strides) == len(dilations) == n) or min((*k, *strides, *dilations), default=1) < 1:
        raise Contradiction(f"kernel {list(k)}, strides {list(strides)} and dilations {list(dilations)} for {n} axes")
    auto = attribute(node, "auto_pad") or "NOTSET"
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = Window(k, strides, dilations, (0,) * n, (0,) * n)._same_totals(spatial)
        small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto == "VALID":
        before = after = (0,) * n
    else:
        pads = tuple(attribute(node, "pads") or (0,) * (2 * n))
        if len(pads) != 2 * n:
            raise Contradiction(f"{len(pads)} pads for {n} axes")
        before, after = pads[:n], pads[n:]
    return Window(k, strides, dilations, before, after)


def ceil_padding(w: Window, spatial: Sequence[int], out: Sequence[int]) -> tuple[int, ...]:
    """How far the windows of `out` steps reach behind the padded input: what `ceil_mode` adds on each axis."""
    return tuple(
        max((o - 1) * s + (k - 1) * d + 1 - (size + b + a), 0)
        for size, k, s, d, b, a, o in zip(
            spatial, w.kernel, w.strides, w.dilations, w.before, w.after, out, strict=True
        )
    )
