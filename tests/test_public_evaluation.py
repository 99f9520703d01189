"""Public weights in the evaluation and in video_edit: they make the pictures that infer.py makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    QwenImageEditInpaintPipeline,
    QwenImageEditPlusPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
)
from peft import LoraConfig, get_peft_model_state_dict
from test_public_spotedit import counted, flux, qwen, small_qwen  # noqa: F401
from transformers import CLIPTextModelWithProjection

from data_builders.builders.generators import DiffusersEditor
from unireal.evaluation.models import Diffusers, Public, Source, load_model
from unireal.evaluation.results import Item
from unireal.public import PUBLIC_MODELS, PublicPipeline

FOLDERS = {"kontext": flux, "qwen": lambda: qwen(QwenImageEditPlusPipeline, zero_cond_t=True)}
CANVAS = np.random.default_rng(1).integers(0, 256, (48, 96, 3), dtype=np.uint8)
ITEM = Item("a", "edit", "make it green")


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("public") / request.param
    pipeline = FOLDERS[request.param]()
    with torch.no_grad():  # fresh weights are so small that guidance and adapters do not show in 8 bits
        for parameter in pipeline.transformer.parameters():
            parameter.normal_(0, 0.2)
    pipeline.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def public(folder) -> PublicPipeline:
    name = {"kontext": "FluxKontextPipeline", "qwen": "QwenImageEditPlusPipeline"}[folder.name]
    pipeline = PUBLIC_MODELS[name].from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def by_infer(public: PublicPipeline, **options) -> np.ndarray:
    out = public("make it green", canvas=[CANVAS], generator=torch.Generator().manual_seed(3), **options)
    return np.asarray(out.images[0])


def test_evaluation_makes_the_pictures_of_infer(folder, public):
    made = {}
    for scale in (1.0, 3.0):
        model = load_model(Source(str(folder)), num_inference_steps=2, guidance_scale=scale, image_guidance_scale=None)
        (made[scale],) = model(ITEM, [CANVAS], 3)
        assert made[scale].shape == CANVAS.shape
        assert np.array_equal(made[scale], by_infer(public, num_inference_steps=2, guidance_scale=scale))
        assert model.settings["pipeline"] == public.model.pipeline
        assert (model.settings["num_inference_steps"], model.settings["guidance_scale"]) == (2, scale)
    assert not np.array_equal(made[1.0], made[3.0])
    video = Item("b", "video_edit", "make it green", video=(lambda: CANVAS, lambda: CANVAS))
    frames = model(video, [CANVAS, 255 - CANVAS], 3)
    assert len(frames) == 2 and np.array_equal(frames[0], made[3.0]) and not np.array_equal(*frames)
    with pytest.raises(ValueError, match="no picture to edit"):
        model(ITEM, [], 3)


def test_public_weights_are_not_asked_about_img1(public):
    """A word that our models alone have."""
    model, asked = Public(public, {}, {"num_inference_steps": 1}), ("it from IMG1 green", "it green", "it make")
    named, plain, other = (model(Item("a", "customize", text), [CANVAS], 3)[0] for text in asked)
    assert np.array_equal(named, plain) and not np.array_equal(plain, other)


def test_evaluation_refuses_what_public_weights_do_not_take(folder):
    with pytest.raises(ValueError, match="takes no --image-guidance; leave it out"):
        load_model(Source(str(folder)), image_guidance_scale=1.5)
    with pytest.raises(ValueError, match="adapter 'nowhere' cannot be put on"):
        load_model(Source(str(folder), lora="nowhere"))


def test_an_adapter_that_the_hub_does_not_give_is_told_in_one_line(public, monkeypatch):
    class UnreachableError(Exception):
        """As of the hub's client, which is no OSError."""

    def fails(*arguments, **options):
        raise UnreachableError("name or service not known")

    monkeypatch.setattr(public.pipeline, "load_lora_weights", fails)
    with pytest.raises(ValueError, match=r"adapter 'nowhere' cannot be loaded .*not known.*; give a folder or hub id"):
        public.load_lora_weights("nowhere")
    for pipeline in (public, public.pipeline):
        with pytest.raises(ValueError, match=r"adapter 'nowhere' cannot be put on 'm' .*not known"):
            Source("m", lora="nowhere")._ready(pipeline, "cpu")


