"""What one request asks of a denoiser: how many tokens, in how many steps, by which windows, under which law."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from reader_theory.errors import require
from runtime.engine.processors import TokenLaw
from runtime.engine.sampling import SamplingParams

__all__ = ["DRAFTS", "DiffusionParams"]

SAMPLING = ("chain", "parallel_lossy")
DRAFTS = ("round", "step", "head")
LONGEST_TEXT, LONGEST_WINDOW = 1 << 16, 256


@dataclass(frozen=True)
class DiffusionParams:
    """How the masked tokens of one request are filled in.

    Parameters
    ----------
    new_tokens : int, >= 1
        Masked tokens behind the prompt.
    steps : int, >= 1
        Denoising steps, at most one a masked token. A step draws all masked tokens; each of them is then kept with
        probability 1 / (steps that are left), or masked again, whatever was drawn.
    window : int, >= 1
        Places verified in a round, by one forward each. 1 is one token at a time. The law of the text is the same for
        every window.
    drafts : {"round", "step", "head"}
        Drafts for all masked places come from one forward: of each ``round``, the last whose tokens were all kept, at
        no further forward; or the first of each denoising ``step``. By the ``head``: as of each round, and each drawn
        given the tokens before it, by the model's draft head.
    sampling : {"chain", "parallel_lossy"}
        ``chain`` draws each token given all those before it, p(X0^i | X_t, X0^{<i}): the law of the step. The other
        draws all places of a step independently of each other, as fast decoders do, which is another law.
    temperature, top_k, top_p
        As in `SamplingParams`: part of the law of each place.
    seed : int, in [0, 2**64)
        Seed, window and drafts together fix the text.

    Raises
    ------
    InvalidInputError
        When a value lies outside its range.
    """

    new_tokens: int = 32
    steps: int = 4
    window: int = 8
    drafts: str = "round"
    sampling: str = "chain"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _count("new_tokens", self.new_tokens, LONGEST_TEXT, "A text of no tokens needs no model.")
        _count("steps", self.steps, LONGEST_TEXT, "1 draws all tokens in one denoising step.")
        _count("window", self.window, LONGEST_WINDOW, "1 is one token at a time; 8 drafts eight.")
        for name, value, known in (("drafts", self.drafts, DRAFTS), ("sampling", self.sampling, SAMPLING)):
            require(
                value in known, f"`{name}` must be one of {', '.join(known)}", got=repr(value), fix=f"Use {known[0]}."
            )
        _ = self.token_law
        self.check_masked(self.new_tokens)

    def check_masked(self, masked: int) -> None:
        """Refuse more denoising steps than masked tokens."""
        require(
            self.steps <= masked,
            "`steps` must be at most the number of masked tokens",
            got=f"{self.steps} steps for {masked} tokens",
            fix=f"Pass from 1 to {masked} steps: one that keeps no token changes nothing.",
        )

    @cached_property
    def token_law(self) -> TokenLaw:
        """From logits of single places to their laws."""
        return TokenLaw(
            SamplingParams(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed)
        )

    @property
    def plain(self) -> bool:
        """Whether temperature and filters leave the model's law alone."""
        return (self.temperature, self.top_k, self.top_p) == (1.0, 0, 1.0)

    @property
    def by_head(self) -> bool:
        """Whether a draft head is asked."""
        return self.lossless and self.drafts == "head"

    @property
    def lossless(self) -> bool:
        """Whether each denoising step has exactly the law of its chain."""
        return self.sampling == "chain"


def _count(name: str, value: object, most: int, fix: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    require(whole, f"`{name}` must be a whole number from 1 to {most}", got=repr(value), fix=fix)
