"""Video tasks: their training samples, what is measured, the pipeline and infer.py."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.long_videos import seams
from data_builders.world.recipes import RECIPES, TRAINED, sample_and_scene, world_sample
from data_builders.world.render import render
from data_builders.world.stream import WorldStream
from data_builders.world.video import WorldVideo
from data_builders.world.video_recipes import endings
from unireal.acceleration import accelerations
from unireal.evaluation import metrics
from unireal.evaluation.exams import EXAMS
from unireal.evaluation.world import STANDARD, SUBSETS, World, frame_by_frame
from unireal.sample import Role
from unireal.video.files import VideoFile, VideoWriter

av = pytest.importorskip("av")

VIDEO_RECIPES = tuple(name for name in RECIPES if name.startswith(("video", "t2v", "image_to")))
UNTRAINED = tuple(name for name in RECIPES if name not in TRAINED)


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """A video of 6 frames, 24x16 pixels."""
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    with VideoWriter(path) as writer:
        for image in WorldVideo(1, (16, 24), 6).frames:
            writer.write(image)
    return path


# Training samples


@pytest.mark.parametrize("name", ["video_edit", "video_edit_reference"])
def test_an_edit_goes_through_all_frames_and_leaves_the_rest(name):
    for seed in range(30):
        sample = world_sample(name, seed)
        before = [frame.image for frame in sample.inputs if frame.role == Role.CANVAS]
        after = [frame.image for frame in sample.results]
        assert len(before) == len(after) == 4
        assert any((a != b).any() for a, b in pairwise(before))  # something moves
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one[~sample.mask], other[~sample.mask])
            assert (one != other).any()
        reference = [frame.image for frame in sample.inputs if frame.role == Role.ASSET]
        assert len(reference) == (name == "video_edit_reference")
        assert all((image == after[0]).all() for image in reference)
        assert "IMG5" not in sample.instruction


def test_all_video_edits_occur():
    edits = {world_sample("video_edit", seed).source["edit"] for seed in range(60)}
    assert edits == {"recolor", "remove", "add", "substitute", "retexture", "repaint_room"}


def test_a_picture_goes_on_at_the_speed_of_training_videos():
    for seed in range(20):
        sample, scene = sample_and_scene("image_to_video", seed)
        np.testing.assert_array_equal(sample.inputs[0].image, render(scene).image)
        ending = endings(scene, sample.source["mover"], len(sample.results))[sample.source["motion"]]
        np.testing.assert_array_equal(sample.results[-1].image, render(ending).image)


def test_compositions_are_never_trained():
    assert UNTRAINED and all(RECIPES[name].task == "compose" for name in UNTRAINED)
    stream = WorldStream(seed=5, sizes=((16, 16),))
    assert {stream[i].source["recipe"] for i in range(300)} <= set(TRAINED)
    with pytest.raises(ValueError, match="insert_mask are for evaluation only"):
        WorldStream(recipes=("recolor", "insert_mask"))
    with pytest.raises(ValueError, match="unknown recipe 'recolour'; did you mean 'recolor'"):
        WorldStream(recipes=("recolour",))


def test_compositions_show_what_they_say():
    sample, scene = sample_and_scene("customize2_mask", 4)
    np.testing.assert_array_equal(sample.results[1].image[..., 0] > 127, render(scene).masks[1])
    sample = world_sample("insert_mask", 4)
    np.testing.assert_array_equal(sample.results[1].image[..., 0] > 127, sample.mask)
    sample = world_sample("insert2_depth", 4)
    assert [frame.role for frame in sample.inputs] == ["canvas", "asset", "asset", "control"]


# What is measured


def test_untrained_compositions_are_a_set_of_their_own():
    apart = next(subset for subset in SUBSETS if subset.name == "never trained together")
    assert set(apart.recipes) == set(UNTRAINED) and not set(UNTRAINED) & set(STANDARD.recipes)


def test_flicker_lowers_the_temporal_measure_and_a_constant_error_does_not():
    item = STANDARD.items("video_edit", 1, (64, 64))[0]
    measures = {metric.name: metric.measure for metric in EXAMS["video_edit"]}
    base = [np.clip(image, 20, 235) for image in item.truth]
    item = type(item)(type(item.sample)(**vars(item.sample) | {"results": _as_results(item, base)}), item.scene)
    constant = [image + np.uint8(10) for image in base]
    flicker = [image + np.uint8(10) if i % 2 else image - np.uint8(10) for i, image in enumerate(base)]
    assert measures["temporal PSNR"](item, constant) == 0
    assert measures["temporal PSNR"](item, flicker) == pytest.approx(20**2)
    assert measures["full PSNR"](item, constant) == pytest.approx(measures["full PSNR"](item, flicker))


def _as_results(item, images):
    return tuple(type(f)(image, f.role, f.kind) for f, image in zip(item.sample.results, images, strict=True))


def test_motion_is_recognised():
    for recipe in ("t2v", "image_to_video"):
        motion = next(metric for metric in EXAMS[recipe] if metric.name == "motion correct")
        for item in STANDARD.items(recipe, 10, (64, 64)):
            assert motion.measure(item, item.truth) == 1
        items = STANDARD.items("image_to_video", 20, (64, 64))
        wrong = [
            render(scene).image
            for item in items
            for verb, scene in endings(item.scene, item.sample.source["mover"], 4).items()
            if verb != item.sample.source["motion"]
        ]
        assert motion.measure(items[0], [*items[0].truth[:3], wrong[0]]) == 0


def test_editing_frame_by_frame_is_measured_beside():
    """A system that edits videos as they should be, and pictures not at all, beats itself frame by frame."""
    truth = {}
    for item in STANDARD.items("video_edit", 3, (64, 64)):
        truth[item.question().inputs[1].image.tobytes()] = item.truth
        assert [s.inputs[0].image.tobytes() for s in frame_by_frame(item)] == [
            f.image.tobytes() for f in item.sample.inputs
        ]

    def generate(samples, seed):
        return [truth[s.inputs[1].image.tobytes()] if len(s.inputs) > 1 else [s.inputs[0].image] for s in samples]

    report = World(limit=3, only=("video_edit",)).run(generate)
    rows = {row.metric: row for row in report.rows}
    assert rows["temporal PSNR"].baselines["per frame"] == rows["temporal PSNR"].baselines["copy"]
    assert rows["temporal PSNR"].passed and rows["changed PSNR"].passed
    alone = {row.metric: row for row in World(limit=3, only=("video_edit",)).run_baseline("copy").rows}
    assert alone["temporal PSNR"].passed is None  # nothing to compare with


def test_psnr_of_pooled_errors():
    assert metrics.pooled_psnr([0.0, 0.0])[0] == np.inf and np.isnan(metrics.pooled_psnr([])[0])
    value, error, count = metrics.pooled_psnr([0.0, 2.0, np.nan])
    assert value == pytest.approx(10 * np.log10(255**2)) and count == 2
    errors = np.random.default_rng(0).exponential(5.0, 400)
    drawn = [metrics.pooled_psnr(np.random.default_rng(i).choice(errors, 400))[0] for i in range(400)]
    assert metrics.pooled_psnr(errors)[1] == pytest.approx(np.std(drawn), rel=0.15)
    assert error > 0


def test_where_windows_meet():
    assert seams("joined", 8) == {2, 3, 5, 6}  # windows 0..3, 3..6, 4..7; frames 3 and 6 are of two
    assert seams("apart", 12) == {3, 7} and seams("per frame", 12) == set()


# The pipeline


def test_videos_come_as_lists_of_pictures(tiny_pipeline, clip):
    given = [Image.fromarray(image) for image in VideoFile(clip)]
    seed = torch.Generator().manual_seed
    from_list = tiny_pipeline("Make the red circle blue.", task="video_edit", video=given, generator=seed(0))
    from_path = tiny_pipeline("Make the red circle blue.", task="video_edit", video=clip, generator=seed(0))
    (frames,) = from_list.results
    assert len(frames) == 6 and all(frame.size == (24, 16) for frame in frames)
    assert from_list.images == [frames[0]]
    assert [np.asarray(f).tobytes() for f in frames] == [np.asarray(f).tobytes() for f in from_path.results[0]]


def test_the_longest_windows_and_a_reference_fit_into_the_index_table(tiny_pipeline):
    frames = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(12)]
    out = tiny_pipeline("Make it red.", task="video_edit", video=frames, num_results=7, asset=frames[0])
    assert len(out.results[0]) == 12


def test_a_batch_of_prompts_gives_a_video_each(tiny_pipeline, clip):
    prompts = ["Make the red circle blue.", "remove the circle"]
    out = tiny_pipeline(prompts, task="video_edit", video=clip, num_frames=4)
    assert [len(frames) for frames in out.results] == [4, 4]


def test_a_stream_makes_frames_when_they_are_asked_for(tiny_pipeline):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield np.full((8, 8, 3), len(taken) % 256, np.uint8)

    frames = tiny_pipeline.stream("Make the red circle blue.", video=endless(), output_type="np")
    assert len(list(islice(frames, 8))) == 8 and len(taken) <= 10


def test_a_video_of_one_frame_is_edited(tiny_pipeline, infer, tmp_path):
    frame = WorldVideo(2, (16, 24), 2).frames[0]
    with VideoWriter(tmp_path / "one.mp4") as writer:
        writer.write(frame)
    (made,) = tiny_pipeline("Make it red.", task="video_edit", video=[frame], output_type="np").results[0]
    assert made.shape == frame.shape
    done = infer("video_edit", "--video", "one.mp4", "--prompt", "Make it red.", "--output", "o.mp4")
    assert done.status == 0 and len(list(VideoFile(tmp_path / "o.mp4"))) == 1, done.err


def test_a_reference_matters(tiny_pipeline, clip):
    def run(**more):
        out = tiny_pipeline("Make it red.", task="video_edit", video=clip, num_frames=4, output_type="np", **more,
                            generator=torch.Generator().manual_seed(0))  # fmt: skip
        return np.stack(out.results[0])

    white = np.full((16, 24, 3), 255, np.uint8)
    assert (run() != run(asset=white)).any()


def test_text_and_a_picture_become_videos(tiny_pipeline):
    made = tiny_pipeline("A red circle; the red circle moves up.", task="t2v", num_frames=7, size=(16, 24))
    assert [frame.size for frame in made.results[0]] == [(24, 16)] * 7
    first = WorldVideo(2, (20, 28), 2).frames[0]
    going_on = tiny_pipeline("the red circle moves up", task="t2v", canvas=first, num_frames=6, output_type="np")
    assert len(going_on.results[0]) == 6
    np.testing.assert_array_equal(going_on.results[0][0], first)


@pytest.mark.parametrize(("task", "pictures"), [("edit", "canvas"), ("video_edit", "video"), ("t2v", None)])
def test_sizes_far_from_the_models_own_are_told(tiny_pipeline, caplog, task, pictures):
    assert tuple(tiny_pipeline.config.native_size) == (64, 64)
    for width in (256, 258):
        size = (9, width)
        frames = [np.zeros((*size, 3), np.uint8)] * (6 if pictures == "video" else 1)
        given = {"size": size, "num_frames": 12} if pictures is None else {pictures: frames}
        tiny_pipeline("Make it red.", task=task, **given)
    told = "results of 258x9 pixels are far larger than the 64x64 that this model was made for: they take long and may"
    assert caplog.messages == [f"{told} be blurred; a size such as 64x2 suits it better"]


@pytest.mark.parametrize("name", ["condition_cache", "teacache", "taylorseer"])
def test_accelerations_start_anew_in_every_window(tiny_pipeline, clip, name):
    """The second window comes out as it does alone, whatever the plug-in kept of the first."""
    plugins, generator = accelerations([name]), torch.Generator()

    def run(**options):
        given = {"num_inference_steps": 4, "generator": generator, "output_type": "np", "accelerate": plugins}
        return tiny_pipeline("Make it red.", task="video_edit", **given, **options).results[0]

    generator.manual_seed(0)
    whole = run(video=clip)
    generator.manual_seed(0)
    first = run(video=clip, num_frames=4)  # leaves the generator where the second window begins
    images = list(VideoFile(clip))
    again = run(video=images[2:], asset=[first[2]])  # the second window is frames 3 to 6
    for made, alone in zip(whole[4:], again[2:], strict=True):
        np.testing.assert_array_equal(made, alone)


@pytest.mark.parametrize(
    ("task", "options", "told"),
    [
        ("video_edit", {}, "needs a video; give it as --video"),
        ("video_edit", {"video": "nothing.mp4"}, "is not a file"),
        ("video_edit", {"video": [np.zeros((8, 8, 3), np.uint8)] * 4, "num_results": 3}, "gives 4 to 7 results"),
        ("video_edit", {"video": [np.zeros((8, 8, 3), np.uint8)] * 4, "num_frames": 1}, "at least 2 frames"),
        ("video_edit", {"canvas": np.zeros((8, 8, 3), np.uint8)}, "takes no --canvas"),
        ("edit", {"video": [np.zeros((8, 8, 3), np.uint8)] * 4}, "takes no --video"),
        ("t2v", {"video": [np.zeros((8, 8, 3), np.uint8)] * 4}, "takes no --video"),
        ("edit", {"canvas": np.zeros((8, 8, 3), np.uint8), "num_frames": 5}, "leave --num-frames out"),
        ("compose", {"num_results": 9}, "gives 1 to 8 results"),
    ],
)
def test_what_does_not_fit_a_task(tiny_pipeline, task, options, told):
    with pytest.raises(ValueError, match=told):
        tiny_pipeline("Make it red.", task=task, **options)


# infer.py


def test_a_video_file_is_edited(infer, clip, tmp_path):
    done = infer("video_edit", "--video", clip, "--prompt", "Make the red circle blue.", "--output", "new/o.mp4",
                 "--json")  # fmt: skip
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["files"] == ["new/o.mp4"] and report["steps"] == 2
    source, made = VideoFile(clip), VideoFile(tmp_path / "new" / "o.mp4")
    assert made.size == source.size and made.rate == source.rate
    assert [f.time for f in made.frames()] == [f.time for f in source.frames()]


def test_text_becomes_a_video_file(infer, picture, tmp_path):
    done = infer("t2v", "--prompt", "the red circle moves up", "--output", "o.mkv", "--num-frames", "6", "--fps", "12",
                 "--size", "24x16")  # fmt: skip
    assert done.status == 0 and done.out == "o.mkv\n", done.err
    made = VideoFile(tmp_path / "o.mkv")
    assert (made.size, made.rate, len(list(made))) == ((16, 24), 12, 6)
    picture("in.png", (24, 16))
    done = infer("t2v", "--canvas", "in.png", "--prompt", "it moves up", "--output", "o.mp4")
    assert done.status == 0 and len(list(VideoFile(tmp_path / "o.mp4"))) == 5, done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("video_edit --prompt x --output o.mp4", "needs a video; give it as --video"),
        ("video_edit --video in.png --prompt x --output o.mp4", "is read as a still picture; edit it as a picture"),
        ("video_edit --video text.mp4 --prompt x --output o.mp4", "cannot be read as a video"),
        ("video_edit --video no.mp4 --prompt x --output o.mp4", "is not a file"),
        ("video_edit --video {clip} --prompt x --output o.png", "must end in one of .mp4, .mov, .mkv, .webm"),
        ("video_edit --video {clip} --prompt x --output o.gif", "must end in one of .mp4"),
        ("video_edit --video {clip} --output o.mp4", "needs a prompt, for example"),
        ("video_edit --video {clip} --prompt x --output o.mp4 --num-frames 1", "at least 2 frames"),
        ("video_edit --video {clip} --prompt x --output o.mp4 --num-results 8", "gives 4 to 7 results"),
        ("video_edit --video {clip} --prompt x --output o.mp4 --fps 8", "a video that is edited keeps its own"),
        ("video_edit --video {clip} --prompt x --output o.mp4 --canvas in.png", "takes no --canvas"),
        ("video_edit --video {clip} --prompt IMG9 --output o.mp4", "IMG9"),
        ("t2v --prompt x --output o.png", "must end in one of .mp4"),
        ("t2v --prompt x --output o.mp4 --fps 0", "--fps"),
        ("t2v --prompt x --output o.mp4 --fps 1/0", "--fps"),
        ("t2v --video {clip} --prompt x --output o.mp4", "takes no --video"),
        ("edit --video {clip} --prompt x --output o.png", "takes no --video"),
        ("edit --canvas in.png --prompt x --output o.mp4", "must end in one of .png"),
        ("edit --canvas in.png --prompt x --output o.png --fps 8", "makes pictures"),
        ("edit --canvas in.png --prompt x --output o.png --num-frames 8", "makes pictures"),
    ],
)
def test_bad_input_of_videos(infer, picture, clip, tmp_path, arguments, told):
    picture("in.png")
    (tmp_path / "text.mp4").write_text("no video " * 50)
    before = sorted(p.name for p in tmp_path.iterdir())
    done = infer(*arguments.format(clip=clip).split())
    assert done.status == 2 and told in done.err and done.err.count("\n") == 1, done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == before
