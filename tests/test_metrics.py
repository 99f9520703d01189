"""The measures of the public benchmarks against independent computations: the reference scripts' formulas written out,
with transformers' processors, torchvision, scipy and plain loops in place of this project's code."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from benchmark_folders import FOLDERS
from evaluation_data import clip_folder, dino_folder, dinov2_folder, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import cosine as cosine_distance
from torchvision import transforms
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from unireal.evaluation import pictures
from unireal.evaluation.__main__ import main
from unireal.evaluation.backbones import Clip, Dino, load_vision, shorter_side
from unireal.evaluation.benchmarks import PUBLIC
from unireal.evaluation.benchmarks.pie import pie_mask
from unireal.evaluation.measures import (
    fidelity,
    frames,
    perception,
    perceptual,
    sets,
    similarity,
    structure,
    subjects,
)
from unireal.evaluation.measures.base import Metric, combined
from unireal.evaluation.pictures import Case, Given, Picture
from unireal.evaluation.results import Item, ItemResult, RunFolder

CAPTIONS = ("a red circle in a room", "a green circle in a room")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.load(str(clip_folder(tmp_path_factory.mktemp("clip"))))


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return Dino.load(str(dino_folder(tmp_path_factory.mktemp("dino"))))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return Dino.load(str(dinov2_folder(tmp_path_factory.mktemp("dinov2"))))


def case(output=None, source=None, truth=None, references=(), video=None, **arrays):
    """A case of given pictures; arrays are those of the item."""
    source = picture(seed=1) if source is None else source
    item = Item(
        id="x",
        task="edit",
        instruction="Make it green.",
        inputs=(lambda: source,),
        truth=None if truth is None else lambda: truth,
        references=tuple(lambda r=r: r for r in references),
        arrays={name: lambda a=array: a for name, array in arrays.items()},
        texts={"source": CAPTIONS[0], "target": CAPTIONS[1], "local": "the green circle"},
    )
    shown = video or [picture(seed=2) if output is None else output]
    return Case(item, [Picture(pixels) for pixels in shown], Given(item))


def measured(measure, *cases):
    for each in cases:
        measure.prepare(each)
    return measure.score(list(cases))


def one(measure, each):
    scores = measured(measure, each)[0]
    return next(iter(scores.values())) if len(scores) == 1 else scores


# What transformers itself makes of a picture and a text


def clip_image_by_transformers(clip, pixels):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": clip.size}, crop_size={"height": clip.size, "width": clip.size}
    )
    with torch.no_grad():
        inputs = processor(Image.fromarray(pixels), return_tensors="pt")
        pooled = clip.model.vision_model(**inputs).pooler_output
        return clip.model.visual_projection(pooled)[0].numpy()


def clip_image_by_torchvision(clip, pixels):
    """The transform of OpenAI's CLIP package."""
    transform = transforms.Compose(
        [
            transforms.Resize(clip.size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(clip.size),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    with torch.no_grad():
        pooled = clip.model.vision_model(pixel_values=transform(Image.fromarray(pixels))[None]).pooler_output
        return clip.model.visual_projection(pooled)[0].numpy()


def clip_text_by_transformers(clip, text):
    with torch.no_grad():
        pooled = clip.model.text_model(**clip.tokenizer([text], return_tensors="pt")).pooler_output
        return clip.model.text_projection(pooled)[0].numpy()


def cosine(one_vector, other):
    return 1 - cosine_distance(np.asarray(one_vector, np.float64), np.asarray(other, np.float64))


def imagenet(*steps):
    normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return transforms.Compose([*steps, normal])


def dino_by_torchvision(dino, pixels):
    """MagicBrush's transform of the picture, and the class token by hand."""
    transform = imagenet(
        transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
    )
    with torch.no_grad():
        return dino.model(pixel_values=transform(Image.fromarray(pixels))[None]).last_hidden_state[0, 0].numpy()


# Emu Edit and MagicBrush


@pytest.mark.parametrize("size", [(48, 40), (40, 64), (32, 32)])
def test_clip_similarities_are_those_of_openais_transform(clip, size):
    output, source, truth = (picture(size, seed=i) for i in range(3))
    each = case(output, source, truth)
    embedded = {
        name: clip_image_by_torchvision(clip, p) for name, p in zip("ost", (output, source, truth), strict=True)
    }
    tight = {"abs": 1e-4}
    assert one(similarity.clip_image(clip, "source"), each) == pytest.approx(
        cosine(embedded["o"], embedded["s"]), **tight
    )
    assert one(similarity.clip_image(clip, "truth"), each) == pytest.approx(
        cosine(embedded["o"], embedded["t"]), **tight
    )
    text = clip_text_by_transformers(clip, CAPTIONS[1])
    assert one(similarity.clip_text(clip, "target"), each) == pytest.approx(cosine(embedded["o"], text), **tight)
    local = clip_text_by_transformers(clip, "the green circle")
    assert one(similarity.clip_text(clip, "local"), each) == pytest.approx(cosine(embedded["o"], local), **tight)


def test_clip_direction_by_the_formula_of_instruct_pix2pix(clip):
    output, source = picture(seed=1), picture((40, 64), seed=2)
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )

    def embed(pixels):
        tensor = torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[None].float()
        tensor = torch.nn.functional.interpolate(tensor, size=clip.size, mode="bicubic", align_corners=False)
        tensor = torch.nn.functional.interpolate(
            tensor, size=(clip.size, clip.size), mode="bicubic", align_corners=False
        )
        with torch.no_grad():
            found = clip.model.visual_projection(
                clip.model.vision_model(pixel_values=(tensor - mean) / std).pooler_output
            )
        return (found / found.norm(dim=1, keepdim=True))[0].numpy()

    before, after = (v / np.linalg.norm(v) for v in (clip_text_by_transformers(clip, c) for c in CAPTIONS))
    expected = cosine(embed(output) - embed(source), after - before)
    assert one(similarity.directional(clip), case(output, source)) == pytest.approx(expected, abs=1e-4)


def test_an_output_that_does_not_change_has_direction_0(clip):
    assert one(similarity.directional(clip), case(picture(seed=1), picture(seed=1))) == pytest.approx(0, abs=1e-6)


def test_direction_follows_the_caption():
    unit = torch.eye(4)
    source, before = unit[:1], unit[1:2]
    assert similarity.direction(source, unit[2:3], before, unit[2:3] + before - source) > 0.3
    far, near = unit[2:3] - source, 2 * source - unit[2:3]
    assert similarity.direction(source, source + far, before, before + far) > 0.5
    assert similarity.direction(source, near, before, before + far) < 0


def test_distances_are_those_of_torch_at_the_size_of_the_truth():
    output, truth = picture((40, 50), seed=1), picture((48, 40), seed=2)
    resized = Image.fromarray(output).resize((40, 48))  # PIL's default, as MagicBrush's script has it
    pair = [transforms.ToTensor()(image) for image in (resized, Image.fromarray(truth))]
    scores = one(fidelity.distances("truth"), case(output, truth=truth))
    assert scores["L1"] == pytest.approx(torch.nn.L1Loss()(*pair).item(), abs=1e-6)
    assert scores["L2"] == pytest.approx(torch.nn.MSELoss()(*pair).item(), abs=1e-6)


@pytest.mark.parametrize("size", [(48, 40), (300, 260)])
def test_dino_is_the_cosine_of_class_tokens_under_torchvisions_transform(dino, size):
    output, source = picture(size, seed=1), picture((64, 64), seed=2)
    expected = cosine(dino_by_torchvision(dino, output), dino_by_torchvision(dino, source))
    assert one(similarity.dino(dino, "source"), case(output, source)) == pytest.approx(expected, abs=1e-4)


def test_batches_and_memos_change_nothing(clip, dino):
    cases = [case(picture(seed=i), picture(seed=i + 9), picture(seed=i + 20)) for i in range(4)]
    for measure in (
        similarity.directional(clip),
        similarity.clip_image(clip, "truth"),
        similarity.dino(dino, "source"),
    ):
        together = [next(iter(s.values())) for s in measured(measure, *cases)]
        alone = [one(measure, case(c.output.pixels, c.given.source.pixels, c.given.truth.pixels)) for c in cases]
        assert together == pytest.approx(alone, abs=1e-5)
        assert len(set(np.round(alone, 5))) == 4


# PIE-Bench


def pie_by_script(metric, output, source, keep):
    """PIE-Bench's calculators: both pictures times the kept region, then the metric over everything."""
    pair = [
        torch.from_numpy((p.astype(np.float32) / 255) * keep[..., None]).permute(2, 0, 1)[None].float()
        for p in (output, source)
    ]
    return metric(*pair).item()


def test_unedited_part_of_pie_bench():
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
    from torchmetrics.regression import MeanSquaredError

    output, source = picture((512, 512), seed=1), picture((512, 512), seed=2)
    mask = pie_mask([512 * 100 + 50, 9000, 512 * 300, 512 * 50])
    scores = one(fidelity.unedited(), case(output, source, mask=mask))
    keep = (~mask).astype(np.float32)
    assert scores["PSNR unedited"] == pytest.approx(
        pie_by_script(PeakSignalNoiseRatio(data_range=1.0), output, source, keep), abs=1e-4
    )
    assert scores["SSIM unedited"] == pytest.approx(
        pie_by_script(StructuralSimilarityIndexMeasure(data_range=1.0), output, source, keep), abs=1e-4
    )
    mse = MeanSquaredError()
    assert scores["MSE unedited"] == pytest.approx(
        pie_by_script(lambda a, b: mse(a.contiguous(), b.contiguous()), output, source, keep), abs=1e-6
    )


def test_a_mask_over_everything_leaves_the_unedited_part_undefined():
    scores = one(fidelity.unedited(64), case(mask=np.ones((64, 64), bool)))
    assert all(math.isnan(value) for value in scores.values())


def test_pie_mask_is_the_scripts_decoding_with_its_border():
    pairs, size = [5, 3, 512 * 511 + 500, 99], 512
    expected = np.zeros(size * size)
    for start, length in zip(pairs[::2], pairs[1::2], strict=True):
        for j in range(min(length, size * size - start)):
            expected[start + j] = 1
    expected = expected.reshape(size, size)
    expected[0], expected[-1], expected[:, 0], expected[:, -1] = 1, 1, 1, 1
    assert (pie_mask(pairs) == expected.astype(bool)).all()


def keys_by_hand(dino, tensor):
    """Keys of the last layer from the hidden state before it, and their cosines, token by token."""
    with torch.no_grad():
        hidden = dino.model(pixel_values=tensor[None], output_hidden_states=True).hidden_states[-2]
        layer = dino.model.layers[-1]
        keys = layer.attention.k_proj(layer.layernorm_before(hidden))[0]
    keys = keys / keys.norm(dim=1, keepdim=True)
    return (keys @ keys.T).numpy()


@pytest.mark.parametrize("white", [255.0, 1.0])
def test_structure_distance_by_hand(dino, white):
    output, source = picture((512, 512), seed=3), picture((512, 512), seed=4)
    resize = transforms.Resize(224, max_size=480, antialias=False)
    transform = imagenet(resize)
    found = [
        keys_by_hand(dino, transform(torch.from_numpy(p.astype(np.float32) / 255 * white).permute(2, 0, 1)))
        for p in (output, source)
    ]
    expected = ((found[0] - found[1]) ** 2).mean()
    assert expected > 1e-5
    measure = structure.structure(dino, 512, white)
    assert one(measure, case(output, source)) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert one(measure, case(source, source)) == 0
    assert measure.metric.name == ("structure distance" if white == 255 else "structure distance (0..1 input)")


@pytest.mark.parametrize("size", [(300, 200), (200, 600), (224, 224), (100, 500)])
def test_shorter_side_is_torchvisions_resize(size):
    tensor = torch.rand(3, *size)
    expected = transforms.Resize(224, max_size=480, antialias=False)(tensor)
    assert torch.allclose(shorter_side(tensor, 224, 480), expected, atol=1e-5)


@pytest.mark.parametrize("edited", [False, True])
def test_clip_score_is_100_times_the_cosine_and_never_negative(clip, edited):
    output, mask = picture((512, 512), seed=5), pie_mask([512 * 200, 512 * 100])
    shown = np.uint8(output * mask[..., None]) if edited else output
    expected = max(
        0, 100 * cosine(clip_image_by_transformers(clip, shown), clip_text_by_transformers(clip, CAPTIONS[1]))
    )
    measure = similarity.clip_score(clip, "CLIP", 512, edited)
    assert one(measure, case(output, mask=mask)) == pytest.approx(expected, abs=1e-2)
    assert one(measure, case(output, mask=mask)) >= 0
    if edited:
        assert math.isnan(one(measure, case(output, mask=np.zeros((512, 512), bool))))


def test_lpips_is_torchmetrics():
    network = fidelity.lpips_network("squeeze", pretrained=False)
    output, source, keep = picture((64, 64), seed=1), picture((64, 64), seed=2), RNG.random((64, 64)) < 0.5
    measure = fidelity.Lpips(network, "source", size=64, keep=lambda c: keep)
    pair = [
        torch.from_numpy(p / 255.0 * keep[..., None]).permute(2, 0, 1)[None].float() * 2 - 1 for p in (output, source)
    ]
    with torch.no_grad():
        expected = network[1](*pair).item()
    assert expected > 0 and one(measure, case(output, source)) == pytest.approx(expected, abs=1e-5)
    assert "random" in measure.metrics[0].backbone
    empty = fidelity.Lpips(network, "source", size=64, keep=lambda c: np.zeros((64, 64), bool))
    assert math.isnan(one(empty, case(output, source)))


@pytest.mark.parametrize("name", ["pie_bench", "brushbench"])
def test_lpips_of_a_benchmark_is_that_of_the_part_to_keep(name):
    network = SimpleNamespace(lpips=lambda: fidelity.lpips_network("squeeze", pretrained=False))
    measure = PUBLIC[name].measures["LPIPS"](network)[0]
    before, mask = picture((512, 512), seed=2), pie_mask([512 * 100, 512 * 300])
    for part in (mask, ~mask):
        output = np.where(part[..., None], picture((512, 512), seed=1), before)
        assert (one(measure, case(output, before, before, mask=mask)) == 0) == (part is mask)


# DreamBench, regions, videos


def test_subject_fidelity_is_the_mean_over_all_real_pictures(clip, dino):
    output, real = picture(seed=1), [picture(seed=i) for i in (5, 6, 7)]
    each = case(output, references=real)
    wanted = np.mean(
        [cosine(clip_image_by_torchvision(clip, output), clip_image_by_torchvision(clip, r)) for r in real]
    )
    assert one(subjects.subject_clip(clip), each) == pytest.approx(wanted, abs=1e-4)
    wanted = np.mean([cosine(dino_by_torchvision(dino, output), dino_by_torchvision(dino, r)) for r in real])
    assert one(subjects.subject_dino(dino), each) == pytest.approx(wanted, abs=1e-4)


def test_foreground_features_by_loops(dinov2):
    output, truth = picture((224, 224), seed=1), picture((224, 224), seed=2)
    mask = np.zeros((224, 224), bool)
    mask[60:160, 30:200] = True
    side = 224 // 28

    def mean_feature(pixels):
        transform = imagenet(transforms.ToTensor())
        with torch.no_grad():
            hidden = dinov2.model(pixel_values=transform(Image.fromarray(pixels))[None]).last_hidden_state[0, 1:]
        kept = [hidden[r * side + c] for r in range(side) for c in range(side) if mask[r * 28 + 14, c * 28 + 14]]
        return torch.stack(kept).mean(0).numpy()

    measure = structure.Foreground(dinov2, "truth")
    expected = cosine(mean_feature(output), mean_feature(truth))
    assert one(measure, case(output, truth=truth, mask=mask)) == pytest.approx(expected, abs=1e-4)
    assert math.isnan(one(measure, case(output, truth=truth, mask=np.zeros((224, 224), bool))))


def test_video_scores_are_those_of_the_tgve_script(clip):
    video = [picture(seed=i) for i in range(4)]
    resized = [np.asarray(Image.fromarray(p).resize((480, 480))) for p in video]
    features = [clip_image_by_transformers(clip, p) for p in resized]
    text = clip_text_by_transformers(clip, CAPTIONS[1])
    scores = {m.metric.name: one(m, case(video=video)) for m in frames.video_measures(clip, "target")}
    assert scores["CLIP-T"] == pytest.approx(100 * np.mean([cosine(f, text) for f in features]), abs=1e-2)
    pairs = [cosine(a, b) for i, a in enumerate(features) for j, b in enumerate(features) if i != j]
    assert scores["CLIP-F all pairs"] == pytest.approx(100 * np.mean(pairs), abs=1e-2)
    following = [cosine(a, b) for a, b in pairwise(features)]
    assert scores["CLIP-F consecutive"] == pytest.approx(100 * np.mean(following), abs=1e-2)
    still = {m.metric.name: one(m, case(video=video[:1])) for m in frames.video_measures(clip, "target")}
    assert math.isnan(still["CLIP-F all pairs"]) and math.isnan(still["CLIP-F consecutive"])
    pick = one(similarity.pick_score(clip, "target", 480), case(video=video))
    scale = math.exp(clip.model.logit_scale.item())
    assert pick == pytest.approx(scale * np.mean([cosine(f, text) for f in features]), abs=1e-2)
    alone = one(similarity.pick_score(clip, "target", None), case(video[0]))
    assert alone == pytest.approx(scale * cosine(clip_image_by_transformers(clip, video[0]), text), abs=1e-3)


def test_pick_score_on_any_benchmark_with_captions(clip, tmp_path, capsys):
    for name in ("brushbench", "refcoco", "tgve"):
        FOLDERS[name](tmp_path / name)

    def run(name, *options):
        folders = ["--data", str(tmp_path / name), "--output", str(tmp_path / f"{name}-run")]
        return main([name, *folders, "--baseline", "copy", "--also", "pickscore", "--backbone", *options])

    assert run("brushbench", f"pick={clip.name}", "--only", "unmasked") == 0
    row = next(r for r in RunFolder(tmp_path / "brushbench-run").summary() if r.metric == "PickScore")
    shown = np.asarray(Image.open(tmp_path / "brushbench-run" / "images" / "000000000_0.png"))
    found = clip_image_by_transformers(clip, shown), clip_text_by_transformers(clip, "a dog on a lawn")
    assert row.value == pytest.approx(math.exp(clip.model.logit_scale.item()) * cosine(*found), abs=1e-3)
    assert row.backbone == clip.name
    capsys.readouterr()
    for name, expected in (("refcoco", "has no captions"), ("tgve", "has PickScore among its own")):
        assert run(name, f"pick={clip.name}", "--limit", "1", *(["--only", "PickScore"] * (name == "tgve"))) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("load", [Clip.load, load_vision])
def test_a_network_with_missing_weights_is_refused(clip, load, tmp_path):
    """transformers would make them up, and scores would look like any others."""
    shutil.copytree(clip.name, tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    weights = load_file(path)
    del weights["visual_projection.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as visual_projection\.weight"):
        load(str(tmp_path / "clip"))


# Depth, segmentation, inpainting


def test_a_black_depth_map_fails_as_disparity_alone():
    truth = RNG.uniform(1, 4, (48, 40))
    valid = np.ones(truth.shape, bool)
    scores = one(perception.depth_measure(perception.Range(0.5, 9)), case(picture() * 0, depth=truth, valid=valid))
    assert scores["AbsRel (disparity)"] is None and scores["delta1 (disparity)"] is None
    expected = np.mean(np.abs(truth.mean() - truth) / truth)  # of nothing but a shift
    assert scores["AbsRel (depth)"] == pytest.approx(expected, abs=1e-6)


def test_depth_is_aligned_by_least_squares_in_both_spaces():
    limits = perception.Range(0.5, 10.0)
    truth = RNG.uniform(1, 8, (20, 24))
    valid = RNG.random((20, 24)) < 0.7
    disparity = 1 / truth * 0.4 + 0.05
    assert perception.aligned_depth(truth * 0.3 - 0.1, truth, valid, limits) == pytest.approx(truth)
    assert perception.aligned_disparity(disparity, truth, valid, limits) == pytest.approx(truth)
    noisy = RNG.uniform(0, 1, (20, 24))
    scale, shift = np.polyfit(noisy[valid], truth[valid], 1)
    expected = np.clip(scale * noisy + shift, 0.5, 10)
    aligned = perception.aligned_depth(noisy, truth, valid, limits)
    assert aligned == pytest.approx(expected)
    pairs = list(zip(aligned[valid], truth[valid], strict=True))
    found = perception.depth_scores(aligned, truth, valid)
    assert found[0] == pytest.approx(np.mean([abs(p - g) / g for p, g in pairs]))
    assert found[1] == pytest.approx(np.mean([max(p / g, g / p) < 1.25 for p, g in pairs]))


def test_depth_of_a_painted_picture_and_of_16_bits():
    truth, valid = np.linspace(1, 9, 32 * 40).reshape(32, 40), np.ones((32, 40), bool)
    shown = np.repeat((truth / 9 * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    each = case(shown, depth=truth, valid=valid)
    scores = one(perception.depth_measure(perception.Range(0.5, 10)), each)
    assert 0 < scores["AbsRel (depth)"] < 0.01 and scores["AbsRel (disparity)"] > 0.1 and scores["delta1 (depth)"] == 1
    each = case(shown, depth=truth, valid=valid)
    each.output.memo["values"] = truth * 1000
    exact = one(perception.depth_measure(perception.Range(0.5, 10)), each)
    assert exact["AbsRel (depth)"] == pytest.approx(0, abs=1e-7)


def test_segmentation_ignores_what_is_to_be_ignored():
    truth, ignore = RNG.random((20, 30)) < 0.4, RNG.random((20, 30)) < 0.2
    output = RNG.random((20, 30)) < 0.5
    shown = np.repeat(output[..., None] * np.uint8(255), 3, axis=2)
    scores = one(perception.segmentation_measure(), case(shown, mask=truth, ignore=ignore))
    inside = [(o, t) for o, t, i in zip(output.flat, truth.flat, ignore.flat, strict=True) if not i]
    both, either = sum(o and t for o, t in inside), sum(o or t for o, t in inside)
    assert scores == {"gIoU": pytest.approx(both / either), "intersection": both, "union": either}
    nothing = np.zeros((20, 30), bool)
    empty = one(perception.segmentation_measure(), case(np.zeros((20, 30, 3), np.uint8), mask=nothing))
    assert empty["gIoU"] == 1


def test_giou_is_a_mean_and_ciou_is_pooled():
    measure = perception.segmentation_measure()
    scores = [{"gIoU": 0.5, "intersection": 1, "union": 2}, {"gIoU": 0.1, "intersection": 10, "union": 100}]
    giou, ciou = (combined(metric, scores) for metric in measure.metrics)
    assert giou[0] == pytest.approx(0.3) and ciou[0] == pytest.approx(11 / 102) and giou[2] == ciou[2] == 2


def test_unmasked_part_of_brushbench_by_its_script():
    output, truth = picture((512, 512), seed=1), picture((512, 512), seed=2)
    mask = np.zeros((512, 512), bool)
    mask[100:300, 100:200] = True
    keep = (1 - mask.astype(np.float32))[:, :, np.newaxis]
    difference = (output.astype(np.float32) / 255 * keep - truth.astype(np.float32) / 255 * keep) ** 2
    mse = difference.sum() / keep.sum()
    scores = one(fidelity.unmasked(), case(output, truth=truth, mask=mask))
    assert scores["MSE unmasked"] == pytest.approx(mse, abs=1e-4)
    assert scores["PSNR unmasked"] == pytest.approx(20 * math.log10(1 / math.sqrt(mse)), abs=1e-4)
    equal = one(fidelity.unmasked(), case(truth, truth=truth, mask=mask))
    assert equal["PSNR unmasked"] == fidelity.BRUSHBENCH_CEILING


def test_failed_and_undefined_scores_are_neither_zero_nor_counted():
    metric = Metric("x")
    value, error, n, failures = combined(metric, [{"x": 1.0}, {"x": math.nan}, {"x": None}, {}, {"x": 3.0}])
    assert (value, n, failures) == (2.0, 2, 2) and error == pytest.approx(1.0)
    assert combined(metric, [{"x": None}]) == (None, None, 0, 1)
    assert combined(metric, [{"x": math.inf}])[0] == math.inf


def test_work_ahead_keeps_the_order_and_raises():
    assert list(pictures.ahead(lambda n: n * n, range(50), 4, 8)) == [n * n for n in range(50)]
    assert list(pictures.ahead(str, range(3), 0, 8)) == ["0", "1", "2"]
    with pytest.raises(ZeroDivisionError):
        list(pictures.ahead(lambda n: 1 // (n - 5), range(50), 2, 4))


def test_a_backbone_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded"):
        Clip.load(str(tmp_path))
    with pytest.raises(ValueError, match="cannot be loaded"):
        Dino.load("nobody/nothing-at-all")


def test_dreamsim_is_called_as_the_package_wants(clip):
    """The network is any with DreamSim's interface: here the mean absolute difference."""

    def preprocess(image):
        return transforms.ToTensor()(image.resize((224, 224)))[None]

    def network(one_batch, other):
        return (one_batch - other).abs().mean(dim=(1, 2, 3))

    cases = [case(picture(seed=i), picture((60, 40), seed=i + 1)) for i in range(3)]
    scores = measured(perceptual.dreamsim_measure((network, preprocess), "source"), *cases)
    pairs = [(preprocess(Image.fromarray(p)) for p in (c.output.pixels, c.given.source.pixels)) for c in cases]
    assert [score["DreamSim"] for score in scores] == pytest.approx([network(*pair).item() for pair in pairs])


def test_fid_and_kid_of_features_by_their_formulas():
    one_set, other = RNG.normal(size=(60, 5)), RNG.normal(size=(50, 5)) * 1.5 + 0.3
    means, covariances = zip(*((x.mean(0), np.cov(x.T)) for x in (one_set, other)), strict=True)
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots
    assert sets.distance("fid", one_set, other) == pytest.approx(expected, rel=1e-4)
    equal = RNG.normal(size=(60, 5))

    def kernel(a, b):
        return (a @ b.T / 5 + 1) ** 3

    count = len(equal)
    within = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (count * (count - 1)) for x in (one_set, equal))
    unbiased = within - 2 * kernel(one_set, equal).mean()
    assert sets.distance("kid", one_set, equal) == pytest.approx(unbiased, rel=1e-4)  # all of them are in each subset


def test_sets_of_pictures_are_compared_with_the_truths(tmp_path):
    run, lines = RunFolder(tmp_path), []
    for i in range(6):
        for path, seed in ((run.image(str(i)), i), (run.input(str(i)), i + 20), (run.input(str(i), "truth"), i)):
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture((32, 32), seed=seed)).save(path)
        names = {"inputs": [f"inputs/{i}_0.png"], "truth": f"inputs/{i}_truth.png", "output": f"images/{i}_0.png"}
        lines.append(ItemResult(str(i), "edit", "x", **names))
    lines[5].output = None
    network = ("means", lambda batch: batch.mean(dim=(2, 3)))
    model, copy = sets.set_rows("magicbrush", lines, run, ["fid"], network)
    assert (model.value, model.n, model.failures, model.backbone) == (pytest.approx(0, abs=1e-3), 5, 1, "means")
    assert copy.system == "copy" and copy.value > 1 and copy.n == 6
    with pytest.raises(ValueError, match="no true pictures"):
        sets.set_rows("imgedit", [ItemResult("a", "edit", "x")], run, ["fid"], network)


# What is known to be wrong with data sets


def test_faults_of_several_turns_are_about_the_first_source(tmp_path):
    root = FOLDERS["magicbrush"](tmp_path)
    path = root / "global_descriptions.json"
    captions = json.loads(path.read_text())
    first, middle, last = captions["139306"]
    captions["139306"] = {first: "a room", middle: "a room with a cat", last: "A room."}
    path.write_text(json.dumps(captions))
    single, several = ({i.id: i for i in PUBLIC[n].items(root)} for n in ("magicbrush", "magicbrush_multi"))
    assert single["139306_2"].faults == () and several["139306_2"].faults == ("equal captions",)
    del captions["139306"][first]
    path.write_text(json.dumps(captions))
    item = next(item for item in PUBLIC["magicbrush_multi"].items(root) if item.id == "139306_2")
    assert "source" not in item.texts and item.texts["target"] == "A room." and item.faults == ()


def test_emu_edits_own_outputs_are_not_taken_for_its_test_set(tmp_path):
    root = FOLDERS["emu_edit"](tmp_path)
    for path in (root / "data").glob("*.parquet"):
        table = pyarrow.parquet.read_table(path)
        pyarrow.parquet.write_table(table.append_column("edited_image", table.column("image")), path)
    with pytest.raises(ValueError, match="splits bear each other's names"):
        PUBLIC["emu_edit"].items(root)
