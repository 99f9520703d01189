"""What a run trains on: data sets of all kinds, YAML files, bad records, precomputed features, stages, the scaffold."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import debug_components, quiet_pipeline
from diffusers import AutoencoderKL
from PIL import Image
from processes import forget_accelerate
from safetensors.torch import load_file, save_file

from data_builders.world.recipes import world_sample
from unireal.data.__main__ import main as data_main
from unireal.data.buckets import batches, deal
from unireal.data.mixture import Mixture, TooManyBadRecordsError
from unireal.data.preparation import DataConfig, fitted, fitted_size, prepared, value_at
from unireal.data.records import write_shards
from unireal.data.sources import Source
from unireal.data.streams import StreamedSamples
from unireal.experiments import EXPERIMENTS, LoraConfig, OptimizerConfig, Stage, TrainConfig
from unireal.pipeline import UniRealPipeline
from unireal.sample import Frame, Role, Sample
from unireal.tasks import TASKS
from unireal.training.cli import main
from unireal.training.run_file import load_run
from unireal.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_training")
WORLD = Source("data_builders.world.stream:WorldStream")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder whose text encoder is frozen and pads, as CogVideoX's."""
    folder = tmp_path_factory.mktemp("models") / "frozen"
    quiet_pipeline(debug_components(text_length=40, pad_text=True)).save_pretrained(folder, safe_serialization=True)
    return folder


def world(count: int, *recipes: str) -> list[Sample]:
    recipes = recipes or ("recolor", "segment", "insert", "t2i")
    return [world_sample(recipes[i % len(recipes)], i, (24, 32)) for i in range(count)]


def train(config: TrainConfig, output: Path) -> list[float]:
    output.mkdir(exist_ok=True)
    return Trainer(config, output).train()


