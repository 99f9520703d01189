"""SAM 2 by the package of its authors: the same masks as transformers makes with the same weights."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_annotators as tiny
import torch
from safetensors.torch import load_file, save_file

from data_builders.__main__ import main
from data_builders.annotators.choose import load_annotators
from data_builders.annotators.sam2_package import configuration
from data_builders.annotators.segmentation import Sam2, load_segmenter
from data_builders.world.export import world_videos, write_video
from data_builders.world.video import WorldVideo

BOXES = [(2.0, 3.0, 30.0, 40.0), (40.0, 5.0, 60.0, 20.0)]
NOT_IN_SAM_2 = {
    **{"enable_occlusion_spatial_embedding": False, "enable_temporal_pos_encoding_for_object_pointers": False},
}


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("sam2", reason="the sam2 package is optional: it is built from source")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny.sam2(tmp_path_factory.mktemp("sam2") / "weights")


@pytest.fixture(scope="module")
def video() -> WorldVideo:
    """As large as the tiny model's pictures: there is nothing to scale, which the two do in other ways."""
    return WorldVideo(7, (64, 64), 6, movers=1)


@pytest.mark.parametrize("version", ["2.1", "2"])
def test_the_package_and_transformers_make_the_same_masks(package, video, tmp_path, version):
    folder = str(tiny.sam2(tmp_path, **({} if version == "2.1" else NOT_IN_SAM_2)))
    segmenter = load_segmenter(f"sam2:{folder}")
    assert isinstance(segmenter.predictor, package.sam2_video_predictor.SAM2VideoPredictor)
    tracks, expected = segmenter.track(video.frames, BOXES), Sam2.from_pretrained(folder).track(video.frames, BOXES)
    assert tracks.dtype == bool and tracks.shape == (2, 6, 64, 64)
    assert all(0.1 < expected[:, time].mean() < 0.95 for time in range(6))
    # Rounding moves a few pixels of random masks, and frames that went through JPEG would move many.
    assert (tracks != expected).mean() < 5e-4


def test_pictures_of_any_size_and_any_number_of_boxes(package, weights, capfd):
    segmenter = load_segmenter(f"sam2:{weights}")
    frames = WorldVideo(7, (48, 80), 3, movers=1).frames
    capfd.readouterr()
    tracks = segmenter.track(frames, BOXES)
    assert tracks.shape == (2, 3, 48, 80) and 0 < tracks.mean() < 1
    assert np.array_equal(segmenter.segment(frames[0], BOXES), tracks[:, 0])
    assert np.array_equal(segmenter.track(frames, BOXES[::-1]), tracks[::-1])
    assert segmenter.track(frames, []).shape == (0, 3, 48, 80)
    assert capfd.readouterr().err == ""  # no bars of its own


def test_only_safetensors_are_read(package, weights, tmp_path):
    """The package's own checkpoints are pickles, whose content would run."""

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    for path in (tmp_path / "sam2.1_hiera_large.pt", tmp_path / "pickled" / "pytorch_model.bin"):
        path.parent.mkdir(exist_ok=True)
        torch.save({"model": Trap()}, path)
    (tmp_path / "pickled" / "config.json").write_bytes((weights / "config.json").read_bytes())
    for source in (tmp_path / "sam2.1_hiera_large.pt", tmp_path / "pickled", tmp_path / "nothing"):
        with pytest.raises(ValueError, match=r"cannot load .*give a folder or a hub id with safetensors"):
            load_segmenter(f"sam2:{source}")
    assert not (tmp_path / "sprung").exists()


