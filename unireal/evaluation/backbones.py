"""The networks behind the metrics, by hub id or folder, from safetensors: CLIP, DINO and DINOv2.

What a picture looks like to a network differs between reference scripts; these differences are the functions
`centre_crop`, `squashed` and `shorter_side` here, and every metric says which it uses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from unireal.evaluation.pictures import Picture
from unireal.notices import one_line

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

View = Callable[[Picture], torch.Tensor]  # a picture as float32 (3, h, w) in 0..1


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) as float32 (3, H, W) in 0..1."""
    return torch.tensor(pixels).permute(2, 0, 1).float() / 255


def centre_crop(pixels: np.ndarray, resize: int, crop: int, whole: Callable[[float], int] = round) -> np.ndarray:
    """uint8 (crop, crop, 3): shorter side to `resize` pixels by PIL's bicubic filter, then the middle.

    With resize = crop this is CLIP's own preprocessing, with 256 and 224 DINO's. whole: what becomes of half a pixel of
    margin: torchvision, and so OpenAI's CLIP, rounds it, transformers' processor cuts it off (math.floor).
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    size = (int(resize * width / short), int(resize * height / short))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    left, top = whole((image.width - crop) / 2), whole((image.height - crop) / 2)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def squashed(pixels: np.ndarray, size: int) -> torch.Tensor:
    """float32 (3, size, size): both sides to `size` by torch's bicubic filter without antialiasing, not clamped, as
    in InstructPix2Pix's ClipSimilarity."""
    return F.interpolate(as_tensor(pixels)[None], size=(size, size), mode="bicubic", align_corners=False)[0]


def shorter_side(tensor: torch.Tensor, size: int, longest: int) -> torch.Tensor:
    """float (3, h, w): shorter side to `size` by torch's bilinear filter without antialiasing, the longer at most
    `longest`, as torchvision's Resize did with tensors when PIE-Bench's script was written."""
    height, width = tensor.shape[1:]
    short, long = sorted((height, width))
    new_short, new_long = size, int(size * long / short)
    if new_long > longest:
        new_short, new_long = int(longest * new_short / new_long), longest
    new = (new_short, new_long) if height <= width else (new_long, new_short)
    if new == (height, width):
        return tensor
    return F.interpolate(tensor[None], size=new, mode="bilinear", align_corners=False)[0]


@dataclass(eq=False)
class Backbone:
    """A network, its name for the report, and how its input is normalised."""

    name: str
    model: Any
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.model = self.model.eval().requires_grad_(False).to(self.device)
        self._mean, self._std = (torch.tensor(list(v)).view(3, 1, 1) for v in (self.mean, self.std))

    def normalised(self, tensor: torch.Tensor) -> torch.Tensor:
        """float32 (3, h, w), 0..1 to the network's range."""
        return (tensor - self._mean) / self._std

    def features(self, key: str, pictures: Sequence[Picture], view: View, run: Callable[[torch.Tensor], Any]) -> list:
        """run(batch (N, 3, h, w))[i] for each picture; what a picture's memo holds already is not computed again.

        Pictures of one view have one size. key: of the view and of what is computed of it.
        """
        missing = list({id(p): p for p in pictures if (self, key) not in p.memo}.values())
        if missing:
            batch = torch.stack([self.prepare(key, picture, view) for picture in missing])
            with torch.inference_mode():
                found = run(batch.to(self.device))
            for picture, value in zip(missing, found, strict=True):
                picture.memo[self, key] = value.float().cpu()
                picture.memo.pop((self, key, "input"), None)
        return [picture.memo[self, key] for picture in pictures]

    def prepare(self, key: str, picture: Picture, view: View) -> torch.Tensor:
        """The network's input for the picture, made in a loading thread and dropped once it is used."""
        if (self, key) in picture.memo:
            return torch.empty(0)
        return picture.view((self, key, "input"), lambda p: self.normalised(view(p)))


class Clip(Backbone):
    """CLIP: embeddings of pictures and texts in one space, not normalised.

    transformers' own CLIPModel is called, since torchmetrics' CLIPScore does not work with transformers 5.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, mean: Sequence[float], std: Sequence[float], device: Any):
        super().__init__(name, model, mean, std, device)
        self.tokenizer = tokenizer
        self.size: int = getattr(model.config, "vision_config", model.config).image_size
        self._texts: dict[str, torch.Tensor] = {}

    @classmethod
    def load(cls, name: str, device: str | torch.device = "cpu") -> Clip:
        """Raises ValueError if it cannot be loaded."""
        from transformers import AutoTokenizer, CLIPModel

        model = _loaded(CLIPModel, name, "CLIP model")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(f"the tokenizer of {name!r} cannot be loaded ({one_line(error, 200)})") from error
        return cls(name, model, tokenizer, *_statistics(name), torch.device(device))

    def crop(self, picture: Picture) -> torch.Tensor:
        """float32 (3, size, size) in 0..1 by the preprocessing of OpenAI's CLIP."""
        return as_tensor(centre_crop(picture.pixels, self.size, self.size))

    def process(self, pixels: np.ndarray) -> torch.Tensor:
        """float32 (3, size, size) in 0..1 by the preprocessing of transformers' processor, as torchmetrics has it."""
        return as_tensor(centre_crop(pixels, self.size, self.size, math.floor))

    def resized(self, size: int | None) -> View:
        """The view of a picture that is squashed to size x size pixels first, None for its own, as the scripts for
        videos and PickScore do."""
        if size is None:
            return lambda picture: self.process(picture.pixels)
        return lambda picture: self.process(picture.resized((size, size)).pixels)

    def seen(self, size: int | None = None) -> str:
        """What the report says of `crop` and of `resized(size)`."""
        return f"{self.size}x{self.size} centre crop" + ("" if size is None else f" of {size}x{size}")

    def squash(self, picture: Picture) -> torch.Tensor:
        """float32 (3, size, size) by InstructPix2Pix's preprocessing."""
        return squashed(picture.pixels, self.size)

    def pictures(self, pictures: Sequence[Picture], key: str = "crop", view: View | None = None) -> torch.Tensor:
        """float32 (N, D)."""
        return torch.stack(self.features(key, pictures, view or self.crop, self.embed))

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """float32 (N, 3, size, size), normalised, to (N, D)."""
        return self.model.get_image_features(pixel_values=batch).pooler_output

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 (N, D). Texts longer than the context are cut off, as torchmetrics and InstructPix2Pix do."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if missing:
            limit = self.model.config.text_config.max_position_embeddings
            tokens = self.tokenizer(missing, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            with torch.inference_mode():
                found = self.model.get_text_features(**tokens.to(self.device)).pooler_output
            self._texts |= dict(zip(missing, found.float().cpu(), strict=True))
        return torch.stack([self._texts[text] for text in texts])


class ClipVision(Clip):
    """The half of CLIP that sees, CLIPVisionModelWithProjection."""

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=batch).image_embeds


