"""Masks and tracklets for boxes by the `sam2` package: Meta's own code, with the weights that transformers reads.

The package loads its checkpoints by unpickling them, so only the network and SAM2VideoPredictor are taken from it. The
weights are safetensors of transformers' Sam2VideoModel, as facebook/sam2.1-hiera-large has them, under other names.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_builders.annotators.protocols import Box, Frames, sequence
from data_builders.annotators.weights import load_model, on_device
from data_builders.errors import one_line

if TYPE_CHECKING:
    import torch

# The largest of the published configurations says all that transformers' does not, such as the kinds of attention.
_CONFIGURATION = "configs/sam2.1/sam2.1_hiera_l.yaml"

# What both call by the same name, and all published models have the same value of
_SAME = (
    *("image_size", "num_maskmem", "sigmoid_scale_for_mem_enc", "sigmoid_bias_for_mem_enc"),
    *("multimask_output_in_sam", "multimask_min_pt_num", "multimask_max_pt_num", "multimask_output_for_tracking"),
)

# Patterns of the package's names of weights, and what transformers calls them, applied one after another
_NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.(convs\.\d+)\.conv", r"vision_encoder.neck.\1"),
    (r"patch_embed\.proj\b", "patch_embed.projection"),
    (r"^sam_(prompt_encoder|mask_decoder)", r"\1"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"mask_downscaling\.([036])\b", lambda found: f"mask_embed.conv{int(found[1]) // 3 + 1}"),
    (r"mask_downscaling\.([14])\b", lambda found: f"mask_embed.layer_norm{int(found[1]) // 3 + 1}"),
    (r"output_upscaling\.([03])\b", lambda found: f"upscale_conv{int(found[1]) // 3 + 1}"),
    (r"output_upscaling\.1\b", "upscale_layer_norm"),
    (r"mask_downsampler\.encoder\.12\b", "mask_downsampler.final_conv"),
    (r"(mask_downsampler)\.encoder\.(\d+)", lambda found: f"{found[1]}.layers.{_layer_of_three(int(found[2]))}"),
    (r"\bfuser\b", "memory_fuser"),
    (r"\b(d|p)w(conv)", lambda found: f"{'depthwise' if found[1] == 'd' else 'pointwise'}_{found[2]}"),
    (r"\bgamma\b", "scale"),
    (r"\bpix_feat_proj\b", "feature_projection"),
    (r"^memory_encoder\.out_proj\b", "memory_encoder.projection"),
    (r"\bout_proj\b", "o_proj"),
    (r"\bnorm", "layer_norm"),
    # perceptrons of two layers, and of three
    (r"\bmlp\.layers\.([01])", lambda found: f"mlp.proj_{('in', 'out')[int(found[1])]}"),
    (
        r"(head|mlps\.\d|obj_ptr_proj)\.layers\.([012])",
        lambda found: f"{found[1]}.{('proj_in', 'layers.0', 'proj_out')[int(found[2])]}",
    ),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^obj_ptr_tpos_proj\b", "temporal_positional_encoding_projection_layer"),
    (r"^obj_ptr_proj\b", "object_pointer_proj"),
)
_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"


class Sam2Package:
    """SAM2VideoPredictor with boxes as prompts; a picture is a video of one frame."""

    def __init__(self, predictor: Any, name: str):
        self.predictor, self.name = predictor, name

    @classmethod
    def from_pretrained(cls, source: str, device: str = "cpu") -> Sam2Package:
        """source: a folder or hub id of transformers' Sam2VideoModel.

        Raises ValueError if the package is not installed, or if there are no such weights, or not all of them.
        """
        from transformers import Sam2VideoModel

        require_package(source)
        model = load_model(Sam2VideoModel, source, dtype="float32")
        return cls(on_device(_predictor(model), device), f"sam2:{source}")

    def segment(self, image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
        return self.track([image], boxes)[:, 0]

    def track(self, frames: Frames, boxes: Sequence[Box]) -> np.ndarray:
        images = sequence(frames)
        if not boxes:
            return np.zeros((0, len(images), *images[0].shape[:2]), bool)
        with tempfile.TemporaryDirectory(prefix="sam2-") as folder:
            _write_frames(images, Path(folder))
            state = self.predictor.init_state(folder, offload_video_to_cpu=True)
        for number, box in enumerate(boxes):
            self.predictor.add_new_points_or_box(state, frame_idx=0, obj_id=number, box=np.asarray(box, np.float32))
        tracked = self.predictor.propagate_in_video(state, start_frame_idx=0)
        return np.stack([(logits[:, 0] > 0).cpu().numpy() for _, _, logits in tracked], axis=1)


def require_package(source: str) -> None:
    """Raises ValueError if the package is not installed. source: what it is wanted for."""
    try:
        import sam2  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"segmenter sam2:{source} needs the sam2 package ({error}); "
            "SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2, or leave 'sam2:' out"
        ) from error


def _write_frames(images: Sequence[np.ndarray], folder: Path) -> None:
    """As the predictor wants them: 0.jpg, 1.jpg, ... Their content is BMP, which Pillow reads all the same, exactly."""
    from PIL import Image

    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.jpg", "BMP")


def _predictor(model: Any) -> Any:
    """SAM2VideoPredictor of the same configuration and with the same weights as transformers' Sam2VideoModel."""
    from sam2 import sam2_video_predictor
    from sam2.build_sam import build_sam2_video_predictor
    from sam2.utils import misc
    from tqdm import tqdm

    for module in (sam2_video_predictor, misc):
        module.tqdm = partial(tqdm, disable=True)  # two bars for every call would hide that of the build
    overrides = [f"++model.{name}={value}" for name, value in configuration(model.config).items()]
    predictor = build_sam2_video_predictor(_CONFIGURATION, device="cpu", hydra_overrides_extra=overrides)
    predictor.fill_hole_area = 0  # takes a CUDA extension that may be absent; transformers does not do it either
    try:
        predictor.load_state_dict(_weights(model.state_dict(), predictor.state_dict()))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the sam2 package makes another network of this configuration ({one_line(error)})") from error
    return predictor


