"""Registries: where drafters, rules, cost terms, law processors, exporters and solvers are found by name.

A third party adds one by a class of its own, from outside: it decorates the class with the registry's `register`, and
names the module under the entry point group `reader_theory.plugins`. The first look-up imports what is named there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
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
    """Import every module that is named under `PLUGINS`, once."""
    for point in entry_points(group=PLUGINS):
        point.load()
