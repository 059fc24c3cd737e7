"""What a file is when it is not ONNX: its format's name by its first bytes, and how to get an ONNX from it."""

from __future__ import annotations

from pathlib import Path

_TORCH = "export it with torch.onnx.export(model, example_inputs, 'model.onnx', dynamo=True)"
_KERAS = "export it with tf2onnx: python -m tf2onnx.convert --keras FILE --output model.onnx"
_TFLITE = "export it with tf2onnx: python -m tf2onnx.convert --tflite FILE --output model.onnx"
_SOURCE = "edgec starts from the model it was made from: give that one, as ONNX"

_AT_0: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "a Keras/HDF5 file", _KERAS),
    (b"RKNN", "an .rknn artifact", _SOURCE),
    (b"GGUF", "a GGUF file", "GGUF holds llama.cpp weights, no graph; export the original model to ONNX"),
    (b"ftrt", "a TensorRT engine", _SOURCE),
    (b"ptrt", "a TensorRT engine", _SOURCE),
    (b"7767517", "an ncnn .param file", _SOURCE),
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "fetch it with: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first: gunzip FILE"),
    (b"\x80\x02", "a Python pickle (an old PyTorch checkpoint?), which edgec never opens", _TORCH),
    (b"\x80\x03", "a Python pickle, which edgec never opens", _TORCH),
    (b"\x80\x04", "a Python pickle, which edgec never opens", _TORCH),
    (b"\x80\x05", "a Python pickle, which edgec never opens", _TORCH),
)
_AT_4: tuple[tuple[bytes, str, str], ...] = (
    (b"TFL3", "a TensorFlow Lite file", _TFLITE),
    (b"ORTM", "an ONNX Runtime .ort file", "give the .onnx it was made from"),
)


def foreign_format(path: Path, head: bytes) -> tuple[str, str] | None:
    """(what the file is, what to do) if its first bytes (or its name) say it is not ONNX, else None."""
    for magic, what, hint in _AT_0:
        if head.startswith(magic):
            return what, hint
    for magic, what, hint in _AT_4:
        if head[4:8] == magic:
            return what, hint
    if head.startswith(b"PK\x03\x04"):
        if b"data.pkl" in head or path.suffix in (".pt", ".pth", ".ckpt"):
            return "a PyTorch checkpoint, which holds pickled Python objects that edgec never opens", _TORCH
        if b"config.json" in head or path.suffix == ".keras":
            return "a Keras archive", _KERAS
        return "a zip archive", "unpack it and give the .onnx inside"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 30:
        return "a safetensors file", "it holds weights but no graph; " + _TORCH
    text = head.lstrip().lower()
    if text.startswith((b"<?xml", b"<net ")):
        return "an OpenVINO .xml" if b"<net" in text else "an XML file", _SOURCE
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page", "the download did not give the file; download it again"
    if path.suffix == ".mlmodel":
        return "a Core ML model", _SOURCE
    if path.name == "saved_model.pb":
        return "a TensorFlow SavedModel", _saved_model(path.parent)
    return None


def foreign_folder(path: Path) -> tuple[str, str] | None:
    """The same for a folder."""
    if (path / "saved_model.pb").exists():
        return "a TensorFlow SavedModel", _saved_model(path)
    if path.suffix == ".mlpackage":
        return "a Core ML package", _SOURCE
    return None


def _saved_model(folder: Path) -> str:
    return f"export it with tf2onnx: python -m tf2onnx.convert --saved-model {folder} --output model.onnx"
