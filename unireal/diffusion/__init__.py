"""The diffusion side of UniReal.

Time convention, everywhere: t = 0 is the clean image, t = 1 is noise, x_t = (1 - t) x_0 + t noise, and the velocity is
dx_t/dt = noise - x_0. Sampling runs from t = 1 down to t = 0.
"""
