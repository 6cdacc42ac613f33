"""What a long measurement has so far, line by line beside its result, so that a run which is killed loses nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

__all__ = ["Journal"]


class Journal:
    """Values by key in a file of JSON lines, of one task; taken up again where the task is the same.

    The first line says what the task is. A line that was cut off by a kill is left out, and the file goes on before it.

    Parameters
    ----------
    path : Path, or None for a journal that is kept nowhere
    task : mapping
        Everything that the values depend on; values of any other task are thrown away.
    """

    def __init__(self, path: Path | None, task: Mapping[str, Any]) -> None:
        self.path, self.kept = path, dict[str, Any]()
        self._file: Any = None
        if path is None:
            return
        told, lines = json.dumps({"task": dict(task)}, sort_keys=True), list[str]()
        if path.exists():
            whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if whole and whole[0] == told + "\n":
                lines = whole[1:]
        for line in lines:
            row = json.loads(line)
            self.kept[row["key"]] = row["value"]
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".tmp")
        scratch.write_text("".join([told + "\n", *lines]))
        scratch.replace(path)
        self._file = path.open("a")

    def add(self, key: str, value: Any) -> None:
        """Keep a value; it is on the disk when this returns."""
        self.kept[key] = value
        if self._file is not None:
            self._file.write(json.dumps({"key": key, "value": value}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def end(self) -> None:
        """Remove the file: the result is written."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the file as it is, for the next run."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
