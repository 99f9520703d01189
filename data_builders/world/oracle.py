"""Annotators that know the truth: they implement data_builders.annotators.protocols for videos of the world.

A picture is recognised by its exact pixels, so the frames must reach the oracle as they were rendered: neither resized
nor compressed with loss. Captions, boxes, masks, depth, edges and poses are those of the scene, not estimates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from data_builders.annotators.boxes import bounding_box, overlap
from data_builders.annotators.protocols import (
    CRITERIA,
    Annotators,
    Box,
    Detection,
    Frames,
    Instruction,
    VideoInstruction,
    sequence,
)
from data_builders.world.controls import edge_map, pose_map
from data_builders.world.moments import Moment, as_order, motions_between, recolouring, reversed_motions
from data_builders.world.render import DEPTH_RANGE, Rendering, render
from data_builders.world.scene import describe, enumerate_words
from data_builders.world.video import WorldVideo

_KEPT = 64  # renderings that are remembered
_TOLD = 3  # reasons why videos are not known


class Oracle:
    """Every annotator of the protocols, for the frames of these videos; others are a ValueError.

    A video is rendered when a picture is looked for that none before it holds.
    unknown: why it does not have further videos, for those who ask for their frames.
    """

    name = "oracle"

    def __init__(self, videos: Iterable[WorldVideo], unknown: Iterable[str] = ()):
        self._unread, self._unknown = list(videos)[::-1], tuple(unknown)
        self._moments: dict[bytes, Moment] = {}
        self._render = lru_cache(_KEPT)(render)
        self._reading = Lock()  # an engine may ask from several threads

    def __reduce__(self) -> tuple[type[Oracle], tuple[list[WorldVideo], tuple[str, ...]]]:
        known = {id(m.video): m.video for m in self._moments.values()}
        return Oracle, ([*known.values(), *self._unread[::-1]], self._unknown)

    def find(self, image: np.ndarray) -> Moment:
        """Where the picture is from; the first such frame if several are equal. Raises ValueError if from nowhere."""
        moment = self._look_up(image)
        if moment is None:
            raise ValueError(
                f"the oracle knows no frame like this picture of {image.shape[1]}x{image.shape[0]} pixels; "
                "give it the video, and frames that were neither resized nor compressed with loss"
                + "".join(f"; {reason}" for reason in self._unknown[:_TOLD])
            )
        return moment

    def _look_up(self, image: np.ndarray) -> Moment | None:
        key = _digest(image)
        with self._reading:
            while key not in self._moments and self._unread:
                video = self._unread.pop()
                for index in range(len(video)):
                    drawn = render(video.scene_at(index), video.size)
                    self._moments.setdefault(_digest(drawn.image), Moment(video, index))
            return self._moments.get(key)

    def find_all(self, frames: Frames) -> list[Moment]:
        """As `find`; raises ValueError also if the frames are from different videos or there are none."""
        moments = [self.find(image) for image in sequence(frames)]
        if len({id(m.video) for m in moments}) != 1:
            raise ValueError(f"{len(moments)} frames that are not of one video; give one or more of the same one")
        return moments

    def drawn(self, moment: Moment) -> Rendering:
        return self._render(moment.scene, moment.video.size)

    def caption(self, frames: Frames) -> str:
        """The video's own caption if the frames run forward from its first one."""
        moments = self.find_all(frames)
        motion = motions_between(moments[0], moments[-1])
        scene = describe(moments[0].scene)
        return f"{scene}; {enumerate_words([f'the {t.name} {v}' for t, v in motion])}" if motion else scene

    def objects(self, frames: Frames, caption: str) -> tuple[str, ...]:
        moment = self.find(sequence(frames)[0])
        masks = self.drawn(moment).masks
        return tuple(f"the {t.name}" for t, mask in zip(moment.scene.things, masks, strict=True) if mask.any())

    def instruct(self, before: np.ndarray, after: np.ndarray, caption: str) -> Instruction:
        """For two frames of a video what moves; for a frame and `edited` of it, either way round, the recolouring.

        Raises ValueError if nothing moves between the two frames.
        """
        if order := self._recoloured(before, after):
            return order
        if order := self._recoloured(after, before):
            return Instruction(order.reverse, order.instruction, order.objects)
        first, last = self.find_all([before, after])
        motion = motions_between(first, last)
        if not motion:
            raise ValueError(f"both pictures are frame {first.index} of one video; give two different ones")
        back = as_order(reversed_motions(motion))
        return Instruction(as_order(motion), back, tuple(f"the {thing.name}" for thing, _ in motion))

    def _recoloured(self, frame: np.ndarray, edited: np.ndarray) -> Instruction | None:
        if not (moment := self._look_up(frame)) or np.array_equal(frame, edited):
            return None
        if not np.array_equal(edited, self.edited(frame)):
            return None
        old, new = recolouring(moment.video)
        there, back = (f"Make the {a.name} {b.color}." for a, b in ((old, new), (new, old)))
        return Instruction(there, back, (f"the {old.name}",))

    def video_instruction(self, frames: Frames, caption: str, seed: int = 0) -> VideoInstruction:
        """The recolouring that `edited` shows, whatever the seed."""
        old, new = recolouring(self.find_all(frames)[0].video)
        order = f"Make the {old.name} {new.color}"
        return VideoInstruction(f"{order}.", f"{order} in the whole video.", "local")

    def edited(self, image: np.ndarray) -> np.ndarray:
        """The frame as `video_instruction` asks for it: uint8 (H, W, 3)."""
        moment = self.find(image)
        old, new = recolouring(moment.video)
        number = [thing.name for thing in moment.scene.things].index(old.name)
        things = list(moment.scene.things)
        things[number] = replace(things[number], color=new.color)
        return self._render(replace(moment.scene, things=tuple(things)), moment.video.size).image

    def judge(self, before: Frames, after: Frames, instruction: str) -> dict[str, float]:
        """How near `after` comes to the true outcome of the instruction, 1 for equal pixels.

        instruction_fidelity: where the truth changes something, 0 for an instruction that is not the oracle's own;
        source_fidelity: elsewhere; visual_quality: everywhere. Safety is 1, since the world shows nothing harmful.
        Each is 1 - the mean absolute difference / 255. Raises ValueError if `after` has other sizes than `before`.
        """
        before, after = (np.stack(sequence(frames)) for frames in (before, after))
        if before.shape != after.shape:
            raise ValueError(f"before and after have the same shape, got {before.shape} and {after.shape}")
        truth = self._outcome(before, after, instruction)
        followed = truth is not None
        truth = after if truth is None else truth
        wrong = np.abs(after.astype(int) - truth) / 255.0
        changes = (truth != before).any(axis=-1)
        fidelity = followed * _agreement(wrong, changes)
        lost = np.abs(after.astype(int) - before) / 255.0
        scores = (fidelity, _agreement(lost, ~changes), _agreement(wrong, np.ones_like(changes)), 1.0)
        return dict(zip(CRITERIA, scores, strict=True))

    def _outcome(self, before: np.ndarray, after: np.ndarray, instruction: str) -> np.ndarray | None:
        """uint8 (T, H, W, 3): what the instruction makes of `before`; None if it is not the oracle's own."""
        asked = self.video_instruction(before, "")
        if instruction in (asked.key_frame_instruction, asked.video_instruction):
            return np.stack([self.edited(image) for image in before])
        try:
            told = [self.instruct(b, a, "").instruction for b, a in zip(before, after, strict=True)]
        except ValueError:
            return None
        return after if set(told) == {instruction} else None

    def ground(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """The visible things that the phrase names by colour and shape, or by shape alone if it names none so."""
        moment = self.find(image)
        seen = [(t, m) for t, m in zip(moment.scene.things, self.drawn(moment).masks, strict=True) if m.any()]
        phrase = phrase.lower()
        named = [pair for pair in seen if pair[0].name in phrase] or [p for p in seen if p[0].shape in phrase]
        return [Detection(bounding_box(mask), 1.0, thing.name) for thing, mask in named]

    def segment(self, image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
        return self.track([image], boxes)[:, 0]

    def track(self, frames: Frames, boxes: Sequence[Box]) -> np.ndarray:
        """The thing of each box is the visible one whose own box overlaps it most; no overlap, no mask."""
        moments = self.find_all(frames)
        first = self.drawn(moments[0])
        chosen = [_best_overlap(first.masks, box) for box in boxes]
        masks = np.zeros((len(boxes), len(moments), *moments[0].video.size), bool)
        for time, moment in enumerate(moments):
            for number, thing in enumerate(chosen):
                if thing is not None:
                    masks[number, time] = self.drawn(moment).masks[thing]
        return masks

    def depth(self, image: np.ndarray) -> np.ndarray:
        return depth16(self.drawn(self.find(image)).depth)

    def depths(self, frames: Frames) -> np.ndarray:
        return np.stack([self.depth(image) for image in sequence(frames)])

    def edge(self, image: np.ndarray) -> np.ndarray:
        moment = self.find(image)
        return edge_map(moment.scene, self.drawn(moment))

    def pose(self, image: np.ndarray) -> np.ndarray:
        moment = self.find(image)
        return pose_map(moment.scene, self.drawn(moment))


def annotators_of(oracle: Oracle) -> Annotators:
    """One oracle in all parts."""
    return Annotators(*[oracle] * 8)


def read_world_video(path: str | Path) -> WorldVideo:
    """The video that data_builders.world.export.write_video told about in NAME.json.

    Raises ValueError if the file is none of these, or this version of the world renders another video for its seed.
    """
    path = Path(path)
    try:
        told = json.loads(path.read_text())
        size, caption = tuple(told["size"]), told["caption"]
        # A photograph is behind the scene or not; either way the other random choices are the same.
        photo = float(caption.startswith("a photo"))
        video = WorldVideo(told["seed"], size, told["num_frames"], photo_share=photo)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a video of the world ({error}); write it anew") from error
    if video.caption != caption or not np.allclose(video.tracks, np.array(told["tracks"]), atol=1e-3):
        raise ValueError(
            f"{path} is from another version of the world, which draws its seed differently; write it anew"
        )
    return video


def depth16(depth: np.ndarray) -> np.ndarray:
    """World units (H, W) as uint16 (H, W): 0 near, 65535 far, the same scale as render.encode_depth."""
    low, high = DEPTH_RANGE
    share = (depth.astype(np.float64) - low) / (high - low)
    return (np.clip(share, 0.0, 1.0) * 65535 + 0.5).astype(np.uint16)


def _best_overlap(masks: Sequence[np.ndarray], box: Box) -> int | None:
    shares = [overlap(bounding_box(mask), box) if mask.any() else 0.0 for mask in masks]
    return int(np.argmax(shares)) if max(shares, default=0.0) > 0.0 else None


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16, key=str(image.shape).encode()).digest()


def _agreement(wrong: np.ndarray, where: np.ndarray) -> float:
    """1 - the mean of wrong (T, H, W, 3) where bool (T, H, W); 1 if that is nowhere."""
    return 1.0 - float(wrong[where].mean()) if where.any() else 1.0
