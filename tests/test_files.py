"""Files appear whole or not at all."""

from __future__ import annotations

import os

import pytest

from unireal.files import replacing


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "shard.parquet"
    with replacing(path) as unfinished:
        unfinished.write_text("half")
        assert not path.exists() and not list(tmp_path.glob("*.parquet")) and list(tmp_path.glob(".*.unfinished"))
        assert str(os.getpid()) in unfinished.name
    assert path.read_text() == "half" and list(tmp_path.iterdir()) == [path]


def _fail(path, written):
    with replacing(path, ".new.png") as unfinished:
        assert unfinished == path.with_name(".picture.png.new.png")
        if written:
            unfinished.write_text("new")
        raise OSError("disk full")


@pytest.mark.parametrize("written", [True, False])
def test_after_an_error_the_old_file_is_still_there(tmp_path, written):
    path = tmp_path / "picture.png"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        _fail(path, written)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_next_attempt_writes_over_what_a_killed_one_has_left(tmp_path):
    path = tmp_path / "shard.parquet"
    (tmp_path / ".shard.parquet.unfinished").write_text("a longer half")
    with replacing(path, ".unfinished") as unfinished:
        unfinished.write_text("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]
