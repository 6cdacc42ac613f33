"""Whether a name can be a model at all, before transformers looks for it: a folder, one in the cache, or a hub's."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlparse

from reader_theory.errors import require

__all__ = ["check_name"]

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
WAIT_S = 3.0
"""How long a hub may take to answer at all."""


def check_name(name: str | Path) -> None:
    """Refuse a name under which nothing can be found, at once and without retries.

    Raises
    ------
    InvalidInputError
        When it is neither a folder nor a hub name; when it is a hub name that is not in the cache, and the hub is
        switched off (``HF_HUB_OFFLINE``) or cannot be reached.
    """
    told = str(name)
    if Path(told).is_dir():
        return
    require(
        bool(HUB_NAME.fullmatch(told)) and not told.startswith("."),
        "`target` and `draft` must be folders or hub names",
        got=f"{told!r}, which is not a folder",
        fix="Check the path; a hub name is owner/name.",
    )
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(told, "config.json"), str):
        return
    offline = constants.HF_HUB_OFFLINE or _unreachable(constants.ENDPOINT)
    require(
        not offline,
        "`target` and `draft` must be folders, or hub names in the cache where no hub can be reached",
        got=f"{told!r}: no folder, not in the cache, and {'HF_HUB_OFFLINE is set' if offline is True else offline}",
        fix="Pass a folder that `save_pretrained` wrote, or download the model where there is a network.",
    )


def _unreachable(endpoint: str) -> str:
    """Why nothing answers at an address, through a proxy where one is set; empty where something does."""
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    there = urlparse(proxy or endpoint)
    host, port = there.hostname or "", there.port or (80 if there.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), WAIT_S).close()
    except OSError as error:
        return f"{host} does not answer ({error})"
    return ""
