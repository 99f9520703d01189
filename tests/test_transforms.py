"""Pictures of every kind come in with the right pixels, and what is not to change stays bit-identical."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from unireal.sample import Frame, Role, Sample
from unireal.transforms import (
    HOLE,
    as_frame,
    collate,
    erase,
    expand,
    load_image,
    mask_image,
    paste_back,
    resize,
    threshold,
    to_image,
    to_tensor,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 4), dtype=np.uint8)


def _three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def _over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return color * share + 255 * (1 - share)


# How the stored pixels must be turned for every EXIF orientation, written out independently of Pillow
ORIENTATIONS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / f"x.{suffix}", exif=exif)
    assert (load_image(tmp_path / f"x.{suffix}") == ORIENTATIONS[orientation](RGB)).all()


def test_alpha_is_laid_over_white(tmp_path):
    alpha = RNG.integers(0, 256, (6, 4), dtype=np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    assert np.abs(load_image(tmp_path / "rgba.png") - _over_white(RGB, alpha)).max() <= 1
    Image.fromarray(np.dstack([GREY, alpha]), "LA").save(tmp_path / "la.png")
    assert np.abs(load_image(tmp_path / "la.png") - _over_white(_three(GREY), alpha)).max() <= 1


def test_palettes(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 200, 0, 0, 0, 100])
    for x in range(3):
        image.putpixel((x, 0), x)
    image.save(tmp_path / "p.png")
    assert load_image(tmp_path / "p.png").tolist() == [[[255, 0, 0], [0, 200, 0], [0, 0, 100]]]
    for suffix in ("png", "gif"):
        image.save(tmp_path / f"t.{suffix}", transparency=1)
        assert load_image(tmp_path / f"t.{suffix}").tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 100]]]


def test_transparent_colour_of_rgb_and_grey(tmp_path):
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    Image.new("L", (2, 2), 7).save(tmp_path / "l.png", transparency=7)
    for name in ("rgb.png", "l.png"):
        assert (load_image(tmp_path / name) == 255).all()


def test_grey_and_one_bit(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "l.png")
    assert (load_image(tmp_path / "l.png") == _three(GREY)).all()
    Image.fromarray(GREY > 127).save(tmp_path / "1.png")
    assert (load_image(tmp_path / "1.png") == mask_image(GREY > 127)).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("top", [65535, 200])
def test_sixteen_bits(tmp_path, suffix, top):
    deep = RNG.integers(0, top + 1, (6, 4)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"x.{suffix}")
    assert np.abs(load_image(tmp_path / f"x.{suffix}") - _three(deep / 257)).max() <= 0.5 + 1e-9


def test_float_and_32_bits(tmp_path):
    for values, white in (([0, 0.25, 1], 1), ([0, 64, 255], 255), ([0, 1000, 65535], 65535), ([-1, np.nan, 1], 1)):
        values = np.array([values], np.float32)
        Image.fromarray(values).save(tmp_path / "f.tiff")
        wanted = np.nan_to_num(values).clip(0) / white * 255
        assert np.abs(load_image(tmp_path / "f.tiff")[..., 0] - wanted).max() <= 0.51
    Image.fromarray(np.array([[0, 255]], np.int32)).save(tmp_path / "i.tiff")
    assert load_image(tmp_path / "i.tiff")[0, :, 0].tolist() == [0, 255]


def test_cmyk_jpeg_and_gif(tmp_path):
    for color in ((255, 0, 0), (0, 0, 255), (90, 160, 20)):
        image = Image.new("RGB", (16, 16), color)
        image.convert("CMYK").save(tmp_path / "x.jpg", quality=100)
        assert np.abs(load_image(tmp_path / "x.jpg").astype(int) - color).max() <= 4
        image.save(tmp_path / "x.gif")
        assert (load_image(tmp_path / "x.gif") == color).all()


def test_arrays_and_pictures_in_memory():
    assert (load_image(RGB) == RGB).all() and (load_image(GREY) == _three(GREY)).all()
    assert (load_image(Image.fromarray(RGB)) == RGB).all()
    for wrong in (RGB / 255, RGB[..., :2], RGB[None], RGB[:0]):
        with pytest.raises(ValueError, match="canvas is an array"):
            load_image(wrong, "canvas")


def test_masks(tmp_path):
    inside = np.tri(4, 6, dtype=bool)
    assert (load_image(inside, "mask", "mask") == mask_image(inside)).all()
    opaque = Image.fromarray(mask_image(inside)).convert("RGBA")
    assert (load_image(opaque, "mask", "mask") == mask_image(inside)).all()
    opaque.putpixel((5, 0), (255, 255, 255, 254))
    assert load_image(opaque).shape == (4, 6, 3)
    with pytest.raises(ValueError, match="my mask has transparent pixels"):
        load_image(opaque, "my mask", "mask")
    with pytest.raises(ValueError, match="canvas is an array bool"):
        load_image(inside, "canvas")


def test_formats_that_are_not_read_are_told(tmp_path):
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99)
    with pytest.raises(ValueError, match=r"cannot identify image file.*give an intact file, such as PNG or JPEG"):
        load_image(tmp_path / "phone.heic")


def test_an_opened_picture_that_turns_out_to_be_cut_off(tmp_path):
    path = tmp_path / "half.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="canvas cannot be read as a picture"), Image.open(path) as picture:
        load_image(picture, "canvas")


def test_bytes_of_any_kind_raise_value_errors_only(tmp_path):
    for suffix in ("png", "jpg", "webp", "tiff", "gif", "bmp"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        whole = bytearray(path.read_bytes())
        for _ in range(30):
            broken = whole.copy()
            for place in RNG.integers(0, len(whole), 8):
                broken[place] = RNG.integers(256)
            path.write_bytes(broken[: RNG.integers(1, len(whole))])
            with contextlib.suppress(ValueError):
                assert load_image(path).dtype == np.uint8


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (9, 30)])
@pytest.mark.parametrize("feather", [0, 1, 3])
def test_paste_back(size, feather):
    canvas, result = (RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2))
    mask = RNG.random(size) < 0.6
    pasted = paste_back(result, canvas, mask, feather)
    assert (pasted[~mask] == canvas[~mask]).all()
    if feather == 0:
        assert (pasted[mask] == result[mask]).all()
    assert (paste_back(result, canvas, np.ones(size, bool), feather) == result).all()


def test_feather_fades_inside_the_mask():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    pasted = paste_back(np.full((9, 9, 3), 240, np.uint8), np.zeros((9, 9, 3), np.uint8), mask, 2)[4, :, 0]
    assert pasted.tolist() == [0, 80, 160, 240, 240, 240, 160, 80, 0]


def test_expand_and_erase():
    grown, unknown = expand(RGB, (1, 2, 3, 0))
    assert grown.shape == (8, 8, 3) and (grown[2:, 1:5] == RGB).all()
    assert (grown == RGB[np.clip(np.arange(8) - 2, 0, 5)][:, np.clip(np.arange(8) - 1, 0, 3)]).all()
    assert unknown.sum() == 64 - 24 and not unknown[2:, 1:5].any()
    for borders in ((0, 0, 0, 0), (-1, 4, 0, 0)):
        with pytest.raises(ValueError, match="expand takes"):
            expand(RGB, borders)
    mask = GREY > 127
    erased = erase(RGB, mask)
    assert (erased[mask] == HOLE).all() and (erased[~mask] == RGB[~mask]).all() and erased.dtype == np.uint8


def test_sharp_maps_are_resized_to_their_nearest_value():
    mask = mask_image(RNG.random((13, 7)) < 0.5)
    for kind in ("mask", "segmentation", "layout", "drag"):
        assert set(np.unique(resize(mask, (31, 20), kind))) <= {0, 255}
    assert len(np.unique(resize(mask, (31, 20), "image"))) > 2
    assert resize(mask, (31, 20)).flags.writeable and resize(mask, (13, 7)) is mask
    assert threshold(as_frame(np.full((2, 2, 3), 100, np.uint8), Role.CONTROL, "mask").image).sum() == 0


def test_tensors_and_back():
    frame = Frame(RGB, Role.CANVAS)
    tensor = to_tensor(frame)
    assert tensor.shape == (3, 6, 4) and tensor.min() >= -1 and tensor.max() <= 1
    assert (to_image(tensor) == RGB).all()
    deep = to_tensor(Frame(np.array([[0, 65535]], np.uint16), Role.CONTROL, "depth"))
    assert deep.shape == (3, 1, 2) and deep[:, 0].tolist() == [[-1, 1]] * 3


def test_mirrored_views_make_tensors_too():
    image, mask = np.arange(72, dtype=np.uint8).reshape(4, 6, 3), np.tri(4, 6, dtype=bool)
    flipped = Sample("edit", "x", results=(Frame(image[:, ::-1], Role.RESULT),), mask=mask[:, ::-1])
    plain = Sample("edit", "x", results=(Frame(image, Role.RESULT),), mask=mask)
    one, other = collate([flipped]), collate([plain])
    assert one.results[0].flip(-1).equal(other.results[0]) and one.changed[0].flip(-1).equal(other.changed[0])


def test_what_is_no_picture_at_all():
    for thing in (None, 5, b"PNG", torch.zeros(3, 4, 4)):
        with pytest.raises(ValueError, match=f"canvas is a {type(thing).__name__}; give a path, a PIL image or"):
            load_image(thing, "canvas")


def test_a_batch_has_one_layout():
    def sample(size):
        return Sample("edit", "x", results=(Frame(np.zeros((*size, 3), np.uint8), Role.RESULT),))

    batch = collate([sample((4, 6))] * 2)
    assert batch.results[0].shape == (2, 3, 4, 6) and batch.roles.shape == (2, 0)
    with pytest.raises(ValueError, match="one layout, got 2"):
        collate([sample((4, 6)), sample((6, 4))])
