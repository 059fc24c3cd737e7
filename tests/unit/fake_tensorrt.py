"""A `tensorrt` that takes each version's interface, records what is called, and computes y = x + x on a GPU made of this
process's memory. A test copies this file to `tensorrt.py` or `tensorrt_rtx_bindings.py` (see tensorrt_machines.py).

FAKE_VERSION is the version; FAKE_CALLS where calls are written, a line each; FAKE_MODE one of
    ok, no-gpu, refuse (the parser does), no-engine (the builder gives none), crash (the builder does), crash-on-import,
    stale-cache (the timing cache is of another GPU), unknown-shape (the output's shape is known after the run only)
What each version has: the bindings of 8.5.2, 10.3, 10.16 and 11.0, and TensorRT-RTX 1.7.1.
"""

import ctypes
import enum
import json
import os
import signal

__version__ = os.environ.get("FAKE_VERSION", "10.3.0")
MODE = os.environ.get("FAKE_MODE", "ok")
RTX = __name__ == "tensorrt_rtx_bindings"
MAJOR = 11 if RTX else int(__version__.split(".")[0])


def record(call, *arguments):
    if "FAKE_CALLS" in os.environ:
        with open(os.environ["FAKE_CALLS"], "a") as f:
            f.write(json.dumps([call, *arguments]) + "\n")


if MODE == "crash-on-import":
    os.kill(os.getpid(), signal.SIGSEGV)


# ---- the GPU -----------------------------------------------------------------------------------------------------------

MEMORY = {}


class Libcuda:
    """The driver API on this process's own memory."""

    def cuInit(self, flags):
        return 100 if MODE == "no-gpu" else 0

    def cuGetErrorString(self, status, text):
        text._obj.value = b"no CUDA-capable device is detected"
        return 0

    def cuDeviceGet(self, device, number):
        return 0

    cuCtxSetCurrent = cuStreamSynchronize = lambda self, it: 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        return 0

    def cuStreamCreate(self, stream, flags):
        stream._obj.value = 7
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = b"Fake RTX 4090"
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = 12080
        return 0

    def cuDeviceGetAttribute(self, value, number, device):
        value._obj.value = {75: 8, 76: 9}[number]
        return 0

    def cuMemAlloc_v2(self, address, size):
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        MEMORY[address._obj.value] = buffer
        return 0

    def cuMemFree_v2(self, address):
        del MEMORY[address.value]
        return 0

    def cuMemcpyHtoD_v2(self, address, data, size):
        ctypes.memmove(address.value, data, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, data, address, size):
        ctypes.memmove(data, address.value, size.value)
        return 0


if __name__ in ("tensorrt", "tensorrt_rtx_bindings"):
    _load = ctypes.CDLL
    ctypes.CDLL = lambda name, *a, **k: Libcuda() if name == "libcuda.so.1" else _load(name, *a, **k)


# ---- names -------------------------------------------------------------------------------------------------------------


def names(title, *members):
    return enum.IntEnum(title, {m: i for i, m in enumerate(members)})


