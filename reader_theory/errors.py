"""What goes wrong, said so that it can be mended: the rule, the evidence, the way out."""

from __future__ import annotations

__all__ = [
    "DisturbedMachineError",
    "DocumentError",
    "InvalidInputError",
    "NotADistributionError",
    "NotATreeError",
    "ReaderTheoryError",
    "UnsupportedByEngineError",
    "require",
]


class ReaderTheoryError(Exception):
    """Root of every error that this package raises on purpose."""


class InvalidInputError(ReaderTheoryError, ValueError):
    """An argument breaks a rule.

    Parameters
    ----------
    rule : str
        "`name` must ...": the rule, without a full stop.
    got : object
        The values that break it, and where.
    fix : str
        What the user does next.
    """

    def __init__(self, rule: str, *, got: object, fix: str) -> None:
        self.rule, self.got, self.fix = rule, got, fix
        super().__init__(f"{rule}. Got {got}. {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.rule, self.got, self.fix)


class NotADistributionError(InvalidInputError):
    """A law over tokens has a negative entry, or does not sum to one."""


class NotATreeError(InvalidInputError):
    """Parents, ranks and tokens do not describe a draft tree."""


class DisturbedMachineError(InvalidInputError):
    """What was measured does not repeat: something else ran on the machine."""


class DocumentError(InvalidInputError):
    """A document is truncated, renamed, damaged, or newer than this version reads."""


class UnsupportedByEngineError(InvalidInputError):
    """A serving engine cannot run what the plan asks; the message offers the nearest that it can."""


def _rebuild(kind: type[InvalidInputError], rule: str, got: object, fix: str) -> InvalidInputError:
    return kind(rule, got=got, fix=fix)


def require(
    condition: bool, rule: str, *, got: object, fix: str, error: type[InvalidInputError] = InvalidInputError
) -> None:
    """Raise `error` with the rule, the evidence and the way out unless `condition` holds."""
    if not condition:
        raise error(rule, got=got, fix=fix)
