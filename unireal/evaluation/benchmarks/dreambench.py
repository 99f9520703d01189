"""DreamBench, the subjects and prompts of google/dreambooth (UniReal, Table 3)."""

from __future__ import annotations

import re
from pathlib import Path

from unireal.evaluation.benchmarks import sources
from unireal.evaluation.benchmarks.base import CLIP_B, DINO_S16, Benchmark
from unireal.evaluation.measures import similarity, subjects
from unireal.evaluation.pictures import Shared
from unireal.evaluation.results import Item

LIST = "prompts_and_classes.txt"
LIVE = ("cat", "dog")  # classes that get the second list of prompts
REPEATS = 4  # pictures per subject and prompt


def read_dreambench(root: Path, split: str) -> list[Item]:
    """dataset/<subject>/NN.jpg and prompts_and_classes.txt. The split says how many pictures are made per prompt: "x4"
    as in DreamBooth, "x1" as in UniReal's user study.

    The first picture of a subject is the reference that the model sees, all are what it is compared with.
    """
    root = next((folder for folder in (root, root / "dataset") if (folder / LIST).exists()), root)
    classes, prompts = read_list(sources.found(root, (LIST,), "google/dreambooth"))
    items = []
    for subject, kind in classes.items():
        paths = sorted(path for path in (root / subject).glob("*") if path.suffix.lower() in sources.SUFFIXES)
        if not paths:
            raise ValueError(f"{root / subject} holds no pictures of the subject; give google/dreambooth as it is")
        pictures = tuple(Shared(sources.picture_file(path)) for path in paths)
        for number, template in enumerate(prompts["live" if kind in LIVE else "object"]):
            for repeat in range(REPEATS if split == "x4" else 1):
                items.append(_item(subject, kind, number, repeat, template, pictures))
    return items


def _item(subject: str, kind: str, number: int, repeat: int, template: str, pictures: tuple[Shared, ...]) -> Item:
    prompt = re.sub(r"\s+", " ", template.format("", kind)).strip()  # without the rare token: CLIP cannot know it
    return Item(
        id=sources.safe_id(subject, f"{number:02d}", repeat),
        task="customize",
        instruction=prompt.replace(kind, f"{kind} from IMG1", 1),
        category="live" if kind in LIVE else "object",
        inputs=pictures[:1],
        references=pictures,
        texts={"target": prompt, "class": kind},
        aliases=(f"{subject}/{number}_{repeat}", f"{subject}/{prompt}_{repeat}"),
    )


def read_list(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Subject -> class, and "object" and "live" -> prompts with {0} for a rare token and {1} for the class."""
    text = path.read_text(encoding="utf-8")
    classes = dict(re.findall(r"^(\w+),([\w ]+)$", text.partition("Prompts")[0], re.MULTILINE))
    classes.pop("subject_name", None)
    lists = [re.findall(r"'([^'\n]*\{0\}[^'\n]*)'", part) for part in text.split("prompt_list")[1:]]
    if not classes or len(lists) != 2:
        raise ValueError(f"{path} is not DreamBooth's list of classes and two lists of prompts")
    return classes, {"object": lists[0], "live": lists[1]}


DREAMBENCH = Benchmark(
    name="dreambench",
    title="DreamBench",
    read=read_dreambench,
    measures={
        "CLIP-T": lambda networks: [similarity.clip_text(networks.clip(), "target")],
        "CLIP-I": lambda networks: [subjects.subject_clip(networks.clip())],
        "DINO": lambda networks: [subjects.subject_dino(networks.dino())],
    },
    backbones={"clip": CLIP_B, "dino": DINO_S16},
    splits=("x4", "x1"),
    files=("dataset/*",),
    obtain="the repository google/dreambooth, which is on the hub too",
)
