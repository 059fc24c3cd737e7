#!/usr/bin/env python3
"""Run the engine of this bundle on the samples of this bundle, and compare it with what was computed where it was compiled.

Needs Python 3.8 or later, numpy, and the Python package of the TensorRT that built the engine (JetPack: python3-libnvinfer).
CUDA is used through libcudart itself, so nothing else has to be installed.

Exit codes: 0 every output is as good as promised; 1 one is not; 2 wrong usage, or a file is missing; 3 TensorRT or CUDA is
not there, or the engine cannot be loaded; 4 the engine's inputs or outputs are not the bundle's.
"""

# edgec puts this file into bundles as `verify.py`: Python 3.8, nothing of edgec.

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import glob
import json
import math
import os
import statistics
import sys
import time
from typing import Any, NoReturn

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))

SLACK_DB = 3.0
"""The engine may be this much further from the float model than the bundle's model.onnx was in ONNX Runtime."""

ENOUGH_DB = 35.0
"""An output this near to the float model is right whatever ONNX Runtime reached: float16 rounds to about that."""

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""tensorrt.DataType -> numpy; trt.nptype() of TensorRT 8.5 fails with numpy 1.24 and later."""


def stop(code: int, message: str, hint: str = "") -> NoReturn:
    print(f"error: {message}" + (f"\n  hint: {hint}" if hint else ""), file=sys.stderr)
    sys.exit(code)


# ---- CUDA --------------------------------------------------------------------------------------------------------------


class Cuda:
    """The few calls of the CUDA runtime that are needed, each checked."""

    def __init__(self) -> None:
        names = [os.environ.get("LIBCUDART", ""), ctypes.util.find_library("cudart") or ""]
        names += ["libcudart.so"] + [f"libcudart.so.{v}" for v in ("13", "12", "11.0", "10.2")]
        names += sorted(glob.glob("/usr/local/cuda*/lib64/libcudart.so*"))
        names += sorted(glob.glob("/usr/local/cuda*/targets/*/lib/libcudart.so*"))
        for name in filter(None, names):
            try:
                self._lib = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            stop(3, "the CUDA runtime is not there (libcudart.so)", "LIBCUDART=/path/to/libcudart.so names it")
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        for name, types in (
            ("cudaMalloc", [ctypes.POINTER(pointer), size]),
            ("cudaFree", [pointer]),
            ("cudaMemcpy", [pointer, pointer, size, ctypes.c_int]),
            ("cudaStreamCreate", [ctypes.POINTER(pointer)]),
            ("cudaStreamSynchronize", [pointer]),
        ):
            getattr(self._lib, name).argtypes = types
        self._lib.cudaGetErrorString.restype = ctypes.c_char_p
        stream = pointer()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        self.stream: int = stream.value or 0

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._lib, name)(*args)
        if status:
            stop(3, f"{name}: {self._lib.cudaGetErrorString(status).decode()}")

    def allocate(self, nbytes: int) -> int:
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), max(1, nbytes))
        return address.value or 0

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def upload(self, address: int, array: Any) -> None:
        self._call("cudaMemcpy", address, array.ctypes.data, array.nbytes, 1)

    def download(self, array: Any, address: int) -> None:
        self._call("cudaMemcpy", array.ctypes.data, address, array.nbytes, 2)

    def synchronise(self) -> None:
        self._call("cudaStreamSynchronize", self.stream)


# ---- the engine --------------------------------------------------------------------------------------------------------


def output_allocator(trt: Any, cuda: Cuda) -> Any:
    """Memory for an output whose shape only the run decides (NonZero, NonMaxSuppression)."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.address, self.size = 0, 0
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            if size > self.size or not self.address:
                if self.address:
                    cuda.free(self.address)
                self.address, self.size = cuda.allocate(size), size
            return self.address

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()


