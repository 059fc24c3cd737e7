"""Sources of samples: what each yields, in which order, and every way it can be wrong."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from itertools import islice

import numpy as np
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.samples import Preprocess, generated_samples, open_samples

HEAD = '<ir_version: 10, opset_import: ["" : 24]>\n'


def model(inputs: str, first: str = "x") -> Graph:
    return Graph.from_text(f"{HEAD} g ({inputs}) => (y) {{ y = Identity({first}) }}")


IMAGES = model("float[N,3,4,5] x")
TWO = model("float[N,2] a, int64[N,3] b", "a")


def image(path, height=4, width=5, seed=0, mode="RGB"):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode).save(path)
    return path


def code(e) -> str:
    return e.value.diagnostics[0].code


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 1, 3, 4, 5)])
def test_npy_stacks(tmp_path, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    samples = open_samples(tmp_path / "x.npy", IMAGES)
    assert len(samples) == 6
    got = [s["x"] for s in samples]
    np.testing.assert_array_equal(np.concatenate(got), x.reshape(6, 3, 4, 5))
    assert all(g.shape == (1, 3, 4, 5) for g in got)


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (3, 4, 5)])
def test_npy_single(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.ones(shape, np.float32))
    assert [s["x"].shape for s in open_samples(tmp_path / "x.npy", IMAGES)] == [(1, 3, 4, 5)]


def test_fixed_batch_takes_rows_together(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    assert [s["x"].shape for s in open_samples(tmp_path / "x.npy", model("float[2,2] x"))] == [(2, 2)] * 3
    np.save(tmp_path / "x.npy", np.zeros((5, 2), np.float32))
    with pytest.raises(EdgecError, match="whole batches of 2"):
        open_samples(tmp_path / "x.npy", model("float[2,2] x"))


def test_one_open_dimension_is_one_sample(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(16000, np.float32))
    assert [s["x"].shape for s in open_samples(tmp_path / "x.npy", model("float[T] x"))] == [(16000,)]


def test_scalar_input_is_shared_by_all_samples(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros((4, 2), np.float32), rate=np.int64(16000))
    samples = open_samples(tmp_path / "s.npz", model("float[N,2] x, int64 rate"))
    assert [int(s["rate"]) for s in samples] == [16000] * 4
    assert any("used for all 4" in d.message for d in samples.diagnostics)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_input_names(tmp_path, save):
    a, b = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(9, dtype=np.int64).reshape(3, 3)
    save(tmp_path / "s.npz", b=b, a=a, labels=np.zeros(3))
    samples = open_samples(tmp_path / "s.npz", TWO)
    got = list(samples)
    np.testing.assert_array_equal([s["a"][0] for s in got], a)
    np.testing.assert_array_equal([s["b"][0] for s in got], b)
    assert any("ignored: labels" in d.message for d in samples.diagnostics)


def test_npz_images_channels_last_with_labels(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "s.npz", pixels=x, y=np.arange(3))
    got = np.concatenate([s["x"] for s in open_samples(tmp_path / "s.npz", IMAGES, preprocess=Preprocess(scale=255))])
    np.testing.assert_array_equal(got, (x.astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2))


def test_gray_and_flat_samples_are_reshaped(tmp_path):
    gray = model("float[N,1,2,3] x")
    for shape in ((4, 2, 3), (4, 6)):
        np.save(tmp_path / "x.npy", np.arange(24, dtype=np.float32).reshape(shape))
        samples = open_samples(tmp_path / "x.npy", gray)
        assert [s["x"].shape for s in samples] == [(1, 1, 2, 3)] * 4
        assert any("reshaped" in d.message for d in samples.diagnostics)


def test_fortran_order_members(tmp_path):
    x = np.asfortranarray(np.arange(8, dtype=np.float32).reshape(4, 2))
    np.savez(tmp_path / "s.npz", x=x)
    got = np.concatenate([s["x"] for s in open_samples(tmp_path / "s.npz", model("float[N,2] x"))])
    np.testing.assert_array_equal(got, x)


def test_npz_is_streamed(tmp_path):
    np.savez_compressed(tmp_path / "s.npz", x=np.zeros((2000, 4096), np.float32))  # 32 MB
    samples = open_samples(tmp_path / "s.npz", model("float[N,4096] x"))
    tracemalloc.start()
    assert sum(1 for _ in samples) == 2000
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("array", "graph", "expected"),
    [
        (np.zeros((2, 5, 4, 3), np.float32), IMAGES, "EC0705"),  # floats channels last are not guessed at
        (np.zeros((2, 3, 4, 6), np.float32), IMAGES, "EC0705"),
        (np.zeros((0, 3, 4, 5), np.float32), IMAGES, "EC0705"),
        (np.zeros((2, 3), np.float32), model("int64[N,3] x"), "EC0706"),
        (np.zeros((2, 3), np.complex64), model("float[N,3] x"), "EC0706"),
        (np.zeros((2, 3), "U3"), model("float[N,3] x"), "EC0706"),
    ],
)
def test_misfits_are_refused_when_opened(tmp_path, array, graph, expected):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(EdgecError) as e:
        open_samples(tmp_path / "x.npy", graph)
    assert code(e) == expected
    assert "x.npy" in str(e.value)
    assert "'x'" in str(e.value)


def test_integers_must_fit_and_the_sample_is_named(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, 2], [3, 300]]))
    with pytest.raises(EdgecError, match=r"EC0706.*uint8.*3\.\.300[\s\S]*\[1\]"):
        list(open_samples(tmp_path / "x.npy", model("uint8[N,2] x")))


def test_safe_casts(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1.5, 2.5]]))
    (sample,) = open_samples(tmp_path / "x.npy", model("float[N,2] x"))
    assert sample["x"].dtype == np.float32
    np.save(tmp_path / "x.npy", np.array([[1, 2]], np.int8))
    samples = open_samples(tmp_path / "x.npy", model("float[N,2] x"))
    assert next(iter(samples))["x"].dtype == np.float32
    assert any("without normalisation" in d.message for d in samples.diagnostics)


def test_float_arrays_are_preprocessed_only_on_request(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    graph = model("float[N,2] x")
    asis = open_samples(tmp_path / "x.npy", graph, preprocess=Preprocess(scale=4))
    assert next(iter(asis))["x"][0, 0] == 1
    asked = open_samples(tmp_path / "x.npy", graph, preprocess=Preprocess(scale=4, float_arrays=True))
    assert next(iter(asked))["x"][0, 0] == 0.25


def test_nan_is_warned_about_by_name(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, 2], [np.nan, np.inf]], np.float32))
    samples = open_samples(tmp_path / "x.npy", model("float[N,2] x"))
    assert len(list(samples)) == 2
    (warning,) = [d for d in samples.diagnostics if d.code == "EC0710"]
    assert "2 of 2" in warning.message
    assert "x.npy[1]" in str(warning)


def test_counts_must_agree(tmp_path):
    np.savez(tmp_path / "s.npz", a=np.zeros((3, 2), np.float32), b=np.zeros((4, 3), np.int64))
    with pytest.raises(EdgecError, match="EC0713"):
        open_samples(tmp_path / "s.npz", TWO)


def test_missing_names_list_what_there_is(tmp_path):
    np.savez(tmp_path / "s.npz", a=np.zeros((3, 2), np.float32), c=np.zeros(3))
    with pytest.raises(EdgecError, match=r"EC0704.*input 'b'.*c float64\[3\]"):
        open_samples(tmp_path / "s.npz", TWO)


# --- broken files ----------------------------------------------------------------------------------------------------


def npz_bytes(**arrays) -> bytes:
    f = io.BytesIO()
    np.savez_compressed(f, **arrays)
    return f.getvalue()


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.png", "x.jpg", "x.txt"])
@pytest.mark.parametrize(
    "data",
    [b"", b"\x93NUMPY\x01\x00\x10\x00{'descr'", b"PK\x03\x04 no", b"\x89PNG\r\n\x1a\n\xff\xff", b"\xff\xd8\xff\xfe"],
)
def test_garbage_is_one_clear_error(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(EdgecError) as e:
        list(open_samples(tmp_path / name, IMAGES))
    assert code(e) in ("EC0701", "EC0702", "EC0703")
    assert name in str(e.value)


def test_bit_flips_in_npz_never_escape(tmp_path):
    good = npz_bytes(x=np.random.default_rng(0).standard_normal((4, 3, 4, 5)).astype(np.float32))
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for i in rng.integers(0, len(data), 3):
            data[i] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "x.npz").write_bytes(data)
        try:
            list(open_samples(tmp_path / "x.npz", IMAGES))
        except EdgecError:
            refused += 1
    assert refused > 200


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([{}], object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(EdgecError, match="EC0703"):
            open_samples(tmp_path / name, IMAGES)


def test_npz_header_that_lies_about_its_size(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 3, 4, 5)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as z:
        z.writestr("x.npy", header.getvalue() + b"\0" * 60)
    with pytest.raises(EdgecError, match=r"EC0703.*announces"):
        open_samples(tmp_path / "x.npz", IMAGES)


def test_decompression_bomb(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    image(tmp_path / "x.png")
    with pytest.raises(EdgecError, match=r"EC0703.*too large to be safe"):
        list(open_samples(tmp_path, IMAGES))


def test_corrupt_image_among_good_ones_is_named(tmp_path):
    image(tmp_path / "a.jpg", 40, 50)
    data = image(tmp_path / "b.jpg", 40, 50).read_bytes()
    (tmp_path / "b.jpg").write_bytes(data[: len(data) // 2])
    it = iter(open_samples(tmp_path, IMAGES))
    next(it)
    with pytest.raises(EdgecError, match=r"EC0703[\s\S]*b\.jpg"):
        next(it)


# --- folders and lists -----------------------------------------------------------------------------------------------


def test_folder_of_images_sorted_and_filtered(tmp_path):
    for i, name in enumerate(["b.png", "a.bmp", "sub/c.webp", ".hidden.png", "sub/d.PNG"]):
        image(tmp_path / name, seed=i)
    (tmp_path / "labels.csv").write_text("a")
    notes = Diagnostics()
    samples = open_samples(tmp_path, IMAGES, preprocess=Preprocess(scale=255), diagnostics=notes)
    assert len(samples) == 4
    assert "4 images in" in samples.describe
    first = next(iter(samples))["x"]
    from PIL import Image

    np.testing.assert_array_equal(
        first[0], np.asarray(Image.open(tmp_path / "a.bmp"), np.float32).transpose(2, 0, 1) / np.float32(255)
    )
    assert any("labels.csv" in d.message for d in notes)
    assert not any(d.code == "EC0712" for d in notes)


def test_images_without_normalisation_are_warned_about(tmp_path):
    image(tmp_path / "a.png")
    assert "EC0712" in [d.code for d in open_samples(tmp_path, IMAGES).diagnostics]
    torch = Preprocess(mean=(0.5,), std=(0.5,))
    assert "EC0712" in [d.code for d in open_samples(tmp_path, IMAGES, preprocess=torch).diagnostics]


def test_symlinks_are_followed_and_loops_end(tmp_path):
    image(tmp_path / "real/a.png")
    (tmp_path / "calib").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "calib/link")
    os.symlink(tmp_path / "calib", tmp_path / "calib/loop")
    assert len(open_samples(tmp_path / "calib", IMAGES)) == 1


def test_empty_folder_and_missing_path(tmp_path):
    with pytest.raises(EdgecError, match="EC0702"):
        open_samples(tmp_path, IMAGES)
    with pytest.raises(EdgecError, match="EC0701"):
        open_samples(tmp_path / "nothing", IMAGES)
    with pytest.raises(EdgecError, match="EC0702"):
        open_samples(tmp_path, IMAGES, limit=0)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("float[N,7] x", "not an image"),
        ("float[8,3,4,5] x", "8 images at once"),
        ("float[N,3,H,W] x", "how large"),
        ("float[N,4,8,8] x", "1 or 3 channels"),
    ],
)
def test_images_for_other_inputs(tmp_path, graph, message):
    image(tmp_path / "a.png")
    with pytest.raises(EdgecError, match=f"EC0709.*{message}"):
        open_samples(tmp_path, model(graph))


def test_open_size_is_given_by_resize(tmp_path):
    image(tmp_path / "a.png", 9, 9)
    (sample,) = open_samples(tmp_path, model("float[N,3,H,W] x"), preprocess=Preprocess(resize=(6, 8)))
    assert sample["x"].shape == (1, 3, 6, 8)


def test_integer_image_input(tmp_path):
    image(tmp_path / "a.png")
    graph = model("uint8[N,4,5,3] x")
    assert next(iter(open_samples(tmp_path, graph)))["x"].dtype == np.uint8
    with pytest.raises(EdgecError, match=r"EC0706[\s\S]*a\.png"):
        list(open_samples(tmp_path, graph, preprocess=Preprocess(scale=255)))


def test_folders_for_several_inputs(tmp_path):
    for i in range(3):
        for name, array in (("a", np.full(2, i, np.float32)), ("b", np.full(3, i))):
            for path in (tmp_path / "sub" / name / f"{i}.npy", tmp_path / "flat" / f"{i}.{name}.npy"):
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)
        (tmp_path / "npz").mkdir(exist_ok=True)
        np.savez(tmp_path / "npz" / f"{i}.npz", a=np.full(2, i, np.float32), b=np.full(3, i))
    digests = {open_samples(tmp_path / kind, TWO).digest() for kind in ("sub", "flat", "npz")}
    assert len(digests) == 1
    (tmp_path / "sub/b/1.npy").unlink()
    with pytest.raises(EdgecError, match=r"EC0704.*sample '1' has no file for input 'b'"):
        open_samples(tmp_path / "sub", TWO)


def test_list_file(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(2, np.float32))
    np.save(tmp_path / "b c.npy", np.zeros(3, np.int64))
    (tmp_path / "list.txt").write_text("# calibration\na.npy 'b c.npy'\n\na.npy 'b c.npy'\n")
    assert len(open_samples(tmp_path / "list.txt", TWO)) == 2
    (tmp_path / "list.txt").write_text("a.npy\n")
    with pytest.raises(EdgecError, match=r"EC0704[\s\S]*list\.txt:1"):
        open_samples(tmp_path / "list.txt", TWO)
    (tmp_path / "list.txt").write_text("gone.npy 'b c.npy'\n")
    with pytest.raises(EdgecError, match=r"gone\.npy"):
        open_samples(tmp_path / "list.txt", TWO)


# --- functions -------------------------------------------------------------------------------------------------------

FUNCTIONS = """
import numpy as np
calls = 0
def arrays():
    for i in range(3): yield np.full((1, 2), i, np.float32), np.full((1, 3), i)
