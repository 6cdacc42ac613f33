"""Which tokenizer a model, a draft or a datastore numbers its tokens by: compared by what it is, never by its size.

Embeddings are padded to other sizes for one tokenizer, and two tokenizers may be of one size. The fingerprint is of the
numbered vocabulary, the merges and the normaliser; tokens that were only added (chat marks), the template and the
padding are left out, so that a base model and its chat version are a pair.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from reader_theory.errors import require

__all__ = ["Vocabulary", "check_pair", "fingerprint_of"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids that a model has logits for, or that a datastore holds, and who numbered them.

    Attributes
    ----------
    size : int
        Ids are below this.
    tokenizer : str
        Its fingerprint; empty where it is not known.
    """

    size: int
    tokenizer: str = ""


def fingerprint_of(tokenizer: Any) -> str:
    """16 hexadecimal digits of a transformers tokenizer; empty for None.

    The same in every process and version of the libraries that reads the same vocabulary.
    """
    if tokenizer is None:
        return ""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        parts: Any = {"vocab": sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))}
    else:
        whole = json.loads(backend.to_str())
        model = whole["model"]
        if isinstance(model.get("vocab"), dict):
            model["vocab"] = sorted(model["vocab"].items(), key=lambda item: (item[1], item[0]))
        if "merges" in model:
            model["merges"] = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        parts = {name: model[name] for name in ("type", "vocab", "merges") if name in model}
        parts["normalizer"] = _filled(whole.get("normalizer"))
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_pair(target: Vocabulary, other: Vocabulary, name: Literal["draft", "datastore"] = "draft") -> None:
    """Refuse a draft or datastore whose token ids are not the target's.

    Raises
    ------
    InvalidInputError
        When both tokenizers are known and differ; when one is not known and the draft is of another size; when a
        datastore holds ids that the target has no logits for.
    """
    known = bool(target.tokenizer and other.tokenizer)
    require(
        not known or target.tokenizer == other.tokenizer,
        f"`target` and `{name}` must number their tokens by one tokenizer",
        got=f"tokenizer {target.tokenizer} ({target.size} tokens) and {other.tokenizer} ({other.size})",
        fix=_WAY_OUT[name],
    )
    require(
        other.size <= target.size if name == "datastore" else known or other.size == target.size,
        f"`target` and `{name}` must share one vocabulary",
        got=f"{target.size} and {other.size} tokens",
        fix=_WAY_OUT[name],
    )


_WAY_OUT = {
    "draft": "Choose a draft trained with the target's tokenizer, or plan for retrieval alone.",
    "datastore": "Build the datastore anew with the target's tokenizer, or leave it out.",
}


def _filled(value: Any) -> Any:
    """`value` without what is empty: versions of a library differ in whether they write that down."""
    if isinstance(value, dict):
        return {key: kept for key, each in value.items() if (kept := _filled(each)) not in (None, False, "", [], {})}
    return [_filled(each) for each in value] if isinstance(value, list) else value
