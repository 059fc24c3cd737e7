"""The table of layers that RKNN-Toolkit2's compiler prints when verbose: who runs each operator, cycles, memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"^([DIWE]) (?:RKNN: \[[\d:.]+\] )?(.*)$")
_ROW = re.compile(
    r"^(?P<id>\d+)\s+(?P<op>\S+)\s+(?P<dtype>\S+)\s+(?P<target>\S+)\s+(?P<ins>\S+)\s+(?P<outs>\S+)\s+"
    r"(?P<ddr>\d+)/(?P<npu>\d+)/(?P<total>\d+)\s+(?:(?P<sparse>[\d.]+)%\s+)?(?P<rw>[\d.]+)(?:\s+(?P<full>\S.*?))?\s*$"
)
_SHAPE = re.compile(r"\(([\d,]*)\)")
_MEMORY = re.compile(r"^Total (Internal|Weight) Memory Size: ([\d.]+)KB")
_COMPILER = re.compile(r"librknnc version: (\S+)")
_CUSTOM = re.compile(r"unsupport Operator: name = '?(?P<name>[^',]+)'?, type = (?P<type>[^,]+),", re.IGNORECASE)
# What the compiler hangs on the names of nodes it made from one of the model's: #2, -rs, _ConvAddRelu, _2sdpa, _2gavg_2conv0 ...
_SUFFIX = re.compile(r"(?:#\d+|-rs|_ConvAdd[A-Za-z]*|_2[a-z]+\d*)$")


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One operator. Cycles are the compiler's estimate (0 for all but convolutions), `rw_kb` KB read and written.

    `full_name` is "OnnxType:node" plus suffixes; `node` is the model's node name without them. `sparse_ratio` is in
    per cent, on chips that report it.
    """

    id: int
    op: str
    dtype: str
    target: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    ddr_cycles: int
    npu_cycles: int
    total_cycles: int
    rw_kb: float
    full_name: str
    node: str
    sparse_ratio: float | None = None


@dataclass(frozen=True)
class LayerTable:
    """All of it. `unparsed` are rows of the table in a form not known here: report them, do not drop them."""

    rows: tuple[LayerRow, ...]
    internal_kb: float | None
    weight_kb: float | None
    compiler: str | None
    fallbacks: tuple[str, ...]
    custom_ops: tuple[tuple[str, str], ...]  # (node, type) that need rknn_register_custom_ops on the device
    warnings: tuple[str, ...]
    unparsed: tuple[str, ...]


def parse_layer_table(log: str) -> LayerTable:
    """Read the log of one build; without a table in it `rows` is empty. A later table replaces an earlier one."""
    rows: list[LayerRow] = []
    unparsed: list[str] = []
    warnings: list[str] = []
    memory: dict[str, float] = {}
    compiler: str | None = None
    inside = False
    for raw in log.splitlines():
        line = _LINE.match(re.sub(r"\x1b\[[0-9;]*m", "", raw))
        if line is None:
            continue
        level, text = line[1], line[2].strip()
        if level == "W" and text not in warnings:
            warnings.append(text)
        if "Network Layer Information Table" in text:
            inside, rows, unparsed = True, [], []
        elif "Information Table" in text or text.startswith(("<<<<", ">>>>")):
            inside = False
        elif inside and re.match(r"\d+\s", text):
            row = _row(text)
            if row is None:
                unparsed.append(text)
            else:
                rows.append(row)
        if total := _MEMORY.match(text):
            memory[total[1]] = float(total[2])
        if version := _COMPILER.search(text):
            compiler = version[1]
    return LayerTable(
        rows=tuple(rows),
        internal_kb=memory.get("Internal"),
        weight_kb=memory.get("Weight"),
        compiler=compiler,
        fallbacks=tuple(w for w in warnings if "fallback to cpu" in w.lower()),
        custom_ops=tuple((m["name"], m["type"].strip()) for w in warnings if (m := _CUSTOM.search(w))),
        warnings=tuple(warnings),
        unparsed=tuple(unparsed),
    )


def _row(text: str) -> LayerRow | None:
    m = _ROW.match(text)
    if m is None:
        return None
    full = m["full"] or ""
    return LayerRow(
        id=int(m["id"]),
        op=m["op"],
        dtype=m["dtype"],
        target=m["target"],
        input_shapes=_shapes(m["ins"]),
        output_shapes=_shapes(m["outs"]),
        ddr_cycles=int(m["ddr"]),
        npu_cycles=int(m["npu"]),
        total_cycles=int(m["total"]),
        rw_kb=float(m["rw"]),
        full_name=full,
        node=source_node(full),
        sparse_ratio=float(m["sparse"]) if m["sparse"] else None,
    )


def _shapes(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(d) for d in s.split(",") if d) for s in _SHAPE.findall(text))


def source_node(full_name: str) -> str:
    """ "Conv:conv0#2" -> "conv0": the model's node an operator comes from."""
    name = full_name.split(":", 1)[-1]
    while (shorter := _SUFFIX.sub("", name)) != name and shorter:
        name = shorter
    return name
