"""A build: the shards that are missing are made by workers, and what came of all of them is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from data_builders.clips.clip import Clip
from data_builders.engine import Placing, spread
from data_builders.shards import Job, Outcome, Shard, build_shard, finished, give_up


class ShardMaker:
    """Builds shards with annotators that are loaded once. Raises ValueError if one cannot be loaded or is missing."""

    def __init__(self, job: Job):
        self.job = job
        self.annotators = job.load()
        job.builder.require(self.annotators)

    def __call__(self, clips: str) -> str:
        shard = Shard(tuple(map(Clip.from_dict, json.loads(clips))))
        return build_shard(self.job, shard, self.annotators).to_json()


def build(job: Job, shards: Sequence[Shard], placing: Placing | None = None, progress: bool | None = None) -> Outcome:
    """Makes the shards that are missing in job.output, and returns what all of them came to.

    Shards with failures that may be gone next time are made anew. progress: a bar with rate and time left; None for one
    on terminals only. Raises ValueError if annotators cannot be loaded or files cannot be written.
    """
    from tqdm import tqdm

    job.output.mkdir(parents=True, exist_ok=True)
    for unfinished in job.output.glob(".*.parquet.unfinished"):
        unfinished.unlink(missing_ok=True)
    outcomes = {shard.name: outcome for shard in shards if (outcome := finished(job.output / shard.name))}
    missing = {shard.name: shard for shard in shards if shard.name not in outcomes}
    total = Outcome(reused=len(outcomes))
    tasks = {name: json.dumps([clip.to_dict() for clip in shard.clips]) for name, shard in missing.items()}
    clips = sum(len(shard.clips) for shard in missing.values())
    hidden = None if progress is None and missing else not progress
    with tqdm(total=clips, unit="clip", disable=hidden) as bar:
        for name, told in spread(partial(ShardMaker, job), tasks, job.output, placing or Placing()):
            outcomes[name] = give_up(job, missing[name]) if told is None else Outcome.from_dict(told)
            bar.update(outcomes[name].clips)
    for shard in shards:
        total.add(outcomes[shard.name])
    return total
