"""A transformers model as a masked model: any that fills in masks, or a decoder that was made to attend both ways."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.errors import require
from runtime.diffusion.head import SEEN, DraftHead, load_head
from runtime.diffusion.model import MaskedModel
from runtime.diffusion.params import DiffusionParams
from runtime.models.layers import longest_positions
from runtime.models.load import DTYPES, load_tokenizer
from runtime.models.names import check_name
from runtime.models.transformers import load_transformers

__all__ = ["TransformersMasked", "load_masked", "see_both_ways"]

PROBED, PROBES = 12, 4
"""Tokens of a row by which a model is probed, and rows."""
FAINT = 1e-5
"""Of what earlier tokens move its logits by: what later ones move those of a causal model by, at most."""


def see_both_ways(model: Any) -> Any:
    """The model, its attention to later tokens let through where its configuration says that it is not causal.

    `transformers` leaves the mask out for such a configuration, and its attention modules then still say that they are
    causal: without this the model silently is.
    """
    if getattr(model.config.get_text_config(), "is_causal", True) is False:
        for module in model.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = False
    return model


class TransformersMasked(MaskedModel):
    """A transformers model whose logits at a masked place are the law of its token.

    Parameters
    ----------
    model : transformers model
        With `mask_token_id` in its configuration, unless `mask_token` is given. Where the configuration has
        ``shifted_logits``, a place's logits are those after the token before it, as in models that were trained from a
        causal one; no token of theirs may be masked first.
    mask_token : int, optional
    head : DraftHead, optional
        Of a decoder: its output head reads a state that this one corrected.

    Raises
    ------
    InvalidInputError
        When there is no mask token, or its logits do not depend on later tokens.
    """

    def __init__(
        self, model: Any, mask_token: int | None = None, name: str = "", head: DraftHead | None = None
    ) -> None:
        self.model = see_both_ways(model).eval()
        config = model.config.get_text_config()
        self.name, self.takes = name or config.model_type, signature(model.forward).parameters
        self.vocabulary, self.max_positions = int(config.vocab_size), longest_positions(model)
        self.shift = int(bool(getattr(config, "shifted_logits", False)))
        self.first_place = self.shift
        found = mask_token if mask_token is not None else getattr(config, "mask_token_id", None)
        self.mask_token = self._checked(found)
        self.head, self.head_sees = head, SEEN * (head is not None)
        self._probe()

    @torch.inference_mode()
    def laws(self, rows: NDArray[np.int64], places: NDArray[np.int64], params: DiffusionParams) -> NDArray[Any]:
        return params.token_law(self.logits(rows, places).flatten(0, 1)).unflatten(0, places.shape).numpy()

    @torch.inference_mode()
    def logits(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> torch.Tensor:
        """(B, P, V) logits of single places, minus infinity at the mask."""
        device = self.model.device
        wanted, at = np.unique(places - self.shift, return_inverse=True)
        asked = torch.from_numpy(wanted).to(device)
        out = self.model(input_ids=torch.from_numpy(rows).to(device), **self._options(asked)).logits
        kept = out if out.shape[1] == len(wanted) else out[:, asked]
        chosen = torch.from_numpy(at.reshape(places.shape)).to(device)[..., None].expand(-1, -1, kept.shape[-1])
        return self._unmasked(kept.gather(1, chosen))

    @torch.inference_mode()
    def look(
        self, rows: NDArray[np.int64], own: NDArray[np.int64], ahead: NDArray[np.int64], params: DiffusionParams
    ) -> tuple[NDArray[Any], Sequence[Any]]:
        device = self.model.device
        states = self.model.base_model(input_ids=torch.from_numpy(rows).to(device), use_cache=False).last_hidden_state
        row = torch.arange(len(rows), device=device)[:, None]
        mine, theirs = (states[row, torch.from_numpy(places - self.shift).to(device)] for places in (own, ahead))
        logits = self._unmasked(self.model.get_output_embeddings()(mine))
        return params.token_law(logits.flatten(0, 1)).unflatten(0, own.shape).numpy(), theirs

    @torch.inference_mode()
    def head_law(self, state: torch.Tensor, before: tuple[int, ...], params: DiffusionParams) -> NDArray[Any]:
        assert self.head is not None
        tokens = self.model.get_input_embeddings()(torch.tensor([before], device=state.device))
        logits = self._unmasked(self.model.get_output_embeddings()(self.head(state[None], tokens)))
        return params.token_law(logits)[0].numpy()

    def _unmasked(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits in float64, minus infinity at the mask."""
        held = logits[..., : self.vocabulary].double().cpu()
        held[..., self.mask_token] = -torch.inf
        return held

    def _options(self, wanted: torch.Tensor) -> dict[str, Any]:
        """No cache, and logits of single places alone, where the forward takes them."""
        return {name: value for name, value in (("use_cache", False), ("logits_to_keep", wanted)) if name in self.takes}

    def _checked(self, token: Any) -> int:
        whole = isinstance(token, int) and not isinstance(token, bool) and 0 <= token < self.vocabulary
        require(
            whole,
            "a masked-diffusion model must have a mask token of its vocabulary",
            got=f"{token!r} in {self.name}, of {self.vocabulary} tokens",
            fix="Write `mask_token_id` into its config.json, or give its tokenizer its mask token.",
        )
        return int(token)

    def _probe(self) -> None:
        """Refuse a model whose law of a masked place is the same whatever comes after it."""
        rng, place = np.random.default_rng(0), PROBED // 2
        rows = rng.integers(0, self.vocabulary, (PROBES, PROBED))
        rows[:, place] = self.mask_token
        later, earlier = rows.copy(), rows.copy()
        later[:, place + 1 :] = rng.integers(0, self.vocabulary, later[:, place + 1 :].shape)
        earlier[:, :place] = rng.integers(0, self.vocabulary, earlier[:, :place].shape)
        same, moved, before = (self.logits(each, np.full((PROBES, 1), place)) for each in (rows, later, earlier))
        finite = torch.isfinite(same)
        require(
            bool(torch.isfinite(same).sum(-1).min() == self.vocabulary - 1),
            "a model's logits must be finite but for the mask's",
            got=f"{int((~finite).sum())} that are not in {self.name}",
            fix="Load it in a type that holds them, such as float32.",
        )
        by_later, by_earlier = (float((each - same)[finite].abs().max()) for each in (moved, before))
        require(
            by_later > FAINT * by_earlier and by_later > 0,
            "a masked-diffusion model must attend to the tokens after a mask: its logits must depend on them",
            got=f"{self.name}: other tokens after a masked place move its logits by {by_later:.2g} at most, "
            f"other tokens before it by {by_earlier:.2g}; it is a causal model",
            fix="Use a causal model with `reader run`; one that was trained to fill in masks says so in its "
            "configuration (`is_causal: false`, or an architecture ForMaskedLM).",
        )


