"""Registries: where drafters, rules, cost terms, law processors, exporters and solvers are found by name.

A third party adds one by a class of its own, from outside: it decorates the class with the registry's `register`, and
names the module under the entry point group `reader_theory.plugins`. The first look-up imports what is named there.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from reader_theory.errors import InvalidInputError, require

__all__ = ["Registry"]

PLUGINS = "reader_theory.plugins"
"""Entry point group whose modules are imported before the first look-up."""

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one kind by their `name`.

    Parameters
    ----------
    kind : str
        What they are, as an error calls them: ``"rule"``, ``"exporter"``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> things: Registry[SimpleNamespace] = Registry("thing")
    >>> _ = things.register(SimpleNamespace(name="one"))
    >>> "one" in things, things["one"].name
    (True, 'one')
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._found: dict[str, T] = {}

    def register(self, item: T) -> T:
        """Add `item` under its `name`; returns it, so that it can decorate a class.

        Raises
        ------
        InvalidInputError
            When another object of this kind has that name.
        """
        name = str(getattr(item, "name", ""))
        require(
            bool(name) and self._found.get(name, item) is item,
            f"a {self.kind} must have a `name` of its own",
            got=f"{name!r}, which is that of {self._found.get(name, 'none')!r}",
            fix="Give the new one another name.",
        )
        self._found[name] = item
        return item

    def __getitem__(self, name: str) -> T:
        load_plugins()
        require(
            name in self._found,
            f"there must be a {self.kind} of that name",
            got=f"{name!r}; there are {', '.join(sorted(self._found))}",
            fix=f"Choose one of these, or install the package that adds it (entry point group {PLUGINS!r}).",
            error=InvalidInputError,
        )
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._found

    def __iter__(self) -> Iterator[T]:
        load_plugins()
        return iter(tuple(self._found.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order in which they were registered."""
        load_plugins()
        return tuple(self._found)


@cache
def load_plugins() -> None:
    """Import every module that is named under `PLUGINS`, once.

    One that needs a library which is not installed here is left out with a warning: a drafter needs torch, a planner
    does not.

    Raises
    ------
    InvalidInputError
        If a module fails in any other way.
    """
    for point in entry_points(group=PLUGINS):
        if point.module in sys.modules:
            continue  # loaded already, or being loaded: what it looks up meanwhile is what there is so far
        try:
            point.load()
        except ModuleNotFoundError as error:
            if (error.name or point.module).partition(".")[0] == point.module.partition(".")[0]:
                raise _broken(point, error) from error
            warnings.warn(f"plugin {point.name} is left out: {error.name} is not installed", stacklevel=2)
        except Exception as error:
            raise _broken(point, error) from error


def _broken(point: EntryPoint, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"a module under the entry point group {PLUGINS!r} must be one that can be imported",
        got=f"{point.value!r} of {point.dist.name if point.dist else point.name}: {type(error).__name__}: {error}",
        fix="Mend that package, or uninstall it.",
    )