def dicts():
    return [{"a": np.zeros(2, np.float32), "b": np.zeros(3, np.int64)}] * 4
def names():
    yield {"a": np.zeros(2), "c": np.zeros(3)}
def fails():
    yield np.zeros(2, np.float32), np.zeros(3, np.int64)
    raise RuntimeError("camera is off")
def nothing():
    return iter(())
def none():
    pass
def drifts():
    global calls
    calls += 1
    yield np.full(2, calls, np.float32), np.zeros(3, np.int64)
"""


@pytest.fixture
def functions(tmp_path):
    (tmp_path / "feed.py").write_text(FUNCTIONS)
    return f"{tmp_path / 'feed.py'}:"


def test_functions(functions):
    samples = open_samples(functions + "arrays", TWO)
    assert len(samples) == 3
    assert [float(s["a"][0, 0]) for s in samples] == [0, 1, 2]
    assert len(open_samples(functions + "dicts", TWO, limit=3)) == 3


def test_function_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "feed_module.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    assert len(open_samples("feed_module:dicts", TWO)) == 4


@pytest.mark.parametrize(
    ("name", "expected", "text"),
    [
        ("fails", "EC0708", "sample 1: RuntimeError: camera is off"),
        ("names", "EC0704", "unknown: ['c']"),
        ("nothing", "EC0702", "no samples"),
        ("none", "EC0708", "returned nothing"),
        ("absent", "EC0708", "has no 'absent'"),
        ("calls", "EC0708", "not a function"),
    ],
)
def test_function_failures(functions, name, expected, text):
    with pytest.raises(EdgecError) as e:
        list(open_samples(functions + name, TWO))
    assert code(e) == expected
    assert text in str(e.value)


def test_unknown_module():
    with pytest.raises(EdgecError, match="EC0708"):
        open_samples("no_such_module_here:f", TWO)


def test_a_source_that_drifts_is_noticed(functions):
    samples = open_samples(functions + "drifts", TWO)
    list(samples)
    list(samples)
    assert "EC0716" in [d.code for d in samples.diagnostics]


# --- Samples and generated ones --------------------------------------------------------------------------------------


def test_take_limit_and_digest(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    graph = model("float[N,2] x")
    samples = open_samples(tmp_path / "x.npy", graph)
    assert len(samples.take(2)) == len(list(samples.take(2))) == 2
    assert samples.take(99) is samples
    assert samples.take(2).digest() == open_samples(tmp_path / "x.npy", graph, limit=2).digest() != samples.digest()
    assert "the first 2 of" in samples.take(2).describe


def test_generated_samples_are_reproducible_and_say_so():
    graph = model("float[N,3,H,W] x, int64[N,4] ids, bool flag, float[N,7] f")
    a, b = generated_samples(graph), generated_samples(graph)
    assert a.generated
    assert "not real data" in a.describe
    assert "seed 0" in a.describe
    assert a.digest() == b.digest() != generated_samples(graph, seed=1).digest()
    sample = next(iter(a))
    assert {k: v.shape for k, v in sample.items()} == {"x": (1, 3, 64, 64), "ids": (1, 4), "flag": (), "f": (1, 7)}
    assert sample["ids"].min() >= 0
    assert sample["flag"].dtype == bool
    assert abs(float(sample["x"].std()) - 1) < 0.1
    assert "EC0715" in [d.code for d in a.diagnostics]
    assert next(iter(generated_samples(graph, dims={"H": 8, "N": 2})))["x"].shape == (2, 3, 8, 64)


def test_generated_images_are_smooth():
    x = next(iter(generated_samples(model("float[1,3,64,64] x"))))["x"][0, 0]
    assert np.abs(np.diff(x, axis=1)).mean() < 0.5 * np.abs(x - x.mean()).mean()


def test_strings_and_unknown_ranks_cannot_be_generated():
    with pytest.raises(EdgecError, match="EC0714"):
        generated_samples(model("string[N] x"))
    with pytest.raises(EdgecError, match="EC0714"):
        generated_samples(model("float x").__class__.from_text(f"{HEAD} g (float[] x) => (y) {{ y = Identity(x) }}"))


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "source", "options", "every", "atol"),
    [
        (
            "cifar10_resnet20",
            "cifar10_5k.npz",
            {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225", "scale": 255},
            2,
            0,
        ),
        ("mnist_cnn_digitrec", "mnist_5k.npz", {"mean": 0.1307, "std": 0.3081, "scale": 255}, 10, 0),
        ("mlperf_kws_dscnn", "kws01.npz", {"mean": 83, "std": 1 / 0.5847029089927673}, 10, 1e-5),
        (
            "mobilenet_v2",
            "imagenet1k_256",
            {"mean": "123.675,116.28,103.53", "std": "58.395,57.12,57.375", "resize": 256},
            10,
            0,
        ),
        (
            "efficientnet_lite0",
            "imagenet1k_256",
            {"mean": 127, "std": 128, "resize": 256, "interpolation": "bicubic"},
            10,
            0,
        ),
        ("fastestdet", "coco64/images", {"scale": 255, "colour": "bgr"}, 4, 0),
    ],
)
def test_same_numbers_as_the_judge(eval_dir, judge, monkeypatch, task, source, options, every, atol):
    graph = Graph.load(eval_dir / "models" / f"{task}.onnx")
    samples = open_samples(eval_dir / "data" / source, graph, preprocess=Preprocess.parse(options))
    kept = (next(iter(s.values())) for i, s in enumerate(samples) if i % every == 0)
    for want, got in islice(zip(judge.calibration(task), kept, strict=False), 4):
        np.testing.assert_allclose(got, want, atol=atol, rtol=0)
