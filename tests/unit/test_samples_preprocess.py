"""Preprocess: reading options, the formula, geometry, and the figures of the other convention."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.samples import Preprocess
from edgec.samples.images import image_to_input
from edgec.samples.inputs import ImageAxes, InputSpec

SPEC = InputSpec("x", np.dtype(np.float32), (1, 3, 4, 4))
AXES = ImageAxes("NCHW", 3, 4, 4)


def picture(height: int, width: int, mode: str = "RGB"):
    from PIL import Image

    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ({"mean": "0.485,0.456,0.406", "scale": "255"}, {"mean": [0.485, 0.456, 0.406], "scale": 255}),
        ({"mean": "[0.5, 0.5, 0.5]"}, {"mean": [0.5, 0.5, 0.5]}),
        ({"resize": "224x320"}, {"resize": [224, 320]}),
        ({"resize": "short 256"}, {"resize": 256}),
        ({"color": "bgr", "layout": "nhwc"}, {"colour": "BGR", "layout": "NHWC"}),
        ({"float-arrays": "yes"}, {"float_arrays": True}),
    ],
)
def test_command_line_and_yaml_spellings_agree(text, parsed):
    assert Preprocess.parse(text) == Preprocess.parse(parsed)


def test_options_round_trip():
    pre = Preprocess.parse({"mean": "1,2,3", "std": 4, "resize": "8x9", "mode": "letterbox", "pad": 0, "colour": "BGR"})
    assert Preprocess.parse(pre.options()) == pre


def test_every_mistake_is_told_at_once():
    with pytest.raises(EdgecError) as e:
        Preprocess.parse({"meen": 1, "std": "a,b", "resize": "1x2x3", "colour": "CMYK"})
    assert [d.code for d in e.value.diagnostics] == ["EC0707"] * 4
    assert "did you mean 'mean'" in str(e.value)


@pytest.mark.parametrize(
    "bad", [{"std": 0}, {"scale": 0}, {"mean": "nan"}, {"resize": 0}, {"resize": 9, "mode": "stretch"}]
)
def test_senseless_values_are_refused(bad):
    with pytest.raises(EdgecError, match="EC0707"):
        Preprocess.parse(bad)


def test_both_conventions_give_the_same_numbers():
    torch = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=255)
    vendor = Preprocess(mean=torch.mean_values, std=torch.std_values)
    x = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    np.testing.assert_allclose(torch.normalise(x, 0), vendor.normalise(x, 0), rtol=1e-5)
    np.testing.assert_allclose(vendor.mean_values, (123.675, 116.28, 103.53))


def test_unit_scale_with_small_figures_is_suspicious():
    assert Preprocess(mean=(0.485,), std=(0.229,)).suspicious()
    assert not Preprocess(mean=(0.485,), std=(0.229,), scale=255).suspicious()
    assert not Preprocess(mean=(127,), std=(128,)).suspicious()


def test_as_many_means_as_channels():
    with pytest.raises(EdgecError, match="mean has 2 values, the input has 3 channels"):
        Preprocess(mean=(1, 2)).normalise(np.zeros((3, 4, 4)), 0)


def test_layout_and_colour_order():
    image = picture(4, 4)
    rgb = np.asarray(image)
    nchw = image_to_input(image, SPEC, AXES, Preprocess(colour="BGR"))
    assert nchw.dtype == np.float32
    np.testing.assert_array_equal(nchw[0], rgb[..., ::-1].transpose(2, 0, 1))
    spec = InputSpec("x", np.dtype(np.float32), (1, 4, 4, 3))
    np.testing.assert_array_equal(image_to_input(image, spec, ImageAxes("NHWC", 3, 4, 4), Preprocess())[0], rgb)


def test_letterbox_keeps_the_aspect_and_pads_the_rest():
    x = image_to_input(picture(2, 4), SPEC, AXES, Preprocess(mode="letterbox", pad=7))
    assert (x[0, :, 0] == 7).all()
    assert (x[0, :, 3] == 7).all()
    np.testing.assert_array_equal(x[0, :, 1:3], np.asarray(picture(2, 4)).transpose(2, 0, 1))


def test_crop_takes_the_centre():
    x = image_to_input(picture(8, 4), SPEC, AXES, Preprocess(mode="crop"))
    np.testing.assert_array_equal(x[0], np.asarray(picture(8, 4))[2:6].transpose(2, 0, 1))


def test_stretch_matches_pillow():
    from PIL import Image

    x = image_to_input(picture(9, 5), SPEC, AXES, Preprocess(interpolation="bicubic"))
    want = np.asarray(picture(9, 5).resize((4, 4), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(x[0], want)


def test_sixteen_bit_images_are_scaled_not_clipped():
    from PIL import Image

    gray = Image.fromarray(np.full((4, 4), 257 * 100, np.uint16))
    spec = InputSpec("x", np.dtype(np.float32), (1, 1, 4, 4))
    assert (image_to_input(gray, spec, ImageAxes("NCHW", 1, 4, 4), Preprocess()) == 100).all()
