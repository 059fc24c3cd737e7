"""How a target quantises: element types, which inputs and outputs of which ops, scales that are shared or fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from edgec.specs.conditions import Index, Model, Setting, When, applies
from edgec.specs.op_table import Text, UnitSpec

if TYPE_CHECKING:
    from edgec.graph import ir

QuantDType = Literal["int4", "uint4", "int8", "uint8", "int16", "uint16", "float8e4m3fn"]
"""Element types that QuantizeLinear makes, by ONNX's names."""


class QuantKind(Model):
    """One way to store a tensor in few bits: real = (stored - zero_point) * scale."""

    dtype: QuantDType
    symmetric: bool = Field(description="whether the zero point is the middle of the range: 0, or 128 for uint8")
    narrow: bool = Field(False, description="whether the lowest value stays unused: -127..127 for int8")
    per: Literal["tensor", "channel", "block"] = "tensor"
    block: Annotated[int, Field(gt=0)] | None = Field(
        None, description="elements that share a scale along the block axis"
    )
    power_of_two: bool = Field(False, description="whether scales are powers of two")
    zero_in_range: bool = Field(True, description="whether 0 must be stored exactly (padding needs it)")
    nonzero: bool = Field(
        False, description="whether the zero point must not be 0: it means something else to the target's compiler"
    )
    unsigned: bool = Field(
        False,
        description="whether a tensor without negative numbers is stored without sign, from 0 on: twice the steps",
    )

    @model_validator(mode="after")
    def _block_where_needed(self) -> QuantKind:
        if (self.per == "block") != (self.block is not None):
            raise ValueError("`block` goes with `per: block`")
        if self.unsigned and not (self.symmetric and self.dtype in ("int4", "int8", "int16")):
            raise ValueError("`unsigned` goes with a symmetric type with sign")
        return self


class Fixed(Model):
    """A scale and zero point the target prescribes: TFLite's Sigmoid output is 1/256, -128."""

    scale: Annotated[float, Field(gt=0)]
    zero_point: int


class OpRule(Model):
    """How one op is quantised. Inputs are meant by position; what is not listed stays as it is."""

    inputs: tuple[Index, ...] | Literal["all"] = Field((), description="activations that are quantised")
    weight: Index | None = Field(None, description="the input that is quantised as a weight, where it is constant")
    axis: int | None = Field(None, description="axis of the weight along which scales differ, `per: channel`")
    block_axis: int | None = Field(None, description="axis of the weight that is cut into blocks, `per: block`")
    bias: Index | None = Field(None, description="the input that is quantised as a bias, where it is constant")
    outputs: Literal["always", "if_read", "never"] = Field(
        "always", description="whether outputs are quantised: always, where a quantised op reads them, or never"
    )
    share: bool = Field(False, description="whether inputs and outputs must have one scale and zero point")
    follow: bool = Field(
        False, description="whether the op is quantised only between others that are: additions, pooling, data movement"
    )
    skip_only: bool = Field(
        False,
        description="of two inputs, leave the one alone that a quantised convolution or product puts out (residual additions); "
        "behind an activation both are quantised",
    )
    fixed: Fixed | None = Field(None, description="scale and zero point of the outputs, where they are prescribed")
    range: tuple[float, float] | None = Field(None, description="range of the outputs known without calibration")
    activations: QuantKind | None = Field(None, description="other activations than the scheme's")
    weights: QuantKind | None = Field(None, description="other weights than the scheme's")
    when: When | None = Field(None, description="conditions on the node; the rule is skipped where they do not hold")
    evidence: Text | None = None


class FloatOp(Model):
    """Why an op must not be between Q and DQ: what the target's compiler or device makes of it then."""

    reason: Text
    hint: Text | None = Field(None, description="what the user can do about it")
    when: When | None = Field(None, description="conditions on the node")
    fatal: bool = Field(False, description="whether the model cannot be compiled or run then, not just badly")


class Exempt(Model):
    """Why nodes stay in float although their op has a rule: the target takes them in integers, and gains nothing or fails."""

    when: When = Field(description="conditions on the node")
    reason: Text
    evidence: Text


class Wide(Model):
    """More bits for the activations of single layers, on the same target: what costs less than float."""

    scheme: Text = Field(description="name of the scheme whose rules hold for those layers: qnn-a16w8")
    evidence: Text


class Scheme(Model):
    """All of a target's rules. Keys of `ops` are op types, `domain::Op` outside the ONNX domain; the first rule applies."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    description: Text
    mode: Literal["static", "dynamic", "weight-only"] = "static"
    activations: QuantKind | None = None
    weights: QuantKind
    bias: Literal["int32", "float"] = "int32"
    whole: bool = Field(
        False,
        description="whether ops that `follow` are quantised anyway, at the doors of a model too: no float on the device",
    )
    opset: Annotated[int, Field(ge=13)] = Field(13, description="the oldest opset whose Q/DQ nodes can say this")
    ops: dict[str, tuple[OpRule, ...]]
    float_ops: dict[str, tuple[FloatOp, ...]] = Field(
        {}, description="ops that must not read and write integers, by op type; others without a rule may"
    )
    exempt: dict[str, tuple[Exempt, ...]] = Field(
        {}, description="nodes that are left in float although there is a rule for them, by op type"
    )
    one_pair: bool = Field(
        False,
        description="whether ops that `follow` read the pair that stands before another reader of the same value: it is then "
        "written once, in integers",
    )
    wide: Wide | None = Field(
        None, description="activations in 16 bits for single layers, where the target computes on them in integers"
    )
    not_wide: Text | None = Field(None, description="why there is no `wide`, where the target reads 16 bits")
    activation_dtypes: tuple[QuantDType, ...] = Field(
        (), description="other element types of activations the target reads, in models that come quantised"
    )
    weight_dtypes: tuple[QuantDType, ...] = Field((), description="other element types of weights the target reads")
    integer_ops: bool = Field(
        False, description="whether the target reads QLinearConv, MatMulInteger, DynamicQuantizeLinear and the like"
    )
    tolerates: tuple[Text, ...] = Field(
        (), description="rules of the linter whose breach the target's compiler takes: warnings, not errors"
    )
    units: tuple[UnitSpec, ...] = Field(
        (),
        description="what becomes one integer kernel, or the op table whose units these are: nothing inside is quantised",
    )
    evidence: Text

    def rule(self, node: ir.Node, setting: Setting) -> OpRule | None:
        """The rule of a node; None where it stays in float."""
        key = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for rule in self.ops.get(key, ()):
            if rule.when is None or applies(rule.when, node, setting) is True:
                return rule
        return None

    def why_exempt(self, node: ir.Node, setting: Setting) -> str | None:
        """Why the node stays in float although `rule` may have one for it; None where it does not."""
        key = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        return next((e.reason for e in self.exempt.get(key, ()) if applies(e.when, node, setting) is True), None)
