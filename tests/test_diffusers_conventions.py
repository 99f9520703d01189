"""UniRealPipeline beside what users of diffusers expect of a pipeline and its models."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import debug_components, quiet_pipeline
from diffusers import (
    AutoencoderKL,
    BitsAndBytesConfig,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    PipelineQuantizationConfig,
)
from diffusers.models.attention_dispatch import attention_backend
from diffusers.pipelines import pipeline_utils
from huggingface_hub import ModelCard, RepoUrl
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from transformers import AutoTokenizer
from transformers import BitsAndBytesConfig as TextEncoderConfig

from data_builders.world.recipes import world_sample
from unireal import loading
from unireal.model.blocks import attend
from unireal.model.lora import add_lora, save_lora
from unireal.model_card import model_card
from unireal.pipeline import UniRealPipeline
from unireal.tasks import TASKS

ROOT = Path(__file__).parent.parent
ROOM = Image.fromarray(world_sample("recolor", 1).inputs[0].image)
CPU = torch.device("cpu")
ACCELERATIONS = [(), ("spotedit", "condition_cache", "teacache"), ("taylorseer",)]


def _pipeline() -> UniRealPipeline:
    return quiet_pipeline(debug_components())


def _edit(pipeline, prompt="Make the red circle of IMG1 blue.", **options):
    seeded = {"generator": torch.Generator().manual_seed(0)}
    return pipeline(prompt, **{"canvas": ROOM, "output_type": "np"} | seeded | options)


def _picture(pipeline, **options) -> np.ndarray:
    return _edit(pipeline, **options).images[0].astype(int)


@pytest.fixture(scope="module")
def plain() -> dict[tuple[str, ...], np.ndarray]:
    """What the pipeline makes without any of what is tested here, for every acceleration, in 12 steps."""
    return {names: _picture(_pipeline(), accelerate=names, num_inference_steps=12) for names in ACCELERATIONS}


# Memory


def _model_offload(pipeline, folder):
    pipeline.enable_model_cpu_offload(device="cpu")


def _group_offload(pipeline, folder):
    pipeline.enable_group_offload(CPU, offload_type="leaf_level", offload_to_disk_path=str(folder))


def _leaves(pipeline, folder):
    pipeline.transformer.enable_group_offload(CPU, offload_type="leaf_level", offload_to_disk_path=str(folder))


def _blocks(pipeline, folder):
    kind = {"offload_type": "block_level", "num_blocks_per_group": 1}
    pipeline.transformer.enable_group_offload(CPU, **kind, offload_to_disk_path=str(folder))


@pytest.mark.parametrize("names", ACCELERATIONS, ids="+".join)
@pytest.mark.parametrize("offload", [_model_offload, _group_offload, _leaves, _blocks])
def test_offloading_changes_nothing(offload, names, plain, tmp_path):
    """Weights that are offloaded to a file are empty while they are not needed: using them without their hook shows."""
    pipeline = _pipeline()
    offload(pipeline, tmp_path)
    for _ in range(2):
        assert (_picture(pipeline, accelerate=names, num_inference_steps=12) == plain[names]).all()


@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_an_adapter_that_comes_later_is_offloaded_too(tmp_path, offload_type):
    """On a GPU its layers would stay where the offloaded weights lie, beside inputs that do not."""
    source, pipeline = _pipeline(), _pipeline()
    add_lora(source.transformer, 2)
    save_lora(source.transformer, tmp_path)
    expected = _picture(source)
    pipeline.transformer.enable_group_offload(CPU, offload_type=offload_type, num_blocks_per_group=1)
    pipeline.load_lora_weights(tmp_path)
    moved = set()
    for module in pipeline.transformer.modules():
        hook = module._diffusers_hook.get_hook("group_offloading") if hasattr(module, "_diffusers_hook") else None
        group = hook.group if hook is not None else SimpleNamespace(modules=[], parameters=[])
        moved |= {id(p) for p in (*group.parameters, *(p for m in group.modules for p in m.parameters()))}
    adapters = [p for name, p in pipeline.transformer.named_parameters() if "lora_" in name]
    assert adapters and all(id(p) in moved for p in adapters)
    assert (_picture(pipeline) == expected).all()


@pytest.fixture
def empty_is_nan():
    """What torch.empty gives holds NaN instead of whatever was there, which may be the very weights."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_weights_are_empty_between_calls(tmp_path, empty_is_nan):
    pipeline = _pipeline()
    _blocks(pipeline, tmp_path)
    for names in ACCELERATIONS:
        _picture(pipeline, accelerate=names)
        assert pipeline.transformer.proj_out.weight.isnan().all(), names


