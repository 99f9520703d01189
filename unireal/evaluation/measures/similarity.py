"""Measures on embeddings: CLIP direction, CLIP and DINO similarity to a picture, CLIP similarity to a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch.nn.functional import cosine_similarity

from unireal.evaluation.backbones import Backbone, Clip, Dino, View
from unireal.evaluation.measures.base import Metric, Networked
from unireal.evaluation.measures.fidelity import blackened
from unireal.evaluation.pictures import Case, Picture


def direction(source: torch.Tensor, output: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """CLIP's directional similarity, (N,): cosine of the change of the picture and the change of the caption.

    source, output: embeddings of pictures (N, D); before, after: of captions. All are normalised to length 1 before
    the differences are taken, as in InstructPix2Pix. 0 where picture or caption do not change.
    """
    source, output, before, after = (F.normalize(x, dim=-1) for x in (source, output, before, after))
    return cosine_similarity(output - source, after - before)


def directional(clip: Clip) -> Networked:
    """CLIPdir of InstructPix2Pix. 0 for equal captions and for an output that equals the source."""

    def score(cases: Sequence[Case]) -> torch.Tensor:
        pictures = [clip.pictures([pick(case) for case in cases], "squash", clip.squash) for pick in (_source, _output)]
        return direction(*pictures, *(clip.texts([case.item.texts[n] for case in cases]) for n in ("source", "target")))

    row = Metric("CLIPdir", "-1..1", "higher", clip.name, "source", f"{clip.size}x{clip.size} squashed")
    return Networked(row, score, needs(clip, "squash", clip.squash, _source, _output), ("source", "target"))


def clip_image(clip: Clip, reference: str, name: str = "CLIP-I") -> Networked:
    """Cosine of CLIP's embeddings of output and reference."""

    def score(cases: Sequence[Case]) -> torch.Tensor:
        ours, theirs = (clip.pictures([pick(case) for case in cases]) for pick in (_output, other))
        return cosine_similarity(ours, theirs)

    def other(case: Case) -> Picture:
        return case.given.reference(reference)

    row = Metric(name, "-1..1", "higher", clip.name, reference, clip.seen())
    return Networked(row, score, needs(clip, "crop", clip.crop, _output, other))


def clip_text(clip: Clip, text: str, name: str = "CLIP-T") -> Networked:
    """Cosine of CLIP's embeddings of the output and of the item's text of that name ("target", "local", ...)."""

    def score(cases: Sequence[Case]) -> torch.Tensor:
        pictures = clip.pictures([case.output for case in cases])
        return cosine_similarity(pictures, clip.texts([case.item.texts[text] for case in cases]))

    row = Metric(name, "-1..1", "higher", clip.name, "none", clip.seen())
    return Networked(row, score, needs(clip, "crop", clip.crop, _output), (text,))


def clip_score(clip: Clip, name: str, size: int, edited: bool = False) -> Networked:
    """torchmetrics' CLIPScore with the target caption: 100 cosine, at least 0.

    size: of the picture before CLIP's own preprocessing. edited: everything outside the mask is black, and an empty
    mask leaves it undefined (PIE-Bench).
    """
    key = f"score {size} {'edited' if edited else 'whole'}"

    def view(case: Case) -> Callable[[Picture], torch.Tensor]:
        def seen(picture: Picture) -> torch.Tensor:
            pixels = picture.resized((size, size)).pixels
            if edited:
                pixels = blackened(pixels, case.given.mask((size, size)))
            return clip.process(pixels)

        return seen

    def score(cases: Sequence[Case]) -> torch.Tensor:
        pictures = clip.pictures([case.output for case in cases], key, clip.crop)
        texts = clip.texts([case.item.texts["target"] for case in cases])
        found = (100 * cosine_similarity(pictures, texts)).clamp(min=0)
        empty = [edited and not case.given.mask((size, size)).any() for case in cases]
        return torch.where(torch.tensor(empty), torch.nan, found)

    row = Metric(name, "0..100", "higher", clip.name, "none", f"{size}x{size}, {clip.size}x{clip.size} centre crop")
    return Networked(row, score, lambda case: clip.prepare(key, case.output, view(case)), ("target",))


def pick_score(clip: Clip, text: str, size: int | None) -> Networked:
    """PickScore of a picture, or the mean of a video's frames: cosine to the text, times the exponential of the model's
    logit scale.

    clip: a CLIP model that was tuned on preferences. size: to which pictures are squashed first, None for their own.
    """
    key, view = f"pick {size}", clip.resized(size)

    def score(cases: Sequence[Case]) -> torch.Tensor:
        scale, texts = clip.model.logit_scale.exp().cpu(), clip.texts([case.item.texts[text] for case in cases])
        frames = [clip.pictures(case.frames, key, view) for case in cases]
        return torch.stack([scale * cosine_similarity(f, t[None]).mean() for f, t in zip(frames, texts, strict=True)])

    def prepare(case: Case) -> None:
        for frame in case.frames:
            clip.prepare(key, frame, view)

    row = Metric("PickScore", "", "higher", clip.name, "none", clip.seen(size))
    return Networked(row, score, prepare, (text,))


def dino(network: Dino, reference: str, name: str = "DINO") -> Networked:
    """Cosine of DINO's class tokens of output and reference."""

    def score(cases: Sequence[Case]) -> torch.Tensor:
        ours, theirs = (network.classes([pick(case) for case in cases]) for pick in (_output, other))
        return cosine_similarity(ours, theirs)

    def other(case: Case) -> Picture:
        return case.given.reference(reference)

    row = Metric(name, "-1..1", "higher", network.name, reference, "224x224 centre crop of 256")
    return Networked(row, score, needs(network, "crop", network.crop, _output, other))


def needs(network: Backbone, key: str, view: View, *picks: Callable[[Case], Picture]) -> Callable[[Case], None]:
    """What a loading thread prepares: the network's input for the picked pictures of a case."""

    def prepare(case: Case) -> None:
        for pick in picks:
            network.prepare(key, pick(case), view)

    return prepare


def _output(case: Case) -> Picture:
    return case.output


def _source(case: Case) -> Picture:
    return case.given.source
