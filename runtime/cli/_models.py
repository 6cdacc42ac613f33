"""Models and prompts as the commands name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reader_theory.errors import require
from runtime.cli._options import HOUSE_DRAFT, HOUSE_TARGET, NO_DRAFT
from runtime.cli._shared import Progress

if TYPE_CHECKING:
    from runtime.measure.prompts import PromptTokens
    from runtime.models.base import LanguageModel

__all__ = ["Models", "load_models", "load_prompt_tokens", "named", "quiet", "source_of", "tokenizer_of"]


@dataclass(frozen=True)
class Models:
    """A target, a draft, the tokenizer of both, and how the documents call them."""

    target: LanguageModel
    draft: LanguageModel | None
    tokenizer: Any
    names: tuple[str, str | None]


def named(target: str | None, draft: str | None) -> tuple[str, str | None]:
    """Names of target and draft, with what is left out filled in."""
    called = target or HOUSE_TARGET
    wanted = draft or (HOUSE_DRAFT if called == HOUSE_TARGET else NO_DRAFT)
    return called, None if wanted == NO_DRAFT else wanted


def source_of(name: str) -> str:
    """What `from_pretrained` takes for a name: the folder of a house model, or the name itself.

    Raises
    ------
    InvalidInputError
        If the name is plainly a path, and nothing lies there.
    """
    if name not in (HOUSE_TARGET, HOUSE_DRAFT):
        is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        require(
            not is_path or Path(name).expanduser().is_dir(),
            "`target` and `draft` must be folders or hub names",
            got=f"{name!r}, which is not a folder",
            fix="Check the path; a hub name is owner/name.",
        )
        return str(Path(name).expanduser()) if is_path else name
    from runtime.models.house import house_folder

    return str(house_folder("target" if name == HOUSE_TARGET else "draft"))


def load_models(target: str | None, draft: str | None, dtype: str, progress: Progress) -> Models:
    """Load what the options name; the draft in float32, where it is faster on a CPU.

    Raises
    ------
    InvalidInputError
        If a folder or hub name cannot be loaded, or the vocabularies differ.
    """
    from runtime.models.load import load_model

    names = named(target, draft)
    quiet()
    progress("load models", 0, 3)
    big = load_model(source_of(names[0]), dtype)
    progress("load models", 1, 3)
    small = None if names[1] is None else load_model(source_of(names[1]), "float32")
    require(
        small is None or small.vocabulary == big.vocabulary,
        "`target` and `draft` must have one vocabulary",
        got=f"{big.vocabulary} tokens in {names[0]!r}, {getattr(small, 'vocabulary', 0)} in {names[1]!r}",
        fix="Pass a draft of the same tokenizer, or `--draft none` for retrieval only.",
    )
    progress("load models", 2, 3)
    tokenizer = tokenizer_of(names[0])
    progress("load models", 3, 3)
    return Models(big, small, tokenizer, names)


def quiet() -> None:
    """Leave the terminal to our own bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_prompt_tokens(
    prompts: Path | None, tokenizer: Any, *, workloads: Sequence[str] | None, split: str, limit: int | None
) -> list[PromptTokens]:
    """Prompts of the user's file, or the house prompts of a split ("all" for both)."""
    from runtime.measure.prompts import house_prompts, read_prompts

    if prompts is not None:
        return read_prompts(prompts, tokenizer, workloads=workloads, limit=limit)
    return house_prompts(workloads, None if split == "all" else split, tokenizer, limit)


def tokenizer_of(name: str) -> Any:
    from runtime.models.load import load_tokenizer

    try:
        return load_tokenizer(source_of(name))
    except (OSError, ValueError) as error:
        require(
            False,
            "`target` must have its tokenizer beside it",
            got=f"{name!r}: {str(error).splitlines()[0]}",
            fix="Save the tokenizer into the same folder with `tokenizer.save_pretrained`.",
        )
        raise
