"""Worker script: a Program (JSON and numbers) to an `.mlpackage`, through coremltools' MIL builder.

Runs in the SDK's environment: standard library, NumPy and coremltools only. The form of the files: program_file.py.

Request (file names relative to the folder)
    program, weights   the Program
    flexible           feature -> {shape: [number, or [least, most, default] ...]} or {enumerated: [[shape] ...]}, the default
                       first, of inputs with open dimensions
    images             name -> RGB, BGR or GRAYSCALE, of inputs that are images
    metadata           {author, license, short_description, version, user: {key: text}, inputs: {name: text}, outputs: {...}}
    classes            None, or {labels: [text], output: name, label: name of the feature}
Answer
    package            the folder of the package
    operations         how many of each kind the program has
    shapes             name -> shape of each output, as MIL inferred it
    version            of coremltools
"""

from __future__ import annotations

import collections
import json
import logging
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

PROTOCOL = 1

_NUMPY = {
    "fp16": "float16", "fp32": "float32", "int32": "int32", "int16": "int16", "uint16": "uint16", "int8": "int8",
    "uint8": "uint8", "bool": "bool", "uint32": "uint32",
}  # fmt: skip


class SdkFailure(RuntimeError):
    """coremltools refused. `details` travels with the answer."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


def prepare(job: Any) -> None:
    job.step("import")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import coremltools  # noqa: F401


def run(job: Any) -> dict[str, Any]:
    import coremltools as ct

    request, folder = job.request, job.folder
    data = json.loads((folder / request["program"]).read_text(encoding="utf-8"))
    job.step("build")
    program = _Build(data, folder / request["weights"], request).program()
    job.step("convert")
    model = _convert(ct, program, data, request)
    job.step("save")
    package = folder / "model.mlpackage"
    shutil.rmtree(package, ignore_errors=True)
    model.save(str(package))
    _same_bytes_each_time(model, package)
    built = model._mil_program.functions["main"]
    kinds = collections.Counter(o.op_type for o in built.operations if o.op_type != "const")
    shapes = {v.name: [d if isinstance(d, int) else str(d) for d in v.shape] for v in built.outputs}
    return {"package": package.name, "operations": dict(kinds), "shapes": shapes, "version": ct.__version__}


class _Build:
    """The Program, operation by operation."""

    def __init__(self, data: dict[str, Any], weights: Path, request: dict[str, Any]) -> None:
        import coremltools as ct
        import numpy as np
        from coremltools.converters.mil.mil import types

        self.data, self.request, self.np, self.types = data, request, np, types
        self.target = getattr(ct.target, data["target"])
        size = weights.stat().st_size
        self.weights = np.memmap(weights, np.uint8, "r") if size else np.zeros(0, np.uint8)
        self.vars: dict[str, Any] = {}
        self.symbols: dict[str, Any] = {}

    def program(self) -> Any:
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function, Program, get_new_symbol

        for v in self.data["inputs"]:
            for d in v["shape"]:
                if isinstance(d, str) and d not in self.symbols:
                    self.symbols[d] = get_new_symbol(d)
        types = self.types
        inputs = {
            v["name"]: mb.placeholder(
                tuple(self.symbols.get(d, d) for d in v["shape"]), dtype=types.string_to_builtin(v["dtype"])
            )
            for v in self.data["inputs"]
        }
        program = Program()
        with Function(inputs, opset_version=self.target) as f:
            self.vars.update(f.inputs)
            for o in self.data["operations"]:
                self._operation(mb, o)
            f.set_outputs([self.vars[name] for name in self.data["outputs"]])
        program.add_function("main", f)
        return program

    def _operation(self, mb: Any, o: dict[str, Any]) -> None:
        inputs = {k: self._argument(a) for k, a in o["inputs"].items()}
        names = [v["name"] for v in o["outputs"]]
        try:
            made = getattr(mb, o["op"])(name=names[0], **inputs)
        except Exception as e:
            raise SdkFailure(f"{o['op']} {names[0]!r}: {e}", source=o["source"], op=o["op"]) from e
        made = list(made) if isinstance(made, (list, tuple)) else [made]
        if len(made) != len(names):
            raise SdkFailure(
                f"{o['op']} {names[0]!r} has {len(made)} outputs, not {len(names)}", source=o["source"], op=o["op"]
            )
        for v, var in zip(o["outputs"], made, strict=True):
            self._as_told(o, v, var)
            if var.name != v["name"]:
                var.set_name(v["name"])
            self.vars[v["name"]] = var

    def _as_told(self, o: dict[str, Any], v: dict[str, Any], var: Any) -> None:
        """MIL infers types and shapes for itself: they are to be what the lowering said."""
        dtype = self.types.builtin_to_string(var.dtype)
        if dtype != v["dtype"]:
            raise SdkFailure(f"{o['op']} {v['name']!r} is {dtype}, not {v['dtype']}", source=o["source"], op=o["op"])
        if v["shape"] is None:
            return
        told, found = v["shape"], list(var.shape)
        differ = len(told) != len(found) or any(
            isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(told, found, strict=True)
        )
        if differ:
            raise SdkFailure(f"{o['op']} {v['name']!r} is {found}, not {told}", source=o["source"], op=o["op"])

    def _argument(self, a: dict[str, Any]) -> Any:
        ((kind, content),) = a.items()
        if kind == "v":
            return self.vars[content]
        if kind == "l":
            return [self._argument(part) for part in content]
        if kind == "p":
            return content
        offset, shape, dtype = content
        np = self.np
        numpy = np.dtype(_NUMPY.get(dtype, "uint8" if dtype.startswith("u") else "int8"))
        count = int(np.prod(shape, dtype=np.int64))
        array = np.array(self.weights[offset : offset + count * numpy.itemsize].view(numpy)).reshape(shape)
        if dtype not in _NUMPY:
            return array.astype(getattr(self.types, f"np_{dtype}_dtype"))
        return array if shape else array[()]


def _convert(ct: Any, program: Any, data: dict[str, Any], request: dict[str, Any]) -> Any:
    """To the package's form. No pass but those of the backend: what edgec decided stays."""
    given: dict[str, Any] = {}
    images = request.get("images") or {}
    shapes = {v["name"]: v["shape"] for v in data["inputs"]}
    shapes.update({name: _flexible_shape(ct, told) for name, told in request.get("flexible", {}).items()})
    if inputs := [
        ct.ImageType(name=name, shape=shape, color_layout=ct.colorlayout[images[name]], channel_first=True)
        if name in images
        else ct.TensorType(name=name, shape=shape)
        for name, shape in shapes.items()
        if name in images or name in request.get("flexible", {})
    ]:
        given["inputs"] = inputs
    if classes := request.get("classes"):
        given["classifier_config"] = ct.ClassifierConfig(
            classes["labels"], predicted_feature_name=classes["label"], predicted_probabilities_output=classes["output"]
        )
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, data["target"]),
        compute_precision=ct.precision.FLOAT32,  # types are in the program
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        **given,
    )
    _describe(model, request.get("metadata", {}))
    return model


