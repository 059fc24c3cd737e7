"""Rules for ops whose input's range is taken at run time, and for weights packed into few bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgec.graph import constant, ir
from edgec.passes.quantize.contrib_rules import contrib
from edgec.passes.quantize.integer_rules import inputs_of
from edgec.passes.quantize.qdq_nodes import dequantize
from edgec.pattern import Match, P, rest, var
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

_integer = P.op("ConvInteger", "MatMulInteger")(rest("ins"), as_="integer")


@rule(P.Mul(P.Cast(_integer), var("scale")))
def scaled_integer(m: Match, rw: Rewriter) -> Result:
    """Mul(Cast(MatMulInteger(x, w)), x_scale * w_scale): what ONNX Runtime's dynamic quantisation writes."""
    node = m.node("integer")
    x, w, xz, wz = inputs_of(m, 4)
    if x is None or w is None:
        return Reject("an input is missing")
    split = _scales(x, m.value("scale"))
    if isinstance(split, Reject):
        return split
    xs, weight_scale = split
    conv = node.op_type == "ConvInteger"
    ws = _per_channel(weight_scale, m.root.outputs[0], 1 if conv else -1)
    if ws is None:
        return Reject("the scale of the weight is not one number, nor one a channel")
    if xz is None and x.dtype is None:
        return Reject("the type of its input is not known")
    scale = rw.const(ws, f"{w.name}_scale")
    real = dequantize(rw, x, xs, xz if xz is not None else _zeros(rw, x))
    weight = dequantize(rw, w, scale, wz, 0 if conv else -1)
    if isinstance(real, Reject):
        return real
    if isinstance(weight, Reject):
        return weight
    return rw.op("Conv" if conv else "MatMul", real, weight, attrs=node.attributes, like=m.root.outputs[0])


def _zeros(rw: Rewriter, stored: ir.Value) -> ir.Value:
    assert stored.dtype is not None  # looked at by the caller
    return rw.const(np.zeros((), stored.dtype.numpy()), f"{stored.name}_zp")


def _scales(x: ir.Value, product: ir.Value) -> tuple[ir.Value, npt.NDArray[np.generic]] | Reject:
    """The input's scale, and the weight's: the factor of `product` that is constant."""
    maker = x.producer()
    if maker is None or maker.op_type not in ("DynamicQuantizeLinear", "QuantizeLinear"):
        return Reject("it is not known what stores its input")
    xs = maker.outputs[1] if maker.op_type == "DynamicQuantizeLinear" else maker.inputs[1]
    assert xs is not None  # required
    mul = product.producer()
    if mul is not None and mul.op_type == "Mul" and xs in mul.inputs:
        other = mul.inputs[1 if mul.inputs[0] is xs else 0]
        data = constant(other)
        return (xs, np.asarray(data)) if data is not None else Reject("the scale of its weight is not constant")
    whole, own = constant(product), constant(xs)
    if whole is None or own is None:
        return Reject("what it is multiplied with is not the product of the two scales")
    return xs, np.asarray(whole / own, whole.dtype)


def _per_channel(scale: npt.NDArray[np.generic], out: ir.Value, axis: int) -> npt.NDArray[np.generic] | None:
    """One number, or one along `axis` of the output, whose rank a Conv's scale is broadcast to."""
    if scale.size == 1:
        return scale.reshape(())
    if axis == -1:
        return scale.reshape(-1) if scale.shape[-1] == scale.size else None
    rank = out.shape.rank() if out.shape is not None else scale.ndim
    full = (1,) * (rank - scale.ndim) + scale.shape
    return scale.reshape(-1) if len(full) > axis and full[axis] == scale.size else None


def _with_bias(rw: Rewriter, y: ir.Value, bias: ir.Value | None) -> ir.Value:
    return y if bias is None else rw.op("Add", y, bias)


@rule(contrib("MatMulIntegerToFloat"))
def matmul_integer_to_float(m: Match, rw: Rewriter) -> Result:
    a, b, a_s, bs, az, bz, bias = inputs_of(m, 7)
    if a is None or b is None or a_s is None or bs is None:
        return Reject("an input is missing")
    if az is None and a.dtype is None:
        return Reject("the type of its input is not known")
    x = dequantize(rw, a, a_s, az if az is not None else _zeros(rw, a))
    w = dequantize(rw, b, bs, bz, -1)
    if isinstance(x, Reject):
        return x
    return w if isinstance(w, Reject) else _with_bias(rw, rw.op("MatMul", x, w), bias)


@rule(contrib("DynamicQuantizeMatMul"))
def dynamic_quantize_matmul(m: Match, rw: Rewriter) -> Result:
    a, b, bs, bz, bias = inputs_of(m, 5)
    if a is None or b is None or bs is None:
        return Reject("an input is missing")
    w = dequantize(rw, b, bs, bz, -1)
    if isinstance(w, Reject):
        return w
    stored, scale, zero = rw.ops("DynamicQuantizeLinear", a, outputs=3)
    return _with_bias(rw, rw.op("MatMul", rw.op("DequantizeLinear", stored, scale, zero), w), bias)


