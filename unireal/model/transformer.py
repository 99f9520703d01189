"""UniReal's diffusion transformer: every image is a frame of one sequence (UniReal, section 3.1 and figure 2).

The forward pass has three stages that acceleration may call one by one: `pack` (embed everything into one sequence),
`run` (the blocks) and `head` (result tokens to latent frames).

Axes: B batch, K input frames, R result frames, L text tokens, N all tokens, D width, C latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from unireal.model.blocks import KeyValueMemory, OutputNorm, UniRealBlock
from unireal.model.caches import CacheableTransformer
from unireal.model.configuration import check_config
from unireal.model.embeddings import (
    PatchEmbed,
    PooledText,
    frame_positions,
    frame_times,
    position_step,
    rotary_embedding,
    sincos_embedding,
)
from unireal.model.initialization import initialize_weights
from unireal.model.noise_schedule import NoiseSchedule, unit_variance
from unireal.model.packing import Constant, PackedSequence, check_frames, token_grid, unpatchify, with_text
from unireal.sample import Role

TRAIN_STEPS = 1000  # the time embedding's unit: t in 0..1 is embedded as 0..1000, as in diffusers


class UniRealTransformer(ModelMixin, ConfigMixin, CacheableTransformer, PeftAdapterMixin):
    """A diffusion transformer in which text, input frames and result frames are one sequence of tokens.

    num_layers, num_attention_heads, attention_head_dim: the stack; width D = heads * head_dim.
    in_channels:    latent channels of a frame; patch_size: latent pixels along a token's side.
    text_embed_dim: width of the text encoder's features; max_text_length: tokens that a prompt is cut to.
    time_embed_dim: width of the time embedding; flip_sin_to_cos, freq_shift: its form, as in diffusers.
    attention_bias: whether queries, keys and values have a bias; norm_eps: epsilon of the layer norms.
    position_embedding: "rotary" (CogVideoX-5B), "sincos" (CogVideoX-2B) or "both"; rope_theta, rope_spacing (radians
        between neighbouring tokens), spatial_interpolation_scale and temporal_interpolation_scale belong to them.
    max_inputs, max_results: sizes of the index tables, so how many IMGk and RESk there are.
    frame_span:     number of temporal positions that inputs and results are laid out in (13 in CogVideoX).
    condition_attention: "full" (the paper) or "isolated": text and input frames do not attend to result frames and are
        modulated at t = 0, so that their keys and values are the same in every denoising step.
    prediction_type: what `forward` returns: "velocity" (noise - x0), "sample" (x0) or, as a video prior was trained,
        "v_prediction", which unireal.diffusion.flow.as_velocity converts.
    noise_schedule: arguments of NoiseSchedule, for "v_prediction" only.
    base_grid:      rows and columns of tokens that rotary positions are fitted into, as CogVideoX does; None counts.
    position_span:  rows and columns of positions that results cover, whatever their size; None counts tokens.
    pad_text:       prompts are always padded to max_text_length and the padding is attended to, as in CogVideoX.
    pooled_text:    the mean of the text features is added to the time embeddings, so that text modulates every block.
    place_heads:    how many heads of a block start by attending to their own place in every frame.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["UniRealBlock"]
    _repeated_blocks = ["UniRealBlock"]
    _skip_layerwise_casting_patterns = ["patch_embed", "norm", "role_embedding", "index_embedding"]

    @register_to_config
    def __init__(
        self,
        num_layers: int = 30,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        in_channels: int = 16,
        patch_size: int = 2,
        text_embed_dim: int = 4096,
        max_text_length: int = 226,
        time_embed_dim: int = 512,
        attention_bias: bool = True,
        norm_eps: float = 1e-5,
        flip_sin_to_cos: bool = True,
        freq_shift: float = 0,
        position_embedding: Literal["rotary", "sincos", "both"] = "rotary",
        rope_theta: float = 10000.0,
        rope_spacing: float = 1.0,
        spatial_interpolation_scale: float = 1.0,
        temporal_interpolation_scale: float = 1.0,
        max_inputs: int = 8,
        max_results: int = 8,
        frame_span: int = 13,
        condition_attention: Literal["full", "isolated"] = "full",
        prediction_type: Literal["velocity", "sample", "v_prediction"] = "velocity",
        noise_schedule: dict[str, Any] | None = None,
        base_grid: tuple[int, int] | None = None,
        position_span: int | None = None,
        pad_text: bool = False,
        pooled_text: bool = False,
        place_heads: int = 0,
    ):
        super().__init__()
        check_config(self.config)
        dim = num_attention_heads * attention_head_dim
        self.noise_schedule = None if noise_schedule is None else NoiseSchedule(**noise_schedule)
        self.patch_embed = PatchEmbed(patch_size, in_channels, dim, text_embed_dim)
        self.time_proj = Timesteps(dim, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(dim, time_embed_dim)
        self.text_pooling = PooledText(text_embed_dim, time_embed_dim) if pooled_text else None
        self.role_embedding = nn.Embedding(len(Role), dim)
        self.index_embedding = nn.Embedding(max_inputs + max_results, dim)  # IMG1.., then RES1..
        self.transformer_blocks = nn.ModuleList(
            UniRealBlock(dim, num_attention_heads, attention_head_dim, time_embed_dim, attention_bias, norm_eps)
            for _ in range(num_layers)
        )
        self.norm_final = nn.LayerNorm(dim, eps=norm_eps)
        self.norm_out = OutputNorm(time_embed_dim, dim, norm_eps)
        self.proj_out = nn.Linear(dim, patch_size * patch_size * in_channels)
        self.gradient_checkpointing = False
        initialize_weights(self)

    @classmethod
    def from_video_prior(
        cls, source: str | Path, subfolder: str = "transformer", dtype: torch.dtype | None = None, **overrides: Any
    ) -> UniRealTransformer:
        """A warm start from CogVideoX, a folder or a hub id: see unireal.model.video_prior.load_transformer."""
        from unireal.model.video_prior import load_transformer

        return load_transformer(source, subfolder, dtype, **overrides)

    def forward(
        self,
        hidden_states: Sequence[torch.Tensor],
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition: Sequence[torch.Tensor] = (),
        roles: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        referring: torch.Tensor | None = None,
        memory: KeyValueMemory | None = None,
    ) -> list[torch.Tensor]:
        """
        hidden_states: R noisy latent result frames (B, C, H, W); H and W multiples of the patch size; sizes may differ.
        timestep:      float (B,) or, one per result frame, (B, R); 0 is clean, 1 is noise.
        encoder_hidden_states: (B, L, text_embed_dim); encoder_attention_mask: bool (B, L), False for padding.
        condition:     K clean latent input frames (B, C, H, W).
        roles:         int64 (B, K), indices of unireal.sample.Role.
        referring:     int64 (B, L), 1 + index of the image that a text token names (IMG1.., then RES1..), else 0.

        Returns R tensors shaped like hidden_states: the velocity, the clean latents or v, by config.prediction_type.
        Raises ValueError for more frames than the index tables hold, or sizes that the patch size does not divide.
        """
        sequence = self.pack(
            hidden_states, timestep, encoder_hidden_states, condition, roles, encoder_attention_mask, referring
        )
        tokens = self.run(sequence, memory)  # (B, N, D)
        sizes = [(frame.shape[-2], frame.shape[-1]) for frame in hidden_states]
        return self.head(tokens[:, sequence.num_condition :], sequence, sizes)

    def pack(
        self,
        hidden_states: Sequence[torch.Tensor],
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition: Sequence[torch.Tensor] = (),
        roles: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        referring: torch.Tensor | None = None,
        known: PackedSequence | None = None,
    ) -> PackedSequence:
        """Embeds text and frames into one sequence; arguments as in `forward`.

        known: an earlier sequence with the same text, inputs and sizes, from which all that is constant is taken over.
        """
        check_frames(len(condition), len(hidden_states), roles, self.config.max_inputs, self.config.max_results)
        if self.noise_schedule is not None:
            noise_times = timestep.T if timestep.ndim == 2 else [timestep] * len(hidden_states)
            hidden_states = [unit_variance(x, t) for x, t in zip(hidden_states, noise_times, strict=True)]
        constant = None if known is None else known.constant
        if constant is None:
            text = encoder_hidden_states, encoder_attention_mask, referring
            constant = self._constant(*text, condition, roles, hidden_states)
        results = self._embed_frames(hidden_states, constant.labels, constant.places)  # R times (B, n, D)
        temb = self._embed_times(timestep)  # (B, 1 + times of results, T)
        if constant.text is not None:
            temb = temb + constant.text
        return PackedSequence(
            tokens=torch.cat([constant.condition, *results], dim=1),
            segments=constant.segments(timestep.ndim == 2),
            temb=temb.to(results[0].dtype),
            rotary=constant.rotary,
            keys=constant.keys,
            isolated=constant.isolated,
            constant=constant,
        )

    def _constant(
        self,
        text: torch.Tensor,
        mask: torch.Tensor | None,
        referring: torch.Tensor | None,
        condition: Sequence[torch.Tensor],
        roles: torch.Tensor | None,
        results: Sequence[torch.Tensor],
    ) -> Constant:
        """What of a sequence depends neither on times nor on what is in the result frames."""
        config, frames, count = self.config, [*condition, *results], len(condition)
        grids = [token_grid(frame, config.patch_size) for frame in frames]
        starts = frame_times(count, len(results), config.frame_span)
        step = position_step(grids[count], config.position_span)
        positions = frame_positions(starts, grids, config.base_grid, step).to(text.device)  # (N - L, 3)
        lengths = [rows * columns for rows, columns in grids]
        labels = self._labels(count, len(frames), roles, text.device)
        rotary = places = None
        if config.position_embedding != "sincos":
            angles = rotary_embedding(positions * config.rope_spacing, config.attention_head_dim, config.rope_theta)
            rotary = with_text(angles, text.shape[1])
        if config.position_embedding != "rotary":
            scales = config.spatial_interpolation_scale, config.temporal_interpolation_scale
            table = sincos_embedding(positions, labels[0].shape[-1], *scales).to(labels[0].dtype)
            places = table.split(lengths)
        inputs = self._embed_frames(condition, labels[:count], places and places[:count])
        keys = None if config.pad_text or mask is None else mask.bool()
        return Constant(
            condition=torch.cat([self._embed_text(text, referring), *inputs], dim=1),
            lengths=(text.shape[1], sum(lengths[:count]), *lengths[count:]),
            labels=labels[count:],
            places=places and places[count:],
            text=None if self.text_pooling is None else self.text_pooling(text, mask)[:, None],
            rotary=rotary,
            keys=None if keys is None else nn.functional.pad(keys, (0, sum(lengths)), value=True),
            isolated=config.condition_attention == "isolated",
        )

    def run(
        self, sequence: PackedSequence, memory: KeyValueMemory | None = None, outputs: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """All blocks: tokens (B, N, D) -> (B, N, D). outputs: a list that gets the tokens after every block."""
        x = sequence.tokens
        for layer, block in enumerate(self.transformer_blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, sequence, layer, memory)  # (B, N, D)
            else:
                x = block(x, sequence, layer, memory)  # (B, N, D)
            if outputs is not None:
                outputs.append(x)
        return x

    def head(
        self, tokens: torch.Tensor, sequence: PackedSequence, sizes: Sequence[tuple[int, int]]
    ) -> list[torch.Tensor]:
        """Result tokens (B, M, D) to latent frames (B, C, H, W) of the given latent sizes."""
        segments = tuple(s for s in sequence.segments if s.kind == "result")
        x = self.norm_out(self.norm_final(tokens), sequence.temb, segments)  # (B, M, D)
        x = self.proj_out(x)  # (B, M, C*p*p)
        patch = self.config.patch_size
        grids = [(h // patch, w // patch) for h, w in sizes]
        parts = x.split([h * w for h, w in grids], dim=1)
        return [unpatchify(p, g, self.config.in_channels, patch) for p, g in zip(parts, grids, strict=True)]

    def _embed_text(self, features: torch.Tensor, referring: torch.Tensor | None) -> torch.Tensor:
        text = self.patch_embed.text_proj(features)
        if referring is None:
            return text
        names = (referring > 0)[..., None]
        return text + self.index_embedding((referring - 1).clamp(min=0)) * names

    def _labels(self, inputs: int, frames: int, roles: torch.Tensor | None, device: torch.device) -> list[torch.Tensor]:
        """Embedded role and index of all frames, (B or 1, 1, D) each."""
        labels = []
        for i in range(frames):
            if roles is not None and i < inputs:
                role, index = roles[:, i], i
            else:
                role = torch.full((1,), Role.RESULT.index, device=device)
                index = self.config.max_inputs + i - inputs
            label = self.role_embedding(role) + self.index_embedding(role.new_full((1,), index))  # (B or 1, D)
            labels.append(label[:, None])
        return labels

    def _embed_frames(
        self,
        frames: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
        places: Sequence[torch.Tensor] | None,
    ) -> list[torch.Tensor]:
        """Tokens (B, n, D) of frames (B, C, H, W) with their labels and, where they are added, positions (n, D)."""
        tokens = [self.patch_embed(frame) + label for frame, label in zip(frames, labels, strict=True)]
        return tokens if places is None else [x + place for x, place in zip(tokens, places, strict=True)]

    def _embed_times(self, timestep: torch.Tensor) -> torch.Tensor:
        """Time embeddings (B, 1 + times of results, T); row 0 is t = 0, the inputs' own time."""
        steps = timestep if timestep.ndim == 2 else timestep[:, None]  # (B, 1 or R)
        steps = torch.cat([torch.zeros_like(steps[:, :1]), steps], dim=1)
        steps = steps * TRAIN_STEPS if self.noise_schedule is None else self.noise_schedule.train_step(steps)
        temb = self.time_proj(steps.flatten()).to(self.patch_embed.proj.weight.dtype)
        return self.time_embedding(temb).unflatten(0, steps.shape)
