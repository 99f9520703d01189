"""Records on disk, what is told of broken ones, and mixtures that go on where they stopped."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_builders.world.recipes import RECIPES, world_sample
from data_builders.world.stream import WorldStream
from unireal.data.__main__ import main
from unireal.data.buckets import BucketedBatches
from unireal.data.mixture import Mixture, Source
from unireal.data.preparation import DataConfig
from unireal.data.records import ParquetSamples, check_sample, from_row, to_row, write_shards
from unireal.sample import Frame, Role, Sample


def world(count: int, *recipes: str, size: tuple[int, int] = (16, 24)) -> list[Sample]:
    stream = WorldStream(9, recipes or None, (size,))
    return [stream[i] for i in range(count)]


def assert_same(one: Sample, other: Sample) -> None:
    assert (one.task, one.instruction, one.context, one.source) == (
        other.task,
        other.instruction,
        other.context,
        other.source,
    )
    for a, b in zip((*one.inputs, *one.results), (*other.inputs, *other.results), strict=True):
        assert (a.role, a.kind, a.image.dtype) == (b.role, b.kind, b.image.dtype)
        np.testing.assert_array_equal(a.image, b.image)
    assert (one.mask is None) == (other.mask is None)
    if one.mask is not None:
        np.testing.assert_array_equal(one.mask, other.mask)


def write_rows(rows: list[dict[str, Any]], folder: Path) -> None:
    """Records as they are, valid or not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / "part-00000.parquet")


def test_samples_survive_the_round_trip(tmp_path: Path) -> None:
    samples = [world_sample(name, 1, (17, 31)) for name in RECIPES]
    paths = write_shards(samples, tmp_path, rows_per_shard=10)
    assert [p.name for p in paths] == [f"part-{i:05d}.parquet" for i in range(math.ceil(len(samples) / 10))]
    read = ParquetSamples(tmp_path)
    assert len(read) == len(samples)
    for number in np.random.default_rng(0).permutation(len(samples)):
        assert_same(read[int(number)], samples[number])
        assert read[int(number)].results[0].image.flags.writeable  # torch.from_numpy asks for it
    assert_same(read[-1], samples[-1])
    with pytest.raises(IndexError):
        read[len(samples)]
    assert len(list(read)) == len(samples)


def test_depth_keeps_16_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    canvas = Frame(rng.integers(0, 256, (9, 7, 3)).astype(np.uint8), Role.CANVAS)
    depth = Frame(rng.integers(0, 65536, (9, 7)).astype(np.uint16), Role.RESULT, "depth")
    mask = rng.random((9, 7)) < 0.5
    sample = Sample("depth", "Predict the depth map of IMG1.", "perception task", (canvas,), (depth,), mask, {"a": [1]})
    write_shards([sample], tmp_path)
    assert_same(ParquetSamples(tmp_path)[0], sample)
    assert main(["validate", str(tmp_path)]) == 0


def test_many_rows_are_read_with_a_small_cache(tmp_path: Path) -> None:
    samples = world(300, "t2i", size=(8, 8))
    write_shards(samples, tmp_path, rows_per_shard=120)
    read = ParquetSamples(tmp_path)
    for number in np.random.default_rng(0).permutation(300):
        assert read[int(number)].source == samples[number].source
    assert len(read._cache) <= 8
    assert [read.location(i) for i in (0, 119, 120, 299)] == [
        "part-00000.parquet:0",
        "part-00000.parquet:119",
        "part-00001.parquet:0",
        "part-00002.parquet:59",
    ]


def test_datasets_decodes_the_images(tmp_path: Path) -> None:
    from datasets import load_dataset

    samples = world(5, "inpaint") + world(2, "t2i")
    paths = write_shards(samples, tmp_path / "data")
    files = [str(p) for p in paths]
    loaded = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 7
    for row, sample in zip(loaded, samples, strict=True):
        assert [f["role"] for f in row["inputs"]] == [f.role for f in sample.inputs]
        np.testing.assert_array_equal(np.asarray(row["results"][0]["image"]), sample.results[0].image)
        assert json.loads(row["source"]) == sample.source
    np.testing.assert_array_equal(np.asarray(loaded[0]["mask"]) == 255, samples[0].mask)
    assert loaded[6]["mask"] is None
    streamed = load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert next(iter(streamed))["inputs"][0]["image"].size == (24, 16)


