"""Worker script: an `.mlpackage` back to a Program (JSON and numbers), as coremltools reads the file.

Runs in the SDK's environment: standard library, NumPy and coremltools only. The form of the files: program_file.py.

Request (file names relative to the folder)
    package          the folder of the package
Answer
    program, weights the Program, with const operations for every constant
    inputs, outputs  the interface as the file describes it: [{name, type, shape, dtype, optional}]
    target           the specification version of the file
    labels           of a classifier, in the order of its probabilities, or None
"""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

PROTOCOL = 1
PROGRAM, WEIGHTS = "decoded.json", "decoded.bin"
_ALIGN = 64
_SYSTEM = {6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18", 10: "iOS26"}


class SdkFailure(RuntimeError):
    """The package cannot be read. `details` travels with the answer; `damaged`: it is no package, or a broken one;
    `undecoded`: nothing is wrong with it, but it holds what this worker does not decode."""

    def __init__(self, message: str, *, damaged: bool = False, undecoded: bool = False) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = {"damaged": damaged, "undecoded": undecoded}


def prepare(job: Any) -> None:
    job.step("import")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import coremltools  # noqa: F401


def run(job: Any) -> dict[str, Any]:
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    package = job.folder / job.request["package"]
    job.step("load")
    try:
        model = ct.models.MLModel(str(package), skip_model_load=True)
        spec = model.get_spec()
    except Exception as e:  # coremltools and its libraries raise what they please
        raise SdkFailure(f"it is no Core ML package: {e}", damaged=True) from e
    version = spec.specificationVersion
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram" or version not in _SYSTEM:
        raise SdkFailure(
            f"it holds no ML Program of a system from iOS15 to iOS26: {kind}, version {version}", damaged=True
        )
    job.step("decode")
    try:
        program = load(spec, specification_version=version, file_weights_dir=model.weights_dir)
    except Exception as e:  # weights that end early, values that do not fit their types ...
        raise SdkFailure(f"its program cannot be decoded: {e}", damaged=True) from e
    if "main" not in program.functions:
        raise SdkFailure("its program has no function main", damaged=True)
    job.step("write")
    with (job.folder / WEIGHTS).open("wb") as weights:
        dump = _Dump(weights)
        data, labels = dump.program(program.functions["main"]), dump.labels(program.functions["main"])
    data["target"] = _SYSTEM[version]
    (job.folder / PROGRAM).write_text(json.dumps(data), encoding="utf-8")
    return {
        "program": PROGRAM,
        "weights": WEIGHTS,
        "target": version,
        "labels": labels,
        "inputs": [_feature(f) for f in spec.description.input],
        "outputs": [_feature(f) for f in spec.description.output],
    }


def _feature(f: Any) -> dict[str, Any]:
    kind = f.type.WhichOneof("Type")
    told: dict[str, Any] = {"name": f.name, "type": kind}
    if kind == "multiArrayType":
        told["shape"] = list(f.type.multiArrayType.shape)
        told["dtype"] = f.type.multiArrayType.ArrayDataType.Name(f.type.multiArrayType.dataType)
    return told


class _Dump:
    def __init__(self, weights: Any) -> None:
        import numpy as np
        from coremltools.converters.mil.mil import types

        self.np, self.types, self.weights = np, types, weights

    def program(self, f: Any) -> dict[str, Any]:
        """A classifier's label and dictionary are the probabilities they are made of: those are its output here."""
        outputs = [v.op.probabilities if v.op is not None and v.op.op_type == "classify" else v for v in f.outputs]
        given = {v.name for v in outputs}  # a number may be an output, too
        written = [
            o
            for o in f.operations
            if o.op_type != "classify" and (not self.inlined(o) or any(v.name in given for v in o.outputs))
        ]
        return {
            "inputs": [self.value(v) for v in f.inputs.values()],
            "outputs": list(dict.fromkeys(v.name for v in outputs)),
            "operations": [self.operation(o) for o in written],
        }

    def labels(self, f: Any) -> list[str] | None:
        """Of a classifier, in the order of its probabilities."""
        for o in f.operations:
            if o.op_type == "classify":
                return [str(getattr(label, "val", label)) for label in o.classes.val]
        return None

    def inlined(self, o: Any) -> bool:
        """Texts and numbers are said where they are read."""
        return o.op_type == "const" and (self.dtype(o.outputs[0]) in ("str", "string") or o.outputs[0].shape == ())

    def operation(self, o: Any) -> dict[str, Any]:
        if o.op_type == "const":
            inputs = {"val": self.number(o.outputs[0].val, self.dtype(o.outputs[0]))}
        else:
            inputs = {k: self.argument(v) for k, v in o.inputs.items() if v is not None}
        if o.blocks:
            raise SdkFailure(f"{o.op_type} {o.name!r} has operations of its own inside", undecoded=True)
        return {"op": o.op_type, "inputs": inputs, "outputs": [self.value(v) for v in o.outputs], "source": ""}

    def value(self, v: Any) -> dict[str, Any]:
        shape = [int(d) if isinstance(d, (int, self.np.integer)) else str(d) for d in v.shape]
        return {"name": v.name, "shape": shape, "dtype": self.dtype(v)}

    def dtype(self, v: Any) -> str:
        try:
            return str(self.types.builtin_to_string(v.dtype))
        except (KeyError, ValueError):  # a text, or a list of them
            return "str"

    def argument(self, v: Any) -> dict[str, Any]:
        if isinstance(v, (list, tuple)):
            return {"l": [self.argument(part) for part in v]}
        if v.op is not None and self.inlined(v.op):
            return self.number(v.val, self.dtype(v))  # parameters; tensors have const operations of their own
        return {"v": v.name}

    def number(self, val: Any, dtype: str) -> dict[str, Any]:
        np = self.np
        if isinstance(val, str):
            return {"p": val}
        array = np.asarray(val)
        if array.dtype.kind in "US":
            return {"p": str(array)}
        if dtype in ("uint32", "int64", "uint64"):  # sizes and shapes
            dtype, array = "int32", array.astype(np.int32)
        if array.dtype.metadata or dtype not in ("fp16", "fp32", "int32", "int16", "uint16", "int8", "uint8", "bool"):
            array = array.astype(np.uint8 if dtype.startswith("u") else np.int8)
        at = -(-self.weights.tell() // _ALIGN) * _ALIGN
        self.weights.write(b"\0" * (at - self.weights.tell()))
        np.ascontiguousarray(array).tofile(self.weights)
        return {"a": [at, list(array.shape), dtype]}
