"""`reader import`: what production records, to an ImportedAcceptance or to prompts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import InvalidInputError, require
from runtime.cli import _options as options
from runtime.cli._shared import output_path, show_document, show_rows

if TYPE_CHECKING:
    from runtime.importers import PromptFile

__all__ = ["command", "labels_of"]


def command(
    what: Annotated[
        str,
        typer.Argument(
            help='"acceptance" or "prompts": whatever the files hold. Or one form alone: vllm, sglang, llama.cpp, '
            "speculators; text, mt-bench, humaneval, sharegpt, openai, responses, alpaca, gsm8k."
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(help="Acceptance: metrics, logs, records in order of time. Prompts: file or folder."),
    ],
    num_steps: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Acceptance: tokens the server drafts a step, where the files do not tell."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Acceptance: LABEL=VALUE of the one server or workload; repeatable.")
    ] = None,
    workload: Annotated[
        str | None, typer.Option(help="The workload that it is filed under; told by the files when left out.")
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="Prompts: taken of each conversation.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts: taken in all.")] = None,
    field: Annotated[str | None, typer.Option(help="Prompts: the field of each row that holds the text.")] = None,
    plain: Annotated[bool, typer.Option(help="Prompts: join messages as text, for a base model.")] = False,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="out/acceptance.json or out/prompts.jsonl when left out.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Acceptance from a server's metrics or log, or prompts from data sets and recorded conversations.

    Example: reader import acceptance metrics-1.txt metrics-2.txt -o out/acceptance.json
    """
    from runtime.importers import PROMPT_FORMATS, acceptance_engines

    engines = acceptance_engines()
    require(
        what in ("acceptance", "prompts", *engines) or what in PROMPT_FORMATS,
        "what is imported must be acceptance, prompts, or one form of them",
        got=repr(what),
        fix=f"Choose one of acceptance, {', '.join(engines)}; prompts, {', '.join(PROMPT_FORMATS.names)}.",
        error=InvalidInputError,
    )
    if what == "acceptance" or what in engines:
        from runtime.importers import read_acceptance

        path = output_path(output or Path("out/acceptance.json"), ".json")
        engine = None if what == "acceptance" else what
        document = read_acceptance(files, engine=engine, only=labels_of(only), depth=num_steps, workload=workload)
        document.write(path)
        show_document(document, path, as_json=as_json)
        if not as_json:
            for note in document.notes:
                print(f"note: {note}")
        return
    require(
        len(files) == 1 and not only and num_steps is None,
        "prompts must be imported from one file or folder, without --only and --num-steps",
        got=f"{len(files)} files",
        fix="Import them one by one.",
        error=InvalidInputError,
    )
    path = output_path(output or Path("out/prompts.jsonl"), ".jsonl")
    _show_prompts(_prompts(what, files[0], field, workload, turns, limit, plain), path, as_json)


def labels_of(only: list[str] | None) -> dict[str, str]:
    """LABEL=VALUE, each split.

    Raises
    ------
    InvalidInputError
        If one is not of that form.
    """
    pairs = [told.partition("=") for told in only or ()]
    bad = ["".join(pair) for pair in pairs if not pair[0] or not pair[1]]
    require(
        not bad,
        "`--only` must be LABEL=VALUE",
        got=bad,
        fix="Pass, for example, --only model_name=MODEL.",
        error=InvalidInputError,
    )
    return {label: value for label, _, value in pairs}


def _prompts(
    what: str, file: Path, field: str | None, workload: str | None, turns: int, limit: int | None, plain: bool
) -> PromptFile:
    from runtime.importers import read_prompt_file

    return read_prompt_file(
        file,
        format=None if what == "prompts" else what,
        field=field,
        workload=workload,
        turns=turns,
        limit=limit,
        plain=plain,
    )


def _show_prompts(found: PromptFile, path: Path, as_json: bool) -> None:
    from runtime.importers import write_prompts

    prompts = found.prompts
    write_prompts(path, prompts)
    counts = Counter(prompt.workload for prompt in prompts)
    rows = [
        {
            "workload": name,
            "prompts": count,
            "characters": sum(_characters(prompt) for prompt in prompts if prompt.workload == name),
            "with_answer": sum(prompt.reference is not None for prompt in prompts if prompt.workload == name),
        }
        for name, count in counts.items()
    ]
    facts = {"path": str(path), "format": found.format, "rows_read": found.rows, "left_out": found.left_out}
    show_rows(rows, as_json=as_json, facts=facts)
    if not as_json:
        for reason, count in found.left_out.items():
            print(f"left out: {count} of {found.rows} rows with {reason}")
        print(f"{found.format}: prompts written to {path}: reader record --prompts {path}")


def _characters(prompt: Any) -> int:
    return len(prompt.text) + sum(len(str(message["content"])) for message in prompt.messages)
