"""Warm start: CogVideoX, a text-to-video model, becomes a UniReal model that has yet to be fine-tuned.

    python -m unireal.model.video_prior zai-org/CogVideoX-2b --output models/unireal-2b

On text alone the result computes what CogVideoX computes. Role and index embeddings start at zero, so input frames are
at first more frames of the same video.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel, FlowMatchEulerDiscreteScheduler
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from transformers import AutoTokenizer, T5EncoderModel

from unireal.arguments import Parser, at_least_one, failed
from unireal.model.folder import HUB_ID, check_new_folder, check_weights
from unireal.model.text_encoder import add_referring_tokens
from unireal.model.transformer import UniRealTransformer
from unireal.notices import one_line
from unireal.sample import Role

STEPS, GUIDANCE, NATIVE_SIZE = 50, 6.0, (256, 256)  # CogVideoX's own defaults, and UniReal's first training size
WEIGHTS = "diffusion_pytorch_model.safetensors"
DROPPED = ("patch_embed.pos_embedding",)  # computed from positions here
COPIED = (
    *("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "patch_size", "text_embed_dim"),
    *("time_embed_dim", "attention_bias", "norm_eps", "flip_sin_to_cos", "freq_shift"),
    *("spatial_interpolation_scale", "temporal_interpolation_scale"),
)
# what our blocks are built for: setting, value, and what any other value means
BUILT_FOR = (
    ("patch_size_t", None, "it packs several latent frames into one token, as CogVideoX 1.5 does"),
    ("use_learned_positional_embeddings", False, "its learned positions fix the frame size, as in CogVideoX-5B-I2V"),
    ("ofs_embed_dim", None, "it takes an image by an offset embedding, as CogVideoX 1.5 I2V does"),
    ("activation_fn", "gelu-approximate", "the feed-forward layer here is gelu-approximate"),
    ("timestep_activation_fn", "silu", "the time embedding here uses silu"),
    ("norm_elementwise_affine", True, "the layer norms here have weights"),
    ("patch_bias", True, "the patch embedding here has a bias"),
)
SCHEDULE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("rescale_betas_zero_snr", "snr_shift_scale"),
)


def load_transformer(
    source: str | Path, subfolder: str = "transformer", dtype: torch.dtype | None = None, **overrides: Any
) -> UniRealTransformer:
    """CogVideoX's weights in a UniRealTransformer, in evaluation mode.

    source:      folder or hub id of a CogVideoX-2B or 5B pipeline, with safetensors; the noise schedule is read from
                 its `scheduler` folder, or is the published one if there is none.
    dtype:       None keeps the stored one. overrides: arguments of UniRealTransformer, e.g. max_inputs.

    Raises ValueError if there is no such model, if its weights are pickled, or if it is not of this architecture.
    """
    root = _locate(source, (subfolder, "scheduler"))
    config = convert_config(_read_json(root / subfolder / "config.json"), str(source))
    schedule = root / "scheduler" / "scheduler_config.json"
    config["noise_schedule"] = (
        convert_schedule(_read_json(schedule), str(schedule)) if schedule.is_file() else _published_schedule(config)
    )
    config |= overrides
    if config["prediction_type"] != "v_prediction":
        config["noise_schedule"] = None
    weights = {k: v for k, v in _load_weights(root / subfolder).items() if k not in DROPPED}
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    num_images = config["max_inputs"] + config["max_results"]
    weights["role_embedding.weight"] = torch.zeros(len(Role), dim)
    weights["index_embedding.weight"] = torch.zeros(num_images, dim)
    dtype = dtype or weights["proj_out.weight"].dtype
    with torch.device("meta"):
        model = UniRealTransformer(**config)
    try:
        model.load_state_dict({k: v.to(dtype) for k, v in weights.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights of {source} do not fit their config.json: {one_line(error)}") from error
    return model.eval()


def convert_config(prior: Any, name: str) -> dict[str, Any]:
    """UniRealTransformer's arguments for those of CogVideoXTransformer3DModel; ValueError for another architecture."""
    kind = prior.get("_class_name", "CogVideoXTransformer3DModel")
    if kind != "CogVideoXTransformer3DModel":
        raise ValueError(f"{name} is a {kind}, not a CogVideoXTransformer3DModel; give CogVideoX-2b or CogVideoX-5b")
    with torch.device("meta"):  # fills in the defaults
        prior = CogVideoXTransformer3DModel.from_config(prior).config
    for setting, value, meaning in BUILT_FOR:
        if prior[setting] != value:
            raise ValueError(
                f"{name} has {setting}={prior[setting]!r}: {meaning}; give CogVideoX-2b or CogVideoX-5b (text to video)"
            )
    if prior.in_channels != prior.out_channels:
        raise ValueError(
            f"{name} has in_channels={prior.in_channels}, out_channels={prior.out_channels}: it stacks an image onto "
            "the noise, as CogVideoX-5B-I2V does, but here that is a frame; give CogVideoX-2b or CogVideoX-5b"
        )
    frames = (prior.sample_frames - 1) // prior.temporal_compression_ratio + 1
    base_grid = prior.sample_height // prior.patch_size, prior.sample_width // prior.patch_size
    return {key: prior[key] for key in COPIED} | {
        "max_text_length": prior.max_text_seq_length,
        "position_embedding": "rotary" if prior.use_rotary_positional_embeddings else "sincos",
        "base_grid": base_grid if prior.use_rotary_positional_embeddings else None,
        "max_inputs": 8,
        "max_results": max(8, frames),
        "frame_span": frames,
        "prediction_type": "v_prediction",
        "pad_text": True,
    }


