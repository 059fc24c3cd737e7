"""Is this ModelProto what it claims? Sizes, names, references, order; every finding is an error with the node's name.

Nothing here allocates by what the file says: sizes are compared as Python integers first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import onnx
from onnx import AttributeProto, TensorProto

from edgec.diagnostics import Diagnostics, Location

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RANK = 32
MAX_ELEMENTS = 1 << 40
"""More elements than any machine holds: a declared shape beyond this is an error, not a request for memory."""

MAX_FINDINGS = 25

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8, TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64, TensorProto.UINT32: 32, TensorProto.UINT64: 64, TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128, TensorProto.BFLOAT16: 16, TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8, TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.UINT4: 4,
    TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip
_BITS |= {v: 8 for n, v in TensorProto.DataType.items() if n == "FLOAT8E8M0"}
_BITS |= {v: 2 for n, v in TensorProto.DataType.items() if n in ("INT2", "UINT2")}
_BITS |= {v: 6 for n, v in TensorProto.DataType.items() if n.startswith("FLOAT6")}

_TYPED_FIELD: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.COMPLEX64: "float_data", TensorProto.INT64: "int64_data",
    TensorProto.DOUBLE: "double_data", TensorProto.COMPLEX128: "double_data", TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data", TensorProto.STRING: "string_data",
}  # fmt: skip
_INT32_RANGE: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255), TensorProto.BOOL: (0, 1),
    TensorProto.INT16: (-32768, 32767), TensorProto.UINT16: (0, 65535), TensorProto.FLOAT16: (0, 65535),
    TensorProto.BFLOAT16: (0, 65535),
}  # fmt: skip

_ATTRIBUTE_FIELD: dict[int, str] = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g", AttributeProto.SPARSE_TENSOR: "sparse_tensor", AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints", AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors", AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors", AttributeProto.TYPE_PROTOS: "type_protos",
}  # fmt: skip
_CONSTANT_TYPES: dict[str, int] = {
    "value": AttributeProto.TENSOR, "sparse_value": AttributeProto.SPARSE_TENSOR, "value_float": AttributeProto.FLOAT,
    "value_floats": AttributeProto.FLOATS, "value_int": AttributeProto.INT, "value_ints": AttributeProto.INTS,
    "value_string": AttributeProto.STRING, "value_strings": AttributeProto.STRINGS,
}  # fmt: skip
_SINGULAR = ("f", "i", "s", "t", "g", "sparse_tensor", "tp")


def check_model(proto: onnx.ModelProto, path: Path, found: Diagnostics, apart: Mapping[int, int] | None = None) -> None:
    """Append an error to `found` for everything wrong with `proto` (up to MAX_FINDINGS), and notes for what was mended
    in place: nodes sorted, dimensions of -1 made unknown.

    `apart`: bytes of raw data that the initializer at a position has, but which are not in `proto`.
    """
    _Checker(path, found, apart or {}).model(proto)


class _Checker:
    def __init__(self, path: Path, found: Diagnostics, apart: Mapping[int, int]) -> None:
        self.path, self.found, self.apart = path, found, apart
        self.file = str(path)

    def error(self, code: str, message: str, node: str | None = None, hint: str | None = None) -> None:
        if len(self.found.items) < MAX_FINDINGS:
            self.found.error(code, message, Location(self.file, node=node), hint)

    # --- graphs ------------------------------------------------------------------------------------------------------

    def model(self, proto: onnx.ModelProto) -> None:
        if not proto.graph.output:
            self.error("EC0014", "the model has no outputs", hint="export it again with its outputs named")
        self.graph(proto.graph, frozenset(), "the graph", self.apart)
        for f in proto.functions:
            self.function(f)
        self.function_recursion(proto.functions)

    def graph(
        self, g: onnx.GraphProto, outer: frozenset[str], what: str, apart: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        defined: set[str] = set()
        self.inputs(g.input, defined, what)
        weights: set[str] = set()
        for i, t in enumerate(g.initializer):
            self.initializer_name(t.name, weights, what)
            self.tensor(t, f"weight {t.name!r}", raw=apart.get(i))
        for s in g.sparse_initializer:
            self.initializer_name(s.values.name, weights, what)
            self.sparse(s, f"weight {s.values.name!r}")
        defined |= weights
        for v in (*g.output, *g.value_info):
            self.value_type(v)
        self.nodes(g, defined, outer, what)
        seen: set[str] = set()
        for v in g.output:
            if v.name not in defined and v.name not in outer:
                self.error("EC0014", f"output {v.name!r} of {what} is produced by no node")
            if v.name in seen:
                self.error("EC0012", f"{what} lists output {v.name!r} twice")
            seen.add(v.name)

    def inputs(self, inputs: Sequence[onnx.ValueInfoProto], defined: set[str], what: str) -> None:
        for i, v in enumerate(inputs):
            if not v.name:
                v.name = f"input.{i}"  # nothing can refer to it, but a caller must be able to feed it
            if v.name in defined:
                self.error("EC0012", f"{what} has two inputs named {v.name!r}")
            defined.add(v.name)
            self.value_type(v)

    def initializer_name(self, name: str, weights: set[str], what: str) -> None:
        if not name:
            self.error("EC0012", f"{what} has a weight without a name")
        elif name in weights:
            self.error("EC0012", f"{what} has two weights named {name!r}")
        weights.add(name)

    def nodes(self, g: onnx.GraphProto, defined: set[str], outer: frozenset[str], what: str) -> None:
        """Single assignment, defined uses, order (mended), attributes. `defined` gets every node output."""
        producer: dict[str, int] = {}
        for i, n in enumerate(g.node):
            self.node_itself(n)
            for name in n.output:
                if not name:
                    continue
                if name in producer:
                    self.error("EC0012", f"two nodes produce the value {name!r}: {_name(g.node[producer[name]])} too",
                               _name(n))  # fmt: skip
                elif name in defined:
                    self.error("EC0012", f"value {name!r} is an input or weight and also a node's output", _name(n))
                producer.setdefault(name, i)
        known = frozenset(defined | producer.keys()) | outer
        needs: list[set[int]] = []
        sorted_already = True
        for i, n in enumerate(g.node):
            used = {name for name in n.input if name}
            for name in used - known:
                self.error("EC0013", f"input {name!r} is produced by no node and is no input or weight", _name(n))
            for body in bodies(n):
                used |= free_names(body)
            deps = {producer[name] for name in used if name in producer and name not in defined}
            sorted_already &= all(d < i for d in deps)
            needs.append(deps)
        if not sorted_already:
            self.sort(g, needs, what)
        defined.update(producer)
        for n in g.node:
            for body in bodies(n):
                self.graph(body, known, f"the body of {_name(n)}")

    def sort(self, g: onnx.GraphProto, needs: list[set[int]], what: str) -> None:
        order = topological_order(needs)
        if order is None:
            names = [_name(g.node[i]) for i in cycle(needs)]
            shown = " -> ".join([*names[:8], "..."] if len(names) > 8 else [*names, names[0]])
            self.error("EC0015", f"{what} has a cycle: {shown}", names[0])
            return
        nodes = [g.node[i] for i in order]
        copies = []
        for n in nodes:
            c = onnx.NodeProto()
            c.CopyFrom(n)
            copies.append(c)
        del g.node[:]
        g.node.extend(copies)
        self.found.note("EC0021", f"the nodes of {what} were not in execution order; sorted", Location(self.file))

    def node_itself(self, n: onnx.NodeProto) -> None:
        if not n.op_type:
            self.error("EC0016", "the node has no operator type", _name(n))
        seen: set[str] = set()
        for a in n.attribute:
            if not a.name:
                self.error("EC0016", "an attribute has no name", _name(n))
            if a.name in seen:
                self.error("EC0016", f"attribute {a.name!r} is given twice", _name(n))
            seen.add(a.name)
            self.attribute(a, n)
            expected = _CONSTANT_TYPES.get(a.name) if n.op_type == "Constant" and n.domain in ("", "ai.onnx") else None
            if expected is not None and a.type != expected:
                self.error(
                    "EC0016", f"attribute {a.name!r} of a Constant has another type than its name says", _name(n)
                )

    def attribute(self, a: onnx.AttributeProto, n: onnx.NodeProto) -> None:
        if a.ref_attr_name:
            return
        if a.type == AttributeProto.UNDEFINED:  # allowed before IR version 2: the field that is set says it
            set_fields = [
                t for t, f in _ATTRIBUTE_FIELD.items() if (a.HasField(f) if f in _SINGULAR else getattr(a, f))
            ]
            if len(set_fields) != 1:
                self.error("EC0016", f"attribute {a.name!r} has no type", _name(n))
                return
            a.type = cast("AttributeProto.AttributeType", set_fields[0])
        field = _ATTRIBUTE_FIELD.get(a.type)
        if field is None:
            self.error("EC0016", f"attribute {a.name!r} has the unknown type {a.type}", _name(n))
            return
        if field in ("t", "g", "sparse_tensor", "tp") and not a.HasField(field):
            self.error("EC0016", f"attribute {a.name!r} has no value", _name(n))
        if field == "s" or field == "strings":
            pass  # bytes; any content is legal
        where = f"attribute {a.name!r}"
        if a.HasField("t"):
            self.tensor(a.t, where, _name(n))
        for t in a.tensors:
            self.tensor(t, where, _name(n))
        if a.HasField("sparse_tensor"):
            self.sparse(a.sparse_tensor, where, _name(n))
        if a.HasField("tp"):
            self.type_proto(a.tp, where)

    # --- tensors -----------------------------------------------------------------------------------------------------

    def tensor(self, t: onnx.TensorProto, what: str, node: str | None = None, raw: int | None = None) -> None:
        """`raw`: the number of raw bytes, where they are not in `t` itself."""
        count = self.element_count(t.dims, what, node)
        if count is None:
            return
        if t.HasField("segment"):
            self.error("EC0011", f"{what} is stored in segments, which nothing writes", node)
            return
        if t.data_type == TensorProto.STRING:
            if t.data_location == TensorProto.EXTERNAL or t.HasField("raw_data"):
                self.error("EC0011", f"{what} holds strings as raw bytes, which ONNX does not allow", node)
            elif len(t.string_data) != count:
                self.error("EC0011", f"{what} holds {len(t.string_data)} strings; its shape needs {count}", node)
            return
        bits = _BITS.get(t.data_type)
        if bits is None:
            self.error("EC0011", f"{what} has the unknown data type {t.data_type}", node)
            return
        size = (count * bits + 7) // 8
        if t.data_location == TensorProto.EXTERNAL:
            self.external(t, size, what, node)
        elif raw is not None or t.HasField("raw_data"):
            have = len(t.raw_data) if raw is None else raw
            if have != size:
                self.error("EC0011", f"{what} holds {have:,} bytes; shape {list(t.dims)} needs {size:,}", node,
                            "the file is damaged or was written by a broken tool; export it again")  # fmt: skip
        else:
            self.typed_data(t, count, bits, what, node)

    def typed_data(self, t: onnx.TensorProto, count: int, bits: int, what: str, node: str | None) -> None:
        field = _TYPED_FIELD.get(t.data_type, "int32_data")
        data = getattr(t, field)
        expected = count
        if t.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            expected = 2 * count
        elif bits < 8:
            expected = (count * bits + 7) // 8
        if len(data) != expected and not (bits < 8 and len(data) == count):
            if not data:
                self.error("EC0011", f"{what} has no data; shape {list(t.dims)} needs {expected:,} elements", node)
            else:
                self.error(
                    "EC0011", f"{what} holds {len(data):,} elements; shape {list(t.dims)} needs {expected:,}", node
                )
            return
        low, high = _INT32_RANGE.get(t.data_type, (None, None))
        if low is not None and high is not None and data and (min(data) < low or max(data) > high):
            self.error("EC0011", f"{what} holds values its data type cannot have", node)

    def sparse(self, s: onnx.SparseTensorProto, what: str, node: str | None = None) -> None:
        self.element_count(s.dims, what, node)
        self.tensor(s.values, what, node)
        self.tensor(s.indices, what, node)

    def element_count(self, dims: Sequence[int], what: str, node: str | None = None) -> int | None:
        if len(dims) > MAX_RANK:
            self.error("EC0010", f"{what} has {len(dims)} dimensions; at most {MAX_RANK} make sense", node)
            return None
        if any(d < 0 for d in dims):
            self.error("EC0010", f"{what} has a negative dimension: {list(dims)}", node)
            return None
        count = math.prod(dims)
        if count > MAX_ELEMENTS:
            self.error("EC0010", f"{what} has an absurd shape: {list(dims)} is {count:,} elements", node)
            return None
        return count

    def external(self, t: onnx.TensorProto, size: int, what: str, node: str | None) -> None:
        info = {e.key: e.value for e in t.external_data}
        location = info.get("location", "")
        try:
            offset, length = int(info.get("offset") or 0), int(info.get("length") or size)
        except ValueError:
            self.error("EC0018", f"{what}: offset and length of external data must be numbers", node)
            return
        if offset < 0 or length < 0:
            self.error("EC0018", f"{what}: offset {offset} or length {length} of external data is negative", node)
            return
        file = self.external_file(location, what, node)
        if file is None:
            return
        available = file.stat().st_size
        if offset + length > available:
            self.error("EC0018", f"{what} ends at byte {offset + length:,} of {location!r}, which has {available:,}",
                       node, "the data file is cut short, or belongs to another model")  # fmt: skip
        elif length != size:
            self.error(
                "EC0011", f"{what} has {length:,} bytes of external data; shape {list(t.dims)} needs {size:,}", node
            )

    def external_file(self, location: str, what: str, node: str | None) -> Path | None:
        """The data file, if it is a readable regular file in the model's folder, links followed."""
        if not location or "\0" in location:
            self.error("EC0018", f"{what} is external data without a file name", node)
            return None
        outside = f"{what} points outside the model's folder: {location!r}"
        hint = "edgec reads external data only from the folder of the model; put the file there"
        parts = location.replace("\\", "/").split("/")
        if Path(location).is_absolute() or ".." in parts or location[1:2] == ":":
            self.error("EC0017", outside, node, hint)
            return None
        file = self.path.parent / location
        try:
            real = file.resolve(strict=True)
        except FileNotFoundError:
            self.error("EC0018", f"{what} is in {location!r}, which does not exist", node,
                       f"copy {location!r} next to {self.path.name}")  # fmt: skip
            return None
        except OSError as e:
            self.error("EC0018", f"{what} is in {location!r}: {e.strerror or e}", node)
            return None
        if not real.is_relative_to(self.path.parent.resolve()):
            self.error("EC0017", f"{outside}, through a symbolic link", node,
                       "if you trust the model, copy it with its links resolved, and compile the copy: "
                       f"cp -rL {self.path.parent} FOLDER")  # fmt: skip
            return None
        if not real.is_file() or not os.access(real, os.R_OK):
            self.error("EC0018", f"{what} is in {location!r}, which is not a readable file", node)
            return None
        if real.stat().st_nlink > 1:
            self.error("EC0017", f"{what} is in {location!r}, which has another hard link, perhaps outside", node,
                       "copy the file: cp data data.new && mv data.new data")  # fmt: skip
            return None
        return real

    # --- types -------------------------------------------------------------------------------------------------------

    def value_type(self, v: onnx.ValueInfoProto) -> None:
        if v.HasField("type"):
            self.type_proto(v.type, f"value {v.name!r}")

    def type_proto(self, t: onnx.TypeProto, what: str) -> None:
        kind = t.WhichOneof("value")
        if kind in ("tensor_type", "sparse_tensor_type"):
            tensor = getattr(t, kind)
            if tensor.elem_type not in TensorProto.DataType.values():
                self.error("EC0010", f"{what} has the unknown data type {tensor.elem_type}")
            self.shape(tensor.shape, what)
        elif kind in ("sequence_type", "optional_type"):
            self.type_proto(getattr(t, kind).elem_type, what)
        elif kind == "map_type":
            self.type_proto(t.map_type.value_type, what)

    def shape(self, shape: onnx.TensorShapeProto, what: str) -> None:
        for d in shape.dim:
            if d.WhichOneof("value") == "dim_value" and d.dim_value == -1:
                d.ClearField("dim_value")  # what some exporters write for "unknown"
        self.element_count([d.dim_value for d in shape.dim if d.WhichOneof("value") == "dim_value"], what)

    # --- functions ---------------------------------------------------------------------------------------------------

    def function(self, f: onnx.FunctionProto) -> None:
        what = f"function {f.domain}::{f.name}"
        body = onnx.GraphProto(node=f.node)
        defined = set(f.input)
        if len(defined) != len(f.input):
            self.error("EC0012", f"{what} has two inputs of the same name")
        self.nodes(body, defined, frozenset(), what)
        del f.node[:]
        f.node.extend(body.node)
        for name in f.output:
            if name not in defined:
                self.error("EC0014", f"output {name!r} of {what} is produced by no node")

    def function_recursion(self, functions: Sequence[onnx.FunctionProto]) -> None:
        ids = {(f.domain, f.name, f.overload): i for i, f in enumerate(functions)}
        if len(ids) != len(functions):
            self.error("EC0012", "the model defines a function twice")
            return
        calls = [
            {ids[key] for n in all_nodes(f.node) if (key := (n.domain, n.op_type, n.overload)) in ids}
            for f in functions
        ]
        if topological_order(calls) is None:
            names = [functions[i].name for i in cycle(calls)]
            self.error("EC0019", f"functions call themselves: {' -> '.join([*names[:8], names[0]])}")


