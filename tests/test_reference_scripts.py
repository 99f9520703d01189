"""Summaries against the data sets' own evaluation scripts, written out as loops over the files of a folder: what is
compared with which picture and caption, and how the numbers are averaged."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from benchmark_folders import FOLDERS
from evaluation_data import clip_folder, dino_folder, dinov2_folder, picture
from PIL import Image
from torchvision import transforms
from transformers import AutoTokenizer, CLIPModel, ViTModel

from unireal.evaluation.__main__ import main
from unireal.evaluation.results import RunFolder

CLIP_NORMAL = transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BICUBIC = transforms.InterpolationMode.BICUBIC


class Networks:
    """transformers' models, and torchvision's transforms as the scripts have them."""

    def __init__(self, root):
        self.names = {"clip": clip_folder(root / "clip"), "direction": clip_folder(root / "direction", seed=3)}
        self.names |= {"dino": dino_folder(root / "dino"), "dinov2": dinov2_folder(root / "dinov2")}
        self.clip, self.other = (CLIPModel.from_pretrained(self.names[n]).eval() for n in ("clip", "direction"))
        self.vit = ViTModel.from_pretrained(self.names["dino"], add_pooling_layer=False).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.names["clip"])
        self.see = transforms.Compose(
            [transforms.Resize(32, BICUBIC), transforms.CenterCrop(32), transforms.ToTensor(), CLIP_NORMAL]
        )
        self.see_dino = transforms.Compose(
            [transforms.Resize(256, BICUBIC), transforms.CenterCrop(224), transforms.ToTensor(), IMAGENET]
        )

    @torch.no_grad()
    def embed(self, tensor, model=None):
        return (model or self.clip).get_image_features(pixel_values=tensor[None]).pooler_output[0].numpy()

    def image(self, image):
        return self.embed(self.see(image))

    @torch.no_grad()
    def text(self, text, model=None):
        tokens = self.tokenizer([text], return_tensors="pt")
        return (model or self.clip).get_text_features(**tokens).pooler_output[0].numpy()

    @torch.no_grad()
    def dino(self, image):
        return self.vit(pixel_values=self.see_dino(image)[None]).last_hidden_state[0, 0].numpy()

    def squashed(self, image):
        """InstructPix2Pix's embedding, of length 1."""
        tensor = transforms.ToTensor()(image)[None]
        tensor = torch.nn.functional.interpolate(tensor, size=(32, 32), mode="bicubic", align_corners=False)[0]
        return unit(self.embed(CLIP_NORMAL(tensor), self.other))

    def options(self, *roles):
        return [f"--backbone={role}={self.names[role]}" for role in roles]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return Networks(tmp_path_factory.mktemp("networks"))


def unit(vector):
    return vector / np.linalg.norm(vector)


def cosine(one, other):
    return float(unit(one.astype(np.float64)) @ unit(other.astype(np.float64)))


def opened(path):
    return Image.open(path).convert("RGB")


def values(image):
    return np.asarray(image, np.float64) / 255


def save(path, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(size, seed=seed)).save(path)


def run(tmp_path, name, data, *options):
    """Metric -> value over all items of a folder of somebody's pictures."""
    output = tmp_path / "run"
    arguments = ["--data", str(data), "--images", str(tmp_path / "theirs"), "--output", str(output)]
    assert main([name, *arguments, *options]) == 0
    chosen = {"system": "model", "group": "all", "filter": "none"}
    rows = [row for row in RunFolder(output).summary() if all(getattr(row, k) == v for k, v in chosen.items())]
    assert not any(row.failures for row in rows)
    return {row.metric: row.value for row in rows}


ALL_TURNS = (("139306", "1", 1), ("139306", "inde_2", 2), ("242679", "1", 1))
FINAL_TURNS = (("139306", "iter_2", 2), ("242679", "1", 1))


