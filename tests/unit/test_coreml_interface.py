"""Image inputs, classifiers and metadata: what is asked of the builder, and the way of samples into the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.runtime import Session
from edgec.samples import Preprocess, generated_samples
from edgec.target_options import parse_options
from edgec.targets.coreml.evaluate.to_onnx import to_onnx
from edgec.targets.coreml.interface import Interface, Port
from edgec.targets.coreml.lower import LoweredProgram, lower
from edgec.targets.coreml.metadata import CLASSES, describe, say_scores
from edgec.targets.coreml.options import CoreMlOptions
from edgec.targets.coreml.pixels import image_inputs, with_folding

IMAGENET = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
RNG = np.random.default_rng(5)


def net(pads: str = "1, 1, 1, 1", layout: str = "NCHW", batch: int = 1) -> Graph:
    """An image, a convolution, four classes."""
    weights = ",".join(f"{w:.6f}" for w in RNG.normal(size=4 * 3 * 3 * 3))
    shape = f"{batch},3,8,8" if layout == "NCHW" else f"{batch},8,8,3"
    turn = "" if layout == "NCHW" else "t = Transpose <perm = [0, 3, 1, 2]> (x)"
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["": 23]>
    net (float[{shape}] x) => (float[{batch},4] y) <float[4,3,3,3] w = {{{weights}}}>
    {{ {turn}
      c = Conv <kernel_shape = [3, 3], pads = [{pads}]> ({"x" if layout == "NCHW" else "t"}, w)
      p = GlobalAveragePool(c)
      f = Flatten(p)
      y = Softmax(f) }}""")
    infer_shapes(graph)
    return graph


def folded(graph: Graph, preprocess: Preprocess | None, **options: str) -> Graph:
    """As a compilation's pipeline would leave it."""
    steps = with_folding([], parse_options(CoreMlOptions, options), preprocess)
    done = graph.clone()
    PassManager(build_passes(steps, Registry().passes())).run(done, PassContext())
    return done


def lowered(graph: Graph, preprocess: Preprocess) -> tuple[LoweredProgram, Interface]:
    pixels, images = image_inputs(graph, preprocess)
    made = lower(pixels)
    return made, made.interface.with_images(images)


@pytest.mark.parametrize(
    ("pads", "layout", "preprocess", "how"),
    [
        ("0, 0, 0, 0", "NCHW", IMAGENET, "weights"),
        ("1, 1, 1, 1", "NCHW", IMAGENET, "depthwise"),
        ("1, 1, 1, 1", "NCHW", Preprocess(scale=255.0), "weights"),
        ("1, 1, 1, 1", "NCHW", Preprocess(), "as it is"),
        ("0, 0, 0, 0", "NHWC", Preprocess(mean=(127.5,), std=(127.5,), layout="NHWC"), "depthwise"),
        ("1, 1, 1, 1", "NCHW", Preprocess(mean=(104.0, 117.0, 123.0), colour="BGR"), "depthwise"),
    ],
)
def test_the_package_of_pixels_computes_what_the_model_does(
    pads: str, layout: str, preprocess: Preprocess, how: str
) -> None:
    graph = net(pads, layout)
    made, ends = lowered(folded(graph, preprocess), preprocess)
    image = ends.inputs[0].image
    assert image is not None
    assert (image.folded, image.colours) == (how, preprocess.colour or "RGB")
    assert made.program.inputs[0].shape == (1, 3, 8, 8)  # channels first, whatever the model has
    session = Session(to_onnx(made.program, half=False))
    for sample in generated_samples(graph, 3, preprocess=preprocess):
        fed = ends.store(sample)
        assert np.array_equal(fed["x"], np.rint(fed["x"]))  # whole pixels
        assert fed["x"].min() >= 0
        assert fed["x"].max() <= 255
        ours = ends.restore(session.run(fed))["y"]
        np.testing.assert_allclose(ours, Session(graph).run(sample)["y"], rtol=1e-4, atol=1e-6)


def test_pixels_are_what_the_device_has() -> None:
    """Samples between pixels are rounded, samples beyond 0..255 cut off: an 8-bit image holds no others."""
    _, ends = lowered(folded(net(), Preprocess(std=(2.0,))), Preprocess(std=(2.0,)))
    x = np.zeros((1, 3, 8, 8), np.float32)
    x[0, :, 0, :3] = (10.2, 200.0, -3.0)  # times 2: 20.4, 400, -6
    assert ends.store({"x": x})["x"][0, 0, 0, :4].tolist() == [20, 255, 0, 0]


def test_inputs_that_are_no_image_stay_arrays() -> None:
    preprocess = Preprocess(mean=(127.5,), std=(127.5,))
    batch = net(batch=2)
    _, ends = lowered(folded(batch, preprocess), preprocess)
    assert ends.inputs[0].image is None  # Core ML has no batches of images
    sample = next(iter(generated_samples(batch)))
    assert np.array_equal(ends.store(sample)["x"], sample["x"])
    words = Graph.from_text("""<ir_version: 10, opset_import: ["": 23]>
    g (float[1,40] x) => (float[1,40] y) { y = Relu(x) }""")
    assert folded(words, preprocess).op_counts() == words.op_counts()