def _name(n: onnx.NodeProto) -> str:
    """How messages call a node: its name, else its operator and first output."""
    return n.name or f"{n.op_type}({next(iter(n.output), '')})"


def bodies(n: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for a in n.attribute:
        if a.HasField("g"):
            yield a.g
        yield from a.graphs


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for n in nodes:
        yield n
        for body in bodies(n):
            yield from all_nodes(body.node)


def free_names(g: onnx.GraphProto) -> set[str]:
    """Names a body takes from outside."""
    own = {v.name for v in g.input} | {t.name for t in g.initializer} | {o for n in g.node for o in n.output}
    used = {v.name for v in g.output}
    for n in g.node:
        used.update(n.input)
        for body in bodies(n):
            used |= free_names(body)
    return used - own


def topological_order(needs: Sequence[set[int]]) -> list[int] | None:
    """An order in which everything comes after what it needs, else as given; None if there is a cycle."""
    import heapq

    waiting = [len(d) for d in needs]
    users: list[list[int]] = [[] for _ in needs]
    for i, deps in enumerate(needs):
        for d in deps:
            users[d].append(i)
    ready = [i for i, n in enumerate(waiting) if n == 0]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for u in users[i]:
            waiting[u] -= 1
            if waiting[u] == 0:
                heapq.heappush(ready, u)
    return order if len(order) == len(needs) else None


def cycle(needs: Sequence[set[int]]) -> list[int]:
    """The members of one cycle, each needing the one before it. Call it only when there is one."""
    alive = set(range(len(needs)))
    while dead := [i for i in alive if not needs[i] & alive]:
        alive.difference_update(dead)
    at = min(alive)
    path: dict[int, None] = {}
    while at not in path:
        path[at] = None
        at = min(needs[at] & alive)
    members = list(path)
    return members[members.index(at) :][::-1]
