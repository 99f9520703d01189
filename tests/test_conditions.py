"""The survey's taxonomy as data, and its ten input conditions on infer.py's command line."""

from __future__ import annotations

import json
import wave
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_builders.world.controls import drag_map, layout_boxes
from data_builders.world.recipes import RECIPES
from data_builders.world.render import render
from data_builders.world.scene import COLORS, sample_scene
from unireal.conditions import PALETTE, Drags, Layout
from unireal.evaluation.benchmarks import PUBLIC
from unireal.sample import Frame, Role
from unireal.tasks import CONTROL_KINDS, TASKS
from unireal.taxonomy import CATEGORIES, EDIT_TYPES, INPUT_CONDITIONS, conditions_of

# Taxonomy


def test_the_surveys_numbers():
    groups = list(EDIT_TYPES.values())
    assert [groups.count(group) for group in ("semantic", "stylistic", "structural")] == [5, 3, 4]
    assert len(INPUT_CONDITIONS) == len(set(INPUT_CONDITIONS)) == 10


def test_every_category_maps_to_a_known_type():
    assert {t for table in CATEGORIES.values() for t in table.values() if t} <= set(EDIT_TYPES)
    assert set(CATEGORIES["world"]) <= set(RECIPES)
    assert set(CATEGORIES) <= {"world", *PUBLIC}
    assert CATEGORIES["gedit"]["subject-remove"] == "object removal" and CATEGORIES["gedit"]["text_change"] is None


def test_a_task_with_an_unknown_edit_type_is_refused():
    with pytest.raises(ValueError, match="unknown edit type 'colour change'; did you mean 'color change'"):
        replace(TASKS["edit"], edit_types=("colour change",))


def test_tasks_together_accept_all_ten_conditions():
    assert {c for spec in TASKS.values() for c in spec.conditions} == set(INPUT_CONDITIONS)
    assert TASKS["t2i"].conditions == ("text", "class", "audio")
    assert TASKS["insert"].conditions == ("text", "mask", "reference image", "class", "audio")


def test_conditions_of_a_samples_frames():
    image = np.zeros((4, 4, 3), np.uint8)
    frames = [Frame(image, Role.CANVAS), Frame(image, Role.ASSET), Frame(image, Role.CONTROL, "drag")]
    assert conditions_of(frames) == ("text", "reference image", "dragging points")
    assert conditions_of([Frame(image, Role.CONTROL, "depth")]) == ("text",)  # the survey has no depth maps


# Drawing


