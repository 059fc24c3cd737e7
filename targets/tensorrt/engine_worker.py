"""Worker script: build an engine with the TensorRT that is installed, look into it, and run it on the GPU.

Runs in a Python that has TensorRT 8.5 to 11, or TensorRT-RTX: Python 3.8, standard library and that package only. CUDA is
used through the driver's own library, libcuda, which is there wherever a GPU can be used.

Request (file names relative to the folder)
    module        "tensorrt" or "tensorrt_rtx_bindings"
    build         None, or
        model         the ONNX file; its external data lies beside it
        strong        True: the file says in which types to compute (TensorRT 10.12 and later)
        flags         builder flags: ["FP16", "INT8"]
        profiles      list of {input: [min, opt, max]}; needed where inputs have dynamic dimensions
        workspace     bytes, or None
        dla           None, or {"core": 0, "fallback": true}
    plan          the file to write (after `build`) or to read; None: only say what is here
    timing_cache  the file to read, where there is one, and to write after `build`; None: no cache
    layers        the file to write the engine's layers to, as TensorRT's inspector tells them; None: do not
    samples       list of {input: {file, dtype, shape}}, raw values in C order
    runs          time the engine so many times on the first sample
Answer
    version       of TensorRT; device: {name, capability, driver}, or {reason} where there is none
    refusals      [{code, index, node, op, message}] where the ONNX parser said no; nothing else then
    reason        why there is no engine; nothing else then
    warnings      TensorRT's own
    bytes, seconds of the build; layers: whether they were written
    outputs       per sample {output: {file, dtype, shape}}
    times         seconds of each timed run
"""

from __future__ import annotations

import array
import ctypes
import importlib
import os
import time
from typing import Any

PROTOCOL = 1

_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool", "UINT8": "uint8",
}  # fmt: skip
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int32": 4, "int64": 8, "bool": 1, "uint8": 1}
_NARROWER = {("int64", "int32"): ("q", "i"), ("float64", "float32"): ("d", "f")}
"""What TensorRT 8 makes of types it does not have, and how `array` calls both."""


class Refused(Exception):
    """Something TensorRT or CUDA said no to. The text is for people."""

    details: dict[str, Any] = {}  # noqa: RUF012 - the harness then prints no traceback


def run(job: Any) -> dict[str, Any]:
    request = job.request
    job.step(f"import {request['module']}")
    trt = importlib.import_module(request["module"])
    answer: dict[str, Any] = {"version": trt.__version__}
    job.step("device")
    try:
        cuda = _Cuda()
    except Refused as e:
        return {**answer, "device": {"reason": str(e)}, "reason": str(e)}
    answer["device"] = cuda.device
    if request["plan"] is None:
        return answer
    log = _log(trt)
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(log, "")
    plan = job.folder / request["plan"]
    if request["build"] is not None:
        answer.update(_build(job, trt, log, request, plan))
        if "bytes" not in answer:
            return answer
    if request["layers"] is not None or request["samples"]:
        job.step("load")
        answer.update(_use(job, trt, log, cuda, request, plan))
    answer["warnings"] = log.take("WARNING")
    return answer


def _log(trt: Any) -> Any:
    """A logger that keeps warnings and errors, and prints all but the chatter."""

    class Log(trt.ILogger):  # type: ignore[misc] # a class of the SDK, which has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            name = severity.name
            if name != "VERBOSE":
                print(f"[{name}] {text}")
            if name not in ("VERBOSE", "INFO"):
                self.lines.append((name, text))

        def take(self, *severities: str) -> list[str]:
            found = dict.fromkeys(" ".join(t.split()) for s, t in self.lines if s in severities)
            self.lines = [line for line in self.lines if line[0] not in severities]
            return list(found)

        def errors(self) -> str:
            return "; ".join(self.take("ERROR", "INTERNAL_ERROR"))

    return Log()


def _version(trt: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in trt.__version__.split(".")[:3] if n.isdigit())


# ---- build -------------------------------------------------------------------------------------------------------------


def _build(job: Any, trt: Any, log: Any, request: dict[str, Any], plan: Any) -> dict[str, Any]:
    wanted = request["build"]
    job.step("parse")
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt, wanted["strong"]))
    parser = trt.OnnxParser(network, log)
    model = job.folder / wanted["model"]
    here = os.getcwd()
    os.chdir(str(model.parent))
    try:
        ok = parser.parse_from_file(model.name)
    finally:
        os.chdir(here)
    if not ok:
        refusals = [_refusal(parser.get_error(i)) for i in range(parser.num_errors)]
        nothing = {"code": "", "index": -1, "node": "", "op": "", "message": log.errors() or "no reason given"}
        return {"refusals": refusals or [nothing], "warnings": log.take("WARNING")}
    config = builder.create_builder_config()
    cache = _configure(trt, job, builder, network, config, request)
    if isinstance(cache, str):
        return {"reason": cache}
    job.step("build")
    start = time.monotonic()
    serialized = builder.build_serialized_network(network, config)
    seconds = round(time.monotonic() - start, 3)
    if serialized is None:
        return {"reason": log.errors() or "TensorRT gave no reason", "warnings": log.take("WARNING")}
    data = memoryview(serialized)
    plan.write_bytes(data)
    if cache is not None:
        kept = config.get_timing_cache()
        (job.folder / request["timing_cache"]).write_bytes(memoryview(kept.serialize()))
    return {"bytes": data.nbytes, "seconds": seconds}


