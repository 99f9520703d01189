"""The headlines of the systems that this project implements, for docs/reproducibility.md (docs/update_readme.py).

What others report is quoted. What was measured here is looked up in the shipped model's run of the world benchmark; a
row that is not there reads "not measured", as does everything that was not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NOT_MEASURED = "not measured"
EVALUATE = "python -m unireal.evaluation"
WORLD = f"{EVALUATE} world --model unireal-tiny --only {{}} --output runs/world"
VIDEO_PRIOR = "python -m benchmarks.video_prior --output runs/video-prior"
ACCELERATION = "python -m benchmarks.acceleration --model unireal-tiny --limit 16 --output runs/acceleration"


@dataclass(frozen=True)
class Headline:
    """theirs: what they report, or where it is only shown; command: what measures the like here.

    here: (recipe, metric) of the world's standard scenes; ours: or a text, where the number is elsewhere.
    """

    claim: str
    theirs: str
    command: str = "-"
    here: tuple[str, str] | None = None
    ours: str = NOT_MEASURED


def _world(claim: str, theirs: str, recipe: str, metric: str) -> Headline:
    return Headline(claim, theirs, WORLD.format(recipe), (recipe, metric))


_SHOWN = "shown in pictures"
SYSTEMS: dict[str, tuple[Headline, ...]] = {
    "UniReal ([2412.07774](https://arxiv.org/abs/2412.07774))": (
        Headline(
            "instruction editing, Emu Edit test",
            "CLIPdir 0.127, CLIPim 0.851, CLIPout 0.285, L1 0.099, DINO 0.790",
            f"{EVALUATE} emu_edit --model M --output runs/emu",
        ),
        Headline(
            "instruction editing, MagicBrush test",
            "CLIPdir 0.151, CLIPim 0.903, CLIPout 0.308, L1 0.081, DINO 0.837",
            f"{EVALUATE} magicbrush --data DIR --model M --output runs/magicbrush",
        ),
        Headline(
            "customization, DreamBench",
            "CLIP-T 0.326, CLIP-I 0.806, DINO 0.702",
            f"{EVALUATE} dreambench --data dreambooth --model M --output runs/dreambench",
        ),
        Headline(
            "ablations on MagicBrush (CLIPdir, CLIPout, DINO)",
            "0.151, 0.308, 0.837; without context prompt 0.144, 0.294, 0.769; without roles 0.136, 0.305, 0.809; "
            "expert data alone 0.139, 0.310, 0.788",
            VIDEO_PRIOR,
            ours="a model of 1M parameters, changed PSNR in dB: 19.1; without context prompt 19.2; without image "
            "prompt 19.1; expert data alone 20.1; video data alone 16.0 (copy 14.9, mean 15.3; n 256): "
            "[Training](training.md#videos-first-then-few-edits)",
        ),
        Headline(
            "frame pairs of videos alone teach basic editing",
            "said in section 3.2",
            VIDEO_PRIOR,
            ours="a model of 1M parameters: changed PSNR 16.0 dB on edits (copy 14.9, mean 15.3; n 256)",
        ),
        _world("edits by words: another colour", _SHOWN, "recolor", "changed PSNR"),
        _world("edits by words: removal", _SHOWN, "remove", "changed PSNR"),
        _world("edits by words: addition", _SHOWN, "add", "changed PSNR"),
        _world("insertion with a reference", _SHOWN, "insert", "changed PSNR"),
        _world("customization, one object: colour", _SHOWN, "customize1", "colour correct"),
        _world("customization, one object: shape", _SHOWN, "customize1", "shape correct"),
        _world("customization, two objects: colour", _SHOWN, "customize2", "colour correct"),
        _world("depth estimation", _SHOWN, "depth", "AbsRel"),
        _world("referring segmentation", _SHOWN, "segment", "gIoU"),
        _world("generation that follows a depth map", _SHOWN, "control_depth", "full PSNR"),
        _world("an edit and the mask of its region in one pass", _SHOWN, "edit_mask", "changed PSNR"),
    ),
    "Video4Edit ([2511.18131](https://arxiv.org/abs/2511.18131))": (
        Headline(
            "about 1% of the supervised triples are enough after video pretraining",
            "CLIP and structure scores",
            VIDEO_PRIOR,
            ours="not found at the same number of steps, with a model of 1M parameters; 1%, 10%, 100% of 10,000 "
            "samples: changed PSNR 17.6, 19.1, 19.1 dB, from scratch 17.7, 20.1, 20.1 (copy 14.9, mean 15.3; n 256): "
            "[Training](training.md#videos-first-then-few-edits)",
        ),
        Headline(
            "GEdit-Bench-EN, ImgEdit-Bench",
            "competitive with open baselines (no table could be read)",
            f"{EVALUATE} gedit --model M --output runs/gedit",
        ),
        Headline(
            "a video model is the start: the same output on a text-to-video input after conversion",
            "CogVideoX takes the place of their unnamed model",
            "python -m pytest tests/test_video_prior.py",
            ours="largest difference 3.3e-6 to 7.6e-6 in float32, 12 tiny random configurations",
        ),
        _world("consecutive frames as pairs", "the pretraining task", "frame2frame", "changed PSNR"),
    ),
    "SpotEdit ([2512.22323](https://arxiv.org/abs/2512.22323))": (
        Headline(
            "FLUX.1-Kontext, 50 steps, PIE-Bench++",
            "1.95x at 18.73 dB (plain 18.76)",
            ACCELERATION,
            ours="unireal-tiny 2.5x to 2.9x, 0.1 dB below plain to 0.1 above: [Acceleration](acceleration.md#measured)",
        ),
        Headline("FLUX.1-Kontext, 50 steps, ImgEdit-Bench", "1.67x at 16.45 dB (plain 16.40)"),
        Headline(
            "with TeaCache; with TaylorSeer (PIE-Bench++)",
            "4.28x; 4.16x",
            ACCELERATION,
            ours="unireal-tiny 4.0x to 4.3x; 4.5x to 4.8x; with TeaCache and condition cache 4.2x to 4.6x, "
            "6.5x to 7.0x with three inputs: [Acceleration](acceleration.md#measured)",
        ),
        Headline("Qwen-Image-Edit, ImgEdit-Bench; PIE-Bench++", "1.59x; 1.72x"),
        Headline("without resets; without the cache of condition images (PIE-Bench++)", "2.25x at 17.10 dB; 1.24x"),
    ),
    "Ditto ([2510.15742](https://arxiv.org/abs/2510.15742))": (
        Headline(
            "video editing by instruction",
            "CLIP-T 25.54, CLIP-F 99.03, VLM score 8.10",
            f"{EVALUATE} ditto --data DIR --model M --output runs/ditto",
        ),
        Headline("raters, 1 to 5: accuracy, temporal, overall", "3.85, 3.76, 3.86"),
        Headline("curriculum from an edited key frame to text alone", "without it CLIP-T falls by 3.8"),
        Headline("data scaling: 60k, 250k, 500k, 1M samples", "CLIP-T 22.1, 24.3, 25.5, +0.2"),
        Headline(
            "curation: near-duplicates removed; share of low motion",
            "15.3%; from 20% to below 5%",
            "python -m data_builders clips --videos DIR --output DIR",
        ),
        _world("a video edited by words", "edits of 101 frames", "video_edit", "changed PSNR"),
        _world("the same: change over time", "edits of 101 frames", "video_edit", "temporal PSNR"),
    ),
}


def headlines(run: dict[str, Any]) -> str:
    """A table for each system; run: world.json."""
    rows = {(row["recipe"], row["metric"]): row for row in run["rows"] if row["subset"] == "standard"}
    lines: list[str] = []
    for system, claims in SYSTEMS.items():
        lines += [f"### {system}", "", "| headline | they report | measured here | command |", "|---|---|---|---|"]
        for headline in claims:
            ours = _measured(rows.get(headline.here)) if headline.here else headline.ours
            command = headline.command if headline.command == "-" else f"`{headline.command}`"
            lines.append(f"| {headline.claim} | {headline.theirs} | {ours} | {command} |")
        lines.append("")
    return "\n".join(lines)


def _measured(row: dict[str, Any] | None) -> str:
    if row is None:
        return NOT_MEASURED
    beside = [f"{name} {_number(value)}" for name, value in row["baselines"].items() if name != "oracle"]
    unit = "" if row["unit"] in ("0..1", "ratio") else f" {row['unit']}"
    return f"{row['metric']} **{_number(row['mean'])}**{unit} ({', '.join(beside)}; n {row['n']})"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
