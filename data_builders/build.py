"""A build: the shards that are missing are made by workers, and what came of all of them is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial

from data_builders.annotators.protocols import Annotators
from data_builders.clips.clip import Clip
from data_builders.engine import Placing, spread
from data_builders.files import UNFINISHED
from data_builders.shards import Failure, Job, Outcome, Shard, build_shard, finished
from data_builders.workers import Died, Note


class ShardMaker:
    """Builds shards with annotators that are loaded once. Raises ValueError if one cannot be loaded or is missing."""

    def __init__(self, job: Job):
        self.job = job
        self.annotators = job.load()
        job.builder.require(self.annotators)

    def __call__(self, task: str, note: Note) -> str:
        told = json.loads(task)
        shard = Shard(tuple(map(Clip.from_dict, told["clips"])))
        deadly = {clip: Failure(**failure) for clip, failure in told["deadly"].items()}
        return build_shard(self.job, shard, self.annotators, deadly, note).to_json()


def build(job: Job, shards: Sequence[Shard], placing: Placing | None = None, progress: bool | None = None) -> Outcome:
    """Makes the shards that are missing in job.output, and returns what all of them came to.

    Shards with failures that may be gone next time are made anew. A clip that ends the process that works on it is a
    failure, and its shard is made without it. progress: a bar with rate and time left; None for one on terminals only.
    Raises ValueError if annotators cannot be loaded or files cannot be written.
    """
    from tqdm import tqdm

    job.output.mkdir(parents=True, exist_ok=True)
    for unfinished in job.output.glob(UNFINISHED):
        unfinished.unlink(missing_ok=True)
    outcomes = {shard.name: outcome for shard in shards if (outcome := finished(job.output / shard.name))}
    missing = {shard.name: shard for shard in shards if shard.name not in outcomes}
    total = Outcome(reused=len(outcomes))
    deadly: dict[str, dict[str, Failure]] = {name: {} for name in missing}
    hidden = None if progress is None and missing else not progress
    with tqdm(total=sum(len(shard.clips) for shard in missing.values()), unit="clip", disable=hidden) as bar:
        while missing:
            tasks = {name: _task(shard, deadly[name]) for name, shard in missing.items()}
            for name, told in spread(partial(ShardMaker, job), tasks, job.output, placing or Placing()):
                if isinstance(told, Died):
                    deadly[name] |= _lost(missing[name], told)
                    if len(deadly[name]) < len(missing[name].clips):
                        continue  # the others are for the next round
                    outcomes[name] = build_shard(job, missing[name], Annotators(), deadly[name])
                else:
                    outcomes[name] = Outcome.from_dict(told)
                bar.update(outcomes[name].clips)
            missing = {name: shard for name, shard in missing.items() if name not in outcomes}
    for shard in shards:
        total.add(outcomes[shard.name])
    return total


def _task(shard: Shard, deadly: Mapping[str, Failure]) -> str:
    failures = {clip: vars(failure) for clip, failure in deadly.items()}
    return json.dumps({"clips": [clip.to_dict() for clip in shard.clips], "deadly": failures})


def _lost(shard: Shard, death: Died) -> dict[str, Failure]:
    """The clip that a process died of, twice, as a failure; all clips of the shard if it was none of them."""
    reason = f"the process that worked on it died twice: {death.cause}"
    guilty = [clip for clip in shard.clips if clip.id == death.at] or shard.clips
    # Killed for its memory it may live another time; a fault of a decoder stays.
    return {clip.id: Failure(clip.path, clip.id, reason, damaged=bool(death.fault)) for clip in guilty}