def _network_flags(trt: Any, strong: bool) -> int:
    """8 needs EXPLICIT_BATCH (10 always has it); 10 must be told of strong typing (11 knows no other)."""
    known = trt.NetworkDefinitionCreationFlag.__members__
    major = _version(trt)[0]
    flags = 0
    if major < 10 and "EXPLICIT_BATCH" in known:
        flags |= 1 << int(known["EXPLICIT_BATCH"])
    if strong and major == 10:
        flags |= 1 << int(known["STRONGLY_TYPED"])
    return flags


def _configure(trt: Any, job: Any, builder: Any, network: Any, config: Any, request: dict[str, Any]) -> Any:
    """Set what is asked for. Returns the timing cache, None, or in words what cannot be."""
    wanted = request["build"]
    for name in wanted["flags"]:
        if name not in trt.BuilderFlag.__members__:
            return f"TensorRT {trt.__version__} has no builder flag {name}: it computes in the types of the ONNX file"
        config.set_flag(trt.BuilderFlag.__members__[name])
    if wanted["workspace"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wanted["workspace"])
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if wanted["dla"] is not None:
        if not getattr(builder, "num_DLA_cores", 0):
            return "this machine has no DLA"
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = wanted["dla"]["core"]
        if wanted["dla"]["fallback"]:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    problem = _profiles(builder, config, network, wanted["profiles"])
    if problem is not None:
        return problem
    if request["timing_cache"] is None:
        return None
    path = job.folder / request["timing_cache"]
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, False):  # of another GPU or TensorRT: measure anew
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _profiles(builder: Any, config: Any, network: Any, profiles: list[dict[str, Any]]) -> str | None:
    """Give the shapes of dynamic inputs to the builder. Returns what is wrong with them."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = [t for t in inputs if any(d < 0 for d in t.shape)]
    if dynamic and not profiles:
        names = ", ".join(t.name for t in dynamic)
        return f"inputs with dynamic dimensions need minimum, optimum and maximum shapes: {names}"
    for shapes in profiles if dynamic else []:
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            if tensor.name not in shapes:
                return f"no shapes are given for input {tensor.name}, which has dynamic dimensions"
            profile.set_shape(tensor.name, *(tuple(s) for s in shapes[tensor.name]))
        if config.add_optimization_profile(profile) < 0:
            return f"the shapes are no valid profile: {shapes}"
    return None


def _refusal(e: Any) -> dict[str, Any]:
    """8.5's errors have no name and no operator of the node."""
    name, op = (getattr(e, a, None) for a in ("node_name", "node_operator"))
    return {
        "code": e.code().name,
        "index": e.node(),
        "node": name() if name else "",
        "op": op() if op else "",
        "message": " ".join(e.desc().split()),
    }


# ---- the engine --------------------------------------------------------------------------------------------------------


def _use(job: Any, trt: Any, log: Any, cuda: Any, request: dict[str, Any], plan: Any) -> dict[str, Any]:
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        return {"reason": f"the engine cannot be loaded: {log.errors() or 'TensorRT gave no reason'}"}
    answer: dict[str, Any] = {"layers": False}
    if request["layers"] is not None:
        job.step("layers")
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        (job.folder / request["layers"]).write_text(text, encoding="utf-8")
        answer["layers"] = True
    if not request["samples"]:
        return answer
    job.step("run")
    executed = _Execution(trt, engine, cuda, log)
    (job.folder / "outputs").mkdir(exist_ok=True)
    outputs = []
    for i, sample in enumerate(request["samples"]):
        executed.load(job.folder, sample)
        executed.execute()
        outputs.append(executed.fetch(job.folder, i))
    times = []
    if request["runs"]:
        executed.load(job.folder, request["samples"][0])
        for _ in range(3):
            executed.execute()
    for _ in range(request["runs"]):
        start = time.perf_counter()
        executed.execute()
        times.append(time.perf_counter() - start)
    return {**answer, "outputs": outputs, "times": times}