NetworkDefinitionCreationFlag = names(
    "NetworkDefinitionCreationFlag",
    *{8: ["EXPLICIT_BATCH", "EXPLICIT_PRECISION"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"]}.get(
        MAJOR, ["STRONGLY_TYPED"]
    ),
)
BuilderFlag = names("BuilderFlag", "TF32", "GPU_FALLBACK", *(["FP16", "INT8"] if MAJOR < 11 else []))
MemoryPoolType = names("MemoryPoolType", "WORKSPACE")
ProfilingVerbosity = names("ProfilingVerbosity", "LAYER_NAMES_ONLY", "DETAILED")
LayerInformationFormat = names("LayerInformationFormat", "ONELINE", "JSON")
TensorIOMode = names("TensorIOMode", "NONE", "INPUT", "OUTPUT")
DataType = names("DataType", "FLOAT", "HALF", "INT8", "INT32", "BOOL", "INT64", "BF16", "FP8")
DeviceType = names("DeviceType", "GPU", "DLA")
ErrorCode = names("ErrorCode", "SUCCESS", "INVALID_NODE")
Severity = names("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
if RTX:
    ComputeCapability = names("ComputeCapability", "NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121")


class ILogger:
    pass


class IOutputAllocator:
    pass


if not RTX:

    def init_libnvinfer_plugins(log, namespace):
        record("init_libnvinfer_plugins")


# ---- building ----------------------------------------------------------------------------------------------------------


class Builder:
    num_DLA_cores = 2 if __version__ == "10.3.0" else 0

    def __init__(self, log):
        self.log = log

    def create_network(self, flags):
        if flags >> len(NetworkDefinitionCreationFlag):
            raise ValueError("unknown flag")
        record("create_network", [m.name for m in NetworkDefinitionCreationFlag if flags >> m & 1])
        return Network()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        if MODE == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if MODE == "no-engine":
            self.log.log(
                Severity.ERROR,
                "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node a)",
            )
            return None
        self.log.log(Severity.WARNING, "the fake one is warned of")
        body = b"ftrt" + json.dumps(network.shape).encode()
        if RTX:
            body = b"vtrt" + bytes(12) + (27).to_bytes(8, "little") + bytes([1, 7, 1])
        return Memory(body)


class Memory(bytearray):
    @property
    def nbytes(self):
        return len(self)


class Network:
    num_inputs = num_outputs = num_layers = 1
    shape = (1, 4)

    def get_input(self, i):
        return Tensor("x", self.shape)

    def get_output(self, i):
        return Tensor("y", self.shape)


class Tensor:
    dtype = DataType.FLOAT

    def __init__(self, name, shape):
        self.name, self.shape = name, shape


class OnnxParser:
    def __init__(self, network, log):
        self.network, self.num_errors = network, 0

    def parse_from_file(self, path):
        with open(path, "rb") as f:
            content = f.read()
        record("parse_from_file", path)
        if b"batch" in content:
            self.network.shape = (-1, 4)
        self.num_errors = int(MODE == "refuse")
        return not self.num_errors

    def get_error(self, i):
        return ParserError()


class ParserError:
    """8.5's has neither the name nor the operator of the node."""

    def code(self):
        return ErrorCode.INVALID_NODE

    def node(self):
        return 0

    def desc(self):
        return "Assertion failed: inputs.size() == 3: The fake one takes no Add"

    if MAJOR > 8:

        def node_name(self):
            return "double"

        def node_operator(self):
            return "Add"


class Config:
    def set_flag(self, flag):
        record("set_flag", flag.name)

    def set_memory_pool_limit(self, pool, size):
        record("set_memory_pool_limit", pool.name, size)

    def add_optimization_profile(self, profile):
        return 0

    def create_timing_cache(self, data):
        record("create_timing_cache", len(data))
        return data

    def set_timing_cache(self, cache, ignore_mismatch):
        return MODE != "stale-cache" or not cache

    def get_timing_cache(self):
        return TimingCache()

    def set_compute_capability(self, capability, i):
        record("set_compute_capability", capability.name, i)

    def __setattr__(self, name, value):
        record("config", name, getattr(value, "name", value))


class TimingCache:
    def serialize(self):
        return Memory(b"measured")


class Profile:
    def set_shape(self, name, *shapes):
        record("set_shape", name, *shapes)


# ---- running -----------------------------------------------------------------------------------------------------------


class Runtime:
    def __init__(self, log):
        self.log = log

    def deserialize_cuda_engine(self, plan):
        return Engine()


class Engine:
    num_io_tensors = 2

    def get_tensor_name(self, i):
        return "xy"[i]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType.FLOAT

    def create_execution_context(self):
        return Context()

    def create_engine_inspector(self):
        return Inspector()


class Inspector:
    def get_engine_information(self, form):
        tensor = {"Name": "x", "Format/Datatype": "Row major linear FP16 format", "Dimensions": [1, 4]}
        layer = {"Name": "double", "LayerType": "ElementWise", "Inputs": [tensor], "Outputs": [tensor]}
        if MAJOR > 8:
            layer |= {"Name": "__myl_Add", "Metadata": "[ONNX Layer: double]"}
        return json.dumps({"Layers": [layer, {"Name": "Reformat", "LayerType": "Reformat"}], "Bindings": ["x", "y"]})


class Context:
    def __init__(self):
        self.shape, self.addresses, self.allocator = None, {}, None

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return shape[1] == 4

    def get_tensor_shape(self, name):
        return (-1, 4) if name == "y" and MODE == "unknown-shape" else self.shape

    def set_output_allocator(self, name, allocator):
        self.allocator = allocator

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == 7
        count = self.shape[0] * self.shape[1]
        if self.allocator is not None:
            self.addresses["y"] = self.allocator.reallocate_output("y", 0, count * 4, 256)
            self.allocator.notify_shape("y", self.shape)
        x, y = ((ctypes.c_float * count).from_address(self.addresses[name]) for name in "xy")
        for i in range(count):
            y[i] = x[i] + x[i]
        return True
