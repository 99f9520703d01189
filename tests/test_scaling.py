"""The benchmarks of scaling and of both kinds of attention, on models of the debug size."""

import json

import pytest
import torch
from conftest import status_of

from benchmarks.attention_kinds import main as attention_kinds
from benchmarks.attention_kinds import with_attention
from benchmarks.scaling import main as scaling
from unireal.pipeline import UniRealPipeline


def test_scaling_writes_a_table_and_numbers(tmp_path, capsys):
    output = tmp_path / "runs" / "tau0.1"  # what follows this dot is no suffix
    command = f"--model debug --sizes 256 512 --steps 8 --plain-steps 2 --shares 0.25 --output {output}"
    assert scaling([*command.split(), "--spotedit", ":initial=0.1:reset=0"]) == 0
    report = json.loads((tmp_path / "runs" / "tau0.1.json").read_text())
    rows = {(r["pixels"], r["acceleration"]): r for r in report["rows"]}
    assert len(rows) == 8 and report["settings"]["hardware"].endswith("CPU threads")
    text = 64
    for side, n in ((256, 16), (512, 64)):  # debug's tokens have 64 x 64 pixels here: 8 of the latents, 8 of a patch
        plain = 8 * (text + 2 * n)
        assert rows[side, "plain"]["tokens"] == plain
        assert rows[side, "condition_cache"]["tokens"] == text + 2 * n + 7 * n
        for name in ("spotedit", "spotedit+condition_cache"):
            assert rows[side, name]["tokens"] == text + 2 * n + 7 * n // 4 and rows[side, name]["share"] == 0.25
    assert all(row["seconds"] > 0 and row["processor"] > 0 for row in rows.values())
    assert (tmp_path / "runs" / "tau0.1.md").read_text().count("\n") == 2 + 8
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sizes 100", "multiples of 64"),
        ("--layers 0", "'0' is not a whole number of at least 1"),
        ("--repeats 0", "'0' is not a whole number of at least 1"),
        ("--shares 0.1 25", "above 0 and at most 1"),
        ("--device cdua", "'cdua' cannot be used here"),
        ("--accelerate spotedt", "did you mean 'spotedit'"),
        ("--spotedit :tau=-1", "at least 0"),
        ("--output /dev/null/scaling", "is not writable; give another --output"),
    ],
)
def test_scaling_says_what_is_wrong(arguments, message, capsys):
    assert status_of(scaling, f"--model debug --steps 2 {arguments}".split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.usefixtures("small_training")
def test_both_kinds_of_attention_are_trained_from_the_same_weights(tmp_path, capsys):
    start, output = tmp_path / "start", tmp_path / "out"
    UniRealPipeline.from_pretrained("unireal-tiny").save_pretrained(start)
    small = "--steps 1 --batch-size 2 --limit 2 --precision no"  # not every CPU has instructions for bf16
    command = f"--start {start} {small} --only depth --output {output}"
    assert attention_kinds(command.split()) == 0
    report = json.loads((output / "attention_kinds.json").read_text())
    row = report["rows"][0]
    assert row["recipe"] == "depth" and row["n"] == 2 and row["better"] == "lower"
    assert row["difference"] == pytest.approx(row["isolated"] - row["full"])
    assert all(row[kind] != row[f"{kind}_before"] for kind in ("full", "isolated"))
    assert row["full_before"] != row["isolated_before"]
    assert all(len(report["losses"][kind]) == 1 for kind in ("full", "isolated"))
    for kind in ("full", "isolated"):
        model = UniRealPipeline.from_pretrained(output / kind / "model").transformer
        assert model.config.condition_attention == kind
    capsys.readouterr()
    assert attention_kinds(command.split()) == 2 and "holds an earlier run" in capsys.readouterr().err


def test_the_other_kind_of_attention_keeps_the_weights(tmp_path, tiny_pipeline):
    tiny_pipeline.save_pretrained(tmp_path / "a")
    changed = UniRealPipeline.from_pretrained(with_attention(tmp_path / "a", "isolated", tmp_path / "b"))
    assert changed.transformer.config.condition_attention == "isolated"
    for name, value in tiny_pipeline.transformer.state_dict().items():
        assert torch.equal(value, changed.transformer.state_dict()[name])