class _Execution:
    """One context of an engine, its tensors addressed by name (TensorRT 8.5 and later)."""

    def __init__(self, trt: Any, engine: Any, cuda: Any, log: Any) -> None:
        self.trt, self.engine, self.cuda, self.log = trt, engine, cuda, log
        self.context = engine.create_execution_context()
        if self.context is None:
            raise Refused(f"no execution context: {log.errors() or 'the GPU has too little memory'}")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.outputs = [n for n in names if n not in self.inputs]
        self._room: dict[str, tuple[int, int]] = {}
        self._open: dict[str, Any] = {}  # outputs whose shape only the run decides

    def dtype(self, name: str) -> str:
        kind = self.engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise Refused(f"tensor {name} of the engine is of type {kind}, which has no place in a file of samples")
        return _DTYPES[kind]

    def load(self, folder: Any, sample: dict[str, Any]) -> None:
        missing = [n for n in self.inputs if n not in sample]
        if missing:
            raise Refused(f"the engine has an input {missing[0]}, the sample has not")
        for name in self.inputs:
            given = sample[name]
            data = _as_type((folder / given["file"]).read_bytes(), given["dtype"], self.dtype(name), name)
            if not self.context.set_input_shape(name, tuple(given["shape"])):
                why = self.log.errors() or "it was built for others"
                raise Refused(f"the engine does not take shape {given['shape']} at input {name}: {why}")
            address = self.memory(name, len(data))
            self.cuda.upload(address, data)
            self.bind(name, address)
        for name in self.outputs:
            shape = tuple(self.context.get_tensor_shape(name))
            if any(d < 0 for d in shape):
                if name not in self._open:
                    self._open[name] = _allocator(self.trt, self.cuda)
                self.context.set_output_allocator(name, self._open[name])
            else:
                self.bind(name, self.memory(name, _count(shape) * _SIZES[self.dtype(name)]))

    def memory(self, name: str, size: int) -> int:
        address, have = self._room.get(name, (0, 0))
        if not address or size > have:
            if address:
                self.cuda.free(address)
            address = self.cuda.allocate(size)
            self._room[name] = address, size
        return address

    def bind(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            raise Refused(f"TensorRT does not take the memory of {name}: {self.log.errors()}")

    def execute(self) -> None:
        if not self.context.execute_async_v3(self.cuda.stream):
            raise Refused(f"the engine did not run: {self.log.errors() or 'TensorRT gave no reason'}")
        self.cuda.synchronize()

    def fetch(self, folder: Any, number: int) -> dict[str, Any]:
        out = {}
        for i, name in enumerate(self.outputs):
            if name in self._open:
                shape, address = self._open[name].shape, self._open[name].address
            else:
                shape, address = tuple(self.context.get_tensor_shape(name)), self._room[name][0]
            dtype = self.dtype(name)
            data = self.cuda.download(address, _count(shape) * _SIZES[dtype])
            file = f"outputs/{number}-{i}.bin"
            (folder / file).write_bytes(data)
            out[name] = {"file": file, "dtype": dtype, "shape": list(shape)}
        return out


def _allocator(trt: Any, cuda: Any) -> Any:
    """Memory for an output that TensorRT sizes while it runs."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc] # a class of the SDK, which has no types
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.address, self.size, self.shape = 0, 0, ()

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            if not self.address or size > self.size:
                if self.address:
                    cuda.free(self.address)
                self.address, self.size = cuda.allocate(size), size
            return int(self.address)

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()


def _as_type(data: bytes, given: str, wanted: str, name: str) -> bytes:
    """Values of the ONNX model's type as the engine takes them; never other values."""
    if given == wanted:
        return data
    codes = _NARROWER.get((given, wanted))
    if codes is None:
        raise Refused(f"input {name} is {given}, the engine takes {wanted}")
    values = array.array(codes[0], data)
    try:
        return array.array(codes[1], values).tobytes()
    except OverflowError:
        raise Refused(f"input {name} has {given} values that {wanted} does not hold") from None


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


# ---- CUDA --------------------------------------------------------------------------------------------------------------


class _Cuda:
    """The first GPU, through the driver API; TensorRT uses the same (primary) context. `Refused` where there is none."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise Refused("there is no NVIDIA driver on this machine (libcuda.so.1)") from None
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream: int = stream.value or 0
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, 256, device)
        driver = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(driver))
        major, minor = (self._attribute(n, device) for n in (75, 76))  # compute capability, <cuda.h>
        self.device = {
            "name": name.value.decode("utf-8", "replace"),
            "capability": f"sm{major}{minor}",
            "driver": f"{driver.value // 1000}.{driver.value % 1000 // 10}",
        }

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._lib, name)(*args)
        if status:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorString(status, ctypes.byref(text))
            raise Refused(f"{name}: CUDA error {status}, {(text.value or b'unknown').decode()}")

    def _attribute(self, number: int, device: Any) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    def allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, data: bytes) -> None:
        if data:
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), data, ctypes.c_size_t(len(data)))

    def download(self, address: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(max(1, size))
        if size:
            self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(address), ctypes.c_size_t(size))
        return data.raw[:size]

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))
