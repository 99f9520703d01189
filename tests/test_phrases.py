"""Which words belong to one thing, and the small text encoder that learns it from text."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import debug_components, quiet_pipeline, status_of

from data_builders.world.phrases import find_phrases
from data_builders.world.recipes import world_sample
from unireal.config import MODELS
from unireal.model.build import build
from unireal.pipeline import UniRealPipeline
from unireal.training import phrases
from unireal.training.phrases import Lesson, draw_prompts, main, phrase_means


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return draw_prompts(400, seed=2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "A picture of a large striped red cross at the top left and a small blue star at the bottom in a navy room",
            [["large", "striped", "red", "cross", "top", "left"], ["small", "blue", "star", "bottom"]],
        ),
        (
            "The object from IMG1, large, at the top and the object from IMG2, small, at the left in a mint room.",
            [["IMG1", "large", "top"], ["IMG2", "small", "left"]],
        ),
        (
            "A gray room with a small yellow cross at the right; the yellow cross moves to the left.",
            [["small", "yellow", "cross", "right"], ["yellow", "cross", "moves", "left"]],
        ),
        ("Add a small red heart to the top.", [["small", "red", "heart", "top"]]),
        ("Make the red circle blue.", []),
        ("Fill the hole in IMG1.", []),
    ],
)
def test_phrases_tell_of_one_thing_each(text, told):
    found = find_phrases(text)
    assert [[text[start:end] for start, end, tells in words if tells] for words in found] == told
    assert all(any(text[a:b].lower() in ("a", "the") for a, b, _ in words) for words in found)


def test_every_thing_of_a_caption_is_found():
    for seed in range(40):
        sample = world_sample("t2i", seed, (8, 8))
        things = sample.source["things"]
        assert len(find_phrases(sample.instruction)) == len(things)


@pytest.fixture(scope="module")
def parts(prompts):
    """Of the tiny size, with a tokenizer that knows the prompts' words."""
    return build(MODELS["tiny"], sorted({word for prompt in prompts for word in re.findall(r"\w+", prompt)}))


def test_means_are_over_the_telling_words_of_a_token_s_own_phrase(parts):
    phrase = "a small red cross at the top", "a large blue star at the left"
    prompt = f"{phrase[0]} and {phrase[1]} in a mint room."
    tokens = parts.tokenizer([prompt], return_offsets_mapping=True, return_tensors="pt")
    means = phrase_means([prompt], tokens["offset_mapping"])[0]
    words = [prompt[a:b].strip() for a, b in tokens["offset_mapping"][0].tolist()]
    assert words[:15] == [*phrase[0].split(), "and", *phrase[1].split()]
    expected = torch.zeros_like(means)
    expected[0:7, [1, 2, 3, 6]] = expected[8:15, [9, 10, 11, 14]] = 1 / 4
    assert torch.equal(means, expected)
    cut = phrase_means([prompt], tokens["offset_mapping"][:, :9])[0]
    assert not cut[8].any() and torch.equal(cut[:7], expected[:7, :9])  # of the second phrase nothing telling is left


def swapped_change(text) -> float:
    """How much the features of "cross" change, relatively, when the colours of two things change places."""
    pair = ("a small red cross at the top and a large blue star at the left.",) * 2
    pair = (pair[0], pair[0].replace("red", "x").replace("blue", "red").replace("x", "blue"))
    tokens = [text.tokenizer.convert_ids_to_tokens(text.tokenizer(p)["input_ids"]) for p in pair]
    number = next(i for i, token in enumerate(tokens[0]) if "cross" in token)
    with torch.no_grad():
        a, b = text.encode_tokens(text.tokenize(list(pair))).features[:, number]
    return float((a - b).norm() / a.norm())


def test_the_words_of_a_thing_learn_of_each_other(parts, prompts):
    text = parts.text
    before, lesson = swapped_change(text), Lesson(text, prompts[50:])
    with torch.no_grad():
        first = [float(e.mean()) for e in lesson.errors(prompts[:50])]
    lesson.learn(60, 16)
    with torch.no_grad():
        last = [float(e.mean()) for e in lesson.errors(prompts[:50])]
    assert first[1] == pytest.approx(0, abs=1e-9) and last[0] < 0.6 * first[0] and last[1] < 0.1
    assert swapped_change(text) > before + 0.05


def test_the_command_saves_a_model_that_differs_in_its_text_encoder_alone(
    tiny_pipeline, tiny_pipeline_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(phrases, "_PROMPTS", 320)
    arguments = ["--model", str(tiny_pipeline_folder), "--output", str(tmp_path / "run"), "--batch-size", "4"]
    assert main([*arguments, "--steps", "2"]) == 0
    assert "error on held-out prompts" in capsys.readouterr().out
    made = UniRealPipeline.from_pretrained(tmp_path / "run/model").as_components()
    given = tiny_pipeline.as_components()
    assert all(
        torch.equal(a, b) for a, b in zip(made.transformer.parameters(), given.transformer.parameters(), strict=True)
    )
    old, new = (dict(parts.text_encoder.named_parameters()) for parts in (given, made))
    assert any(not torch.equal(old[name], new[name]) for name in old)
    assert status_of(main, arguments) == 2 and "give another --output" in capsys.readouterr().err


def test_bad_input_is_told_in_one_line(tmp_path, capsys):
    large = tmp_path / "large"  # its prompts are padded to one length, as T5-XXL's are
    quiet_pipeline(debug_components(pad_text=True)).save_pretrained(large, safe_serialization=True)
    capsys.readouterr()
    for arguments, told in (
        (("--model", "tinny"), "did you mean 'tiny'"),
        (("--model", str(large)), "is frozen"),
        (("--model", "tiny", "--steps", "0"), "whole number of at least 1"),
        (("--model", "tiny", "--seed", "-1"), "not a whole number"),
    ):
        assert status_of(main, [*arguments, "--output", str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err
        assert told in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "new").exists()
