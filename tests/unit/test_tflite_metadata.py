"""TFLite Metadata: what is written can be read, and the labels are a zip archive behind the model."""

from __future__ import annotations

import io
import zipfile

import pytest
import tflite_models as models

from edgec.targets.tflite.flatbuffer_reader import Bytes
from edgec.targets.tflite.metadata import IDENTIFIER, NAME, ModelInfo, TensorInfo, associated_files, metadata
from edgec.targets.tflite.reader import read
from edgec.targets.tflite.writer import write

INFO = ModelInfo(
    "classifier",
    [TensorInfo("images", "a photograph", (123.0, 116.0, 103.0), (58.0, 57.0, 57.5), (-2.0,), (2.5,), "RGB")],
    [TensorInfo("scores", labels=("cat", "dog", "Übergröße"))],
    "tells cats from dogs",
    author="somebody",
)


def test_what_is_written_can_be_read() -> None:
    data = metadata(INFO)[NAME]
    assert data[4:8] == IDENTIFIER
    root = Bytes(data).root("ModelMetadata")
    assert [root.get(f) for f in ("name", "description", "author", "license", "min_parser_version")] == [
        "classifier", "tells cats from dogs", "somebody", None, "1.0.0",
    ]  # fmt: skip
    (graph,) = root.get("subgraph_metadata")
    (image,), (scores,) = graph.get("input_tensor_metadata"), graph.get("output_tensor_metadata")
    assert image.get("name") == "images"
    (unit,) = image.get("process_units")
    kind, normalization = unit.get("options")
    assert kind == "NormalizationOptions"
    assert normalization.get("mean").tolist() == [123.0, 116.0, 103.0]
    assert normalization.get("std").tolist() == [58.0, 57.0, 57.5]
    kind, properties = image.get("content").get("content_properties")
    assert (kind, properties.get("color_space")) == ("ImageProperties", "RGB")
    assert image.get("stats").get("max").tolist() == [2.5]
    (file,) = scores.get("associated_files")
    assert (file.get("name"), file.get("type")) == ("labels.txt", "TENSOR_AXIS_LABELS")


def test_labels_are_a_zip_behind_the_model() -> None:
    model = models.float_model()
    model.metadata |= metadata(INFO)
    file = write(model)
    file += associated_files(INFO, len(file))
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == ["cat", "dog", "Übergröße"]
        # Readers without allowance for what comes before need offsets from the start of the file.
        assert file[archive.infolist()[0].header_offset :].startswith(b"PK\3\4")
    assert read(file).metadata[NAME] == metadata(INFO)[NAME]


def test_end_record_counts_from_the_start_of_the_file() -> None:
    tail = associated_files(INFO, 1000)
    end = tail.rindex(b"PK\5\6")
    directory = int.from_bytes(tail[end + 16 : end + 20], "little")
    assert tail[directory - 1000 :].startswith(b"PK\1\2")


def test_no_labels_no_archive() -> None:
    assert associated_files(ModelInfo("m", [TensorInfo("x")], []), 100) == b""


def test_deterministic() -> None:
    assert metadata(INFO) == metadata(INFO)
    assert associated_files(INFO, 100) == associated_files(INFO, 100)


def test_mistakes_are_found() -> None:
    with pytest.raises(ValueError, match="1 means and 0 standard deviations"):
        TensorInfo("x", mean=(1.0,))
    with pytest.raises(ValueError, match="more than one line"):
        TensorInfo("x", labels=("a\nb",))
