"""A `tensorrt` for Python that runs "plans" written in JSON, with the interface of one version.

FAKE_VERSION: "8.5.2" has what 8.5 and 8.6 have (int64 tensors are int32, no asynchronous allocators), "10.3.0" and "11.4.1"
what those have. By the bindings' sources of NVIDIA/TensorRT (python/src/infer) at the tags 8.5.2, v8.6.1, v10.3.0 and v11.1.

A plan: {"version", "inputs": {name: [dtype, min shape, max shape]}, "outputs": {name: [dtype, shape]}, "code"}. -1 stands for
a dimension that comes with the input (-2: that only the run decides). `code` computes the outputs of the inputs.
"""

import ctypes
import enum
import json
import os

import numpy as np

__version__ = os.environ["FAKE_VERSION"]
_MAJOR = int(__version__.partition(".")[0])
_KINDS = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "bool": "BOOL", "uint8": "UINT8"}
if _MAJOR >= 10:
    _KINDS.update(int64="INT64", bfloat16="BF16")
DataType = enum.Enum("DataType", list(_KINDS.values()))
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])


class Logger:
    WARNING = 2

    def __init__(self, severity):
        pass


class IOutputAllocator:
    def __init__(self):
        self._made = True


def init_libnvinfer_plugins(logger, namespace):
    return True


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        try:
            described = json.loads(plan)
        except ValueError:
            return None
        return _Engine(described) if described["version"] == __version__ else None


class _Engine:
    def __init__(self, plan):
        self._plan = plan
        self._names = [*plan["inputs"], *plan["outputs"]]
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, i):
        return self._names[i]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._plan["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        kind = {**self._plan["inputs"], **self._plan["outputs"]}[name][0]
        return DataType[_KINDS[kind]]

    def create_execution_context(self):
        return _Context(self._plan)


class _Context:
    def __init__(self, plan):
        self._plan, self._shapes, self._addresses, self._allocators = plan, {}, {}, {}

    def set_input_shape(self, name, shape):
        low, high = self._plan["inputs"][name][1:]
        good = len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        if good:
            self._shapes[name] = tuple(shape)
        return good

    def get_tensor_shape(self, name):
        if name in self._shapes:
            return self._shapes[name]
        first = next(iter(self._shapes.values()))
        shape = self._plan["outputs"][name][1]
        return tuple(-1 if d == -2 else first[i] if d == -1 else d for i, d in enumerate(shape))

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def set_output_allocator(self, name, allocator):
        assert allocator._made  # a subclass has to call __init__
        self._allocators[name] = allocator
        return True

    def execute_async_v3(self, stream_handle):
        values = {}
        for name, (dtype, *_) in self._plan["inputs"].items():
            values[name] = _view(self._addresses[name], self._shapes[name], dtype).copy()
        exec(self._plan["code"], {"np": np}, values)
        for name, (dtype, _) in self._plan["outputs"].items():
            array = np.ascontiguousarray(values[name], dtype=dtype)
            address = self._addresses.get(name)
            if name in self._allocators:
                allocator = self._allocators[name]
                if _MAJOR >= 10:
                    address = allocator.reallocate_output_async(name, 0, array.nbytes, 256, stream_handle)
                else:
                    address = allocator.reallocate_output(name, 0, array.nbytes, 256)
                allocator.notify_shape(name, array.shape)
            elif array.shape != self.get_tensor_shape(name):
                return False
            if array.size:
                _view(address, array.shape, dtype)[...] = array
        return True


def _view(address, shape, dtype):
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * count).from_address(address), dtype=dtype).reshape(shape)