def test_writing_that_is_cut_short_leaves_whole_shards_only(tmp_path: Path) -> None:
    def interrupted():
        yield from world(13)
        raise RuntimeError("cut short")

    write_shards(world(2), tmp_path)
    before = (tmp_path / "part-00000.parquet").read_bytes()
    with pytest.raises(RuntimeError, match="cut short"):
        write_shards(interrupted(), tmp_path, rows_per_shard=5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"part-0000{i}.parquet" for i in range(3)]
    assert (tmp_path / "part-00000.parquet").read_bytes() == before
    assert len(ParquetSamples(tmp_path)) == 12  # 2, and the two shards that were complete
    assert main(["validate", str(tmp_path)]) == 0


def cut(row: dict[str, Any]) -> None:
    row["inputs"][0]["image"]["bytes"] = row["inputs"][0]["image"]["bytes"][:-40]


def small_mask(row: dict[str, Any]) -> None:
    row["mask"] = to_row(world(1, "recolor", size=(8, 8))[0])["mask"]


BREAKS = {
    "number of frames": (lambda row: row["inputs"].append(row["inputs"][0]), "takes 1 canvas frames, got 2"),
    "no canvas": (lambda row: row["inputs"].clear(), "takes 1 canvas frames, got 0"),
    "role": (lambda row: row["inputs"][0].update(role="canvass"), "'canvass'"),
    "role of a result": (lambda row: row["inputs"][0].update(role="result"), "role result"),
    "kind": (lambda row: row["inputs"][0].update(kind="dept"), "'dept'"),
    "kind of a canvas": (lambda row: row["inputs"][0].update(kind="depth"), "'depth'"),
    "named image": (lambda row: row.update(instruction="Make IMG9 red."), "IMG9"),
    "named result": (lambda row: row.update(instruction="Make IMG1 red; mask in RES2."), "RES2"),
    "task": (lambda row: row.update(task="edt"), "did you mean 'edit'"),
    "context": (lambda row: row.update(context="realistic stile"), "did you mean 'realistic style'"),
    "results": (lambda row: row["results"].append(row["results"][0]), "has 1 results, got 2"),
    "no results": (lambda row: row["results"].clear(), "has 1 results, got 0"),
    "mask": (small_mask, "mask has the first result's size 24x16, got 8x8"),
    "picture": (cut, "input 1 cannot be read as a picture"),
    "empty picture": (lambda row: row["results"][0]["image"].update(bytes=b""), "result 1 holds no picture"),
    "source": (lambda row: row.update(source="{'a': 1}"), "source is a JSON object"),
    "kind of source": (lambda row: row.update(source="[1]"), "source is a JSON object, got list"),
    "instruction": (lambda row: row.update(instruction=None), "instruction"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_record_is_named(name: str, tmp_path: Path, capsys) -> None:
    damage, told = BREAKS[name]
    rows = [to_row(sample) for sample in world(4, "recolor")]
    damage(rows[2])
    with pytest.raises(ValueError, match=re.escape(told)):
        check_sample(from_row(rows[2]))
    write_rows(rows, tmp_path)
    assert main(["validate", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("part-00000.parquet:2: ") and told in captured.err
    assert "1 of 4 records" in captured.err and "3 valid records" in captured.out
    assert captured.err.count("part-00000.parquet:2") == 1


def test_sizes_of_holes_and_results_are_checked() -> None:
    sample, other = world(1, "inpaint")[0], world(1, "inpaint", size=(8, 8))[0]
    with pytest.raises(ValueError, match="canvas's size, got a mask of 8x8 pixels on a canvas of 24x16"):
        check_sample(replace(sample, inputs=(sample.inputs[0], other.inputs[1])))
    with pytest.raises(ValueError, match="canvas's size"):
        check_sample(replace(sample, results=other.results, mask=None))
    with pytest.raises(ValueError, match="does not take"):
        check_sample(replace(sample, task="edit"))
    with pytest.raises(ValueError, match="is a depth, got kind 'image'"):
        check_sample(replace(world(1, "recolor")[0], task="depth"))


def test_a_source_that_is_not_json_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain JSON"):
        write_shards([replace(world(1)[0], source={"score": np.float32(1)})], tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_the_first_bad_records_are_listed(tmp_path: Path, capsys) -> None:
    write_shards([replace(sample, task="edit", instruction="IMG7") for sample in world(25, "recolor")], tmp_path)
    assert main(["validate", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and "25 of 25" in lines[-1]


@pytest.mark.parametrize("content", [None, {}, {"part-00000.parquet": b""}, {"part-00000.parquet": b"PAR1 no"}])
def test_folders_without_readable_records_are_told(content: dict[str, bytes] | None, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "data"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    assert main(["validate", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(folder) in error
    assert not content or "part-00000.parquet" in error


def test_a_damaged_shard_is_named(tmp_path: Path, capsys) -> None:
    (path,) = write_shards(world(40, size=(32, 32)), tmp_path)
    data = bytearray(path.read_bytes())
    data[4:40000] = bytes(len(data[4:40000]))
    path.write_bytes(data)
    assert main(["validate", str(tmp_path)]) == 2
    assert "part-00000.parquet:0: " in capsys.readouterr().err


def test_files_that_hold_other_columns_are_told(tmp_path: Path) -> None:
    write_rows([{"text": "a"}], tmp_path)
    with pytest.raises(ValueError, match="no column task"):
        ParquetSamples(tmp_path)


def mixed(folder: Path) -> tuple[Source, ...]:
    """Two data sets that are told apart by their recipes: three draws from the folder for one of the stream."""
    write_shards(world(23, "segment", "insert"), folder)
    return (
        Source(str(folder), weight=3.0),
        Source("data_builders.world.stream:WorldStream", options={"recipes": ("t2i", "add"), "sizes": ((16, 24),)}),
    )


def test_mixture_keeps_its_weights_and_shows_every_record_once_per_pass(tmp_path: Path) -> None:
    samples = list(itertools.islice(Mixture(mixed(tmp_path), seed=4), 600))
    from_folder = [s.source["video"] for s in samples if s.source["recipe"] in ("segment", "insert")]
    assert abs(len(from_folder) / 600 - 0.75) < 0.05
    assert len(set(from_folder[:23])) == 23 and len(set(from_folder[23:46])) == 23
    assert from_folder[:23] != from_folder[23:46]


def test_ranks_share_the_draws_of_one_process(tmp_path: Path) -> None:
    sources = mixed(tmp_path)
    whole = list(itertools.islice(Mixture(sources, seed=1), 30))
    for rank in range(3):
        part = itertools.islice(Mixture(sources, seed=1, rank=rank, world_size=3), 10)
        for sample, expected in zip(part, whole[rank::3], strict=True):
            assert_same(sample, expected)


def test_mixture_goes_on_where_it_stopped(tmp_path: Path) -> None:
    sources = mixed(tmp_path)
    one = Mixture(sources, seed=2)
    for _ in range(37):
        next(one)
    state = json.loads(json.dumps(one.state()))  # as a checkpoint holds it
    other = Mixture(sources, seed=2)
    other.load_state(state)
    for _ in range(40):
        assert_same(next(one), next(other))


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_go_on_where_they_stopped(tmp_path: Path, rank: int) -> None:
    config = DataConfig(mixed(tmp_path), batch_size=3, seed=5, text_dropout=0.3, input_dropout=0.3)
    whole = list(itertools.islice(BucketedBatches(config, rank, 2), 24))
    assert any(lane["waiting"] for _, (lane,) in whole)
    for stop in (0, 7):
        state = json.loads(json.dumps(whole[stop][1]))
        rest = itertools.islice(BucketedBatches(config, rank, 2, state), 23 - stop)
        for (batch, state), (expected, expected_state) in zip(rest, whole[stop + 1 :], strict=True):
            assert (batch.prompts, batch.tasks, state) == (expected.prompts, expected.tasks, expected_state)
            pairs = zip(
                (*batch.inputs, *batch.results, batch.roles, *batch.changed),
                (*expected.inputs, *expected.results, expected.roles, *expected.changed),
                strict=True,
            )
            assert all(a.equal(b) for a, b in pairs)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_weights_are_numbers_above_0(weight: float) -> None:
    with pytest.raises(ValueError, match="must be a number above 0"):
        Source("data", weight=weight)


def test_a_missing_data_set_is_told() -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        Mixture((Source("no/such/folder"),))
    with pytest.raises(ValueError, match="no data stream"):
        Mixture((Source("data_builders.world.stream:WorldSteam"),))