def load_masked(
    folder: str | Path, dtype: str = "float32", device: str = "cpu", *, mask_token: int | None = None
) -> TransformersMasked:
    """A masked model from a local folder or hub name; its tokenizer's mask where the configuration names none.

    Parameters
    ----------
    dtype : {"float32", "bfloat16", "float16", "float64"}
    mask_token : int, optional
        In place of the one that configuration or tokenizer name.

    Raises
    ------
    InvalidInputError
        When nothing can be loaded there, or what can is no masked-diffusion model.
    """
    require(
        dtype in DTYPES,
        f"`dtype` must be one of {', '.join(DTYPES)}",
        got=repr(dtype),
        fix="Use float32: laws of a window's batch and of one row then differ by rounding alone.",
    )
    model = load_transformers(folder, DTYPES[dtype], device, _kind(folder))
    token = mask_token if mask_token is not None else getattr(model.config.get_text_config(), "mask_token_id", None)
    token = _tokenizer_mask(folder) if token is None else token
    return TransformersMasked(model, token, Path(folder).name, load_head(folder, model))


def _kind(folder: str | Path) -> str:
    """The class that loads a folder: of masked models where its configuration says so, else of decoders."""
    from transformers import AutoConfig

    check_name(folder)
    try:
        names = AutoConfig.from_pretrained(str(folder), trust_remote_code=False).architectures or ()
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        names = ()  # said in full by whoever loads it
    masked = any(name.endswith("ForMaskedLM") for name in names)
    return "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"


def _tokenizer_mask(folder: str | Path) -> int | None:
    try:
        return load_tokenizer(folder).mask_token_id
    except (OSError, ValueError):
        return None