def test_weights_that_do_not_fit_are_told(package, weights, tmp_path):
    (tmp_path / "config.json").write_bytes((weights / "config.json").read_bytes())
    full = load_file(weights / "model.safetensors")
    some = {name: value for name, value in full.items() if name != "no_object_pointer"}
    save_file(some, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of Sam2VideoModel, as no_object_pointer"):
        load_segmenter(f"sam2:{tmp_path}")
    key = "shared_image_embedding.positional_embedding"
    save_file(full | {key: full[key] + 1}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"another network .*positions of their own"):
        load_segmenter(f"sam2:{tmp_path}")
    other = tiny.sam2(tmp_path / "other", memory_fuser_intermediate_dim=32)
    with pytest.raises(ValueError, match=r"another network .*size mismatch"):
        load_segmenter(f"sam2:{other}")


def test_the_package_is_chosen_by_name(package, weights):
    segmenter = load_annotators({"segmenter": f"sam2:{weights}"}).segmenter
    assert type(segmenter).__name__ == "Sam2Package" and segmenter.name == f"sam2:{weights}"
    assert isinstance(load_annotators({"segmenter": str(weights)}).segmenter, Sam2)
    with pytest.raises(ValueError, match="folder or hub id after 'sam2:'"):
        load_segmenter("sam2:")


def test_without_the_package_the_command_says_how_to_get_it(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sam2", None)  # as if it were not installed
    (tmp_path / "videos").mkdir()
    write_video(next(iter(world_videos(0, 1, (32, 32)))), tmp_path / "videos", "world")
    arguments = ["segmentation", "--videos", tmp_path / "videos", "--output", tmp_path / "out", "--curation", "none"]
    arguments += ["--captioner", "oracle", "--grounder", "oracle", "--segmenter", f"sam2:{weights}", "--workers", "0"]
    assert main(list(map(str, arguments))) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: segmenter sam2:") and "pip install --no-build-isolation sam2" in told


TRUNKS = {  # of facebook/sam2-hiera-* and sam2.1-hiera-*, in transformers' words
    "t": {},
    "s": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "b+": {
        **{"hidden_size": 112, "embed_dim_per_stage": [112, 224, 448, 896], "blocks_per_stage": [2, 3, 16, 3]},
        **{"num_attention_heads_per_stage": [2, 4, 8, 16], "global_attention_blocks": [12, 16, 20]},
        "window_positional_embedding_background_size": [14, 14],
    },
    "l": {
        **{"hidden_size": 144, "embed_dim_per_stage": [144, 288, 576, 1152], "blocks_per_stage": [2, 6, 36, 4]},
        **{"num_attention_heads_per_stage": [2, 4, 8, 16], "global_attention_blocks": [23, 33, 43]},
        "window_size_per_stage": [8, 4, 16, 8],
    },
}


@pytest.mark.parametrize("version", ["2.1", "2"])
@pytest.mark.parametrize("size", list(TRUNKS))
def test_published_models_have_the_configuration_of_the_package(package, size, version):
    from hydra import compose
    from hydra.utils import get_class
    from omegaconf import OmegaConf
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VisionConfig

    def complete(told):
        """With the defaults of the classes, where a file leaves them out."""
        if isinstance(told, dict):
            known = inspect.signature(get_class(told["_target_"])).parameters.values()
            defaults = {one.name: one.default for one in known if one.kind is one.POSITIONAL_OR_KEYWORD}
            return {name: complete(value) for name, value in (defaults | told).items()}
        return list(told) if isinstance(told, tuple) else told

    trunk = Sam2HieraDetConfig(**TRUNKS[size])
    vision = Sam2VisionConfig(backbone_config=trunk, backbone_channel_list=trunk.embed_dim_per_stage[::-1])
    config = Sam2VideoConfig(vision_config=vision, **({} if version == "2.1" else NOT_IN_SAM_2))
    published = compose(f"configs/sam{version}/sam{version}_hiera_{size}.yaml")
    overrides = [f"++model.{name}={value}" for name, value in configuration(config).items()]
    ours = compose("configs/sam2.1/sam2.1_hiera_l.yaml", overrides)
    assert complete(OmegaConf.to_container(ours.model)) == complete(OmegaConf.to_container(published.model))