@pytest.mark.parametrize(("name", "pairs"), [("magicbrush", ALL_TURNS), ("magicbrush_multi", FINAL_TURNS)])
def test_magicbrush(name, pairs, networks, tmp_path):
    data, theirs = FOLDERS["magicbrush"](tmp_path / "data"), tmp_path / "theirs"
    for seed, (session, which) in enumerate({(s, w) for s, w, _ in (*ALL_TURNS, *FINAL_TURNS)}):
        save(theirs / session / f"{session}_{which}.png", (44, 52), 70 + seed)
    captions = json.loads((data / "local_descriptions.json").read_text())
    sums = dict.fromkeys(("L1", "L2", "CLIP-I", "DINO", "CLIP-T"), 0.0)
    for session, which, turn in pairs:
        truth_name = f"{session}-output{turn}.png"
        made = opened(theirs / session / f"{session}_{which}.png")
        truth = opened(data / "images" / session / truth_name)
        difference = values(made.resize(truth.size)) - values(truth)
        sums["L1"] += np.abs(difference).mean()
        sums["L2"] += (difference**2).mean()
        sums["CLIP-I"] += cosine(networks.image(made), networks.image(truth))
        sums["DINO"] += cosine(networks.dino(made), networks.dino(truth))
        sums["CLIP-T"] += cosine(networks.image(made), networks.text(captions[session][truth_name]))
    found = run(tmp_path, name, data, "--only", ",".join(set(sums) - {"L2"}), *networks.options("clip", "dino"))
    assert found == {metric: pytest.approx(total / len(pairs), abs=1e-4) for metric, total in sums.items()}


def test_emu_edit_against_the_source(networks, tmp_path):
    data, theirs = FOLDERS["emu_edit"](tmp_path / "data"), tmp_path / "theirs"
    rows = [r for f in sorted((data / "data").glob("test*")) for r in parquet.read_table(f).to_pylist()]
    scores = {name: [] for name in ("CLIPdir", "CLIPim", "CLIPout", "DINO", "L1")}
    for number, row in enumerate(rows):
        save(theirs / f"{row['idx']}.png", (40, 48), 80 + number)
        made = opened(theirs / f"{row['idx']}.png")
        source = Image.fromarray(picture((40, 48), seed=number))  # as the folder was made
        before, after = (unit(networks.text(row[c], networks.other)) for c in ("input_caption", "output_caption"))
        moved = networks.squashed(made) - networks.squashed(source)
        scores["CLIPdir"].append(cosine(moved, after - before))
        scores["CLIPim"].append(cosine(networks.image(made), networks.image(source)))
        scores["CLIPout"].append(cosine(networks.image(made), networks.text(row["output_caption"])))
        scores["DINO"].append(cosine(networks.dino(made), networks.dino(source)))
        scores["L1"].append(np.abs(values(made) - values(source)).mean())
    found = run(tmp_path, "emu_edit", data, *networks.options("clip", "direction", "dino"))
    assert {name: found[name] for name in scores} == {
        name: pytest.approx(np.mean(each), abs=1e-4) for name, each in scores.items()
    }


def test_pie_bench(networks, tmp_path):
    """Structure distance is in test_metrics.py, SSIM and LPIPS are torchmetrics' as in the script."""
    data, theirs = FOLDERS["pie_bench"](tmp_path / "data"), tmp_path / "theirs"
    scores = {name: [] for name in ("PSNR unedited", "MSE unedited", "CLIP whole", "CLIP edited")}
    for seed, entry in enumerate(json.loads((data / "mapping_file.json").read_text()).values()):
        save(theirs / entry["image_path"], (512, 512), 90 + seed)
        made, source = (opened(root / entry["image_path"]) for root in (theirs, data / "annotation_images"))
        mask = np.zeros(512 * 512)
        for start, length in zip(entry["mask"][::2], entry["mask"][1::2], strict=True):
            mask[start : start + length] = 1
        mask = mask.reshape(512, 512, 1)
        mask[0] = mask[-1] = mask[:, 0] = mask[:, -1] = 1
        text = networks.text(entry["editing_prompt"].replace("[", "").replace("]", ""))
        scores["CLIP whole"].append(max(100 * cosine(networks.image(made), text), 0))
        edited = Image.fromarray(np.uint8(np.asarray(made) * mask))
        scores["CLIP edited"].append(max(100 * cosine(networks.image(edited), text), 0))
        if not mask.all():  # else the script's "nan", which it leaves out
            error = ((values(made) * (1 - mask) - values(source) * (1 - mask)) ** 2).mean()
            scores["MSE unedited"].append(error)
            scores["PSNR unedited"].append(10 * math.log10(1 / error))
    only = ["--only", "unedited,CLIP whole,CLIP edited"]
    found = run(tmp_path, "pie_bench", data, *only, *networks.options("clip"))
    assert found["CLIP whole"] > 0
    for name, each in scores.items():
        assert found[name] == pytest.approx(np.mean(each), abs=1e-2 if name.startswith("CLIP") else 1e-4), name


