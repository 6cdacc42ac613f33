"""Sizes and switches of a draft head, by the names that checkpoints of the EAGLE-3 kind give them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from reader_theory.cost.head import DrafterHead
from reader_theory.errors import require

__all__ = ["HeadShape"]


def default_layers(count: int) -> tuple[int, ...]:
    """Which hidden states of a target with `count` layers a head reads: early, middle, late.

    Examples
    --------
    >>> default_layers(30)
    (2, 15, 27)
    >>> default_layers(4)
    (1, 2, 3)
    """
    found = (2, count // 2, count - 3) if count >= 8 else (count // 4, count // 2, count - 1)
    return tuple(sorted({min(max(layer, 0), count - 1) for layer in found}))


@dataclass(frozen=True)
class HeadShape:
    """What a head is made of.

    Attributes
    ----------
    width, intermediate, heads, kv_heads, head_dim : int
        Of its one layer.
    vocabulary, draft_vocabulary : int
        Tokens of the target, and how many of them the output head can name; equal where it is not trimmed.
    target_width : int
        Of the hidden states that it reads.
    layers : tuple of int
        Of the target; layer i is the residual stream before it.
    rank : int or None
        Of the output head, as two factors with nothing between; None for one matrix.
    fc_norm : bool
        Each hidden state is normed for itself before they are joined.
    norm_before_fc : bool
        They are normed as one after they are joined; at most one of the two.
    norm_output : bool
        The state handed to the next draft step is the normed one.
    norm_before_residual : bool
        The normed state is what the layer adds to.
    own_embedding : bool
        It has an embedding of its own: needed where its width is not the target's.
    eps : float
    rope : dict
        ``rope_theta``, ``rope_type`` and what else transformers' rotations read.
    max_positions : int
    block : int
        Depths that one forward drafts from mask tokens; 0 for a head that drafts from its own states.
    """

    width: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    target_width: int
    layers: tuple[int, ...]
    draft_vocabulary: int
    rank: int | None = None
    fc_norm: bool = True
    norm_before_fc: bool = False
    norm_output: bool = True
    norm_before_residual: bool = False
    own_embedding: bool = False
    eps: float = 1e-5
    rope: dict[str, Any] = field(default_factory=lambda: {"rope_theta": 10000.0, "rope_type": "default"})
    max_positions: int = 2048
    block: int = 0

    def __post_init__(self) -> None:
        require(
            not (self.fc_norm and self.norm_before_fc),
            "at most one of `fc_norm` and `norm_before_fc` may be asked for",
            got="both",
            fix="fc_norm norms each hidden state, norm_before_fc all of them as one: leave one out.",
        )
        require(
            len(self.layers) >= 1 and len(set(self.layers)) == len(self.layers) and min(self.layers) >= 0,
            "`layers` must be distinct layers of the target",
            got=list(self.layers),
            fix="Count them from 0; the default reads an early, a middle and a late one.",
        )
        require(
            self.heads % self.kv_heads == 0 and self.head_dim % 2 == 0,
            "`heads` must be a multiple of `kv_heads`, and `head_dim` even",
            got=f"{self.heads} heads, {self.kv_heads} for keys and values, of {self.head_dim}",
            fix="Take the target's own numbers.",
        )
        require(
            1 <= self.draft_vocabulary <= self.vocabulary,
            "`draft_vocabulary` must be between 1 and the target's vocabulary",
            got=f"{self.draft_vocabulary} of {self.vocabulary}",
            fix="Leave it out for the whole vocabulary.",
        )
        require(
            self.rank is None or 1 <= self.rank <= self.width,
            "`rank` must be between 1 and the head's width",
            got=f"{self.rank} at a width of {self.width}",
            fix="Leave it out for a full output head.",
        )
        require(
            self.block == 0 or self.block >= 2,
            "`block` must be at least 2 depths",
            got=self.block,
            fix="Leave it out for a head that drafts from its own states.",
        )
        require(
            self.own_embedding or self.width == self.target_width,
            "a head of another width than its target must have an embedding of its own",
            got=f"width {self.width} beside a target of {self.target_width}",
            fix="Set `own_embedding`.",
        )

    @property
    def trimmed(self) -> bool:
        """Whether the output head names only some of the target's tokens."""
        return self.draft_vocabulary < self.vocabulary

    @property
    def output(self) -> DrafterHead:
        """Its output head, as costs tell of it."""
        kept = self.draft_vocabulary if self.trimmed and self.rank is None else None
        kind = "low rank" if self.rank is not None else "truncated" if kept is not None else "full"
        named = self.draft_vocabulary if self.rank is not None else self.vocabulary
        return DrafterHead(hidden=self.width, vocabulary=named, kind=kind, kept=kept, rank=self.rank)

    @property
    def output_parameters(self) -> int:
        """Weights of the output head.

        Examples
        --------
        >>> from dataclasses import replace
        >>> full = HeadShape(576, 1536, 9, 3, 64, 49152, 576, (2, 15, 27), 49152)
        >>> full.output_parameters, replace(full, rank=72).output_parameters
        (28311552, 3580416)
        """
        one = self.width * self.draft_vocabulary
        return one if self.rank is None else self.rank * (self.width + self.draft_vocabulary)

    @property
    def parameters(self) -> int:
        """All weights that a checkpoint of it holds."""
        d, joined = self.width, self.target_width * len(self.layers)
        norms = {(True, False): joined, (False, True): joined}.get((self.fc_norm, self.norm_before_fc), 0)
        attention = 2 * d * self.head_dim * (self.heads + 2 * self.kv_heads) + self.heads * self.head_dim * d
        embedding = self.vocabulary * d if self.own_embedding else 0
        masks = 2 * d if self.block else 0
        body = joined * d + norms + attention + 3 * d * self.intermediate + 4 * d + masks
        return body + self.output_parameters + embedding

    @classmethod
    def of(cls, config: Any, **changes: Any) -> HeadShape:
        """The head that fits a target by its transformers configuration: its own layer's sizes, post-norm."""
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        heads = int(config.num_attention_heads)
        rope = dict(getattr(config, "rope_parameters", None) or {})
        shape = cls(
            width=int(config.hidden_size),
            intermediate=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
            heads=heads,
            kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
            vocabulary=int(config.vocab_size),
            target_width=int(config.hidden_size),
            layers=default_layers(int(config.num_hidden_layers)),
            draft_vocabulary=int(config.vocab_size),
            eps=float(getattr(config, "rms_norm_eps", 1e-5)),
            rope=rope if "rope_theta" in rope else {"rope_theta": 10000.0, "rope_type": "default"},
            max_positions=int(getattr(config, "max_position_embeddings", 2048)),
        )
        return replace(shape, **changes)

    def told(self) -> dict[str, Any]:
        """The same as plain values, for a document."""
        return asdict(self) | {"layers": list(self.layers)}