@rule(contrib("MatMulNBits"))
def matmul_nbits(m: Match, rw: Rewriter) -> Result:
    """B [N, blocks, block * bits / 8], two 4-bit numbers a byte, the lower half first; scales [N, blocks]."""
    if not {"bits", "block_size", "N", "K"} <= set(m.root.attributes):
        return Reject("an attribute is missing")
    a, b, scales, zeros, order, bias = inputs_of(m, 6)
    bits, block = m.root.attributes["bits"].as_int(), m.root.attributes["block_size"].as_int()
    n, k = m.root.attributes["N"].as_int(), m.root.attributes["K"].as_int()
    packed, s, z = constant(b), constant(scales), constant(zeros)
    if a is None or b is None or packed is None or s is None or (zeros is not None and z is None):
        return Reject("the weight is not constant")
    if bits not in (4, 8) or order is not None or "weight_prepacked" in m.root.attributes:
        return Reject(f"{bits} bits, columns in another order, or packed for a device")
    if z is not None and (z.dtype != np.uint8 or z.size != n * -(-(-(-k // max(block, 1)) * bits) // 8)):
        return Reject("its zero points are not integers, or not as many as there are blocks")
    blocks = -(-k // block) if block > 0 else 0
    if blocks * n == 0 or packed.size * 8 != n * blocks * block * bits or s.size != n * blocks:
        return Reject("the weight or its scales have another size than the attributes say")
    dtype = (ir.DataType.UINT4 if bits == 4 else ir.DataType.UINT8).numpy()
    weight = _unpack(packed.reshape(n, -1), bits)[:, :k]
    zero = np.full((n, blocks), 1 << (bits - 1), np.uint8) if z is None else _unpack(z.reshape(n, -1), bits)[:, :blocks]
    scale = np.ascontiguousarray(s.reshape(n, blocks).T)
    w = rw.op(
        "DequantizeLinear",
        rw.const(np.ascontiguousarray(weight.T).astype(dtype), f"{b.name}_q"),
        rw.const(scale, f"{b.name}_scale"),
        rw.const(np.ascontiguousarray(zero.T).astype(dtype), f"{b.name}_zp"),
        attrs={"axis": 0, "block_size": block},
    )
    return _with_bias(rw, rw.op("MatMul", a, w), bias)


def _unpack(data: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    if bits == 8:
        return data
    return np.stack([data & 15, data >> 4], axis=-1).reshape(data.shape[0], -1)


@rule(contrib("DynamicQuantizeLSTM"))
def dynamic_quantize_lstm(m: Match, rw: Rewriter) -> Result:
    """LSTM on stored weights. W [directions, inputs, 4 hidden], where LSTM has the last two axes the other way round."""
    x, w, r, b, lengths, h, c, peepholes, ws, wz, rs, rz = inputs_of(m, 12)
    weights = _lstm_weight(rw, w, ws, wz), _lstm_weight(rw, r, rs, rz)
    for found in weights:
        if isinstance(found, Reject):
            return found
    reals = [v for v in weights if not isinstance(v, Reject)]
    inputs = [x, *reals, b, lengths, h, c, peepholes]
    while inputs[-1] is None:
        inputs.pop()
    return rw.ops("LSTM", *inputs, attrs=m.root.attributes, outputs=len(m.root.outputs))


def _lstm_weight(
    rw: Rewriter, stored: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None
) -> ir.Value | Reject:
    data, s, z = constant(stored), constant(scale), constant(zero)
    if stored is None or data is None or s is None or z is None or data.ndim != 3:
        return Reject("a weight, or how it is stored, is computed at run time")
    moved = np.ascontiguousarray(np.swapaxes(data, 1, 2))
    directions, gates, _ = moved.shape
    name = stored.name or "w_q"
    whole = s.size == directions  # one scale a direction, or one a row of gates
    if not whole and s.size != directions * gates:
        return Reject("its scales are neither one a direction nor one a gate")
    flat = moved if whole else moved.reshape(directions * gates, -1)
    params = [rw.const(np.reshape(a, () if a.size == 1 else -1), f"{name}_{k}") for a, k in ((s, "scale"), (z, "zp"))]
    real = dequantize(rw, rw.const(flat, name), params[0], params[1], 0)
    if isinstance(real, Reject) or whole:
        return real
    return rw.op("Reshape", real, rw.const(np.asarray(moved.shape, np.int64), f"{name}.shape"))


_stored = P.DynamicQuantizeLinear(var("x"), as_="range", shared_=True)


@rule(P.DequantizeLinear(_stored, var("scale"), var("zero")))
def drop_range_at_run_time(m: Match, rw: Rewriter) -> Result:
    """DequantizeLinear(DynamicQuantizeLinear(x)) = x, without the rounding."""
    outputs = m.node("range").outputs
    if m.value("scale") is not outputs[1] or m.value("zero") is not outputs[2]:
        return Reject("it is read with another scale")
    return m.value("x")


DYNAMIC_RULES = RuleSet([scaled_integer, matmul_integer_to_float, dynamic_quantize_matmul, matmul_nbits])
DROP_RANGES = RuleSet([drop_range_at_run_time, dynamic_quantize_lstm])
