"""Convolution and transposed convolution over one to three spatial axes, x [N, C, *D]."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("conv")
def conv(o: OpReader) -> None:
    """weight [C_out, C / groups, *K], bias [C_out]; pad is (before, after) for each axis."""
    kernel = [int(k) for k in o.mil("weight").known[2:]]
    strides, dilations = o.ints("strides", [1] * len(kernel)), o.ints("dilations", [1] * len(kernel))
    pads = padding(o, kernel, strides, dilations)
    given = [o.x("x"), o.x("weight"), *([o.x("bias")] if o.has("bias") else [])]
    o.give(o.emit("Conv", given, strides=strides, dilations=dilations, group=o.integer("groups", 1), pads=pads))


def padding(o: OpReader, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """ONNX pads of `pad_type` and `pad`.

    "same": so many that there are ceil(size / stride) steps, the odd element behind; "same_lower": in front. (The text of
    the definition has another formula too, of the kernel alone; coremltools takes TensorFlow's SAME for "same" as it is, so
    it is TensorFlow's.)
    """
    kind, axes = o.text("pad_type", "valid"), len(kernel)
    if kind == "valid":
        return [0] * (2 * axes)
    if kind == "custom":
        pad = o.ints("pad", [0] * (2 * axes))
        return [*pad[0::2], *pad[1::2]]
    if kind not in ("same", "same_lower"):
        o.unknown(f"pad_type {kind}")
    sizes = o.shape("x")[2:]
    totals = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, s, k, d in zip(sizes, strides, kernel, dilations, strict=True)
    ]
    before = [t // 2 if kind == "same" else t - t // 2 for t in totals]
    return [*before, *(t - b for t, b in zip(totals, before, strict=True))]


@evaluates("conv_transpose")
def conv_transpose(o: OpReader) -> None:
    """weight [C_in, C_out / groups, *K]. Each x[i] adds its kernel at stride i - pad_before.

    Output sizes: "valid" (n - 1) stride + effective kernel; "custom" that less the pads; "same" n stride, what is cut off
    split in halves, the odd element behind, as TensorFlow does. `output_shape` says them otherwise: with "same" the cut
    follows it; else rows are added behind, where the kernel does not reach.
    """
    kernel = [int(k) for k in o.mil("weight").known[2:]]
    axes = len(kernel)
    strides, dilations = o.ints("strides", [1] * axes), o.ints("dilations", [1] * axes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    kind = o.text("pad_type", "valid")
    wanted = o.ints("output_shape")[2:] if o.has("output_shape") else None
    more = [0] * axes
    if kind == "same":
        # (n - 1) stride + reach - out, where out is n stride unless `output_shape` says it
        if wanted is None:
            totals = [r - s for r, s in zip(reach, strides, strict=True)]
        else:
            full = [(n - 1) * s + r for n, s, r in zip(o.shape()[2:], strides, reach, strict=True)]
            totals = [f - w for f, w in zip(full, wanted, strict=True)]
        more = [max(-t, 0) for t in totals]
        before = [max(t, 0) // 2 for t in totals]
        after = [max(t, 0) - b for t, b in zip(totals, before, strict=True)]
    elif kind in ("valid", "custom"):
        pad = o.ints("pad", [0] * (2 * axes)) if kind == "custom" else [0] * (2 * axes)
        before, after = list(pad[0::2]), list(pad[1::2])
        if wanted is not None:
            full = [(n - 1) * s + r for n, s, r in zip(o.shape()[2:], strides, reach, strict=True)]
            more = [w - f + b + a for w, f, b, a in zip(wanted, full, before, after, strict=True)]
    else:
        o.unknown(f"pad_type {kind}")
    if any(m < 0 or m >= max(s, d) for m, s, d in zip(more, strides, dilations, strict=True) if m):
        o.unknown("an output_shape that no stride leads to")
    given = [o.x("x"), o.x("weight"), *([o.x("bias")] if o.has("bias") else [])]
    o.give(
        o.emit(
            "ConvTranspose", given, strides=strides, dilations=dilations, group=o.integer("groups", 1),
            pads=[*before, *after], output_padding=more,
        )
    )  # fmt: skip