# Data sets


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_archive(samples: list[Sample], path: Path, damaged: int | None = None) -> None:
    """Samples in the manner of WebDataset: KEY.canvas.png, KEY.result.png, KEY.json."""
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            texts = {"task": sample.task, "instruction": sample.instruction, "context": sample.context}
            files = {"json": json.dumps(texts).encode(), "result.png": png(sample.results[0].image)}
            for i, frame in enumerate(sample.inputs):
                files[f"{frame.role}{'' if i == 0 else f'_{i + 1}'}.png"] = png(frame.image)
            if number == damaged:
                files["result.png"] = b"\x89PNG cut"
            for name, data in files.items():
                info = tarfile.TarInfo(f"{number:04d}.{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def same(a: Sample, b: Sample) -> bool:
    frames = zip((*a.inputs, *a.results), (*b.inputs, *b.results), strict=True)
    texts = (a.task, a.instruction, a.context) == (b.task, b.instruction, b.context)
    return texts and all((x.image == y.image).all() and (x.role, x.kind) == (y.role, y.kind) for x, y in frames)


def test_archives_are_streamed_and_resumed(tmp_path):
    samples = world(12, "recolor", "segment")
    write_archive(samples[:6], tmp_path / "a.tar")
    write_archive(samples[6:], tmp_path / "b.tar")
    source = Source(str(tmp_path), options={"shuffle": 0})
    read = list(islice(Mixture((source,)), 18))
    assert all(same(a, b) for a, b in zip(read, samples + samples[:6], strict=True))
    shuffled = Source(str(tmp_path), options={"shuffle": 8, "seed": 3})
    one = [s.instruction for s in islice(Mixture((shuffled,)), 30)]
    assert sorted(one[:12]) == sorted(s.instruction for s in samples) and one[:12] != [s.instruction for s in samples]
    other = Mixture((shuffled,))
    other.load_state({"draw": 17, "counts": [17]})
    assert [s.instruction for s in islice(other, 13)] == one[17:]


def test_parquet_files_with_columns_of_their_own_are_mapped(tmp_path):
    samples = world(5, "recolor")
    rows = [
        {
            "edit_prompt": s.instruction,
            "source_image": {"bytes": png(s.inputs[0].image), "path": None},
            "edited_image": {"bytes": png(s.results[0].image), "path": None},
        }
        for s in samples
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    columns = {"instruction": "edit_prompt", "canvas": "source_image", "result": "edited_image"}
    source = Source(str(tmp_path), options={"columns": columns, "task": "edit", "shuffle": 0})
    for read, sample in zip(islice(Mixture((source,)), 5), samples, strict=True):
        assert same(read, replace(sample, context=TASKS["edit"].context))
    for row, kind in zip(rows, ("edit", "restore", "edit", "restore", "restore"), strict=True):
        row["kind"] = kind
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    chosen = Source(str(tmp_path), tasks=("edit",), options={"columns": columns | {"task": "kind"}, "shuffle": 0})
    read = [(s.task, s.instruction) for s in islice(Mixture((chosen,)), 4)]
    assert read == [("edit", samples[i].instruction) for i in (0, 2, 0, 2)]
    wrong = Source(str(tmp_path), options={"columns": {"picture": "source_image"}})
    with pytest.raises(ValueError, match=r"names the field 'picture'; fields are task, .* canvas"):
        wrong.open()
    with pytest.raises(ValueError, match="does not take these options"):
        Source(str(tmp_path), options={"colums": {}}).open()


@pytest.mark.parametrize("archived", [False, True])
def test_tasks_are_chosen(tmp_path, archived):
    if archived:
        write_archive(world(12, "recolor", "segment"), tmp_path / "a.tar")
    else:
        write_shards(world(12), tmp_path)
    samples = list(islice(Mixture((Source(str(tmp_path), tasks=("segment",)),)), 9))
    assert {s.task for s in samples} == {"segment"} and len({s.instruction for s in samples}) > 1
    with pytest.raises(ValueError, match=r"unknown task 'segmnt'; did you mean 'segment'"):
        Source(str(tmp_path), tasks=("segmnt",)).open()
    if not archived:
        with pytest.raises(ValueError, match="has no records of depth; it has: edit, insert, segment, t2i"):
            Source(str(tmp_path), tasks=("depth",)).open()


def test_what_cannot_be_opened_is_told(tmp_path):
    for path, expected in [
        ("nobody/nothing", "no folder of records here and cannot be opened from the hub"),
        (f"{tmp_path}/none.py:Stream", "is not a file"),
        ("data_builders.world.stream:WorldStreem", "expected 'module:Class'"),
    ]:
        with pytest.raises(ValueError, match=expected):
            Source(path).open()


# Bad records


def damage(folder: Path, rows: list[int]) -> None:
    (path,) = folder.glob("*.parquet")
    table = pq.read_table(path)
    instructions = table["instruction"].to_pylist()
    for row in rows:
        instructions[row] = "Make IMG9 blue."
    column = table.schema.get_field_index("instruction")
    pq.write_table(table.set_column(column, "instruction", pa.array(instructions)), path)


def test_bad_records_are_told_counted_and_skipped(tmp_path, caplog):
    write_shards(world(20), tmp_path)
    damage(tmp_path, [3, 11])
    mixture = Mixture((Source(str(tmp_path)),))
    samples = list(islice(mixture, 18))
    assert mixture.state()["read"] == 20 and mixture.state()["bad"] == 2 and len(samples) == 18
    assert len(caplog.messages) == 2
    assert all(any(f"part-00000.parquet:{row}: " in message for message in caplog.messages) for row in (3, 11))
    assert "names IMG9" in caplog.messages[0]


def test_too_many_bad_records_stop_a_run(model, tmp_path, capsys):
    write_shards(world(20), tmp_path / "data")
    damage(tmp_path / "data", [1, 2, 3, 4, 5])
    with pytest.raises(TooManyBadRecordsError, match=r"^4 of \d+ records cannot be used, more than the share of 0.003"):
        list(islice(Mixture((Source(str(tmp_path / "data")),), bad_share=0.003), 100))
    (tmp_path / "run.yaml").write_text(
        f"experiment: debug\nmodel: {model}\nsteps: 40\nworkers: 1\n"
        f"data: {{bad_share: 0, sources: [{{path: {tmp_path / 'data'}}}]}}"
    )
    assert main([str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "train.py: 1 of" in last and "part-00000.parquet:" in last and "names IMG9" in last
    assert not (tmp_path / "run/model").exists()


def test_prompts_that_are_cut_off_are_counted_and_the_first_is_told(model, tmp_path, caplog, capsys):
    lengths = [1, 60, 1, 38, 60, 39]  # the text encoder reads 40 tokens, the last of which ends the text
    samples = [replace(s, context="", instruction="red " * n) for s, n in zip(world(6, "t2i"), lengths, strict=True)]
    write_shards(samples, tmp_path / "data")
    arguments = ["precompute", str(tmp_path / "data"), "--model", str(model), "--output", str(tmp_path / "encoded")]
    assert data_main(arguments) == 0
    assert "2 prompts are longer than the text encoder reads" in capsys.readouterr().out
    (told,) = caplog.messages
    assert f"{tmp_path / 'data'}, part-00000.parquet:1: the prompt has 61 tokens" in told
    assert f"cut off: '{' '.join(['red'] * 21)}'" in told
    cut_off = UniRealPipeline.from_pretrained(model).as_components().text.cut_off
    config = DataConfig((Source(str(tmp_path / "data")),), batch_size=1, text_dropout=0)
    caplog.clear()
    states = [state for _, state in islice(batches(config, workers=0, cut_off=cut_off), 12)]
    assert states[-1][0]["cut"] == 4 and len(caplog.messages) == 1 and "part-00000.parquet:" in caplog.text
    *_, (_, (state,)) = islice(batches(config, state=states[5], workers=0, cut_off=cut_off), 6)
    assert state["cut"] == states[-1][0]["cut"] and sum(lane["cut"] for lane in deal([state], 3, config)) == 4


def test_a_damaged_picture_in_an_archive_is_named(tmp_path, caplog):
    write_archive(world(4, "recolor"), tmp_path / "a.tar", damaged=2)
    assert len(list(islice(Mixture((Source(str(tmp_path), options={"shuffle": 0}),)), 3))) == 3
    assert "a.tar:0002: result cannot be read as a picture" in caplog.text


def test_where_a_stream_breaks_only_that_place_is_lost():
    """However it is read: one after another, every third, or from a place beyond the break."""
    rows = [{"task": "t2i", "instruction": f"Row {n}.", "result": {"bytes": png(np.zeros((8, 8, 3), np.uint8))}}
            for n in range(4)]  # fmt: skip

    def broken():
        yield from rows[:3]
        raise ValueError("bad block")

    def read(*numbers: int) -> list[str]:
        stream = StreamedSamples(datasets.IterableDataset.from_generator(broken), "rows", {}, {})
        told = []
        for number in numbers:
            try:
                told.append(stream[number].instruction)
            except ValueError as error:
                told.append(str(error))
        return told

    whole, lost = read(*range(10)), "rows:3 cannot be read (bad block); fetch it again"
    assert whole[:5] == ["Row 0.", "Row 1.", "Row 2.", lost, "Row 0."]
    assert read(2, 5, 8) == whole[2::3] and read(6, 7) == whole[6:8] and read(3, 3, 1) == [lost, lost, "Row 1."]


# Runs as files


def test_a_run_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        """
        experiment: debug
        steps: 7
        optimizer: {lr: 5e-4, betas: [0.8, 0.9]}
        lora: {rank: 4}
        data:
          text_dropout: 0.2
          scaffold: [[0, 1], [100, 0.5]]
          sources:
            - {path: a/b, weight: 3, tasks: [edit, insert], options: {split: test}}
            - {path: "data_builders.world.stream:WorldStream"}
        stages:
          - {start: 5, data: {side: 32, batch_size: 1}, time: {shift: 2}}
        """
    )
    run = load_run(path)
    assert run.model == "debug" and run.steps == 7 and run.lora.rank == 4
    assert run.optimizer == OptimizerConfig(lr=5e-4, betas=(0.8, 0.9))
    assert run.data.sources == (Source("a/b", 3, {"split": "test"}, ("edit", "insert")), WORLD)
    assert run.data.text_dropout == 0.2 and run.data.batch_size == 2 and run.data.scaffold == ((0, 1.0), (100, 0.5))
    assert run.course[1].start == 5 and run.course[1].data.side == 32 and run.course[1].time.shift == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: 3", "does not say what it is a variant of"),
        ("experiment: tini", "did you mean 'tiny'"),
        ("experiment: debug\nstep: 3", "unknown field 'step'; did you mean 'steps'?"),
        ("experiment: debug\ndata: {sorces: []}", "unknown field of data 'sorces'; did you mean 'sources'?"),
        (
            "experiment: debug\ndata: {sources: [{pth: a}]}",
            "unknown field of data.sources[0] 'pth'; did you mean 'path'",
        ),
        ("experiment: debug\nprecision: no", "precision is of type str, got False; put it in quotes"),
        ("experiment: debug\ntrainable: output", "trainable is a list, got 'output'; write it in brackets"),
        ("experiment: debug\ndata: {sources: [{weight: 1}]}", "data.sources[0] needs path, got weight"),
        ("experiment: debug\ndata: {sources: {path: a}}", "data.sources is a list, got {'path': 'a'}"),
        ("experiment: debug\noptimizer: {lr: fast}", "optimizer.lr is of type float, got 'fast'"),
        ("experiment: debug\nsteps: 1.5", "steps is of type int, got 1.5"),
        ("experiment: debug\ncompile: 1", "compile is of type bool, got 1"),
        ("experiment: debug\noptimizer: {betas: [1]}", "optimizer.betas has 2 values, got [1]"),
        ("experiment: debug\nstages: [{start: 0, data: {}}]", "stages start one after the other, from step 1 on"),
        ("experiment: debug\nplugins: [none.py]", "plugin 'none.py' is not a file"),
        ("a: [", "cannot be read as YAML"),
        ("!!python/object/apply:os.system [ls]", "cannot be read as YAML"),
    ],
)
def test_bad_run_files(tmp_path, capsys, text, expected):
    (tmp_path / "run.yaml").write_text(text)
    assert main([str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error


def test_help_lists_every_field_with_its_value(capsys):
    assert main(["tiny", "--help"]) == 0
    listing = " ".join(capsys.readouterr().out.split())
    for field in ("--optimizer.muon-lr FLOAT", "--data.batch-size INT", "--lora.rank INT", "--data.sources.0.weight"):
        assert field in listing
    assert re.search(rf"--optimizer.muon-lr FLOAT [^(]*\(default: {EXPERIMENTS['tiny'].optimizer.muon_lr}\)", listing)


@pytest.mark.parametrize("columns", ["60", "80", "90"])
def test_help_breaks_no_name(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["--help"]) == 0
    listing = capsys.readouterr().out
    assert all(f" {name}" in listing or f"\n{name}" in listing for name in EXPERIMENTS)


@pytest.mark.parametrize("experiment", ["tiny", "unireal-2b"])
def test_help_describes_every_field(capsys, experiment):
    assert main([experiment, "--help"]) == 0
    listing = capsys.readouterr().out.partition("show this help message and exit")[2]
    entries = re.findall(r"^  (--\w.*(?:\n    .*)*)", listing, flags=re.MULTILINE)
    assert len(entries) > 40
    for entry in entries:
        described = re.sub(r"--\S+|STR|INT|FLOAT|\(default.*|\W", "", entry, flags=re.DOTALL)
        assert described or ".options." in entry, entry  # what a data set takes besides is not ours


# Precomputed features


def encoded_run(model: Path, data: Path, **changes) -> TrainConfig:
    sources = DataConfig((Source(str(data)),), batch_size=3, text_dropout=0.3, context_dropout=0.3)
    return replace(EXPERIMENTS["debug"], model=str(model), data=sources, steps=4, **changes)


def test_training_on_precomputed_features_needs_no_encoders(model, tmp_path, monkeypatch, capsys):
    write_shards(world(30), tmp_path / "data")
    arguments = ["precompute", str(tmp_path / "data"), "--model", str(model), "--output", str(tmp_path / "encoded")]
    assert data_main([*arguments, "--dtype", "float32", "--batch-size", "4"]) == 0
    assert "30 samples in 1 shards" in capsys.readouterr().out
    plain = train(encoded_run(model, tmp_path / "data"), tmp_path / "plain")
    forget_accelerate()
    for part in ("T5EncoderModel", "AutoTokenizer"):
        monkeypatch.delattr(f"unireal.model.build.{part}")
    encoded = train(encoded_run(model, tmp_path / "encoded"), tmp_path / "run")
    assert encoded == pytest.approx(plain, abs=1e-5)
    assert sorted(p.name for p in (tmp_path / "run/model").iterdir()) == sorted(p.name for p in model.iterdir())
    forget_accelerate()
    train(encoded_run(model, tmp_path / "encoded", trainable=("output",), lora=LoraConfig(rank=2)), tmp_path / "both")
    weights = "transformer/diffusion_pytorch_model.safetensors"  # the adapter is merged into them
    assert load_file(tmp_path / "both/model" / weights).keys() == load_file(model / weights).keys()
    assert data_main(arguments) == 2
    assert "is not empty; give another folder" in capsys.readouterr().err


def test_precompute_does_without_the_transformer(model, tmp_path):
    """A large one would take most of the memory, and is not asked."""
    write_shards(world(3), tmp_path / "data")
    shutil.copytree(model, tmp_path / "model")
    save_file({"proj_out.bias": torch.zeros(1)}, tmp_path / "model/transformer/diffusion_pytorch_model.safetensors")
    with pytest.raises((ValueError, RuntimeError)):
        UniRealPipeline.from_pretrained(tmp_path / "model")
    for name, source in (("without", tmp_path / "model"), ("with", model)):
        arguments = ["precompute", str(tmp_path / "data"), "--model", str(source), "--output", str(tmp_path / name)]
        assert data_main([*arguments, "--device", "cpu"]) == 0
    for part in ("part-00000.parquet", "texts/part-00000.parquet"):
        assert (tmp_path / "without" / part).read_bytes() == (tmp_path / "with" / part).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_frozen_text_encoder_is_trained_beside_as_it_was_stored(model, tiny_pipeline_folder, tmp_path, dtype):
    UniRealPipeline.from_pretrained(model, dtype=dtype).save_pretrained(tmp_path / "half")
    write_shards(world(6, "recolor"), tmp_path / "data")
    run = encoded_run(tmp_path / "half", tmp_path / "data")
    parts = Trainer(run, tmp_path / "frozen").components
    assert parts.transformer.dtype is torch.float32 and parts.text_encoder.dtype is dtype
    assert np.isfinite(train(replace(run, steps=1), tmp_path / "run")).all()
    saved = load_file(tmp_path / "run/model/text_encoder/model.safetensors")
    assert all(torch.equal(saved[n], t) for n, t in load_file(tmp_path / "half/text_encoder/model.safetensors").items())
    UniRealPipeline.from_pretrained(tiny_pipeline_folder, dtype=dtype).save_pretrained(tmp_path / "trained")
    parts = Trainer(replace(run, model=str(tmp_path / "trained")), tmp_path / "joint").components
    assert parts.text_encoder.dtype is torch.float32  # one that is trained


def test_precomputed_latents_of_any_size_train_alike(tmp_path):
    """With a VAE and sizes that it does not divide, the changed region too lies where it does without."""
    parts = debug_components(text_length=40, pad_text=True, in_channels=4, patch_size=2)
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    parts.vae = AutoencoderKL(**blocks, block_out_channels=(8, 8, 8), norm_num_groups=4)
    parts.vae.requires_grad_(False).eval()
    model = tmp_path / "model"
    quiet_pipeline(parts).save_pretrained(model, safe_serialization=True)
    write_shards([world_sample("recolor", i, (26, 37)) for i in range(12)], tmp_path / "data")
    arguments = ["precompute", str(tmp_path / "data"), "--model", str(model), "--output", str(tmp_path / "encoded")]
    assert data_main([*arguments, "--dtype", "float32"]) == 0
    plain = train(encoded_run(model, tmp_path / "data", changed_weight=50), tmp_path / "plain")
    forget_accelerate()
    encoded = train(encoded_run(model, tmp_path / "encoded", changed_weight=50), tmp_path / "run")
    assert encoded == pytest.approx(plain, rel=1e-4)


def test_precomputed_texts_of_several_lengths_are_padded_in_a_batch(tiny_pipeline_folder, tmp_path):
    """With a text encoder that pads to the longest prompt, and whose padding is not attended to."""
    write_shards(world(6, "recolor"), tmp_path / "data")
    encoded = tmp_path / "encoded"
    arguments = ["precompute", str(tmp_path / "data"), "--model", str(tiny_pipeline_folder), "--output", str(encoded)]
    assert data_main([*arguments, "--dtype", "float32"]) == 0
    losses = []
    for name in ("data", "encoded"):
        forget_accelerate()
        run = encoded_run(tiny_pipeline_folder, tmp_path / name)
        data = replace(run.data, batch_size=4, text_dropout=0, context_dropout=0, input_dropout=0)
        losses += train(replace(run, steps=1, data=data), tmp_path / f"run-{name}")
    batch, _ = next(batches(data, workers=0))
    assert not batch.text["mask"].all() and losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_precomputed_features_go_with_their_model(model, tmp_path):
    quiet_pipeline(debug_components(seed=1)).save_pretrained(tmp_path / "other", safe_serialization=True)
    write_shards(world(6), tmp_path / "data")
    arguments = ["precompute", str(tmp_path / "data"), "--model", str(model), "--output", str(tmp_path / "encoded")]
    assert data_main(arguments) == 0
    data = encoded_run(model, tmp_path / "encoded").data
    for changes, expected in [
        ({"model": str(tmp_path / "other")}, "whose text encoder or VAE is not that of"),
        ({"model": "debug"}, "give its folder, not the size 'debug'"),
        ({"sample_every": 1}, "set --sample-every 0"),
        ({"stages": (Stage(5, replace(data, side=16)),)}, "data.side cannot scale latents"),  # not at step 5
    ]:
        forget_accelerate()
        config = replace(encoded_run(model, tmp_path / "encoded"), **changes)
        with pytest.raises(ValueError, match=expected):
            Trainer(config, tmp_path / "run")
    mixed = (Source(str(tmp_path / "encoded")), Source(str(tmp_path / "data")))
    with pytest.raises(ValueError, match="mixes precomputed latents with pictures"):
        next(batches(DataConfig(mixed, batch_size=6), workers=0))


def test_the_folder_of_precomputed_features_may_have_any_name_and_frames_any_size(model, tmp_path):
    write_shards(world(2), tmp_path / "data")
    arguments = ["precompute", str(tmp_path / "data"), "--model", str(model), "--output", str(tmp_path / "texts")]
    assert data_main([*arguments, "--side", "16", "--multiple", "8"]) == 0
    batch, _ = next(batches(DataConfig((Source(str(tmp_path / "texts")),), batch_size=1), workers=0))
    assert len(batch.tasks) == 1 and batch.results[0].shape[-2:] == fitted_size((24, 32), 16, 8)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nothing/here --model unireal-tiny", "cannot be opened from the hub"),
        ("data_builders.world.stream:WorldStream --model unireal-tiny", "has no end; add --num N"),
        ("data_builders.world.stream:WorldStream --model unireal-tinny --num 2", "is neither a folder nor one of"),
        ("data_builders.world.stream:WorldStream --model unireal-tiny --num 0", "--num must be at least 1"),
        ("data_builders.world.stream:WorldStream --model unireal-tiny --side 8", "--side is 0 or at least --multiple"),
        ("data_builders.world.stream:WorldStream --model unireal-tiny --device gpu", "device 'gpu' cannot be used"),
    ],
)
def test_bad_calls_of_precompute(tmp_path, capsys, arguments, expected):
    assert data_main(["precompute", *arguments.split(), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--batch-size", "--multiple"])
def test_numbers_of_precompute(tmp_path, capsys, option):
    with pytest.raises(SystemExit) as stop:
        data_main(["precompute", "data", "--model", "unireal-tiny", "--output", str(tmp_path / "out"), option, "0"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert f"{option}: '0' is not a whole number of at least 1" in error


# Stages, sizes and the scaffold


class OneColor:
    """Endless pictures of one size."""

    def __init__(self, side: int, task: str = "t2i"):
        self.side = side

    def __getitem__(self, number: int) -> Sample:
        image = np.full((self.side, self.side, 3), number % 200, np.uint8)
        return Sample("t2i", "red", TASKS["t2i"].context, results=(Frame(image, Role.RESULT),))


def test_stages_follow_each_other_and_warm_up_anew(tmp_path):
    def data(side: int) -> DataConfig:
        return DataConfig((Source("test_mixtures:OneColor", options={"side": side}),), batch_size=2)

    stages = (Stage(3, data(16)), Stage(6, data(24)))
    optimizer = OptimizerConfig(warmup=2, lr=1e-3)
    config = replace(EXPERIMENTS["debug"], data=data(8), stages=stages, optimizer=optimizer, steps=8)
    seen: list[tuple[int, float]] = []

    class Watched(Trainer):
        def _backward(self, batch, turn, stage):
            seen.append((batch.results[0].shape[-1], self.optimizers[0].param_groups[0]["lr"]))
            return super()._backward(batch, turn, stage)

    (tmp_path / "run").mkdir()
    losses = Watched(config, tmp_path / "run").train()
    assert [side for side, _ in seen] == [8] * 3 + [16] * 3 + [24] * 2
    assert [rate for _, rate in seen] == pytest.approx([5e-4, 1e-3, 1e-3] * 2 + [5e-4, 1e-3])
    # resumed at the end of a stage and within one
    for until in (6, 7):
        forget_accelerate()
        output = tmp_path / f"until-{until}"
        output.mkdir()
        assert Trainer(replace(config, steps=until), output).train() == losses[:until]
        forget_accelerate()
        resumed = Trainer(config, output)
        resumed.resume()
        assert resumed.train() == losses[until:]


def test_frames_are_scaled_to_an_area(tmp_path):
    assert fitted_size((480, 720), 256, 16) == (208, 320)
    assert fitted_size((64, 64), 32, 16) == (32, 32) and fitted_size((10, 1000), 64, 16) == (16, 256)
    sample = world_sample("inpaint", 1, (48, 96))
    scaled = prepared(sample, 0, 0, DataConfig(side=64, multiple=16, text_dropout=0, input_dropout=0))
    assert {f.size for f in (*scaled.inputs, *scaled.results)} == {(48, 80)} and scaled.mask.shape == (48, 80)
    assert {tuple(np.unique(f.image)) for f in scaled.inputs if f.kind == "mask"} == {(0, 255)}


def test_edges_stay_white_and_in_their_place_when_frames_are_scaled_down():
    edges = np.zeros((360, 640, 3), np.uint8)
    edges[[40, 101, 233], 20:600] = edges[30:300, [70, 333]] = 255
    frames = Frame(edges, Role.CONTROL, "edge"), Frame(edges, Role.RESULT, "edge")
    scaled = fitted(Sample("control", "", inputs=frames[:1], results=frames[1:]), 64, 16)
    for frame in (*scaled.inputs, *scaled.results):
        assert frame.size == (48, 80) and set(np.unique(frame.image)) == {0, 255}
        rows, columns = (np.flatnonzero((frame.image[..., 0] > 0).mean(axis=axis) > 0.5) for axis in (1, 0))
        assert rows.tolist() == [5, 13, 31] and columns.tolist() == [8, 41]
    larger = fitted(Sample("control", "", inputs=frames[:1]), 640, 16).inputs[0]
    assert larger.size == (480, 848) and larger.image.max() == 255


@pytest.mark.parametrize(("stored", "grey"), [(0, 0), (100 * 257 + 128, 100), (100 * 257 + 129, 101), (65535, 255)])
def test_depth_of_16_bits_is_scaled_as_grey_of_8(stored, grey):
    depth = Frame(np.full((32, 48), stored, np.uint16), Role.RESULT, "depth")
    (scaled,) = fitted(Sample("depth", "", results=(depth,)), 16, 8).results
    assert scaled.size == (16, 16) and scaled.image.dtype == np.uint8 and (scaled.image == grey).all()


def test_the_scaffold_is_given_ever_more_seldom():
    points = ((0, 1.0), (100, 0.2), (100, 0.0))
    at = [value_at(step, points) for step in (0, 50, 99, 100, 500)]
    assert at == pytest.approx([1, 0.6, 0.208, 0, 0])
    task = next(spec for spec in TASKS.values() if any(slot.scaffold for slot in spec.slots))
    size = (8, 8, 3)
    canvas = tuple(Frame(np.zeros(size, np.uint8), Role.CANVAS) for _ in range(4))
    result = tuple(Frame(np.zeros(size, np.uint8), Role.RESULT) for _ in range(4))
    asset = Frame(np.zeros(size, np.uint8), Role.ASSET)
    sample = Sample(task.name, "Make it blue.", task.context, (*canvas, asset), result)
    config = DataConfig(scaffold=points, input_dropout=0)
    kept = {step: sum(len(prepared(sample, n, step, config).inputs) == 5 for n in range(200)) for step in (0, 50, 500)}
    assert kept[0] == 200 and 90 < kept[50] < 150 and kept[500] == 0
    named = replace(sample, instruction="Make it as in IMG5.")
    assert len(prepared(named, 0, 500, replace(config, text_dropout=0)).inputs) == 5
