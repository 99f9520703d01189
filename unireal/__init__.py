"""UniReal: one diffusion transformer that treats every input and output image as a frame of a video."""

__version__ = "0.1.0"