def _flexible_shape(ct: Any, told: dict[str, Any]) -> Any:
    if shapes := told.get("enumerated"):
        return ct.EnumeratedShapes(shapes=[ct.Shape(s) for s in shapes], default=shapes[0])
    dims = [
        ct.RangeDim(lower_bound=d[0], upper_bound=d[1], default=d[2]) if isinstance(d, list) else d
        for d in told["shape"]
    ]
    return ct.Shape(shape=dims)


def _describe(model: Any, told: dict[str, Any]) -> None:
    for key in ("author", "license", "short_description", "version"):
        if key in told:
            setattr(model, key, told[key])
    model.user_defined_metadata.update(told.get("user", {}))
    for end, features in (("input", model.input_description), ("output", model.output_description)):
        for name, text in told.get(f"{end}s", {}).items():
            features[name] = text


def _same_bytes_each_time(model: Any, package: Path) -> None:
    """Maps of the protobuf in order, and identifiers made of the contents' names instead of random ones."""
    spec = model.get_spec()
    for key in list(spec.description.metadata.userDefined):  # the day of the conversion, and who converted
        if key.startswith("com.github.apple.coremltools."):
            del spec.description.metadata.userDefined[key]
    spec.mlProgram.attributes.pop("buildInfo", None)  # so too
    found = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    found.write_bytes(spec.SerializeToString(deterministic=True))
    found.chmod(0o644)
    manifest = package / "Manifest.json"
    told = json.loads(manifest.read_text(encoding="utf-8"))
    entries, ids = {}, {}
    for old, entry in told["itemInfoEntries"].items():
        ids[old] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"coreml:{entry['path']}")).upper()
        entries[ids[old]] = entry
    told["itemInfoEntries"] = dict(sorted(entries.items()))
    told["rootModelIdentifier"] = ids[told["rootModelIdentifier"]]
    manifest.write_text(json.dumps(told, indent=4, sort_keys=True) + "\n", encoding="utf-8")
