"""The procedural world: samples follow from their seeds, and what they claim about their pictures is true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_builders.__main__ import main
from data_builders.world.draw import dilate
from data_builders.world.export import write_video
from data_builders.world.looks import STYLES
from data_builders.world.recipes import RECIPES, TRAINED, get_recipe, sample_and_scene, world_sample
from data_builders.world.render import DEPTH_RANGE, decode_depth, encode_depth, render
from data_builders.world.scene import COLORS, UNSEEN_PAIRS, sample_scene
from data_builders.world.stream import WorldStream
from data_builders.world.video import WorldVideo
from unireal.data.records import check_sample, to_row
from unireal.sample import Role, Sample
from unireal.taxonomy import CATEGORIES, EDIT_TYPES

SIZES = [(64, 64), (33, 47), (40, 8), (96, 56)]
# The mask of these tells all that changes; a restored picture changes everywhere, so nothing is left to compare.
CHANGED = [r.name for r in RECIPES.values() if r.task in ("edit", "insert", "tryon", "inpaint", "outpaint")]


def assert_same(one: Sample, other: Sample) -> None:
    assert to_row(one) == to_row(other)


def pairs_of(sample: Sample) -> set[tuple[str, str]]:
    """Every (color, shape) that the truth of a sample speaks of."""
    target = sample.source["target"]
    things = [*sample.source["things"], target, target.get("after") or {}]
    return {(t["color"], t["shape"]) for t in things if "shape" in t}


def test_a_sample_follows_from_its_seed() -> None:
    for name in RECIPES:
        assert_same(world_sample(name, 7), world_sample(name, 7))
    first, again, other = WorldStream(1), WorldStream(1), WorldStream(2)
    backwards = {i: again[i] for i in reversed(range(20))}  # the order of access does not matter
    for i in range(20):
        assert_same(first[i], backwards[i])
    assert [first[i].source["seed"] for i in range(20)] != [other[i].source["seed"] for i in range(20)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_valid_samples_of_any_size(name: str, size: tuple[int, int]) -> None:
    for seed in range(3):
        sample = world_sample(name, seed, size)
        check_sample(sample)
        assert all(frame.size == size for frame in sample.results)
        assert all(frame.size == size for frame in sample.inputs if frame.role != Role.ASSET)
        assert sample.task == RECIPES[name].task
        json.dumps(sample.source)


@pytest.mark.parametrize("name", CHANGED)
def test_nothing_changes_outside_the_mask(name: str) -> None:
    for seed in range(20):
        sample = world_sample(name, seed, (48, 64))
        before, after = sample.inputs[0].image, sample.results[0].image
        np.testing.assert_array_equal(before[~sample.mask], after[~sample.mask])
        assert (before != after).any()


def test_the_world_has_an_edit_of_every_type_of_the_survey() -> None:
    types = CATEGORIES["world"]
    assert set(types.values()) == set(EDIT_TYPES)
    assert set(types) <= set(TRAINED)


@pytest.mark.parametrize("name", ["turn", "expression"])
def test_pose_and_expression_change_nothing_but_one_thing(name: str) -> None:
    for seed in range(20):
        sample, scene = sample_and_scene(name, seed)
        target = sample.source["target"]
        of_target = [thing.color == target["color"] and thing.shape == target["shape"] for thing in scene.things]
        around = dilate(np.any([m for m, t in zip(render(scene).masks, of_target, strict=True) if t], axis=0))
        before, after = sample.inputs[0].image, sample.results[0].image
        different = (before != after).any(axis=2)
        assert different.any()
        if name == "expression":  # a face lies within its thing
            assert not (different & ~around).any()
            assert target["face"] != target["after"]["face"]
        else:
            assert {k for k, v in target["after"].items() if v != target[k]} == {"angle"}


def test_styles_differ_and_closer_is_larger() -> None:
    samples = [world_sample("style", seed) for seed in range(40)]
    assert {sample.source["target"]["style"] for sample in samples} == set(STYLES)
    for sample in samples:
        image, style = sample.results[0].image, sample.source["target"]["style"]
        assert style in sample.instruction
        if style in ("gray", "sketch"):
            assert (image == image[..., :1]).all()


def test_closer_is_the_middle_enlarged() -> None:
    for seed in range(20):
        sample = world_sample("viewpoint", seed, (96, 96))
        before, after = sample.inputs[0].image, sample.results[0].image.astype(float)
        enlarged = np.asarray(Image.fromarray(before).resize((96, 96), Image.Resampling.BILINEAR, box=(16, 16, 80, 80)))
        assert abs(enlarged - after).mean() < min(6.0, abs(before - after).mean() / 2)


def test_edit_mask_shows_the_mask() -> None:
    sample = world_sample("edit_mask", 3)
    np.testing.assert_array_equal(sample.results[1].image[..., 0] == 255, sample.mask)


def test_recolor_alike_takes_the_colour_of_another_thing():
    """The usual recolor hardly ever does, and a model may then learn to recolour what has that colour."""

    def share(recipe):
        sources = [world_sample(recipe, seed, (8, 8)).source for seed in range(60)]
        many = [source for source in sources if len(source["things"]) > 2]
        taken = [s["target"]["after"]["color"] in {thing["color"] for thing in s["things"]} for s in many]
        return np.mean(taken)

    assert share("recolor_alike") > 0.8 and share("recolor") < 0.3


def test_unseen_pairs_are_held_out_until_asked_for() -> None:
    stream = WorldStream(seed=3, sizes=((16, 16),))
    for number in range(400):
        assert not pairs_of(stream[number]) & set(UNSEEN_PAIRS)
    asked = [world_sample("recolor", seed, (16, 16), unseen=True) for seed in range(20)]
    assert all(pairs_of(sample) & set(UNSEEN_PAIRS) for sample in asked)


def test_masks_are_disjoint_and_agree_with_image_and_depth() -> None:
    for seed in range(30):
        scene = sample_scene(np.random.default_rng(seed), 5)
        drawn, without_first = render(scene, (60, 44)), render(scene.swap(scene.things[0], None), (60, 44))
        visible = np.sum(drawn.masks, axis=0)
        assert visible.max() == 1
        low, high = DEPTH_RANGE
        assert drawn.depth.min() >= low and drawn.depth.max() <= high
        for mask in drawn.masks:
            assert len(np.unique(drawn.depth[mask])) <= 1  # things are flat and stand upright
        differs = (drawn.image != without_first.image).any(axis=2)[drawn.masks[0]]
        assert len(differs) < 10 or differs.mean() > 0.9  # where the mask shows a thing, the picture does


def test_a_thing_hides_what_is_farther() -> None:
    for seed in range(30):
        scene = sample_scene(np.random.default_rng(seed), 3)
        alone = [render(scene_with, (64, 64)) for scene_with in (scene.swap(t, None) for t in scene.things)]
        whole = render(scene, (64, 64))
        for index, without in enumerate(alone):
            mask = whole.masks[index]
            assert (whole.depth[mask] <= without.depth[mask] + 1e-6).all()


def test_depth_survives_its_picture() -> None:
    scene = sample_scene(np.random.default_rng(0))
    depth = render(scene).depth
    step = (DEPTH_RANGE[1] - DEPTH_RANGE[0]) / 255
    np.testing.assert_allclose(decode_depth(encode_depth(depth)), depth, atol=0.51 * step)


def test_segment_shows_where_the_named_thing_is() -> None:
    for seed in range(10):
        sample, scene = sample_and_scene("segment", seed)
        index = [t.name in sample.instruction for t in scene.things].index(True)
        np.testing.assert_array_equal(sample.results[0].image[..., 0] == 255, render(scene).masks[index])


def test_stream_draws_recipes_by_their_weights() -> None:
    stream = WorldStream(recipes=("segment", "t2i"), sizes=((16, 16), (8, 24)))
    samples = [stream[i] for i in range(400)]
    share = RECIPES["segment"].weight / (RECIPES["segment"].weight + RECIPES["t2i"].weight)
    assert abs(np.mean([s.source["recipe"] == "segment" for s in samples]) - share) < 0.06
    assert {s.results[0].size for s in samples} == {(16, 16), (8, 24)}


def test_video_tracks_are_the_centroids_of_whole_things() -> None:
    checked = 0
    for seed in range(8):
        video = WorldVideo(seed, (64, 80), 6)
        assert video.frames.shape == (6, 64, 80, 3) and video.masks.shape[1] == video.tracks.shape[1]
        assert (video.masks.sum(axis=1) <= 1).all()
        for time, index in np.ndindex(video.tracks.shape[:2]):
            scene, mask = video.scene_at(time), video.masks[time, index]
            thing, (x, y) = scene.things[index], video.tracks[time, index]
            alone = render(replace(scene, things=(thing,)), video.size).masks[0]
            reach = thing.radius * 64
            cut_off = not (reach < x < 80 - reach and reach < y < 64 - reach)
            # Shapes that are not symmetric have another centre of mass than their own.
            if cut_off or (alone != mask).any() or thing.shape not in ("circle", "square", "cross"):
                continue
            rows, columns = np.nonzero(mask)
            assert abs(columns.mean() + 0.5 - x) < 0.75 and abs(rows.mean() + 0.5 - y) < 0.75
            checked += 1
    assert checked > 10


def test_video_moves_only_what_its_caption_names() -> None:
    for seed in range(10):
        video = WorldVideo(seed, (48, 48), 4, movers=1)
        moved = np.ptp(video.tracks, axis=0).max(axis=1) > 0
        for thing, moves in zip(video.scene.things, moved, strict=True):
            assert not moves or thing.name in video.motion_caption
        assert (video.frames[0] != video.frames[-1]).any()


def test_written_video_is_lossless_and_reproducible(tmp_path: Path) -> None:
    import av

    video = WorldVideo(4, (35, 51), 5)
    paths, again = write_video(video, tmp_path / "a", "v"), write_video(video, tmp_path / "b", "v")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["v.json", "v.mkv", "v.npz"]
    assert paths[0].read_bytes() == again[0].read_bytes()
    with av.open(str(paths[0])) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    np.testing.assert_array_equal(frames, video.frames)
    facts = json.loads(paths[1].read_text())
    np.testing.assert_allclose(facts["tracks"], video.tracks, rtol=1e-6)
    assert facts["caption"] == video.caption and len(facts["things"]) == len(facts["motions"])
    arrays = np.load(paths[2])
    np.testing.assert_array_equal(arrays["masks"], video.masks)
    np.testing.assert_array_equal(arrays["depth"], video.depth)


def test_tints_have_any_colour_but_the_one_that_is_held_out() -> None:
    held_out = {shape: np.array(COLORS[color]) for color, shape in UNSEEN_PAIRS}
    colors = set()
    for seed in range(60):
        sample, scene = sample_and_scene("customize1", seed, tint_share=1.0)
        thing = scene.things[0]
        rgb = np.array([int(thing.color[i : i + 2], 16) for i in (1, 3, 5)])
        assert np.linalg.norm(rgb - held_out[thing.shape]) >= 100
        for frame in (sample.inputs[0], sample.results[0]):  # both show it; shading and the picture's grid change it
            assert np.abs(frame.image - rgb.astype(float)).max(axis=2).min() < 40
        assert thing.color not in sample.instruction
        colors.add(thing.color)
    assert len(colors) == 60
    plain, none = world_sample("customize1", 3), world_sample("customize1", 3, tint_share=0.0)
    assert none.results[0].image.tobytes() == plain.results[0].image.tobytes() and plain.source == none.source
    half = WorldStream(0, ("customize2",), tint_share=0.5)
    tinted = [half[i].source["target"]["color"].startswith("#") for i in range(60)]
    assert 15 < sum(tinted) < 45


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="did you mean 'recolor'"):
        get_recipe("recolr")
    with pytest.raises(ValueError, match="8x8"):
        world_sample("t2i", 0, (4, 64))
    with pytest.raises(ValueError, match="at least 2 frames"):
        WorldVideo(0, num_frames=1)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        world_sample("recolor", 0, photo_share=2.0)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        world_sample("recolor", 0, tint_share=-1.0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["wrold", "--num", "1"], "did you mean 'world'"),
        (["world", "--num", "1", "--output", "{new}", "--recipes", "recolr"], "did you mean 'recolor'"),
        (["world", "--num", "1", "--output", "{full}"], "--overwrite"),
        (["world", "--num", "1", "--output", "{full}/file"], "is a file"),
        (["world", "--num", "1", "--output", "{full}/file/sub"], "cannot write"),
        (["world", "--num", "1", "--output", "{new}", "--size", "4x64"], "8x8"),
        (["world", "--num", "1", "--output", "{new}", "--size", "big"], "WIDTHxHEIGHT"),
        (["world", "--num", "0", "--output", "{new}"], "nothing to build"),
        (["world", "--output", "{new}"], "--num"),
        ([], "BUILDER"),
    ],
)
def test_command_line_tells_in_one_line(arguments: list[str], told: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    filled = [a.format(new=tmp_path / "new", full=tmp_path / "full") for a in arguments]
    try:
        status = main(filled)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and told in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_overwrite_replaces_data_and_nothing_else(tmp_path: Path, capsys) -> None:
    common = ["world", "--output", str(tmp_path), "--size", "24x16", "--recipes", "t2i,add"]
    assert main([*common, "--num", "3", "--videos", "2"]) == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert main([*common, "--num", "2", "--videos", "1", "--overwrite"]) == 0
    assert [p.name for p in sorted(tmp_path.glob("[!.]*"))] == ["notes.txt", "part-00000.parquet", "videos"]
    assert len(list((tmp_path / "videos").iterdir())) == 3
    assert main(["list"]) == 0
    assert "world" in capsys.readouterr().out
