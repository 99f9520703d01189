"""New words of a small model's tokenizer."""

from __future__ import annotations

import shutil

import pytest
import torch

from unireal.cli import main as infer
from unireal.model.vocabulary import main
from unireal.pipeline import UniRealPipeline
from unireal.training.cli import main as train

OLD, NEW = "Make the red circle blue.", "Make the red circle happy."


@torch.no_grad()
def features(pipeline: UniRealPipeline, prompt: str) -> torch.Tensor:
    return pipeline.text_encoder(pipeline.tokenizer(prompt, return_tensors="pt").input_ids).last_hidden_state


@pytest.fixture
def extended(tiny_pipeline_folder, tmp_path):
    words = ["--words", "happy", "Rotate", "red", "--output", str(tmp_path / "more")]
    assert main(["--model", str(tiny_pipeline_folder), *words]) == 0
    return UniRealPipeline.from_pretrained(tmp_path / "more")


def test_a_new_word_is_one_token_in_either_form(extended, tiny_pipeline):
    ids, happy = extended.tokenizer.encode, extended.tokenizer.convert_tokens_to_ids("happy")
    assert len(tiny_pipeline.tokenizer.tokenize("happy")) == 6 and len(extended.tokenizer.tokenize("happy")) == 1
    assert happy in ids(NEW) and happy not in ids("unhappy happyish")
    for form, other in (("happy", "Happy"), ("red", "Red")):
        assert torch.equal(features(extended, f"a {form} circle"), features(extended, f"a {other} circle"))
    assert not torch.allclose(features(extended, "happy"), features(extended, "Rotate"))


def test_texts_without_new_words_are_read_as_before(extended, tiny_pipeline):
    assert torch.equal(features(extended, OLD), features(tiny_pipeline, OLD))
    kept, grown = (p.text_encoder.get_input_embeddings().weight for p in (tiny_pipeline, extended))
    assert torch.equal(grown[: len(kept)], kept) and len(grown) == len(kept) + 5 == len(extended.tokenizer)
    assert 0.5 < grown[len(kept) :].std() / kept.std() < 2


def test_the_copy_is_a_model(extended, tmp_path, picture):
    arguments = ["edit", "--canvas", str(picture("in.png")), "--prompt", NEW, "--output", str(tmp_path / "o.png")]
    assert infer([*arguments, "--model", str(tmp_path / "more")]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["make", "Make"], "every one of make, Make is one token of"),
        (["red circle"], "a word has letters and digits alone, got 'red circle'"),
    ],
)
def test_bad_words_are_told(words, expected, tiny_pipeline_folder, tmp_path, capsys):
    model = ["--model", str(tiny_pipeline_folder), "--output", str(tmp_path / "out")]
    assert main([*model, "--words", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_output_that_exists_is_kept(tiny_pipeline_folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("here")
    assert main(["--model", str(tiny_pipeline_folder), "--words", "happy", "--output", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err and (tmp_path / "mine.txt").read_text() == "here"


def test_a_training_tells_of_words_that_are_spelled(tiny_pipeline_folder, tmp_path, caplog, small_training):
    """The debug size's tokenizer knows hardly any of the world's words."""

    def told(model) -> str:
        assert train(["debug", "--model", str(model), "--output", str(tmp_path / "run"), "--steps", "1"]) == 0
        return next(line for line in reversed(caplog.messages) if "spells letter by letter" in line)

    before = told(tiny_pipeline_folder)
    word = before.split("reads: ")[1].split()[0]
    shutil.rmtree(tmp_path / "run")
    assert main(["--model", str(tiny_pipeline_folder), "--words", word, "--output", str(tmp_path / "new")]) == 0
    now = told(tmp_path / "new")
    assert f" {word} " not in now and "python -m unireal.model.vocabulary" in now
