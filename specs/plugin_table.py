"""Plugin ops of a vendor's runtime: the nodes ONNX has no schema for, and the shapes of what they put out."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator

from edgec.specs import yaml_file
from edgec.specs.conditions import Model

Dim = int | str | None
"""A number, the model's own name for one (only passed through), or unknown."""

Text = Annotated[str, Field(min_length=1)]


class PluginOutput(Model):
    """One output. `dtype`: an element type or `inI`, that of an input; `shape`: `inI` or one expression a dimension."""

    name: Text
    dtype: Annotated[str, Field(pattern=r"^(in\d|u?int(8|32|64)|float(16|32)|bool)$")]
    shape: Annotated[str, Field(pattern=r"^in\d$")] | tuple[int | Text, ...]

    @field_validator("shape")
    @classmethod
    def _readable(cls, shape: str | tuple[int | str, ...]) -> str | tuple[int | str, ...]:
        for dim in shape if isinstance(shape, tuple) else ():
            if isinstance(dim, str):
                _parse(dim)
        return shape


class PluginOp(Model):
    """One plugin: how many inputs it takes, which attributes it cannot do without, what it puts out."""

    inputs: tuple[int, int] = Field(description="least and most")
    required: tuple[Text, ...] = ()
    defaults: dict[Text, JsonValue] = Field({})
    outputs: tuple[PluginOutput, ...]
    evidence: Text


class PluginTable(Model):
    """The plugins of one vendor. `marks`: attributes that only plugin nodes have; a node with one is a plugin node."""

    schema_version: Literal[1]
    name: Text
    description: Text
    evidence: Text
    marks: tuple[Text, ...] = ()
    ops: dict[Text, PluginOp]


@cache
def plugin_tables() -> tuple[PluginTable, ...]:
    """Every table of `specs/plugins`."""
    return tuple(_load(name) for name in yaml_file.names("plugins"))


def _load(name: str) -> PluginTable:
    from importlib.resources import files

    doc = yaml_file.read(files("edgec.specs").joinpath("plugins", f"{name}.yaml"))
    assert not doc.errors  # a file of edgec's own: a test reads them all
    return PluginTable.model_validate_json(json.dumps(doc.data))


def output_shape(
    output: PluginOutput, shapes: Sequence[Sequence[Dim] | None], attributes: Mapping[str, Any]
) -> list[Dim] | None:
    """The shape of an output from those of the inputs; None where not even the rank is known. Unknown dimensions are None."""
    if isinstance(output.shape, str):
        i = int(output.shape[2:])
        known = shapes[i] if i < len(shapes) else None
        return list(known) if known is not None else None
    return [d if isinstance(d, int) else _evaluate(_parse(d), shapes, attributes) for d in output.shape]


def _parse(text: str) -> ast.expr:
    """The expression, if it holds nothing but what `_evaluate` knows."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise ValueError(f"{text!r} is not an expression") from None
    for node in ast.walk(tree):
        if not isinstance(node, _KNOWN) or (isinstance(node, ast.Call) and ast.unparse(node.func) != "min"):
            raise ValueError(f"{text!r}: only inI[J], attributes, numbers, *, + and min(...) are known")
    return tree


_KNOWN = (ast.Subscript, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.Mult, ast.Add, ast.Call)


def _evaluate(node: ast.expr, shapes: Sequence[Sequence[Dim] | None], attributes: Mapping[str, Any]) -> Dim:
    if isinstance(node, ast.Constant):
        return int(node.value) if isinstance(node.value, int) else None
    if isinstance(node, ast.Name):
        value = attributes.get(node.id)
        return value if isinstance(value, int) else None
    if isinstance(node, ast.Subscript):
        i, j = int(ast.unparse(node.value)[2:]), int(ast.unparse(node.slice))
        shape = shapes[i] if i < len(shapes) else None
        return shape[j] if shape is not None and j < len(shape) else None
    parts = node.args if isinstance(node, ast.Call) else [node.left, node.right] if isinstance(node, ast.BinOp) else []
    numbers = [d for d in (_evaluate(p, shapes, attributes) for p in parts) if isinstance(d, int)]
    if len(numbers) != len(parts):
        return None
    if isinstance(node, ast.Call):
        return min(numbers)
    return (
        numbers[0] * numbers[1]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
        else numbers[0] + numbers[1]
    )