def test_an_adapter_changes_the_pictures_of_public_weights(tmp_path):
    pipeline = flux()
    pipeline.save_pretrained(tmp_path / "kontext")
    pipeline.transformer.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    with torch.no_grad():
        for name, parameter in pipeline.transformer.named_parameters():
            if "lora" in name:
                parameter.normal_(0, 3)
    state = get_peft_model_state_dict(pipeline.transformer)
    FluxKontextPipeline.save_lora_weights(tmp_path / "lora", transformer_lora_layers=state)
    made = []
    for lora in (None, str(tmp_path / "lora")):
        model = load_model(Source(str(tmp_path / "kontext"), lora=lora), num_inference_steps=2)
        assert isinstance(model, Public) and model.settings.get("lora") == lora
        made.append(model(ITEM, [CANVAS], 3)[0])
    assert not np.array_equal(*made)


@pytest.mark.parametrize(("given", "scale"), [({"guidance_scale": 3.0}, 3.0), ({"guidance_scale": None}, 4.0)])
def test_guidance_reaches_the_other_pipelines_of_qwen(given, scale):
    """They read no guidance_scale, and are guided with a negative prompt alone."""
    model = Diffusers(QwenImageEditInpaintPipeline(**qwen().components), {}, given)
    assert model.options == {"true_cfg_scale": scale, "negative_prompt": " "}


def _flux_of(kind, channels=16):
    parts = {k: v for k, v in flux().components.items() if k not in ("image_encoder", "feature_extractor")}
    config = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")}
    transformer = FluxTransformer2DModel(**config | {"in_channels": channels, "out_channels": 16})
    return kind(**parts | {"transformer": transformer})


def _sd3():
    parts = flux().components
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip
    text = CLIPTextModelWithProjection(parts["text_encoder"].config)
    return StableDiffusion3Img2ImgPipeline(
        transformer, FlowMatchEulerDiscreteScheduler(), parts["vae"], text, parts["tokenizer"], text,
        parts["tokenizer"], None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "make", [lambda: _flux_of(FluxImg2ImgPipeline), lambda: _flux_of(FluxFillPipeline, 16 + 16 + 4 * 32**2), _sd3]
)
def test_pipelines_that_would_make_squares_keep_the_size(make, monkeypatch):
    """What is edited is 100 x 200; whole tokens are 64 pixels wide."""
    pipeline = make()
    pipeline.set_progress_bar_config(disable=True)
    canvas = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    item = Item("a", "edit", "make it green", arrays={"mask": lambda: np.ones((100, 200), bool)})
    sizes, decode = [], pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "decode", lambda z, **given: sizes.append(z.shape[2:]) or decode(z, **given))
    (edited,) = Diffusers(pipeline, {}, {"num_inference_steps": 2})(item, [canvas], 0)
    assert edited.shape == canvas.shape and [tuple(size) for size in sizes] == [(4, 6)]  # 128 x 192


def test_video_edit_makes_the_key_frame_of_infer(folder, public):
    """But for the rounding of a size, which is another where the autoencoder's factor is not 8."""
    editor = DiffusersEditor(public.pipeline, str(folder), steps=2)
    with counted(public.pipeline) as tokens:
        made = editor.edit(CANVAS, "make it green", 3)
        alone = len(tokens)
        expected = by_infer(public, num_inference_steps=2)
    assert tokens[:alone] == tokens[alone:]  # of canvas and result: their shape
    assert np.abs(made.astype(int) - expected).mean() < 1
