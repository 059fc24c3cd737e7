"""Worker script: the cases of coremltools' own tests of MIL operations, as Programs with inputs and expected outputs.

Those tests ship with coremltools and say what Core ML gives for a program (or compute it with NumPy). Here they are only
collected: what builds the program is called, what would run it on a Mac is not. Runs in the SDK's environment. There is no
pytest, PyTorch, SciPy or Pillow in it: stand-ins make the modules load, and tests that need them are left out.

Request
    limit            cases of one test function, spread over its parameters
    decoder          path of decoder_worker.py
Answer
    cases            [{test, program, inputs, expected, rtol, atol}]; arrays as in program files, in `weights`
    weights          their numbers
    left_out         reason -> how many
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import importlib
import importlib.util
import itertools
import json
import logging
import os
import pkgutil
import sys
import types as python_types
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

PROTOCOL = 1


class Skipped(Exception):
    """A test said that it does not apply here."""


class Marks:
    """pytest.mark: only parametrize matters."""

    def __getattr__(self, name: str) -> Any:
        def mark(*args: Any, **kwargs: Any) -> Any:
            def decorate(function: Any) -> Any:
                if name == "parametrize":
                    names, values = _names_and_values(args, kwargs)
                    function.replayed = [*getattr(function, "replayed", []), (names, values)]
                elif name == "skip" or (name == "skipif" and args and args[0]):
                    function.left_out = True
                return function

            return decorate

        return mark


def _names_and_values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[str], list[Any]]:
    names = args[0] if args else kwargs["argnames"]
    values = args[1] if len(args) > 1 else kwargs["argvalues"]
    return [n.strip() for n in (names.split(",") if isinstance(names, str) else names)], list(values)


def _pytest() -> Any:
    def leave(*_: Any, **__: Any) -> None:
        raise Skipped

    @contextlib.contextmanager
    def raises(*_: Any, **__: Any) -> Any:
        with contextlib.suppress(Exception):
            yield MagicMock()

    module: Any = python_types.ModuleType("pytest")
    module.mark, module.raises = Marks(), raises
    module.skip = module.xfail = module.fail = leave
    module.fixture = lambda *a, **k: a[0] if a and callable(a[0]) else lambda f: f
    module.importorskip = lambda *_, **__: MagicMock()
    module.param = lambda *values, **_: values
    module.UsageError = module.Config = object
    return module


def _tensorflow() -> Any:
    """TensorFlow as far as the reference of non_maximum_suppression needs it."""
    import numpy as np

    def suppressed(boxes: Any, scores: Any, max_output_size: int, iou_threshold: float, score_threshold: float) -> Any:
        kept: list[int] = []
        for i in np.argsort(-scores, kind="stable"):
            if scores[i] > score_threshold and len(kept) < max_output_size:
                low, high = np.maximum(boxes[kept, :2], boxes[i, :2]), np.minimum(boxes[kept, 2:], boxes[i, 2:])
                shared = np.prod(np.maximum(high - low, 0), axis=1)
                sizes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
                if not np.any(shared > iou_threshold * (sizes[kept] + sizes[i] - shared)):
                    kept.append(int(i))
        found = MagicMock()
        found.numpy = lambda: np.asarray(kept, np.int32)
        return found

    module = MagicMock()
    module.image.non_max_suppression = suppressed
    return module


def prepare(job: Any) -> None:
    job.step("import")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    os.environ |= {
        "RUN_BACKWARD_COMPATIBILITY": "1", "INCLUDE_MIL_FP32_UNIT_TESTS": "1", "PYMIL_TEST_TARGETS": "mlprogram",
    }  # fmt: skip
    import coremltools  # noqa: F401

    sys.modules["pytest"] = _pytest()
    for absent in ("PIL", "scipy", "torch"):
        sys.modules.setdefault(absent, MagicMock())
    # names that the tests import only where the library is there: found here after the globals of their modules
    builtins.torch = MagicMock()  # type: ignore[attr-defined]
    builtins.tf = _tensorflow()  # type: ignore[attr-defined]
    from coremltools.converters.mil import testing_utils

    testing_utils.macos_compatible_with_deployment_target = lambda _: True


class Collector:
    def __init__(self, decoder: Any, weights: Any) -> None:
        self.dump = decoder._Dump(weights)
        self.cases: list[dict[str, Any]] = []
        self.left_out: collections.Counter[str] = collections.Counter()
        self.test = ""

    def run_compare_builder(
        self, build: Any, input_placeholders: Any, input_values: Any = None, expected_output_types: Any = None,
        expected_outputs: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Stands in for coremltools' function of that name."""
        import numpy as np
        from coremltools.converters.mil.mil import Function

        if expected_outputs is None or options.get("frontend_only") or options.get("pred_iters"):
            raise Skipped
        expected = expected_outputs if isinstance(expected_outputs, list) else [expected_outputs]
        if not all(isinstance(e, (np.ndarray, np.generic, int, float)) for e in expected):
            self.left_out["expected outputs that need PyTorch or SciPy"] += 1
            raise Skipped
        with Function(input_placeholders, opset_version=options["backend"].opset_version) as f:
            made = build(**f.inputs)
            f.set_outputs(list(made) if isinstance(made, (tuple, list)) else [made])
        program = self.dump.program(f)
        program["target"] = options["backend"].opset_version.name
        self.cases.append(
            {
                "test": self.test,
                "program": program,
                "inputs": {k: self.number(np.asarray(v)) for k, v in input_values.items()},
                "expected": [self.number(np.asarray(e)) for e in expected],
                "rtol": options.get("rtol", 1e-5),
                "atol": options.get("atol", 1e-4),
            }
        )
        raise Skipped  # what follows in a test looks at the package

    def number(self, array: Any) -> Any:
        """Arrays of any type by those a program file has."""
        import numpy as np

        wide = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}[array.dtype.kind]
        name = {"f": "fp32", "i": "int32", "u": "int32", "b": "bool"}[array.dtype.kind]
        return self.dump.number(array.astype(wide), name)["a"]


