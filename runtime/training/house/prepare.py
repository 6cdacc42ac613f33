"""Prepare: corpus to tokenizer and token streams, the only step that needs the standard library's sources."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.training.house.corpus import documents
from runtime.training.house.tokenizer import encode_stream, load_tokenizer, save_tokenizer, train_tokenizer
from runtime.training.house.windows import HEADERS, CopyMaterial, name_tokens

PARTS = ("train", "validation", "heldout")


def prepare(work: Path, tokenizer_folder: Path | None = None) -> dict[str, Any]:
    """Write ``tokenizer/``, ``train.npy``, ``validation.npy``, ``heldout.npy`` and ``heldout.jsonl`` into ``work``.

    The tokenizer is the one of `tokenizer_folder`, for a model that goes on from another, or else a new one. Returns
    the counts of files, bytes and tokens of each part.
    """
    corpus = documents()
    if tokenizer_folder is None:
        tokenizer = train_tokenizer([one.text for one in corpus if one.part == "train"], work / "tokenizer")
    else:
        tokenizer = save_tokenizer(load_tokenizer(tokenizer_folder).backend_tokenizer, work / "tokenizer")
    counts: dict[str, Any] = {}
    for part in PARTS:
        texts = [document.text for document in corpus if document.part == part]
        stream = encode_stream(tokenizer, texts)
        np.save(work / f"{part}.npy", stream)
        counts[part] = {"documents": len(texts), "bytes": sum(len(t.encode()) for t in texts), "tokens": len(stream)}
    with (work / "heldout.jsonl").open("w", encoding="utf-8") as file:
        for document in corpus:
            if document.part == "heldout":
                file.write(json.dumps(asdict(document)) + "\n")
    (work / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    return counts


def read_stream(work: Path, part: str) -> NDArray[np.uint16]:
    """Token stream of a part, shape (tokens,)."""
    return np.load(work / f"{part}.npy")


def copy_material(work: Path) -> CopyMaterial:
    """Headers and names of the prepared tokenizer."""
    tokenizer = load_tokenizer(work / "tokenizer")
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    headers = tuple(np.asarray(tokenizer.encode(header), np.int64) for header in HEADERS)
    return CopyMaterial(headers, name_tokens(texts))