def configuration(config: Any) -> dict[str, Any]:
    """Hydra's names and values of what models may differ in. config: transformers' Sam2VideoConfig."""
    vision, temporal = config.vision_config, config.enable_temporal_pos_encoding_for_object_pointers
    attention = {
        "embedding_dim": config.memory_attention_hidden_size,
        "num_heads": config.memory_attention_num_attention_heads,
        "feat_sizes": config.memory_attention_rope_feat_sizes,
    }
    told = {
        "image_encoder": _image_encoder(vision),
        "memory_attention": {
            "d_model": config.memory_attention_hidden_size,
            "num_layers": config.memory_attention_num_layers,
            "layer.d_model": config.memory_attention_hidden_size,
            "layer.dim_feedforward": config.memory_attention_feed_forward_hidden_size,
            **{f"layer.self_attention.{name}": value for name, value in attention.items()},
            **{f"layer.cross_attention.{name}": value for name, value in attention.items()},
            "layer.cross_attention.kv_in_dim": config.memory_encoder_output_channels,
        },
        "memory_encoder": {
            "in_dim": config.memory_encoder_hidden_size,
            "out_dim": config.memory_encoder_output_channels,
            "position_encoding.num_pos_feats": config.memory_encoder_output_channels,
            "mask_downsampler.embed_dim": config.mask_downsampler_embed_dim,
            "fuser.layer.dim": config.memory_fuser_embed_dim,
            "fuser.num_layers": config.memory_fuser_num_layers,
        },
    }
    of_parts = {f"{part}.{name}": value for part, values in told.items() for name, value in values.items()}
    return of_parts | {
        **{name: getattr(config, name) for name in _SAME},
        "max_obj_ptrs_in_encoder": config.max_object_pointers_in_encoder,
        "max_cond_frames_in_attn": config.max_cond_frame_num,
        # what SAM 2.1 has and SAM 2 has not
        "no_obj_embed_spatial": config.enable_occlusion_spatial_embedding,
        "add_tpos_enc_to_obj_ptrs": temporal,
        "proj_tpos_enc_in_obj_ptrs": temporal,
        "use_signed_tpos_enc_to_obj_ptrs": temporal,
    }


def _image_encoder(vision: Any) -> dict[str, Any]:
    trunk = vision.backbone_config
    return {
        "trunk.embed_dim": trunk.embed_dim_per_stage[0],
        "trunk.num_heads": trunk.num_attention_heads_per_stage[0],
        "trunk.stages": trunk.blocks_per_stage,
        "trunk.global_att_blocks": trunk.global_attention_blocks,
        "trunk.window_spec": trunk.window_size_per_stage,
        "trunk.window_pos_embed_bkg_spatial_size": trunk.window_positional_embedding_background_size,
        "neck.d_model": vision.fpn_hidden_size,
        "neck.position_encoding.num_pos_feats": vision.fpn_hidden_size,
        "neck.backbone_channel_list": vision.backbone_channel_list,
        "neck.fpn_top_down_levels": vision.fpn_top_down_levels,
    }


def _weights(given: Mapping[str, torch.Tensor], wanted: Iterable[str]) -> dict[str, torch.Tensor]:
    """The weights of transformers under the package's names. Raises KeyError for one that there is not."""
    if not given[_POSITIONS].equal(given["shared_image_embedding.positional_embedding"]):
        raise KeyError("pictures and prompts have positions of their own")
    points = given["prompt_encoder.point_embed.weight"].split(1)
    rows = {f"sam_prompt_encoder.point_embeddings.{row}.weight": point for row, point in enumerate(points)}
    return {name: rows[name] if name in rows else given[_transformers_name(name)] for name in wanted}


def _transformers_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _layer_of_three(index: int) -> str:
    """A sequence of convolution, norm and activation, time and again."""
    return f"{index // 3}.{('conv', 'layer_norm')[index % 3]}"