def test_a_batch_of_images_computes_as_before() -> None:
    preprocess = IMAGENET
    graph = net(batch=2)
    made, ends = lowered(folded(graph, preprocess), preprocess)
    sample = next(iter(generated_samples(graph)))
    ours = ends.restore(Session(to_onnx(made.program, half=False)).run(ends.store(sample)))["y"]
    np.testing.assert_allclose(ours, Session(graph).run(sample)["y"], rtol=1e-3, atol=1e-5)


def test_image_none_and_names() -> None:
    graph = net()
    assert folded(graph, IMAGENET, image="none").op_counts() == graph.op_counts()
    assert image_inputs(folded(graph, IMAGENET, image="x"), IMAGENET)[1].keys() == {"x"}
    with pytest.raises(EdgecError, match="the model has no input 'photo'"):
        folded(graph, IMAGENET, image="photo")
    with pytest.raises(EdgecError, match="it is not said what preprocessing"):
        folded(graph, None, image="x")
    assert list(with_folding([], CoreMlOptions(), None)) == []


def test_quantised_models_normalise_in_float_before_what_is_quantised() -> None:
    steps = with_folding(["split-heads", {"quantize": {}}, "to-float16"], CoreMlOptions(), IMAGENET)
    assert steps[0] == {
        "fold-preprocess": {
            "optional": True, "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "in_float": True,
        }
    }  # fmt: skip
    floats = with_folding(["fold-bn", "to-float16"], CoreMlOptions(), IMAGENET)
    assert [s if isinstance(s, str) else "fold-preprocess" for s in floats] == [
        "fold-bn",
        "fold-preprocess",
        "to-float16",
    ]


def test_the_interface_reads_back_from_a_report(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nfox\nowl\n")
    _, ends = lowered(folded(net(), IMAGENET), IMAGENET)
    told = describe(ends, CoreMlOptions(labels=str(labels))).interface
    assert Interface.from_json(json.loads(json.dumps(told.to_json()))) == told
    assert (told.takes(), told.gives()) == (
        "x: image RGB 8x8",
        "classLabel: text, classLabel_probs: dictionary of 4",
    )


# --- classifiers and metadata -----------------------------------------------------------------------------------------


def ports() -> Interface:
    x = Port("images", "images", (1, 3, 8, 8), "fp32", (1, 3, 8, 8), "float32")
    y = Port("scores/0", "scores_0", (1, 2), "fp32", (1, 2), "float32")
    z = Port("features", "features", (1, 7), "fp32", (1, 7), "float32")
    return Interface([x], [z, y])


def test_nothing_is_said_that_the_user_did_not_say() -> None:
    assert describe(ports(), CoreMlOptions()).request == {"metadata": {}}


def test_texts_go_where_core_ml_has_them() -> None:
    options = CoreMlOptions(
        author="A. Body", license="MIT", model_version="1.2", description="Scores",
        descriptions={"scores/0": "One a class", "images": "A photograph"}, user_metadata={"com.example.build": "42"},
    )  # fmt: skip
    assert describe(ports(), options).request["metadata"] == {
        "author": "A. Body", "license": "MIT", "version": "1.2", "short_description": "Scores",
        "user": {"com.example.build": "42"}, "inputs": {"images": "A photograph"}, "outputs": {"scores_0": "One a class"},
    }  # fmt: skip


def test_labels_make_a_classifier_of_the_output_they_fit(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\n\n")
    told = describe(ports(), CoreMlOptions(labels=str(path), descriptions={"scores/0": "s", "classLabel": "l"}))
    assert told.request["classes"] == {"labels": ["cat", "dog"], "output": "scores_0", "label": "classLabel"}
    assert told.request["metadata"]["outputs"] == {"classLabel_probs": "s", "classLabel": "l"}
    in_text = describe(ports(), CoreMlOptions(labels=str(path), labels_as="metadata"))
    assert "classes" not in in_text.request
    assert json.loads(in_text.request["metadata"]["user"][CLASSES]) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\nb\nc\n", "there are 3 labels"), ("a\na\n", "two classes are called 'a'"), ("", "is empty")],
)
def test_labels_that_fit_nothing(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(EdgecError, match=message) as e:
        describe(ports(), CoreMlOptions(labels=str(path)))
    assert e.value.diagnostics[0].code == "EC0653"


def test_descriptions_of_nothing_are_an_error() -> None:
    with pytest.raises(EdgecError, match="no input or output 'score'"):
        describe(ports(), CoreMlOptions(descriptions={"score": "?"}))


def test_options_as_a_mapping_or_as_text() -> None:
    text = parse_options(CoreMlOptions, {"descriptions": "x=An image; y = Scores, one a class"})
    assert text.descriptions == {"x": "An image", "y": "Scores, one a class"}
    assert parse_options(CoreMlOptions, {"descriptions": dict(text.descriptions)}) == text
    with pytest.raises(EdgecError, match="name=text; name=text"):
        parse_options(CoreMlOptions, {"user-metadata": "just a text"})


@pytest.mark.parametrize(("last", "notes"), [("Softmax", 0), ("Sigmoid", 0), ("Relu", 1)])
def test_values_that_are_no_probabilities_are_noted(tmp_path: Path, last: str, notes: int) -> None:
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["": 23]>
    g (float[1,2] x) => (float[1,2] y) {{ y = {last}(x) }}""")
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\n")
    made = lower(graph)
    found = Diagnostics()
    say_scores(describe(made.interface, CoreMlOptions(labels=str(path))).interface, made.program, found)
    assert [d.code for d in found] == ["EC0662"] * notes
