"""Plug-ins that choose tokens, on editing pipelines of diffusers: weights that exist today.

    pipe = FluxKontextPipeline.from_pretrained("black-forest-labs/FLUX.1-Kontext-dev", dtype=torch.bfloat16)
    spot = SpotEdit()
    with accelerated(pipe, spot):
        image = pipe(image=canvas, prompt="Make the red car green.", num_inference_steps=28).images[0]
    spot.mask  # which tokens were computed

The pipeline is diffusers' own and runs as it is; only its transformer and its scheduler are intercepted meanwhile.
"""

from unireal.acceleration.public.families import FAMILIES, family_of
from unireal.acceleration.public.session import accelerated

__all__ = ["FAMILIES", "accelerated", "family_of"]