def test_tgve(networks, tmp_path):
    data, theirs = FOLDERS["tgve"](tmp_path / "data"), tmp_path / "theirs"
    with (data / "LOVEU-TGVE-2023_Dataset.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["Our GT caption"]]
    text, alike = [], []
    for number, (row, part) in enumerate(zip(rows, ("DAVIS_480p", "youtube_480p"), strict=True)):
        for kind in ("style", "object", "background", "multiple"):
            folder = theirs / part / row["Video name"] / kind
            for k in range(4):
                save(folder / f"{k:02d}.jpg", (48, 60), 100 + 20 * number + 4 * len(kind) + k)
            frames = [networks.image(opened(path).resize((480, 480))) for path in sorted(folder.glob("*.jpg"))]
            caption = next(value for key, value in row.items() if key.lower().startswith(kind))
            text.append(np.mean([100 * cosine(frame, networks.text(caption)) for frame in frames]))
            pairs = np.array([[cosine(a, b) for a in frames] for b in frames])
            alike.append(100 * (pairs.sum() - np.trace(pairs)) / (4 * 3))
    found = run(tmp_path, "tgve", data, "--only", "CLIP", *networks.options("clip"))
    assert found["CLIP-T"] == pytest.approx(np.mean(text), abs=1e-2)
    assert found["CLIP-F all pairs"] == pytest.approx(np.mean(alike), abs=1e-2)


def test_nyu_depth_as_marigold_measures_it(tmp_path):
    data, theirs = FOLDERS["nyu_depth"](tmp_path / "data"), tmp_path / "theirs"
    relative, near = [], []
    for seed, path in enumerate(sorted((data / "test").rglob("depth_*.png"))):
        name = path.relative_to(data).with_name(path.name.replace("depth_", "pred_"))
        predicted = np.random.default_rng(seed).uniform(0, 1, (480, 640))
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        np.save((theirs / name).with_suffix(".npy"), predicted)
        truth = np.asarray(Image.open(path)) / 1000.0
        valid = np.zeros(truth.shape, bool)
        valid[45:471, 41:601] = True
        valid &= (truth > 1e-3) & (truth < 10)
        x, y = predicted[valid], truth[valid]
        scale = ((x - x.mean()) * (y - y.mean())).mean() / x.var()
        depth = np.clip(scale * (x - x.mean()) + y.mean(), 1e-3, 10)
        relative.append((np.abs(depth - y) / y).mean())
        near.append((np.maximum(depth / y, y / depth) < 1.25).mean())
    found = run(tmp_path, "nyu_depth", data)
    assert found["AbsRel (depth)"] == pytest.approx(np.mean(relative), abs=1e-6)
    assert found["delta1 (depth)"] == pytest.approx(np.mean(near), abs=1e-6)


def test_refcoco_as_lisa_measures_it(tmp_path):
    data, theirs = FOLDERS["refcoco"](tmp_path / "data"), tmp_path / "theirs"
    truth = np.zeros((40, 60), bool)
    truth[5:25, 5:30] = True  # as pycocotools fills the polygon
    inside, union, ratios = 0, 0, []
    for number, name in enumerate(("00000_0", "00001_0", "00001_1")):
        mask = np.zeros((40, 60), bool)
        mask[10 * number : 10 * number + 15, 8 : 20 + 6 * number] = True
        theirs.mkdir(exist_ok=True)
        Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)).save(theirs / f"{name}.png")
        both, either = (mask & truth).sum(), (mask | truth).sum()
        inside, union, ratios = inside + both, union + either, [*ratios, both / either]
    found = run(tmp_path, "refcoco", data)
    assert found == {"gIoU": pytest.approx(np.mean(ratios)), "cIoU": pytest.approx(inside / union)}