def test_layerwise_casting():
    pipeline = _pipeline()
    expected = _picture(pipeline)
    pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    stored = {name: parameter.dtype for name, parameter in pipeline.transformer.named_parameters()}
    assert stored["transformer_blocks.0.attn1.to_q.weight"] is torch.float8_e4m3fn
    assert stored["index_embedding.weight"] is stored["transformer_blocks.0.norm1.linear.weight"] is torch.float32
    assert 0 < np.abs(_picture(pipeline) - expected).mean() < 8  # of 255


def test_half_precision():
    halved = _picture(_pipeline().to(torch.bfloat16))
    assert 0 < np.abs(halved - _picture(_pipeline())).mean() < 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_type_of_torch_does_not_matter(tiny_pipeline, tiny_pipeline_folder, dtype):
    expected = _picture(tiny_pipeline, accelerate="teacache", guidance_scale=2.0)
    torch.set_default_dtype(dtype)
    try:
        pipeline = UniRealPipeline.from_pretrained(tiny_pipeline_folder)
        assert (_picture(pipeline, accelerate="teacache", guidance_scale=2.0) == expected).all()
    finally:
        torch.set_default_dtype(torch.float32)


def _quantized(folder, **configs) -> UniRealPipeline:
    pipeline = UniRealPipeline.from_pretrained(
        folder, quantization_config=PipelineQuantizationConfig(quant_mapping=configs)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


TORCHAO = """
import sys
import numpy as np, torch
from diffusers import PipelineQuantizationConfig, TorchAoConfig
from torchao.quantization import Int8WeightOnlyConfig
from unireal.pipeline import UniRealPipeline

source, target = sys.argv[1:]
config = PipelineQuantizationConfig(quant_mapping={"transformer": TorchAoConfig(Int8WeightOnlyConfig())})
pipeline = UniRealPipeline.from_pretrained(source, quantization_config=config)
weights = {type(m.weight).__name__ for m in pipeline.transformer.modules() if isinstance(m, torch.nn.Linear)}
assert weights == {"Int8Tensor"}, weights
pipeline.save_pretrained(target + "/model")
canvas = np.load(target + "/canvas.npy")
for name, p in (("quantized", pipeline), ("again", UniRealPipeline.from_pretrained(target + "/model"))):
    for plugins in ((), ("spotedit", "condition_cache"), ("taylorseer",)):
        out = p("Make the red circle blue.", canvas=canvas, generator=torch.Generator().manual_seed(0),
                num_inference_steps=12, accelerate=plugins, output_type="np")
        np.save("/".join((target, name + "+".join(plugins))), out.images[0])
"""


def test_torchao(tiny_pipeline, tiny_pipeline_folder, tmp_path):
    """In a process of its own: torchao speaks while it is imported, and stays."""
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    np.save(tmp_path / "canvas.npy", np.asarray(ROOM))
    command = [sys.executable, "-c", TORCHAO, str(tiny_pipeline_folder), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for plugins in ((), ("spotedit", "condition_cache"), ("taylorseer",)):
        quantized, again = (
            np.load(tmp_path / f"{n}{'+'.join(plugins)}.npy").astype(int) for n in ("quantized", "again")
        )
        plain = _picture(tiny_pipeline, prompt="Make the red circle blue.", num_inference_steps=12, accelerate=plugins)
        assert 0 < np.abs(quantized - plain).mean() < 4 and (quantized == again).all()  # of 255


@pytest.mark.parametrize(("bits", "most"), [("load_in_8bit", 0), ("load_in_4bit", 8)])
def test_bitsandbytes_of_the_text_encoder(tmp_path, bits, most):
    """Of the shipped model: the debug size is narrower than a block of 4 bits."""
    pytest.importorskip("bitsandbytes")
    made = _picture(pipeline := _quantized("unireal-tiny", text_encoder=TextEncoderConfig(**{bits: True})))
    assert 0 < np.abs(made - _picture(UniRealPipeline.from_pretrained("unireal-tiny"))).mean() < 4  # of 255
    pipeline.save_pretrained(tmp_path)
    assert np.abs(_picture(UniRealPipeline.from_pretrained(tmp_path)) - made).max() <= most


def test_bitsandbytes(tiny_pipeline, tiny_pipeline_folder):
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("diffusers quantizes with bitsandbytes on a GPU only")
    pipeline = _quantized(tiny_pipeline_folder, transformer=BitsAndBytesConfig(load_in_4bit=True))
    assert type(pipeline.transformer.proj_out.weight).__name__ == "Params4bit"
    assert np.abs(_picture(pipeline) - _picture(tiny_pipeline)).mean() < 16


# Speed


@pytest.mark.parametrize("names", ACCELERATIONS, ids="+".join)
def test_compiled_blocks(names, plain):
    pipeline = _pipeline()
    pipeline.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    assert (_picture(pipeline, accelerate=names, num_inference_steps=12) == plain[names]).all()


def test_compiled_transformer(plain):
    pipeline = _pipeline()
    pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")
    assert (_picture(pipeline, num_inference_steps=12) == plain[()]).all()


def test_attention_backends():
    query, key, value = torch.randn(3, 1, 2, 600, 16, generator=torch.Generator().manual_seed(0)).unbind()
    native = attend(query, key, value)
    with attention_backend("_native_math"):
        other = attend(query, key, value)
    assert not torch.equal(native, other)
    torch.testing.assert_close(native, other)
    transformer = _pipeline().transformer
    try:
        transformer.set_attention_backend("_native_math")
        assert torch.equal(attend(query, key, value), other)
    finally:
        transformer.set_attention_backend("native")


# The call


@pytest.mark.parametrize(
    ("output_type", "kind", "shape"),
    [
        ("pil", Image.Image, None),
        ("np", np.ndarray, (64, 64, 3)),
        ("pt", torch.Tensor, (3, 64, 64)),
        ("latent", torch.Tensor, (3, 64, 64)),
    ],
)
def test_output_types(tiny_pipeline, output_type, kind, shape):
    out = _edit(tiny_pipeline, output_type=output_type, num_results=2, accelerate="spotedit")
    assert len(out.images) == len(out.results) == len(out.edited) == 2
    for image in out.images:
        assert isinstance(image, kind)
        assert image.size == ROOM.size if shape is None else tuple(image.shape) == shape
    assert _edit(tiny_pipeline, output_type=output_type, return_dict=False)[0][0].__class__ is out.images[0].__class__


def test_latents_are_decoded_by_the_autoencoder_alone(tiny_pipeline):
    latent = _edit(tiny_pipeline, output_type="latent").images[0]
    decoded = tiny_pipeline.as_components().codec.decode(latent[None], (64, 64))[0]
    picture = ((decoded.permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().numpy()
    assert np.abs(picture - _picture(tiny_pipeline)).max() <= 1


@pytest.mark.parametrize("output_type", ["PIL", "numpy", ""])
def test_an_unknown_output_type_is_told_before_sampling(tiny_pipeline, output_type):
    with pytest.raises(ValueError, match="output_type must be one of pil, np, pt"):
        _edit(tiny_pipeline, output_type=output_type, callback_on_step_end=_never)


def _never(*_):
    raise AssertionError("sampling has started")


def test_noise_of_the_caller(tiny_pipeline):
    noise = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    expected = _picture(tiny_pipeline)
    for latents in (noise, [noise]):
        assert (_picture(tiny_pipeline, generator=None, latents=latents) == expected).all()
    with pytest.raises(ValueError, match=r"this call needs \[\(2, 3, 64, 64\)\]"):
        _edit(tiny_pipeline, num_results=2, latents=noise)
    with pytest.raises(ValueError, match="leave latents out"):
        _edit(tiny_pipeline, task="t2v", canvas=None, latents=noise)


def test_generators(tiny_pipeline):
    def seeded(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    pair = _edit(tiny_pipeline, ["red", "blue"], generator=seeded(3, 3)).images
    assert (_edit(tiny_pipeline, "red", generator=seeded(3)).images[0] == pair[0]).all()
    shared = _edit(tiny_pipeline, ["red", "red"], generator=seeded(3)[0]).images
    assert (shared[0] != shared[1]).any()
    with pytest.raises(ValueError, match="1 generators were given for 2 samples"):
        _edit(tiny_pipeline, ["red", "blue"], generator=seeded(3))


def test_a_callback_can_end_the_call(tiny_pipeline):
    seen = []

    def after_step(pipe, step, t, values):
        seen.append(values["latents"][0].clone())
        pipe.interrupt = step == 1
        return values

    options = {"num_inference_steps": 5, "callback_on_step_end": after_step, "output_type": "latent"}
    out = _edit(tiny_pipeline, **options, callback_on_step_end_tensor_inputs=["latents"])
    assert len(seen) == 2 and torch.equal(out.images[0], seen[-1][0])
    assert _edit(tiny_pipeline, num_inference_steps=3).images  # the next call is not ended
    with pytest.raises(ValueError, match="callbacks are given"):
        _edit(tiny_pipeline, **options, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_a_callback_reads_how_long_the_call_is(tiny_pipeline):
    seen = []

    def after_step(pipe, step, t, values):
        seen.append((step, pipe.num_timesteps, pipe.guidance_scale))

    _edit(tiny_pipeline, num_inference_steps=2, guidance_scale=3.0, callback_on_step_end=after_step)
    _edit(tiny_pipeline, num_inference_steps=1, callback_on_step_end=after_step)
    assert seen == [(0, 2, 3.0), (1, 2, 3.0), (0, 1, 1.0)]


def test_a_stream_takes_what_a_call_takes(tiny_pipeline):
    """The same frames come out."""
    how = {"task": "video_edit", "video": [ROOM] * 2, "output_type": "np", "num_inference_steps": 4}
    how |= {"guidance_scale": 3.0}
    for interval in ((0.0, 0.5), (0.0, 1.0)):
        seeded = how | {"generator": torch.Generator().manual_seed(0), "guidance_interval": interval}
        frames = np.stack(list(tiny_pipeline.stream("Make it red.", **seeded)))
        called = tiny_pipeline("Make it red.", **seeded | {"generator": torch.Generator().manual_seed(0)}).results[0]
        assert np.array_equal(frames, called), interval
    names = {"num_inference_steps", "guidance_scale", "image_guidance_scale", "accelerate"}
    assert names <= inspect.signature(UniRealPipeline.generate).parameters.keys()


def test_names_of_arguments_are_those_of_diffusers():
    expected = {"prompt", "num_inference_steps", "guidance_scale", "generator", "latents", "output_type", "return_dict"}
    expected |= {"callback_on_step_end", "callback_on_step_end_tensor_inputs"}
    assert expected <= inspect.signature(UniRealPipeline.__call__).parameters.keys()
    assert {"transformer", "text_encoder", "tokenizer", "scheduler", "vae"} == set(_pipeline().components)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"task": ROOM, "canvas": None}, "task is a name such as 'edit', got Image; give pictures as canvas="),
        ({"canvas": torch.zeros(3, 64, 64)}, "canvas is a Tensor; give a path, a PIL image or an array"),
        ({"mask": 3, "task": "inpaint"}, "mask is a int"),
        ({"size": 64}, r"size is \(height, width\) in whole pixels, got 64"),
        ({"size": (64.0, 64)}, "in whole pixels"),
        ({"expand": (1, 2), "task": "outpaint"}, r"expand is \(left, top, right, bottom\)"),
        ({"control": ROOM, "task": "control", "canvas": None}, r"control is \(kind, picture\) pairs or a dict"),
        ({"control": [ROOM], "task": "control", "canvas": None}, r"control is \(kind, picture\) pairs or a dict"),
        ({"num_inference_steps": 2.5}, "a whole number of at least 1, got 2.5"),
        ({"num_inference_steps": 0}, "a whole number of at least 1, got 0"),
        ({"num_results": "2"}, "num_results is a whole number, got '2'"),
        ({"num_results": 2.0}, "num_results is a whole number, got 2.0"),
        ({"num_frames": 2.5, "task": "t2v", "canvas": None}, "num_frames is a whole number, got 2.5"),
        ({"prompt": 5}, "prompt is a text, got int"),
        ({"prompt": ["red", None]}, "prompt is a text, got NoneType"),
        ({"prompt": "\udcff"}, "the prompt is not valid UTF-8 text"),
        ({"context": ["realistic style"]}, "context is a text, got list"),
        ({"generator": 3}, "generator is a torch.Generator or a list of them, got int"),
        ({"generator": [3]}, "generator is a torch.Generator or a list of them, got int"),
        ({"task": "inpaint", "mask": ROOM.convert("RGBA").resize((64, 64)).rotate(30)}, "mask has transparent pixels"),
    ],
)
def test_arguments_of_another_type_are_told(tiny_pipeline, options, told):
    with pytest.raises(ValueError, match=told):
        _edit(tiny_pipeline, **options)


def test_no_prompt_is_an_empty_one(tiny_pipeline):
    options = {"task": "depth", "num_inference_steps": np.int64(1)}
    assert np.array_equal(
        _edit(tiny_pipeline, None, **options).images[0], _edit(tiny_pipeline, "", **options).images[0]
    )


# Loading and saving


def test_variants_and_shards(tmp_path, plain):
    options = {"num_inference_steps": 12}
    _pipeline().save_pretrained(tmp_path / "half", variant="fp16")
    _pipeline().save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert (tmp_path / "half" / "transformer" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert len(list((tmp_path / "shards" / "transformer").glob("*.safetensors"))) > 1
    loaded = [UniRealPipeline.from_pretrained(tmp_path / "half", variant="fp16")]
    loaded += [UniRealPipeline.from_pretrained(tmp_path / "shards", device_map="cpu")]
    for pipeline in loaded:
        pipeline.set_progress_bar_config(disable=True)
        assert (_picture(pipeline, **options) == plain[()]).all()


def test_safetensors_may_be_asked_for_by_name(tiny_pipeline_folder):
    assert UniRealPipeline.from_pretrained(tiny_pipeline_folder, use_safetensors=True)
    with pytest.raises(ValueError, match="from safetensors alone"):
        UniRealPipeline.from_pretrained(tiny_pipeline_folder, use_safetensors=False)


def test_schedulers_of_other_times_are_refused(tiny_pipeline_folder):
    """They would run, and leave noise."""
    pipeline = UniRealPipeline.from_pretrained(tiny_pipeline_folder)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(ValueError, match="the scheduler is a EulerDiscreteScheduler; these can be used: Flow"):
        _edit(pipeline)
    pipeline.scheduler = FlowMatchLCMScheduler.from_config(pipeline.scheduler.config)
    assert _edit(pipeline).images


@pytest.mark.parametrize(
    "scheduler", [FlowMatchLCMScheduler(shift=6), FlowMatchEulerDiscreteScheduler(shift=6, stochastic_sampling=True)]
)
def test_seeds_hold_with_schedulers_that_draw_noise_in_every_step(tiny_pipeline, scheduler):
    pipeline = UniRealPipeline.from_pipe(tiny_pipeline, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    one, again = (_picture(pipeline, num_inference_steps=3) for _ in range(2))
    seeds = [(3, 0), (3, 1)]
    pairs = [
        pipeline("Make it blue.", canvas=ROOM, num_results=2, num_inference_steps=3, output_type="np",
                 generator=[torch.Generator().manual_seed(seed) for seed in pair]).images
        for pair in seeds
    ]  # fmt: skip
    assert (one == again).all()
    assert (pairs[0][0] == pairs[1][0]).all() and (pairs[0][1] != pairs[1][1]).any()


def test_copies_work_side_by_side(tiny_pipeline):
    """A pipeline makes one call at a time, since its scheduler counts steps; with one of its own, a thread each."""
    own = [UniRealPipeline.from_pipe(tiny_pipeline, scheduler=deepcopy(tiny_pipeline.scheduler)) for _ in range(2)]
    pipelines = [*own, deepcopy(tiny_pipeline), pickle.loads(pickle.dumps(tiny_pipeline))]
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    with ThreadPoolExecutor(len(pipelines)) as pool:
        made = list(pool.map(lambda n: _picture(pipelines[n], num_inference_steps=4 + n), range(len(pipelines))))
    for number, picture in enumerate(made):
        assert (picture == _picture(tiny_pipeline, num_inference_steps=4 + number)).all()


def test_parts_are_shared_by_from_pipe_and_can_be_replaced(tiny_pipeline, tiny_pipeline_folder):
    assert UniRealPipeline.from_pipe(tiny_pipeline).transformer is tiny_pipeline.transformer
    tokenizer = AutoTokenizer.from_pretrained(tiny_pipeline_folder / "tokenizer")
    assert UniRealPipeline.from_pretrained(tiny_pipeline_folder, tokenizer=tokenizer).tokenizer is tokenizer


def test_adapters_come_and_go(tmp_path):
    trained = _pipeline()
    expected = _picture(trained)
    add_lora(trained.transformer, 4)
    for name, parameter in trained.transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    adapted = _picture(trained)
    save_lora(trained.transformer, tmp_path)
    pipeline = _pipeline()
    for _ in range(2):
        pipeline.load_lora_weights(tmp_path)
        assert (_picture(pipeline) == adapted).all() and (adapted != expected).any()
        pipeline.unload_lora_weights()
        assert (_picture(pipeline) == expected).all()
    pipeline.load_lora_weights(tmp_path)
    pipeline.transformer.set_adapters("default", 0.0)
    assert (_picture(pipeline) == expected).all()
    pipeline.transformer.set_adapters("default", 1.0)
    pipeline.transformer.fuse_lora()
    assert np.abs(_picture(pipeline) - adapted).max() <= 1


def test_the_model_card_tells_what_the_pipeline_is():
    parts = debug_components()
    card = model_card(parts, "someone/tiny", (48, 64), 8, 2.5, 1.0)
    assert card.data.library_name == "diffusers" and card.data.license is None
    assert "# tiny\n" in card.text and 'from_pretrained("someone/tiny")' in card.text
    assert "Native size: 64x48 pixels. Defaults: 8 steps, guidance 2.5, image guidance 1." in card.text
    millions = sum(p.numel() for p in parts.transformer.parameters()) / 1e6
    assert f"`UniRealTransformer`, {millions:.3g} million parameters: 2 blocks of width 32, patches of 8" in card.text
    assert "none, the model works on pixels" in card.text
    assert all(f"| `{name}` |" in card.text for name in TASKS)
    parts.vae = AutoencoderKL(block_out_channels=(32,), layers_per_block=1)
    assert "`AutoencoderKL`, " in model_card(parts, "someone/tiny", (48, 64), 8, 2.5, 1.0).text


@pytest.mark.parametrize("written", [None, "---\nlicense: mit\n---\n# Written by hand\n"])
def test_what_is_pushed_to_a_hub(written, tiny_pipeline, monkeypatch):
    """The hub is stood in for; an existing card stays."""
    uploads = []

    def load(*_, **__):
        if written is None:
            raise EntryNotFoundError("no README.md")
        return ModelCard(written)

    def upload(self, folder, repo_id, **options):
        uploads.append((repo_id, options["commit_message"], ModelCard.load(f"{folder}/README.md")))
        assert UniRealPipeline.from_pretrained(folder).config.default_steps == 2
        return "https://hub/someone/tiny/commit/1"

    monkeypatch.setattr(loading, "create_repo", lambda repo_id, **_: RepoUrl(f"https://huggingface.co/{repo_id}"))
    monkeypatch.setattr(ModelCard, "load", _both(load, ModelCard.load))
    monkeypatch.setattr(UniRealPipeline, "_upload_folder", upload)
    assert tiny_pipeline.push_to_hub("someone/tiny").endswith("/commit/1")
    repo_id, message, card = uploads[0]
    assert (repo_id, message) == ("someone/tiny", "Upload UniRealPipeline")
    assert ("Written by hand" in card.text) == (written is not None)
    assert ("`UniRealTransformer`" in card.text) == (written is None)


def test_a_model_is_loaded_from_the_hub(tiny_pipeline, tiny_pipeline_folder, monkeypatch):
    """The hub is a folder here; what it holds is checked as if it came from elsewhere."""
    names = [f.relative_to(tiny_pipeline_folder).as_posix() for f in tiny_pipeline_folder.rglob("*") if f.is_file()]
    answers = {
        "_resolve_revision": lambda *_, **options: "main",
        "model_info": lambda *_, **options: SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=name) for name in names]
        ),
        "hf_hub_download": lambda repo_id, file, **options: str(tiny_pipeline_folder / file),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pipeline_utils, name, answer)
    loaded = UniRealPipeline.from_pretrained("somebody/unireal")
    loaded.set_progress_bar_config(disable=True)
    assert (_picture(loaded) == _picture(tiny_pipeline)).all()


def test_weights_are_never_pickled(tiny_pipeline, tmp_path):
    for write in (tiny_pipeline.save_pretrained, tiny_pipeline.push_to_hub):
        with pytest.raises(ValueError, match="safetensors alone"):
            write(str(tmp_path / "model"), safe_serialization=False)
    assert not list(tmp_path.iterdir())
    tiny_pipeline.save_pretrained(tmp_path / "model", safe_serialization=True)
    assert (tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors").is_file()


def _both(first, then):
    """Calls `first` once, later `then`."""
    calls = itertools.count()
    return lambda *arguments, **options: (first if next(calls) == 0 else then)(*arguments, **options)
