"""Models and prompts as the commands name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reader_theory.errors import DocumentError, require
from runtime.cli._options import HOUSE, HOUSE_DRAFT, HOUSE_TARGET, NO_DRAFT
from runtime.cli._shared import Progress

if TYPE_CHECKING:
    from reader_theory.documents import Plan
    from reader_theory.grammar import Language
    from runtime.engine.processors import Processor
    from runtime.measure.prompts import PromptTokens
    from runtime.measure.record import Draft
    from runtime.models.base import LanguageModel
    from runtime.retrieval.datastore import Datastore

__all__ = [
    "Models",
    "drafts_planned",
    "load_models",
    "load_prompt_tokens",
    "named",
    "opened",
    "opened_for",
    "processors_of",
    "quiet",
    "read_for",
    "source_of",
    "tokenizer_of",
]


@dataclass(frozen=True)
class Models:
    """A target, drafts by name, the tokenizer of all, and how the documents call them."""

    target: LanguageModel
    drafts: dict[str, Draft]
    tokenizer: Any
    names: tuple[str, dict[str, str]]


def named(target: str | None, drafts: Sequence[str] | None) -> tuple[str, dict[str, str]]:
    """Names of the target, and of each draft by its drafter's name, with what is left out filled in.

    Examples
    --------
    >>> named("a/target", ["a/draft", "small=a/small"])
    ('a/target', {'draft': 'a/draft', 'small': 'a/small'})
    """
    from reader_theory.documents.policy import DRAFT

    called = target or HOUSE_TARGET
    wanted = list(drafts or [HOUSE_DRAFT if called == HOUSE_TARGET else NO_DRAFT])
    split = [each.rpartition("=") if "=" not in each else each.partition("=") for each in wanted if each != NO_DRAFT]
    pairs = [(name or (DRAFT if not equals else ""), folder) for name, equals, folder in split]
    require(
        len({name for name, _ in pairs}) == len(pairs) and all(name and folder for name, folder in pairs),
        "each `--draft` must have a name of its own",
        got=str(wanted),
        fix="Pass --draft NAME=FOLDER; one without a name is called draft.",
    )
    return called, dict(pairs)


def drafts_planned(plan: Plan) -> list[str]:
    """The drafts that a plan's entries ask, as `--draft` takes them."""
    asked = {entry.policy.asks for entry in plan.entries}
    return [f"{name}={model}" for name, model in plan.drafters.items() if model and name in asked] or [NO_DRAFT]


def source_of(name: str) -> str:
    """What `from_pretrained` takes for a name: the folder of a house model, or the name itself.

    Raises
    ------
    InvalidInputError
        If the name is plainly a path, and nothing lies there.
    """
    if name not in HOUSE:
        is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        require(
            not is_path or Path(name).expanduser().is_dir(),
            "`target` and `draft` must be folders or hub names",
            got=f"{name!r}, which is not a folder",
            fix="Check the path; a hub name is owner/name.",
        )
        return str(Path(name).expanduser()) if is_path else name
    from runtime.models.house import house_folder

    return str(house_folder(HOUSE[name]))


def load_models(
    target: str | None, drafts: Sequence[str] | None, dtype: str, progress: Progress, kv: str | None = None
) -> Models:
    """Load what the options name; drafts in float32, where they are faster on a CPU.

    Parameters
    ----------
    kv : str, optional
        Cache of the target's keys and values, as ``--kv`` names it.

    Raises
    ------
    InvalidInputError
        If a folder or hub name cannot be loaded, or the vocabularies differ.
    """
    from runtime.cache.quantised.files import PLAIN, scheme_of
    from runtime.models.load import load_model
    from runtime.models.quantised import quantised

    names, scheme = named(target, drafts), scheme_of(kv or PLAIN)
    quiet()
    most = 2 + len(names[1])
    progress("load models", 0, most)
    big = load_model(source_of(names[0]), dtype)
    progress("load models", 1, most)
    tokenizer = tokenizer_of(names[0])
    small = {name: _draft(folder, big, tokenizer) for name, folder in names[1].items()}
    for name, draft in small.items():
        vocabulary = getattr(draft, "vocabulary", big.vocabulary)
        require(
            vocabulary == big.vocabulary,
            "`target` and `draft` must have one vocabulary",
            got=f"{big.vocabulary} tokens in {names[0]!r}, {vocabulary} in {names[1][name]!r}",
            fix="Pass a draft of the same tokenizer, or `--draft none` for retrieval only.",
        )
    progress("load models", most, most)
    return Models(big if scheme is None else quantised(big, scheme), small, tokenizer, names)


def _draft(folder: str, target: LanguageModel, tokenizer: Any) -> Draft:
    """A model of its own, a head, layers of the target that a SelfDraft names, or a maker of drafters of a class."""
    kind, colon, source = folder.partition(":")
    if colon:
        return _maker(kind, source)
    if not folder.endswith(".json"):
        from runtime.drafters.load import load_draft

        return load_draft(source_of(folder), target, tokenizer)
    from reader_theory.documents.self_draft import SelfDraft
    from runtime.models.part import layer_count, part_of

    told = SelfDraft.read(folder)
    require(
        (told.layers, told.vocabulary) == (layer_count(target), target.vocabulary),
        "a self-draft must be of this target",
        got=f"{told.layers} layers and {told.vocabulary} tokens of {told.target!r}; "
        f"the target has {layer_count(target)} and {target.vocabulary}",
        fix="Pass the target that it was made for, or make one with `reader evolve self-draft`.",
    )
    return part_of(target, told.kept)


def _maker(kind: str, source: str) -> Draft:
    """What makes drafters of the class registered as `kind`; what is wrong is said before the work begins."""
    from runtime.drafters import grown  # noqa: F401  registers the house's own classes
    from runtime.drafters.base import DRAFTERS

    made = DRAFTERS[kind]
    made.load(source)
    return partial(made.load, source)


def processors_of(named: Sequence[str] | None) -> tuple[Processor, ...]:
    """Law processors as ``--processor NAME:SOURCE`` names them."""
    from runtime.engine.processors import PROCESSORS

    split = [each.partition(":") for each in named or ()]
    return tuple(PROCESSORS[name].load(source) for name, _, source in split)


def opened(path: Path) -> Datastore:
    """The datastore in a file, checked to its last byte."""
    from runtime.retrieval.datastore import Datastore

    require(
        path.is_file(),
        "the datastore must exist",
        got=f"`{path}`, which is not a file",
        fix="Make it with `reader datastore build`.",
        error=DocumentError,
    )
    return Datastore.open(path)


def opened_for(models: Models, path: Path | None) -> Datastore | None:
    """The datastore in a file, if any is named, once it is known to be of the models' tokenizer."""
    if path is None:
        return None
    from runtime.models.vocabulary import Vocabulary, fingerprint_of

    store = opened(path)
    store.admit(Vocabulary(models.target.vocabulary, fingerprint_of(models.tokenizer)))
    return store


def read_for(path: Path | None, tokenizer: Any) -> Language | None:
    """The language of a file in the tokens of a tokenizer, if any is named."""
    if path is None:
        return None
    from runtime.grammar.read import read_language

    return read_language(path, tokenizer)


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