@pytest.mark.parametrize("seed", range(5))
def test_layouts_are_drawn_like_the_training_data(seed, tmp_path):
    scene = sample_scene(np.random.default_rng(seed))
    drawn = render(scene, (48, 64))
    boxes = []
    for thing, mask in zip(scene.things, drawn.masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
            boxes.append({"box": box, "color": thing.color})
    path = _json(tmp_path, {"size": [64, 48], "boxes": boxes})
    assert np.array_equal(Layout.read(path).draw(), layout_boxes(scene, drawn))
    assert len(boxes) > 0


@pytest.mark.parametrize(("start", "end"), [([10, 12], [50.5, 30]), ([3.25, 40], [3.25, 40]), ([0, 0], [64, 48])])
def test_drags_are_drawn_like_the_training_data(start, end, tmp_path):
    image = render(sample_scene(np.random.default_rng(1)), (48, 64)).image
    path = _json(tmp_path, {"drags": [{"start": start, "end": end}]})
    before = image.copy()
    assert np.array_equal(Drags.read(path, (48, 64)).draw(image), drag_map(image, tuple(start), tuple(end)))
    assert np.array_equal(image, before)


def test_the_palette_is_the_worlds():
    assert PALETTE == COLORS


def test_a_scaled_layout_keeps_thin_frames(tmp_path):
    path = _json(tmp_path, {"size": [640, 640], "boxes": [{"box": [100, 200, 300, 400], "color": "#0102ff"}]})
    small = Layout.read(path).draw((64, 64))
    expected = np.zeros((64, 64), bool)
    expected[20:40, 10:30] = True
    expected[21:39, 11:29] = False
    assert np.array_equal((small == (1, 2, 255)).all(axis=2), expected) and small[~expected].max() == 0


# On the command line


def _json(folder, content, name="marks.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def asked(monkeypatch):
    """The samples that infer.py hands to the model; the pipeline runs as usual."""
    from unireal.pipeline import UniRealPipeline

    samples = []
    original = UniRealPipeline._sample

    def run(self, given, *arguments, **options):
        samples.extend(given)
        return original(self, given, *arguments, **options)

    monkeypatch.setattr(UniRealPipeline, "_sample", run)
    return samples


def test_a_layout_becomes_a_control_frame(infer, tmp_path, asked):
    boxes = [{"box": [2, 3, 10, 12], "color": "red"}, {"box": [12, 3, 20, 12]}]
    path = _json(tmp_path, {"size": [24, 16], "boxes": boxes})
    outcome = infer("control", "--layout", path, "--prompt", "a red circle", "--output", "o.png")
    assert outcome.status == 0, outcome
    (frame,) = asked[0].inputs
    assert (frame.role, frame.kind) == (Role.CONTROL, "layout")
    assert np.array_equal(frame.image, Layout.read(path).draw())
    assert asked[0].instruction == "The result follows the layout of IMG1; a red circle"
    assert Image.open(tmp_path / "o.png").size == (24, 16)


def test_a_drag_is_drawn_on_the_canvas(infer, tmp_path, asked, picture):
    path, canvas = _json(tmp_path, {"drags": [{"start": [2, 3], "end": [20, 12]}]}), picture("in.png", (24, 16))
    assert infer("control", "--canvas", canvas, "--drag", path, "--prompt", "x", "--output", "o.png").status == 0
    assert infer("compose", "--canvas", canvas, "--drag", path, "--prompt", "x", "--output", "o.png").status == 0
    shown = drag_map(np.asarray(Image.open(canvas)), (2, 3), (20, 12))
    assert [(f.role, f.kind) for f in asked[0].inputs] == [(Role.CONTROL, "drag")]
    assert [f.role for f in asked[1].inputs] == [Role.CANVAS, Role.CONTROL]
    assert all(np.array_equal(sample.inputs[-1].image, shown) for sample in asked)


def test_size_scales_marks_before_they_are_drawn(infer, tmp_path, asked):
    path = _json(tmp_path, {"size": [640, 320], "boxes": [{"box": [0, 0, 320, 320], "color": "blue"}]})
    arguments = ("control", "--layout", path, "--prompt", "x", "--size", "32x16", "--output", "o.png")
    assert infer(*arguments).status == 0
    expected = Layout.read(path).draw((16, 32))
    assert np.array_equal(asked[0].inputs[0].image, expected) and expected[:, 15].any(axis=1).all()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("t2i", "an object of the class golden retriever"),
        ("segment", "Segment the golden retriever."),
        ("edit", "Replace the main object of IMG1 by one of the class golden retriever."),
    ],
)
def test_a_class_becomes_text(task, expected, infer, picture, asked):
    canvas = ("--canvas", picture("in.png")) if TASKS[task].slot("canvas") else ()
    outcome = infer(task, *canvas, "--class-label", " golden  retriever", "--output", "o.png")
    assert outcome.status == 0, outcome
    assert asked[0].instruction == expected


def test_a_class_is_added_to_a_prompt(infer, asked):
    assert infer("t2i", "--prompt", "in a room", "--class-label", "dog", "--output", "o.png").status == 0
    assert asked[0].instruction == "in a room; an object of the class dog"


@pytest.mark.parametrize("kind", CONTROL_KINDS)
def test_every_control_kind_is_accepted_as_a_picture(kind, infer, picture):
    path = picture("c.png", (16, 16))
    assert infer("control", "--control", f"{kind}={path}", "--prompt", "x", "--output", "o.png").status == 0


