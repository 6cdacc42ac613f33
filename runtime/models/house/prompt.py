"""Prompts that ship with the house models, and the folders of the models. Light: json and pathlib only."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

WORKLOADS = ("code", "copy", "prose")
HouseModel = Literal["target", "draft", "smollm2_head", "diffusion", "addition/target", "addition/draft"]
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Prompt:
    """One held-out prompt.

    Attributes
    ----------
    id
        Unique name, such as ``"copy-017"``.
    workload
        ``"code"``, ``"copy"`` or ``"prose"``.
    split
        ``"fit"`` for fitting acceptance, ``"test"`` for what the fit must not see; no file is in both.
    text
        The prompt; it ends where a token ends.
    source
        File of the standard library that it comes from.
    sha
        First 16 hex digits of the SHA-256 of ``text``.
    """

    id: str
    workload: str
    split: str
    text: str
    source: str
    sha: str


def house_folder(name: HouseModel) -> Path:
    """Folder of a house model, for ``from_pretrained``."""
    return _HERE / name


def load_prompts(workload: str, split: str | None = None) -> list[Prompt]:
    """Prompts of a workload, in the order of the file; only those of ``split`` where it is given.

    Raises
    ------
    InvalidInputError
        When the workload or the split is not one that ships.
    """
    from reader_theory.errors import InvalidInputError

    if workload not in WORKLOADS:
        raise InvalidInputError(
            rule=f"`workload` must be one of {WORKLOADS}", got=repr(workload), fix="choose one of them"
        )
    if split not in (None, "fit", "test"):
        raise InvalidInputError(rule="`split` must be 'fit', 'test' or None", got=repr(split), fix="choose one of them")
    lines = (_HERE / "prompts" / f"{workload}.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [Prompt(**json.loads(line)) for line in lines]
    return [prompt for prompt in prompts if split in (None, prompt.split)]
