"""Masked diffusion: texts filled in by denoising steps, each exact by the chain rule, drafted in parallel, verified."""

from runtime.diffusion.denoiser import Denoiser
from runtime.diffusion.load import load_masked
from runtime.diffusion.params import DiffusionParams

__all__ = ["Denoiser", "DiffusionParams", "load_masked"]