def run(job: Any) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("decoder_worker", job.request["decoder"])
    assert spec is not None
    assert spec.loader is not None
    decoder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decoder)
    job.step("collect")
    with (job.folder / "weights.bin").open("wb") as weights:
        collector = Collector(decoder, weights)
        for name, function in _tests(collector):
            collector.test = name
            _collect(collector, function, job.request["limit"])
    (job.folder / "cases.json").write_text(json.dumps(collector.cases), encoding="utf-8")
    return {"cases": "cases.json", "weights": "weights.bin", "left_out": dict(collector.left_out)}


def _tests(collector: Collector) -> Any:
    """(name, bound test function) of every test module of the operations."""
    import coremltools.converters.mil.mil.ops.tests as root
    from coremltools.converters.mil.mil.ops.tests import testing_utils

    testing_utils.run_compare_builder = collector.run_compare_builder
    for folder in ("iOS14", "iOS15", "iOS16", "iOS17", "iOS18"):
        for module in pkgutil.iter_modules([str(Path(root.__path__[0]) / folder)]):
            if not module.name.startswith("test_") or module.name in (
                "test_control_flow",
                "test_random",
                "test_states",
            ):
                continue
            try:
                loaded = importlib.import_module(f"{root.__name__}.{folder}.{module.name}")
            except Exception as e:  # noqa: BLE001  what a module without its libraries raises
                collector.left_out[f"{folder}/{module.name} cannot be imported: {type(e).__name__}: {e}"] += 1
                continue
            for cls in [c for n, c in vars(loaded).items() if isinstance(c, type) and n.startswith("Test")]:
                for method in sorted(n for n in dir(cls) if n.startswith("test_")):
                    yield f"{folder}/{module.name}::{cls.__name__}::{method}", getattr(cls(), method)


def _collect(collector: Collector, function: Any, limit: int) -> None:
    import numpy as np

    inner = getattr(function, "__func__", function)
    if getattr(inner, "left_out", False):
        return
    groups = getattr(inner, "replayed", [])
    combinations = [
        c for c in itertools.product(*(values for _, values in groups)) if _wanted(_arguments(groups, c))
    ]  # fmt: skip
    if not combinations:
        return
    for i in np.linspace(0, len(combinations) - 1, min(limit, len(combinations))).astype(int):
        np.random.seed(1984)  # noqa: NPY002  what the tests draw from
        try:
            function(**_arguments(groups, combinations[i]))
        except Skipped:
            continue
        except Exception as e:  # noqa: BLE001  a test of something else, or of what only a Mac has
            collector.left_out[f"{type(e).__name__}: {str(e)[:80]}"] += 1


def _arguments(groups: Any, combination: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (names, _), values in zip(groups, combination, strict=True):
        found.update(zip(names, values if len(names) > 1 else [values], strict=True))
    return found


def _wanted(arguments: dict[str, Any]) -> bool:
    backend = arguments.get("backend")
    return backend is not None and getattr(backend, "precision", "fp32") == "fp32"