class Engine:
    """A plan, ready to run. Tensors are addressed by name: TensorRT 8.5 has that interface, as 10 and 11 do."""

    def __init__(self, path: str) -> None:
        try:
            import tensorrt
        except ImportError as e:
            stop(3, f"Python cannot import tensorrt: {e}", "on JetPack: sudo apt-get install python3-libnvinfer")
        self.trt: Any = tensorrt
        self.cuda = Cuda()
        logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        tensorrt.init_libnvinfer_plugins(logger, "")
        try:
            with open(path, "rb") as f:
                plan = f.read()
        except OSError as e:
            stop(2, f"cannot read the engine: {e}", "sh build_engine.sh makes it")
        self.runtime = tensorrt.Runtime(logger)
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            why = "it was built by another TensorRT or for another GPU, or it is damaged: sh build_engine.sh --force"
            stop(3, f"TensorRT {tensorrt.__version__} cannot load {path}", why)
        self.context = self.engine.create_execution_context()
        if self.context is None:
            stop(3, "no room for an execution context", "stop other programs that use the GPU")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        read = {n for n in names if self.engine.get_tensor_mode(n) == tensorrt.TensorIOMode.INPUT}
        self.inputs = [n for n in names if n in read]
        self.outputs = [n for n in names if n not in read]
        self._memory: dict[str, tuple[int, int]] = {}
        self._allocators: dict[str, Any] = {}

    def dtype(self, name: str) -> Any:
        kind = self.engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            stop(4, f"tensor {name!r} is of type {kind}, which numpy does not have")
        return np.dtype(DTYPES[kind])

    def _room(self, name: str, nbytes: int) -> int:
        address, have = self._memory.get(name, (0, 0))
        if nbytes > have or not address:
            if address:
                self.cuda.free(address)
            address, have = self.cuda.allocate(nbytes), nbytes
            self._memory[name] = address, have
        return address

    def load(self, feeds: dict[str, Any]) -> None:
        """Copy the inputs, and make room for the outputs."""
        for name in self.inputs:
            given = feeds[name]
            array = np.ascontiguousarray(given, dtype=self.dtype(name))
            if array.dtype != given.dtype and not np.array_equal(array.astype(given.dtype), given):
                stop(4, f"input {name!r} is {given.dtype}, the engine takes {array.dtype}, and the values change")
            if not self.context.set_input_shape(name, array.shape):
                text = "x".join(map(str, array.shape))
                stop(4, f"the engine does not take {text} at input {name!r}", "was it built with other shapes?")
            address = self._room(name, array.nbytes)
            self.cuda.upload(address, array)
            self._bind(name, address)
        for name in self.outputs:
            shape = tuple(self.context.get_tensor_shape(name))
            if any(d < 0 for d in shape):
                allocator = self._allocators.setdefault(name, output_allocator(self.trt, self.cuda))
                self.context.set_output_allocator(name, allocator)
            else:
                nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype(name).itemsize
                self._bind(name, self._room(name, nbytes))

    def _bind(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            stop(3, f"TensorRT refuses the memory of {name!r}")

    def execute(self) -> None:
        """One run of what was loaded."""
        if not self.context.execute_async_v3(self.cuda.stream):
            stop(3, "TensorRT could not run the engine")
        self.cuda.synchronise()

    def fetch(self) -> dict[str, Any]:
        out = {}
        for name in self.outputs:
            if name in self._allocators:
                allocator = self._allocators[name]
                shape, address = allocator.shape, allocator.address
            else:
                shape, address = tuple(self.context.get_tensor_shape(name)), self._memory[name][0]
            out[name] = np.empty(shape, dtype=self.dtype(name))
            if out[name].size:
                self.cuda.download(out[name], address)
        return out


# ---- comparing ---------------------------------------------------------------------------------------------------------


class Likeness:
    """How near one output is to another, over all samples. `sqnr`: dB; `equal`: the share of equal elements, for integers."""

    def __init__(self) -> None:
        self.signal = self.noise = self.product = self.other = 0.0
        self.worst, self.count, self.same = 0.0, 0, 0
        self.finite, self.fits = True, True

    def add(self, wanted: Any, got: Any) -> None:
        if wanted.shape != got.shape:
            self.fits = False
            return
        a, b = wanted.astype(np.float64).ravel(), got.astype(np.float64).ravel()
        self.count += a.size
        self.same += int(np.count_nonzero((a == b) | (np.isnan(a) & np.isnan(b))))
        good = np.isfinite(a)
        self.finite = self.finite and bool(np.isfinite(b[good]).all())
        good &= np.isfinite(b)
        a, b = a[good], b[good]
        self.signal += float(a @ a)
        self.other += float(b @ b)
        self.product += float(a @ b)
        self.noise += float((a - b) @ (a - b))
        if a.size:
            self.worst = max(self.worst, float(np.abs(a - b).max()))

    @property
    def sqnr(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def cosine(self) -> float:
        scale = math.sqrt(self.signal * self.other)
        return self.product / scale if scale else float(self.noise == 0)

    @property
    def equal(self) -> float:
        return self.same / self.count if self.count else 1.0


class Output:
    """One output: the engine against the float model, against model.onnx in ONNX Runtime, and that against the float model."""

    def __init__(self, name: str, integer: bool) -> None:
        self.name, self.integer = name, integer
        self.of_float, self.of_model, self.reached = Likeness(), Likeness(), Likeness()

    def wanted(self, min_sqnr: float | None) -> float:
        """dB against the float model, or the share of equal integers, that is enough."""
        if self.integer:
            return max(0.0, self.reached.equal - 0.01)
        return min_sqnr if min_sqnr is not None else min(self.reached.sqnr - SLACK_DB, ENOUGH_DB)

    def good(self, min_sqnr: float | None) -> bool:
        if not (self.of_float.fits and self.of_float.finite):
            return False
        return (self.of_float.equal if self.integer else self.of_float.sqnr) >= self.wanted(min_sqnr)

    def line(self, min_sqnr: float | None) -> str:
        verdict = "ok  " if self.good(min_sqnr) else "FAIL"
        if not self.of_float.fits:
            return f"{verdict} {self.name}: another shape than expected"
        if self.integer:
            share = f"{self.of_float.equal:.2%} equal to the float model ({self.wanted(min_sqnr):.2%} wanted)"
            return f"{verdict} {self.name}: {share}"
        far = "" if self.of_float.finite else ", NaN or infinite where the float model is not"
        near = f"{db(self.of_float.sqnr)} dB ({db(self.wanted(min_sqnr))} wanted), cosine {self.of_float.cosine:.6f}"
        worst = f"largest error {self.of_float.worst:.3g}"
        model = f"{db(self.of_model.sqnr)} dB against model.onnx"
        return f"{verdict} {self.name}: {near}, {worst} against the float model{far}; {model}"

    def to_json(self, min_sqnr: float | None) -> dict[str, Any]:
        return {
            "name": self.name,
            "good": self.good(min_sqnr),
            "sqnr_db": plain(self.of_float.sqnr),
            "cosine": self.of_float.cosine,
            "max_error": self.of_float.worst,
            "equal": self.of_float.equal,
            "wanted": plain(self.wanted(min_sqnr)),
            "sqnr_db_against_model_onnx": plain(self.of_model.sqnr),
        }


def db(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def plain(value: float) -> Any:
    return round(value, 3) if math.isfinite(value) else db(value)


# ---- the command -------------------------------------------------------------------------------------------------------


class Samples:
    """samples.npz: `inputs`, `outputs`, `graph`: names; `in<i>.<k>`, `float<i>.<k>`, `model<i>.<k>`: arrays of sample i."""

    def __init__(self, path: str) -> None:
        try:
            self._data = np.load(path, allow_pickle=False)
            self.inputs: list[str] = [str(n) for n in self._data["inputs"]]
            self.outputs: list[str] = [str(n) for n in self._data["outputs"]]
            self.count = int(self._data["count"])
        except (OSError, KeyError, ValueError) as e:
            stop(2, f"cannot read the samples: {e}", "copy the whole folder of the bundle")

    def get(self, kind: str, names: list[str], i: int) -> dict[str, Any]:
        return {n: self._data[f"{kind}{i}.{k}"] for k, n in enumerate(names)}


def compare(engine: Engine, samples: Samples) -> list[Output]:
    outputs: dict[str, Output] = {}
    for i in range(samples.count):
        engine.load(samples.get("in", samples.inputs, i))
        engine.execute()
        got = engine.fetch()
        floats, models = (samples.get(kind, samples.outputs, i) for kind in ("float", "model"))
        for name in samples.outputs:
            out = outputs.setdefault(name, Output(name, floats[name].dtype.kind in "iub"))
            out.of_float.add(floats[name], got[name])
            out.of_model.add(models[name], got[name])
            out.reached.add(floats[name], models[name])
    return list(outputs.values())


def latency(engine: Engine, runs: int) -> dict[str, float]:
    """Milliseconds from the start of a run to its end, on the inputs loaded last; copies are not counted."""
    for _ in range(min(10, runs)):
        engine.execute()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        engine.execute()
        taken.append(1000 * (time.perf_counter() - start))
    taken.sort()
    return {
        "median_ms": statistics.median(taken),
        "p99_ms": taken[min(runs - 1, int(runs * 0.99))],
        "runs": float(runs),
    }


def main(argv: list[str]) -> int:
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="verify.py", description=about)
    parser.add_argument(
        "--engine", default=os.path.join(HERE, "model.plan"), help="the plan (model.plan beside this file)"
    )
    parser.add_argument("--samples", default=os.path.join(HERE, "samples.npz"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--min-sqnr", type=float, metavar="DB", help="what every output must reach against the float model"
    )
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="runs to time (100); 0 times nothing")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    args = parser.parse_args(argv)
    samples = Samples(args.samples)
    engine = Engine(args.engine)
    for what, wanted, found in (("input", samples.inputs, engine.inputs), ("output", samples.outputs, engine.outputs)):
        missing = sorted(set(wanted) ^ set(found))
        if missing:
            text = f"the bundle's {what}s are {', '.join(wanted)}, the engine's are {', '.join(found)}"
            stop(4, text, "is this the engine of this bundle?")
    outputs = compare(engine, samples)
    print(f"TensorRT {engine.trt.__version__}, {samples.count} samples")
    for out in outputs:
        print(out.line(args.min_sqnr))
    timing = latency(engine, args.runs) if args.runs > 0 else {}
    if timing:
        about = f"99th percentile {timing['p99_ms']:.3f} ms of {args.runs} runs, without copies"
        print(f"latency: median {timing['median_ms']:.3f} ms, {about}")
    good = all(out.good(args.min_sqnr) for out in outputs)
    if args.json:
        text = json.dumps(
            {
                "tensorrt": engine.trt.__version__,
                "samples": samples.count,
                "good": good,
                "outputs": [out.to_json(args.min_sqnr) for out in outputs],
                "latency": timing,
            },
            indent=2,
        )
        with open(args.json, "w") as f:
            f.write(text + "\n")
    if not good:
        print(
            "the engine does not compute what was compiled; `trtexec --verbose` and layers.json show what TensorRT made of it"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
