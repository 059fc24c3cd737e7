"""When a case of an op row applies: conditions as data, and the one checker that evaluates them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgec.specs.measures import MEASURES, Unmeasured

if TYPE_CHECKING:
    from edgec.graph import ir

DType = Literal[
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "int4",
    "uint64", "uint32", "uint16", "uint8", "uint4", "bool", "string", "int2", "uint2", "complex64", "complex128",
    "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0", "float4e2m1",
]  # fmt: skip
"""Element types by the names NumPy and ONNX share."""

Index = Annotated[int, Field(ge=0, le=64)]


class Model(BaseModel):
    """What every part of a spec is: immutable, no unknown keys, no guessing of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Range(Model):
    """`min` and `max`, both included; either may be left out."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both")
        return self

    def __contains__(self, x: float) -> bool:
        return (self.min is None or x >= self.min) and (self.max is None or x <= self.max)


class Size(Model):
    """The number of elements along some axes of a tensor: `{of: 0, axes: [2, 3], max: 8192}` is H*W of the first input."""

    of: Index = Field(description="input by position")
    axes: tuple[int, ...] | None = Field(None, description="axes whose lengths are multiplied; without it, all")
    min: int | None = None
    max: int | None = None
    multiple_of: Annotated[int, Field(gt=0)] | None = None
    not_multiple_of: Annotated[int, Field(gt=0)] | None = None


class Elements(Model):
    """What the elements of a constant input are: `{of: 4, any: {min: 2}}` is a Slice with a step above 1."""

    of: Index = Field(description="input by position; it must be a constant")
    any: Range | None = Field(None, description="at least one element is in the range")
    all: Range | None = Field(None, description="every element is in the range")


class Scale(Model):
    """How much longer the axes of the first output are than those of the first input: `{min: 1, whole: false}`."""

    min: float | None = None
    max: float | None = None
    whole: bool | None = Field(None, description="whether the factor is a whole number")


class When(Model):
    """Conditions on a node, all of which must hold. Inputs and outputs are meant by position, attributes by name."""

    precision: tuple[str, ...] | None = Field(None, description="the precision compiled for is one of these")
    platform: tuple[str, ...] | None = Field(None, description="the target is one of these")
    opset: Range | None = Field(None, description="opset of the model")
    inputs: Range | None = Field(None, description="number of inputs that are given")
    outputs: Range | None = Field(None, description="number of outputs that something uses")
    empty_outputs: bool | None = Field(None, description="whether an output is written as an empty name")
    given: tuple[Index, ...] | None = Field(None, description="inputs that are given")
    omitted: tuple[Index, ...] | None = Field(None, description="inputs that are not given")
    const: tuple[Index, ...] | None = Field(None, description="inputs known at compile time")
    dynamic: tuple[Index, ...] | None = Field(None, description="inputs computed at run time")
    dtype: dict[int, tuple[DType, ...]] | None = Field(None, description="element type of an input")
    output_dtype: dict[int, tuple[DType, ...]] | None = Field(None, description="element type of an output")
    rank: dict[int, Range] | None = Field(None, description="rank of an input")
    attr: dict[str, tuple[Any, ...]] | None = Field(
        None, description="value of an attribute (ONNX's default where it is not written) is one of these"
    )
    attr_range: dict[str, Range] | None = Field(None, description="a number attribute, or each number of a list")
    written: tuple[str, ...] | None = Field(None, description="attributes the node spells out")
    unwritten: tuple[str, ...] | None = Field(None, description="attributes the node leaves to their default")
    size: tuple[Size, ...] | None = Field(None, description="lengths of axes")
    elements: tuple[Elements, ...] | None = Field(None, description="elements of constant inputs")
    scale: Scale | None = Field(None, description="the factor from input to output length, of at least one axis")
    broadcast: bool | None = Field(None, description="whether inputs 0 and 1 have different shapes")
    model_input: bool | None = Field(None, description="whether it reads an input of the model itself")
    measure: dict[str, Range] | None = Field(
        None, description="numbers of the node by name (specs/measures.py): largest-kernel, largest-pad, batch ..."
    )

    @model_validator(mode="after")
    def _says_something(self) -> When:
        if not self.model_fields_set:
            raise ValueError("a case needs at least one condition; what always holds belongs into the row")
        if unknown := sorted(set(self.measure or ()) - set(MEASURES)):
            raise ValueError(f"no number is called {unknown[0]!r}; there are {', '.join(MEASURES)}")
        return self


@dataclass(frozen=True)
class Unknown:
    """A condition that cannot be decided on this graph, and why."""

    why: str


@dataclass(frozen=True)
class Setting:
    """What a condition may depend on besides the node."""

    precision: str
    platform: str
    opset: int


def applies(when: When, node: ir.Node, setting: Setting) -> bool | Unknown:
    """Whether all conditions hold. False wins over Unknown: one condition that fails settles it."""
    unknown: Unknown | None = None
    for result in _results(when, node, setting):
        if result is False:
            return False
        if isinstance(result, Unknown):
            unknown = unknown or result
    return unknown or True


def _results(when: When, node: ir.Node, setting: Setting) -> Iterator[bool | Unknown]:
    """One result a condition, the cheap ones first."""
    from edgec.graph import is_constant

    if when.precision is not None:
        yield setting.precision in when.precision
    if when.platform is not None:
        yield setting.platform in when.platform
    if when.opset is not None:
        yield setting.opset in when.opset
    if when.inputs is not None:
        yield sum(v is not None for v in node.inputs) in when.inputs
    if when.outputs is not None:
        yield sum(bool(v.uses()) or v.is_graph_output() for v in node.outputs) in when.outputs
    if when.empty_outputs is not None:
        yield any(v.name == "" for v in node.outputs) == when.empty_outputs
    for i in when.given or ():
        yield _input(node, i) is not None
    for i in when.omitted or ():
        yield _input(node, i) is None
    for i in when.const or ():
        yield is_constant(_input(node, i))
    for i in when.dynamic or ():
        yield (v := _input(node, i)) is not None and not is_constant(v)
    if when.model_input is not None:
        yield any(v is not None and v.is_graph_input() for v in node.inputs) == when.model_input
    for name in when.written or ():
        yield name in node.attributes
    for name in when.unwritten or ():
        yield name not in node.attributes
    yield from _attributes(when, node, setting)
    yield from _tensors(when, node)


def _attributes(when: When, node: ir.Node, setting: Setting) -> Iterator[bool | Unknown]:
    from edgec.graph import attribute

    for name, allowed in (when.attr or {}).items():
        yield any(_plain(attribute(node, name, setting.opset)) == _plain(a) for a in allowed)
    for name, span in (when.attr_range or {}).items():
        value = _plain(attribute(node, name, setting.opset))
        numbers = value if isinstance(value, list) else [value]
        yield value is not None and all(isinstance(x, (int, float)) and x in span for x in numbers)


def _tensors(when: When, node: ir.Node) -> Iterator[bool | Unknown]:
    for i, dtypes in (when.dtype or {}).items():
        yield _dtype_is(_input(node, i), dtypes)
    for i, dtypes in (when.output_dtype or {}).items():
        yield _dtype_is(node.outputs[i] if i < len(node.outputs) else None, dtypes)
    for i, span in (when.rank or {}).items():
        v = _input(node, i)
        if v is None:
            yield False
        elif v.shape is None:
            yield Unknown(f"the rank of {v.name!r} is not known")
        else:
            yield v.shape.rank() in span
    for size in when.size or ():
        yield _size(size, node)
    for elements in when.elements or ():
        yield _elements(elements, node)
    if when.scale is not None:
        yield _scale(when.scale, node)
    if when.broadcast is not None:
        yield _broadcast(node, when.broadcast)
    for name, span in (when.measure or {}).items():
        yield _measure(name, span, node)


def _input(node: ir.Node, i: int) -> ir.Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _plain(value: Any) -> Any:
    """Attribute values as YAML writes them: tuples as lists, bytes as text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return [_plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def dtype_name(dtype: ir.DataType) -> str:
    """`float32` for FLOAT: the names `DType` lists."""
    short = {"FLOAT": "float32", "DOUBLE": "float64"}
    return short.get(dtype.name, dtype.name.lower())


def _dtype_is(v: ir.Value | None, dtypes: Iterable[str]) -> bool | Unknown:
    if v is None:
        return False
    if v.dtype is None:
        return Unknown(f"the element type of {v.name!r} is not known")
    return dtype_name(v.dtype) in dtypes


def _size(size: Size, node: ir.Node) -> bool | Unknown:
    v = _input(node, size.of)
    if v is None:
        return False
    if v.shape is None:
        return Unknown(f"the shape of {v.name!r} is not known")
    dims = list(v.shape)
    axes = range(len(dims)) if size.axes is None else size.axes
    if any(not -len(dims) <= a < len(dims) for a in axes):
        return False
    lengths = [dims[a] for a in axes]
    numbers = [d for d in lengths if isinstance(d, int)]
    if len(numbers) < len(lengths):
        return Unknown(f"the shape of {v.name!r} is not fixed")
    n = math.prod(numbers)
    fits = (size.min is None or n >= size.min) and (size.max is None or n <= size.max)
    if size.not_multiple_of is not None and n % size.not_multiple_of == 0:
        return False
    return fits and (size.multiple_of is None or n % size.multiple_of == 0)


def _elements(elements: Elements, node: ir.Node) -> bool | Unknown:
    from edgec.graph import constant

    data = constant(_input(node, elements.of))
    if data is None:
        return False
    values = [float(x) for x in data.reshape(-1)]
    if elements.any is not None and not any(x in elements.any for x in values):
        return False
    return elements.all is None or all(x in elements.all for x in values)


def _scale(scale: Scale, node: ir.Node) -> bool | Unknown:
    from edgec.graph import static_shape

    a, b = static_shape(_input(node, 0)), static_shape(node.outputs[0])
    if a is None or b is None:
        return Unknown(f"the shapes of node {node.name!r} are not fixed")
    return any(_scale_fits(scale, x, y) for x, y in zip(a, b, strict=False) if x)


def _measure(name: str, span: Range, node: ir.Node) -> bool | Unknown:
    try:
        number = MEASURES[name](node)
    except Unmeasured as e:
        return Unknown(str(e))
    return number is not None and number in span


def _scale_fits(scale: Scale, before: int, after: int) -> bool:
    factor = after / before
    if scale.whole is not None and (after % before == 0) != scale.whole:
        return False
    return (scale.min is None or factor >= scale.min) and (scale.max is None or factor <= scale.max)


def _broadcast(node: ir.Node, want: bool) -> bool | Unknown:
    a, b = _input(node, 0), _input(node, 1)
    if a is None or b is None:
        return not want
    if a.shape is None or b.shape is None:
        return Unknown(f"the shape of {(a if a.shape is None else b).name!r} is not known")
    return (list(a.shape) != list(b.shape)) == want