_BOX = {"box": [0, 0, 4, 4]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("not json", "is not JSON"),
        ('{"boxes"', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([_BOX], "is an object with boxes (and size), got list"),
        ({"boxes": [_BOX], "sice": [8, 8]}, "got boxes, sice"),
        ({"boxes": [_BOX]}, 'has no "size"'),
        ({"size": [8, 8], "boxes": []}, "a list of 1 to 64, got 0"),
        ({"size": [8, 8], "boxes": 3}, "got int"),
        ({"size": [8, 8], "boxes": [_BOX] * 65}, "got 65"),
        ({"size": [0, 8], "boxes": [_BOX]}, "1 to 2048 whole pixels"),
        ({"size": [1e9, 8], "boxes": [_BOX]}, "list of 2 numbers"),
        ({"size": [8, 8], "boxes": [{"box": [0, 0, 9, 4]}]}, "box 1 [0, 0, 9, 4] is not"),
        ({"size": [8, 8], "boxes": [_BOX, {"box": [-1, 0, 4, 4]}]}, "box 2 [-1, 0, 4, 4] is not"),
        ({"size": [8, 8], "boxes": [{"box": [4, 0, 4, 4]}]}, "inside 8x8"),
        ({"size": [8, 8], "boxes": [{"box": [0, 0, 4]}]}, "list of 4 numbers, got [0, 0, 4]"),
        ({"size": [8, 8], "boxes": [{"box": [0, 0, 4, True]}]}, "list of 4 numbers"),
        ('{"size": [8, 8], "boxes": [{"box": [0, 0, NaN, 4]}]}', "list of 4 numbers"),
        ({"size": [8, 8], "boxes": [_BOX | {"color": "gren"}]}, "did you mean 'green'"),
        ({"size": [8, 8], "boxes": [_BOX | {"color": 7}]}, "#rrggbb"),
        (
            {"size": [8, 8], "boxes": [_BOX | {"label": "dog"}]},
            "box 1 is an object with box (and color), got box, label",
        ),
    ],
)
def test_bad_layouts(content, expected, infer, tmp_path):
    outcome = infer("control", "--layout", _json(tmp_path, content), "--prompt", "x", "--output", "o.png")
    _assert_refused(outcome, expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"drags": [{"start": [1, 1], "end": [25, 3]}]}, "drag 1 leaves the 24x16 canvas at [25, 3]"),
        ({"drags": [{"start": [1, -0.1], "end": [2, 3]}]}, "leaves the 24x16 canvas"),
        ({"drags": [{"start": [1, 1]}]}, "drag 1 is an object with end, start, got start"),
        ({"drags": [{"start": "ab", "end": [1, 1]}]}, "list of 2 numbers"),
        ({"points": []}, "is an object with drags, got points"),
    ],
)
def test_bad_drags(content, expected, infer, tmp_path, picture):
    arguments = ("control", "--canvas", picture("in.png"), "--prompt", "x", "--output", "o.png")
    _assert_refused(infer(*arguments, "--drag", _json(tmp_path, content)), expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("control --drag marks.json --prompt x", "give it as --canvas"),
        ("edit --canvas in.png --layout marks.json --prompt x", "takes no --layout; tasks that do: control, compose"),
        ("control --layout missing.json --prompt x", "is not a file"),
        ("control --layout marks.json --size 0x8 --prompt x", "0x8 pixels"),
        ("control --layout marks.json --canvas in.png --prompt x", "takes no --canvas"),
        ("t2i --class-label=", "name of 1 to 100 characters, got 0"),
        ("t2i --audio missing.wav", "is not a file"),
        ("t2i --audio marks.json", "cannot be read"),
        ("t2i --audio in.png", "has no audio track"),
    ],
)
def test_bad_calls(arguments, expected, infer, tmp_path, picture):
    picture("in.png")
    _json(tmp_path, {"size": [8, 8], "boxes": [_BOX]})
    _assert_refused(infer(*arguments.split(), "--output", "o.png"), expected)
    assert not (tmp_path / "o.png").exists()