class Dino(Backbone):
    """DINO (ViTModel) or DINOv2 (Dinov2Model)."""

    def __init__(self, name: str, model: Any, device: Any):
        super().__init__(name, model, device=device)
        self.patch: int = model.config.patch_size

    @classmethod
    def load(cls, name: str, device: str | torch.device = "cpu") -> Dino:
        """Raises ValueError if it cannot be loaded."""
        from transformers import AutoModel

        options = {} if "dinov2" in _model_type(name) else {"add_pooling_layer": False}
        return cls(name, _loaded(AutoModel, name, "DINO model", **options), torch.device(device))

    def crop(self, picture: Picture) -> torch.Tensor:
        """float32 (3, 224, 224) in 0..1, as DINO's evaluation and MagicBrush's script do."""
        return as_tensor(centre_crop(picture.pixels, 256, 224))

    def grid(self, picture: Picture) -> torch.Tensor:
        """float32 (3, s, s): squashed to the square nearest to 224 pixels that the patches fill."""
        side = max(1, 224 // self.patch) * self.patch
        image = Image.fromarray(picture.pixels).resize((side, side), Image.Resampling.BICUBIC)
        return as_tensor(np.asarray(image))

    def classes(self, pictures: Sequence[Picture], key: str = "crop") -> torch.Tensor:
        """float32 (N, D): the class token after the last layer norm."""
        return torch.stack(self.features(key, pictures, self.crop, lambda batch: self._hidden(batch)[:, 0]))

    def patches(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """float32 (N, rows, columns, D): the patch tokens of the squashed picture."""
        found = torch.stack(self.features("grid", pictures, self.grid, lambda batch: self._hidden(batch)[:, 1:]))
        side = round(found.shape[1] ** 0.5)
        return found.unflatten(1, (side, side))

    def keys(self, batch: torch.Tensor) -> torch.Tensor:
        """float32 (N, tokens, D): the keys of the last layer's attention, all heads side by side."""
        kept: list[torch.Tensor] = []
        layer = self.model.layers[-1].attention.k_proj
        handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
        try:
            self._hidden(batch)
        finally:
            handle.remove()
        return kept[0]

    def _hidden(self, batch: torch.Tensor) -> torch.Tensor:
        # DINOv2 fits its positions to the picture by itself
        options = {} if "dinov2" in self.model.config.model_type else {"interpolate_pos_encoding": True}
        return self.model(pixel_values=batch, **options).last_hidden_state


def load_vision(name: str, device: str | torch.device = "cpu") -> Clip | Dino:
    """What a folder or hub id holds, for metrics that embed pictures alone: a CLIP, with or without its half for texts,
    whose tokenizer is not loaded, or a DINO. Raises ValueError if it is neither or cannot be loaded."""
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    kind = _model_type(name)
    if kind == "vit" or "dinov2" in kind:
        return Dino.load(name, device)
    kinds = {"clip": (Clip, CLIPModel), "clip_vision_model": (ClipVision, CLIPVisionModelWithProjection)}
    if kind not in kinds:
        raise ValueError(f"{name!r} holds a network of type {kind!r}; give a CLIP or a DINO")
    wrapper, network = kinds[kind]
    return wrapper(name, _loaded(network, name, "CLIP model"), None, *_statistics(name), torch.device(device))


def _loaded(kind: Any, name: str, what: str, **options: Any) -> Any:
    options |= {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, found = kind.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{what} {name!r} cannot be loaded ({one_line(error, 200)}); give a folder or hub id with safetensors"
        ) from error
    if missing := sorted(found["missing_keys"]):  # transformers makes them up at random
        raise ValueError(f"{what} {name!r} lacks {len(missing)} weights, such as {missing[0]}; give a complete one")
    return model


def _model_type(name: str) -> str:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name).model_type
    except (OSError, ValueError) as error:
        raise ValueError(
            f"backbone {name!r} cannot be loaded ({one_line(error, 200)}); give a folder or hub id"
        ) from error


def _statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation that the model's preprocessing file gives, else CLIP's usual ones."""
    path = Path(name) / "preprocessor_config.json"
    values = json.loads(path.read_text()) if path.is_file() else {}
    return values.get("image_mean", CLIP_MEAN), values.get("image_std", CLIP_STD)
