"""SGLang: acceptance from the "accept len" of its decode log lines, which tell a mean length and nothing by depth."""

from __future__ import annotations

import re
from pathlib import Path

from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.errors import InvalidInputError, require

__all__ = ["read_sglang_log"]

_DECODE = re.compile(r"Decode batch.*?#running-req: (?P<running>\d+).*?accept len: (?P<length>[\d.]+)")
_STEPS = re.compile(r"speculative_num_steps=(\d+)")
_TOPK = re.compile(r"speculative_eagle_topk=(\d+)")


def read_sglang_log(path: str | Path, *, num_steps: int | None = None) -> ImportedAcceptance:
    """Acceptance of a chain from SGLang's decode log lines, one acceptance at every depth assumed.

    Each line's mean length, the bonus token counted, weighs as many request-steps as it had running requests. The
    line's "accept rate" is left out, because what it divides by changed from version to version.

    Parameters
    ----------
    path : path
        The server's log.
    num_steps : int, optional
        ``--speculative-num-steps``; read from the log's line of server arguments when left out.

    Raises
    ------
    InvalidInputError
        If the log has no such line, or does not say how many steps the server drafts.
    """
    path = Path(path)
    require(path.is_file(), "the log must exist", got=f"`{path}`", fix="Check the path.", error=InvalidInputError)
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [(float(match["length"]), float(match["running"])) for match in _DECODE.finditer(text)]
    lines = [(length, running) for length, running in lines if running > 0 and length > 0]
    require(
        bool(lines),
        "the log must hold decode lines with an accepted length",
        got=f"none in {len(text.splitlines())} lines of `{path.name}`",
        fix="Pass the log of a server that speculates, with --log-level info and after it has served requests.",
    )
    steps = num_steps or _told(_STEPS, text)
    require(
        steps is not None,
        "the number of draft steps must be known",
        got="no `speculative_num_steps` in the log",
        fix="Pass --num-steps with the value of the server's --speculative-num-steps.",
    )
    assert steps is not None
    wide = (_told(_TOPK, text) or 1) > 1
    notes = (
        ("the server drafted trees: acceptance is that of the best of topk candidates at each depth",) if wide else ()
    )
    lengths, running = zip(*lines, strict=True)
    return ImportedAcceptance.from_mean_lengths(
        lengths, running, depth=steps, engine="sglang", source=path.name, notes=notes
    )


def _told(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return int(match[1]) if match else None
