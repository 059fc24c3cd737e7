"""Loading: what hostile and odd files give, and what is mended."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph


def model(nodes: list[onnx.NodeProto], weights: list[TensorProto] | None = None, **kwargs: object) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph(nodes, "g", [x], [y], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **kwargs)


def add_w() -> onnx.ModelProto:
    w = onnx.numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    return model([helper.make_node("Add", ["x", "w"], ["y"], name="add")], [w])


def refused(path: Path, *codes: str) -> str:
    with pytest.raises(EdgecError) as e:
        Graph.load(path)
    assert [d.code for d in e.value.diagnostics] == list(codes), str(e.value)
    return str(e.value)


@pytest.fixture
def save(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(m: onnx.ModelProto | bytes, name: str = "m.onnx") -> Path:
        path = tmp_path / name
        path.write_bytes(m if isinstance(m, bytes) else m.SerializeToString())
        return path

    return write


def test_files_that_are_no_models(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    refused(tmp_path / "none.onnx", "EC0001")
    refused(tmp_path, "EC0002")
    refused(save(b""), "EC0003")
    refused(save(add_w().SerializeToString()[:-20]), "EC0003")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "EC0002")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"PK\x03\x04....archive/data.pkl", "PyTorch"),
        (b"\x80\x02cposix\nsystem\n", "pickle"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"RKNN\0\0", "rknn"),
        (b'<?xml version="1.0"?><net name="m">', "OpenVINO"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    ],
)
def test_other_formats_are_named(head: bytes, what: str, save) -> None:  # type: ignore[no-untyped-def]
    assert what in refused(save(head + b"\0" * 64), "EC0005")


def test_from_the_future(save) -> None:  # type: ignore[no-untyped-def]
    m = add_w()
    m.opset_import[0].version, m.ir_version = 999, 999
    refused(save(m), "EC0006", "EC0006")


def test_a_cycle_names_its_nodes(save) -> None:  # type: ignore[no-untyped-def]
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="n1"), helper.make_node("Relu", ["a"], ["b"], name="n2"),
             helper.make_node("Relu", ["b"], ["y"], name="n3")]  # fmt: skip
    text = refused(save(model(nodes)), "EC0015")
    assert "n1" in text
    assert "n2" in text


def test_every_finding_is_in_one_error(save) -> None:  # type: ignore[no-untyped-def]
    m = model([helper.make_node("Add", ["x", "nowhere"], ["a"], name="n"), helper.make_node("Relu", ["x"], ["a"])])
    refused(save(m), "EC0012", "EC0013", "EC0014")


def test_absurd_shapes_and_wrong_sizes(save) -> None:  # type: ignore[no-untyped-def]
    m = add_w()
    m.graph.initializer[0].dims[:] = [1 << 31, 1 << 31]
    refused(save(m), "EC0010")
    m.graph.initializer[0].dims[:] = [-2]
    refused(save(m), "EC0010")
    m.graph.initializer[0].dims[:] = [3]
    refused(save(m), "EC0011")


def external(m: onnx.ModelProto, **info: object) -> onnx.ModelProto:
    t = m.graph.initializer[0]
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    for k, v in info.items():
        t.external_data.add(key=k, value=str(v))
    return m


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:\\secret"])
def test_external_data_stays_in_the_folder(location: str, save) -> None:  # type: ignore[no-untyped-def]
    refused(save(external(add_w(), location=location)), "EC0017")


def test_external_data(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    refused(save(external(add_w(), location="d.bin")), "EC0018")
    (tmp_path / "d.bin").write_bytes(np.array([0, 1, 2], np.float32).tobytes())
    g = Graph.load(save(external(add_w(), location="d.bin", offset=4, length=8)))
    w = g.model.graph.initializers["w"].const_value
    assert w is not None
    np.testing.assert_array_equal(w.numpy(), np.array([1, 2], np.float32))
    refused(save(external(add_w(), location="d.bin", offset=8, length=8)), "EC0018")
    refused(save(external(add_w(), location="d.bin", offset=-4)), "EC0018")
    outside = tmp_path.parent / f"{tmp_path.name}.secret"
    outside.write_bytes(b"12345678")
    (tmp_path / "link").symlink_to(outside)
    refused(save(external(add_w(), location="link")), "EC0017")


def test_nan_weights_are_named(save) -> None:  # type: ignore[no-untyped-def]
    m = add_w()
    m.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan, np.inf], np.float32), "w"))
    notes = Diagnostics()
    Graph.load(save(m), diagnostics=notes)
    assert [(d.code, "'w' holds NaN and infinity" in d.message) for d in notes] == [("EC0022", True)]


def test_odd_but_usable_models_are_mended(save) -> None:  # type: ignore[no-untyped-def]
    w = onnx.numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    m = model([helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Add", ["x", "w"], ["a"])], [w])
    m.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    notes = Diagnostics()
    g = Graph.load(save(m), diagnostics=notes)
    g.verify()
    assert sorted(d.code for d in notes) == ["EC0020", "EC0021"]
    assert [v.name for v in g.inputs] == ["x"]
    assert [n.op_type for n in g.nodes()] == ["Add", "Relu"]
    assert all(n.name for n in g.nodes())


def test_recursive_functions(save) -> None:  # type: ignore[no-untyped-def]
    m = model([helper.make_node("f", ["x"], ["y"], domain="d")])
    m.opset_import.append(helper.make_opsetid("d", 1))
    body = [helper.make_node("f", ["a"], ["b"], domain="d")]
    m.functions.append(helper.make_function("d", "f", ["a"], ["b"], body, [helper.make_opsetid("d", 1)]))
    refused(save(m), "EC0019")


def test_text_files(save) -> None:  # type: ignore[no-untyped-def]
    text = b'<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    assert Graph.load(save(text, "m.onnxtxt")).op_counts() == {"Relu": 1}
    refused(save(b"nonsense", "n.onnxtxt"), "EC0004")
    refused(save(b"{" * 100_000, "deep.onnxtxt"), "EC0004")


def test_large_external_weights_are_scanned_in_chunks(tmp_path: Path, save, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("edgec.weight_scan.CHUNK_BYTES", 4)
    (tmp_path / "d.bin").write_bytes(np.array([1, np.nan], np.float32).tobytes())
    notes = Diagnostics()
    Graph.load(save(external(add_w(), location="d.bin")), diagnostics=notes)
    assert ["'w' holds NaN" in d.message for d in notes] == [True]


def test_holes_of_sparse_weights_are_not_read(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    import numpy as np

    from edgec.weight_scan import CHUNK_BYTES

    count = 3 * CHUNK_BYTES  # of float32: twelve chunks
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{count}] x) => (float[{count}] y) {{ y = Add (x, w) }}'
    )
    t = proto.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[count])
    t.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "w.data"), ("offset", "4")):
        t.external_data.add(key=key, value=value)
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(4 + 4 * count)
        file.seek(4 + 4 * (2 * CHUNK_BYTES + 5))
        file.write(np.array([np.nan], np.float32).tobytes())
    notes = Diagnostics()
    Graph.load(save(proto.SerializeToString()), diagnostics=notes)
    assert [d.message for d in notes] == ["weight 'w' holds NaN"]


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1.0])
def test_odd_values_of_every_float_type(dtype: int, value: float) -> None:
    from edgec.graph import ir
    from edgec.weight_scan import odd_values

    tensor = ir.from_proto(onnx.helper.make_tensor("w", dtype, [3], [0.5, value, -2.0]))
    assert odd_values(tensor) == {"nan": "NaN", "-inf": "infinity", "1.0": None}[str(value)]


def test_large_inline_weights_are_read_apart(save, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    import numpy as np

    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2000] x) => (float[2000] y) { y = Add (x, b) }'
    )
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((3, 700)).astype(np.float32),
        "b": rng.standard_normal(2000).astype(np.float32),
        "c": np.arange(9000, dtype=np.int64),
        "d": rng.integers(0, 2, 5000).astype(bool),
        "small": np.ones(3, np.float16),
        "half": rng.standard_normal((50, 50)).astype(np.float16),
    }
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in arrays.items())
    proto.graph.initializer.add().CopyFrom(onnx.helper.make_tensor("text", onnx.TensorProto.STRING, [1], [b"x" * 9000]))
    file = save(proto.SerializeToString())
    whole = Graph.load(file).fingerprint()
    monkeypatch.setattr("edgec.inline_weights.MIN_FILE_BYTES", 0)
    graph = Graph.load(file)
    assert graph.fingerprint() == whole
    for name, array in arrays.items():
        tensor = graph.model.graph.initializers[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)
    assert {type(graph.model.graph.initializers[n].const_value).__name__ for n in ("a", "b", "c", "d")} == {"Tensor"}

    proto.graph.initializer[2].dims[0] = 8999
    with pytest.raises(EdgecError, match=r"EC0011.*'c' holds 72,000 bytes"):
        Graph.load(save(proto.SerializeToString()))


def test_a_linked_data_file_is_refused_with_a_way_out(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Add (x, w) }'
    )
    t = proto.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2])
    t.data_location = onnx.TensorProto.EXTERNAL
    t.external_data.add(key="location", value="w.data")
    file = save(proto.SerializeToString())
    blob = tmp_path.parent / f"{tmp_path.name}.blob"
    blob.write_bytes(b"\0" * 8)
    (file.parent / "w.data").symlink_to(blob)
    with pytest.raises(EdgecError, match=r"EC0017.*through a symbolic link[\s\S]*cp -rL"):
        Graph.load(file)


def test_a_dimension_of_minus_one_is_unknown(save) -> None:  # type: ignore[no-untyped-def]
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[7,3] x) => (float[7,3] y) { y = Relu (x) }'
    )
    for v in (proto.graph.input[0], proto.graph.output[0]):
        v.type.tensor_type.shape.dim[0].dim_value = -1
    (shape,) = [v.shape for v in Graph.load(save(proto.SerializeToString())).inputs]
    assert shape is not None
    assert not isinstance(shape[0], int)
    assert shape[1] == 3
