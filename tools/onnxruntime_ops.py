"""Write specs/ops/onnxruntime-cpu.yaml from the kernels the installed ONNX Runtime registers for its CPU provider.

    python tools/onnxruntime_ops.py > specs/ops/onnxruntime-cpu.yaml

An ONNX op gets a row if a kernel is registered for the op's version at opset 24, or if ONNX defines the op as a function of
ops (ONNX Runtime then runs those). Element types that ONNX allows and no kernel takes become cases; float16 and bfloat16
do not, because ONNX Runtime casts around such nodes.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

OPSET = 24
OPEN_END = 2**31 - 1
NAMES = {"float": "float32", "double": "float64"}
CAST_AWAY = {"float16", "bfloat16"}
KNOWN = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "int4",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "uint4",
    "bool",
    "string",
]
DOMAINS = ("", "ai.onnx.ml", "com.microsoft")

HEAD = """\
# yaml-language-server: $schema=../../docs/schema/ops.json
# Written by tools/onnxruntime_ops.py; change that, not this.
schema_version: 1
name: onnxruntime-cpu
description: the CPU execution provider of ONNX Runtime {version}, models of opset {opset} and below
evidence: kernel registrations of onnxruntime {version} (get_all_opkernel_def)
unlisted: {{run: impossible, reason: ONNX Runtime's CPU execution provider has no kernel for it}}
ops:"""


def covers(kernel: Any, since: int) -> bool:
    """Whether a kernel serves the op version `since`: ONNX Runtime's KernelRegistry::VerifyKernelDef."""
    start, end = kernel.version_range
    return bool(start == since or (start < since <= end and end < OPEN_END))


def element_types(names: list[str]) -> set[str]:
    """`tensor(float)` -> float32, for the names a spec knows."""
    inner = {n.removeprefix("tensor(").removesuffix(")") for n in names}
    return {NAMES.get(n, n) for n in inner} & set(KNOWN)


def cases(schema: onnx.defs.OpSchema, kernels: list[Any]) -> Iterator[str]:
    """One case for each input whose type ONNX allows and no kernel takes."""
    seen: set[str] = set()
    for i, param in enumerate(schema.inputs):
        letter = param.type_str
        if letter in seen:
            continue
        seen.add(letter)
        allowed = next((c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == letter), None)
        if allowed is None or not all(letter in k.type_constraints for k in kernels):
            continue
        taken = set().union(*(element_types(k.type_constraints[letter]) for k in kernels))
        missing = [t for t in KNOWN if t in element_types(list(allowed)) - taken - CAST_AWAY]
        if missing and taken:
            yield f"{{when: {{dtype: {{{i}: [{', '.join(missing)}]}}}}, run: impossible, reason: no kernel for this element type}}"


def last_covered(op: str, domain: str, kernels: list[Any]) -> int | None:
    """The newest opset below OPSET at which a kernel serves the op, or None."""
    for opset in range(OPSET, 0, -1):
        try:
            since = onnx.defs.get_schema(op, opset, domain).since_version
        except onnx.defs.SchemaError:
            return None
        if any(covers(k, since) for k in kernels):
            return opset
    return None


def main() -> int:
    kernels: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for k in state.get_all_opkernel_def():
        if k.provider == "CPUExecutionProvider":
            kernels[k.domain, k.op_name].append(k)
    rows = {"Constant": "{run: accelerator, note: it becomes a weight when the model is loaded}"}
    every = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain in ("", "ai.onnx.ml")]
    schemas = {(s.domain, s.name) for s in every if s.domain or s.since_version <= OPSET}
    for domain, op in sorted(schemas | {key for key in kernels if key[0] in DOMAINS}):
        name = f"{domain}::{op}" if domain else op
        if (domain, op) not in schemas:
            rows[name] = "{run: accelerator}"
            continue
        schema = onnx.defs.get_schema(op, OPSET, domain) if domain == "" else onnx.defs.get_schema(op, domain)
        if schema.deprecated and not kernels[domain, op]:
            continue
        fitting = [k for k in kernels[domain, op] if covers(k, schema.since_version)]
        if fitting:
            found = list(cases(schema, fitting))
            rows[name] = f"{{run: accelerator, cases: [{', '.join(found)}]}}" if found else "{run: accelerator}"
        elif old := last_covered(op, domain, kernels[domain, op]):
            reason = f"the newest kernel is for version {old} of the operator set and below"
            cases_ = f"cases: [{{when: {{opset: {{max: {old}}}}}, run: accelerator}}], rewrite: lower-opset"
            rows[name] = (
                f"{{run: {'either' if domain else 'impossible'}, reason: {reason}{'' if domain else ', ' + cases_}}}"
            )
        elif schema.has_function or schema.has_context_dependent_function:
            rows[name] = "{run: accelerator, note: runs as the ops ONNX defines it by}"
    print(HEAD.format(version=onnxruntime.__version__, opset=OPSET))
    for name, row in sorted(rows.items()):
        print(f"  {name}: {row}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
