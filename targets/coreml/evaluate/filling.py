"""Tensors made of a few numbers, and what surrounds a tensor."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.elementwise import where
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@evaluates("fill")
def fill(o: OpReader) -> None:
    """The value in every element."""
    o.move(_filled(o, o.integers("shape")))


@evaluates("fill_like")
def fill_like(o: OpReader) -> None:
    """The same in the shape of another tensor."""
    o.move(_filled(o, o.emit("Shape", [o.x("ref_tensor")])))


def _filled(o: OpReader, shape: ir.Value) -> ir.Value:
    value = o.array("value", np.float32(0))
    kinds = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}
    return o.emit("ConstantOfShape", [shape], value=ir.tensor(value.astype(kinds[value.dtype.kind]).reshape(1)))


@evaluates("range_1d")
def range_1d(o: OpReader) -> None:
    """start, start + step ... without `end`."""
    o.give(o.emit("Range", [o.x("start"), o.x("end"), o.x("step")]))


@evaluates("one_hot")
def one_hot(o: OpReader) -> None:
    """on_value where the place along the new axis is the index, else off_value; an index beyond is at no place."""
    rank = o.mil("indices").rank
    axis = o.integer("axis", -1) % (rank + 1)
    places = o.emit("Range", [o.const(np.int64(0)), o.integers("one_hot_vector_size"), o.const(np.int64(1))])
    along = o.emit("Reshape", [places, o.const([-1 if i == axis else 1 for i in range(rank + 1)])])
    here = o.emit("Equal", [o.emit("Unsqueeze", [o.integers("indices"), o.const([axis])]), along])
    values = [o.const(o.array("on_value", np.int64(1))), o.const(o.array("off_value", np.int64(0)))]
    o.move(where(o, here, *values))


@evaluates("band_part")
def band_part(o: OpReader) -> None:
    """Zero outside `lower` diagonals below and `upper` above the main one, of the last two axes; negative: all stay."""
    v = o.x()
    lower, upper = o.integer("lower", -1), o.integer("upper", -1)
    if lower >= 0:
        v = o.emit("Trilu", [v, o.const(np.int64(-lower))], upper=1)
    if upper >= 0:
        v = o.emit("Trilu", [v, o.const(np.int64(upper))], upper=0)
    o.move(v)


@evaluates("pad")
def pad(o: OpReader) -> None:
    """(before, after) of the last axes, as many as `pad` has pairs. reflect: without the border; replicate: the border."""
    mode = o.text("mode", "constant")
    if mode not in _PAD_MODES:
        o.unknown(f"mode {mode}")
    rank = o.mil().rank
    known = o.known("pad")
    if known is not None:
        pairs = known.reshape(-1, 2)
        all_pairs = np.concatenate([np.zeros((rank - len(pairs), 2), np.int64), pairs])
        pads = o.const(all_pairs.T.reshape(-1))
    else:
        pairs_here = o.emit("Reshape", [o.integers("pad"), o.const([-1, 2])])
        pads = o.emit("Reshape", [o.emit("Transpose", [pairs_here], perm=[1, 0]), o.const([-1])])
    value = [o.x("constant_val")] if mode == "constant" and o.has("constant_val") else []
    o.move(o.emit("Pad", [o.x(), pads, *value], mode=_PAD_MODES[mode]))