def convert_schedule(prior: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments of NoiseSchedule for those of CogVideoX's scheduler; ValueError if it does not predict v."""
    if prior.get("prediction_type") != "v_prediction":
        raise ValueError(f"{name} has prediction_type {prior.get('prediction_type')!r}; 'v_prediction' is expected")
    return {key: prior[key] for key in SCHEDULE if prior.get(key) is not None}


def _published_schedule(config: dict[str, Any]) -> dict[str, Any]:
    """That of CogVideoX-2B (sincos) or 5B (rotary), for a transformer without its pipeline."""
    shift = 3.0 if config["position_embedding"] == "sincos" else 1.0
    return {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True, "snr_shift_scale": shift}


def convert(source: str | Path, output: Path, dtype: torch.dtype | None = None, **overrides: Any) -> None:
    """Writes a complete UniRealPipeline folder; arguments as in `load_transformer`.

    The tokenizer gets the IMG and RES tokens. The sampling steps are shifted as the prior's train steps are.
    """
    from unireal.pipeline import UniRealPipeline  # above this layer: only the folder's format is needed

    check_new_folder(output)
    root = _locate(source, ("transformer", "scheduler", "text_encoder", "tokenizer", "vae"))
    for part in ("text_encoder", "vae"):
        check_weights(root / part)
    transformer = load_transformer(root, dtype=dtype, **overrides)
    dtype, config = transformer.dtype, transformer.config
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    text_encoder = T5EncoderModel.from_pretrained(root / "text_encoder", use_safetensors=True, dtype=dtype)
    add_referring_tokens(tokenizer, text_encoder, config.max_inputs, config.max_results)
    vae = AutoencoderKLCogVideoX.from_pretrained(root / "vae", use_safetensors=True, torch_dtype=dtype)
    shift = 1.0
    if transformer.noise_schedule is not None:
        middle = float(transformer.noise_schedule.times.median())
        shift = round(middle / (1 - middle), 2)
    UniRealPipeline(
        transformer=transformer,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        native_size=NATIVE_SIZE,
        default_steps=STEPS,
        default_guidance=GUIDANCE,
    ).save_pretrained(output, safe_serialization=True)


def _locate(source: str | Path, parts: tuple[str, ...]) -> Path:
    """The folder of a model, downloaded first if it is a hub id."""
    if Path(source).is_dir():
        return Path(source)
    if not re.fullmatch(HUB_ID, str(source)):
        raise ValueError(
            f"video model {str(source)!r} is neither a folder nor a hub id; give e.g. zai-org/CogVideoX-2b"
        )
    files = [f"{part}/*{suffix}" for part in parts for suffix in (".json", ".safetensors", ".model", ".txt")]
    try:
        return Path(snapshot_download(str(source), allow_patterns=files))
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"video model {str(source)!r} is no folder and cannot be downloaded ({reason})") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; give a CogVideoX folder as diffusers saves it")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error


def _load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a transformer's folder, of one file or of several with an index."""
    check_weights(folder)
    index = folder / f"{WEIGHTS}.index.json"
    names = sorted(set(_read_json(index)["weight_map"].values())) if index.is_file() else [WEIGHTS]
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; download the model again")
        weights |= load_file(folder / name)
    return weights


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 bad input."""
    parser = Parser(prog="python -m unireal.model.video_prior", description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SOURCE", help="folder or hub id of CogVideoX-2b or CogVideoX-5b")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder of the pipeline")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of all parts (default: as stored)")
    parser.add_argument("--max-inputs", type=at_least_one, default=8, help="how many input images IMG1.. there are")
    parser.add_argument("--condition-attention", choices=("full", "isolated"), default="full",
                        help="isolated: text and inputs do not see results, so that they can be cached")  # fmt: skip
    options = parser.parse_args(arguments)
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    overrides = {"max_inputs": options.max_inputs, "condition_attention": options.condition_attention}
    try:
        convert(options.source, options.output, dtype, **overrides)
    except (ValueError, OSError) as error:
        return failed(error)
    print(f"model saved to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