def _assert_refused(outcome, expected):
    assert outcome.status == 2, outcome
    assert expected in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err


# Speech


def _recording(path, seconds=1.0, rate=22050, channels=2):
    """A rising tone as 16-bit WAV."""
    time = np.arange(int(seconds * rate)) / rate
    tone = (0.3 * np.sin(2 * np.pi * (200 + 400 * time) * time) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(tone[:, None], channels, axis=1).tobytes())
    return path


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory):
    """A random Whisper whose tokens are words, as a folder."""
    import torch
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("speech")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {token: i for i, token in enumerate([*letters, "Ġ", *special])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    size = len(tokenizer)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_target_positions=16, init_std=1.0,
        pad_token_id=vocabulary[special[0]], bos_token_id=vocabulary[special[0]],
        eos_token_id=vocabulary[special[0]], decoder_start_token_id=vocabulary[special[1]],
        begin_suppress_tokens=[vocabulary["Ġ"], vocabulary[special[0]]],
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config.no_timestamps_token_id = vocabulary[special[2]]
    model.generation_config.max_length = 12
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def test_speech_becomes_the_prompt(infer, tmp_path, tiny_whisper, asked):
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    audio = _recording(tmp_path / "said.wav", rate=16000, channels=1)
    outcome = infer("t2i", "--audio", audio, "--speech-model", tiny_whisper, "--output", "o.png")
    assert outcome.status == 0, outcome
    with wave.open(str(audio)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    processor = WhisperProcessor.from_pretrained(tiny_whisper)
    features = processor(samples, sampling_rate=16000, return_tensors="pt").input_features
    tokens = WhisperForConditionalGeneration.from_pretrained(tiny_whisper).generate(features, num_beams=5)
    said = " ".join(processor.batch_decode(tokens, skip_special_tokens=True)[0].split())
    assert said and asked[0].instruction == said
    assert f"heard: {said}" in outcome.err


def test_a_recording_may_have_any_name(tmp_path, monkeypatch):
    from unireal.speech import read_speech

    _recording(tmp_path / "said.wav", 0.5, 16000, 1).rename(tmp_path / "12:30:00.wav")
    monkeypatch.chdir(tmp_path)
    assert len(read_speech("12:30:00.wav", 16000)) == 8000


def test_speech_of_any_rate_and_channels_is_mono_at_the_models_rate(tmp_path):
    from unireal.speech import read_speech

    speech = read_speech(_recording(tmp_path / "said.wav", 0.5, 44100), 16000)
    reference = read_speech(_recording(tmp_path / "mono.wav", 0.5, 16000, 1), 16000)
    assert speech.dtype == np.float32 and abs(len(speech) - 8000) <= 16
    count = min(len(speech), len(reference))
    assert np.corrcoef(speech[100 : count - 100], reference[100 : count - 100])[0, 1] > 0.95
    assert abs(np.abs(reference).max() - 0.3) < 0.01


def test_bad_speech(infer, tmp_path, tiny_whisper):
    long, empty = _recording(tmp_path / "long.wav", 31, 8000, 1), _recording(tmp_path / "empty.wav", 0)
    arguments = ("t2i", "--speech-model", tiny_whisper, "--output", "o.png", "--audio")
    _assert_refused(infer(*arguments, long), "is longer than 30 s")
    _assert_refused(infer(*arguments, empty), "is empty")
    said = _recording(tmp_path / "said.wav")
    _assert_refused(
        infer("t2i", "--speech-model", tmp_path / "none", "--output", "o.png", "--audio", said), "cannot be loaded"
    )


def test_the_options_do_not_load_the_slow_libraries():
    import subprocess
    import sys

    code = "import sys; from unireal import conditions; print([m for m in ('torch', 'av') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_help_names_the_options(infer):
    outcome = infer("--help", model=None)
    assert outcome.status == 0
    options = ("--class-label", "--audio", "--speech-model", "--layout", "--drag")
    assert [option for option in options if option not in outcome.out] == []
