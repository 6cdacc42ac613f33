"""Suffix index of one request: the longest repeated context of a growing text, and what followed it.

Prefer it to an n-gram table: it knows every context length up to `max_depth` at once, costs one descent a token,
and its counts feed the price. A context tree (suffix tree of the reversed text, cut at a depth) in flat int32
buffers; compiled, without the GIL.

References: Weiner 1973 (suffix trees); Cleary and Witten 1984 (PPM); Oliaro et al. 2024 (SuffixDecoding).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, require
from runtime.retrieval.bodies import context_tree as kernel

__all__ = ["MAX_DEPTH", "SuffixIndex", "record_positions"]

MAX_DEPTH = 32
"""Longest context that the index tells apart, in tokens."""
_GROWTH = 1.5
_LOAD = 0.7
_LARGEST = 2**31 - 1


class SuffixIndex:
    """Context tree over a text that only grows.

    Parameters
    ----------
    tokens : (T,) int32, >= 0
        The text so far (a prompt).
    max_depth : int, in [1, 96]
        Longest context told apart; longer matches count as this long.
    """

    def __init__(self, tokens: ArrayLike = (), *, max_depth: int = MAX_DEPTH) -> None:
        require(
            1 <= max_depth <= 96,
            "`max_depth` must lie in [1, 96]",
            got=max_depth,
            fix="32 tells apart every context that matters in practice.",
        )
        first = as_tokens(tokens, "tokens")
        self.header = np.zeros(kernel.HEADER, np.int64)
        self.header[kernel.MAX_DEPTH] = max_depth
        self.address = self.header.ctypes.data
        self._path = np.empty(max_depth + 1, np.int64)
        self._scratch = np.empty(max_depth + 64, np.int32)
        self.clear()
        self.extend(first)

    def clear(self) -> None:
        """Forget the text and give its memory back."""
        header, depth = self.header, self.header[kernel.MAX_DEPTH]
        header[:] = 0
        header[kernel.MAX_DEPTH], header[kernel.NODES], header[kernel.CHILD] = depth, 1, kernel.NONE
        header[kernel.RECENT] = header[kernel.ALIGNED] = -1
        self._memory = np.full(4 * kernel.MEMORY, -1, np.int32)
        header[kernel.MEMO] = self._memory.ctypes.data
        self._text = np.empty(0, np.int32)
        self._nodes = np.empty(0, np.int32)
        self._table = np.empty(0, np.int32)

    def extend(self, tokens: ArrayLike) -> None:
        """Append `tokens` ((n,) int32, >= 0); raises InvalidInputError, and appends nothing, when one is negative."""
        fresh = tokens if isinstance(tokens, np.ndarray) and tokens.dtype == np.int32 else as_tokens(tokens, "tokens")
        done = kernel.extend(self.header, fresh)
        while done != fresh.size:
            if done < 0:
                raise _bad_token(fresh, "tokens")
            fresh = fresh[done:]
            self._grow(fresh.size)
            done = kernel.extend(self.header, fresh)

    def reserve(self, extra: int, most_bytes: int) -> bool:
        """Make room for `extra` tokens; False, and nothing done, where that takes more than `most_bytes`.

        The bytes of all buffers count, and while one grows those of its old copy as well.
        """
        now = tuple(int(self.header[word]) for word in _ROOMS)
        used = tuple(int(self.header[word]) for word in (kernel.LENGTH, kernel.NODES, kernel.EDGES))
        needs = tuple(size + extra * each for size, each in zip(used, _MOST_A_TOKEN, strict=True))
        if all(need <= room for need, room in zip(needs, now, strict=True)):
            return True
        for growth in (_GROWTH, 1.25, 1.1):
            rooms = tuple(
                room if need <= room else max(need, int(growth * room)) for need, room in zip(needs, now, strict=True)
            )
            old = max(size for size, one, other in zip(_bytes(now), rooms, now, strict=True) if one != other)
            if self._fixed_bytes + sum(_bytes(rooms)) + old <= most_bytes:
                self._resize(*rooms)
                return True
        return False

    def room_within(self, most_bytes: int) -> int:
        """Tokens that an empty index takes within `most_bytes`, whichever they are."""
        spare = most_bytes - self._fixed_bytes - sum(_bytes((1, 2, 1)))
        return max(0, int(spare / (sum(_bytes(tuple(1000 * each for each in _MOST_A_TOKEN))) / 1000)))

    @property
    def match_length(self) -> int:
        """Tokens of the longest suffix of the text that occurred before, at most `max_depth`; 0 for none."""
        return int(self.header[kernel.MATCH])

    @property
    def match_count(self) -> int:
        """Earlier occurrences of that suffix."""
        return int(self.header[kernel.COUNT])

    @property
    def match_position(self) -> int:
        """Index of the token that followed its most recent occurrence; -1 for none."""
        return int(self.header[kernel.RECENT])

    def __len__(self) -> int:
        return int(self.header[kernel.LENGTH])

    @property
    def text(self) -> NDArray[np.int32]:
        """(T,) int32, read-only: what was appended so far."""
        view = self._text[: len(self)]
        view.flags.writeable = False
        return view

    def chain(self, max_tokens: int) -> NDArray[np.int32]:
        """Continuation of the most recent longest match, at most `max_tokens`; (n,) int32.

        Where the occurrence runs out (it reaches the end of the text), text and chain are looked up anew.
        """
        self._fit_scratch(max_tokens)
        made = kernel.chain(self.header, max_tokens, self._scratch, self._path)
        start = int(self.header[kernel.MAX_DEPTH])
        return self._scratch[start : start + made].copy()

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, room for growth included."""
        return self._fixed_bytes + sum(buffer.nbytes for buffer in (self._text, self._nodes, self._table))

    @property
    def _fixed_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in (self.header, self._memory, self._path, self._scratch))

    def replay(self, output: NDArray[np.int32], max_tokens: int) -> tuple[NDArray[np.int32], ...]:
        """Append `output` token by token; match length and count, chain length offered, and its leading agreement."""
        columns = tuple(np.zeros(output.size, np.int32) for _ in range(4))
        self._fit_scratch(max_tokens)
        done = kernel.replay(self.header, output, 0, max_tokens, self._scratch, self._path, *columns)
        while done < output.size:
            self._grow(output.size - done)
            done = kernel.replay(self.header, output, done, max_tokens, self._scratch, self._path, *columns)
        return columns

    def _fit_scratch(self, max_tokens: int) -> None:
        need = int(self.header[kernel.MAX_DEPTH]) + max_tokens
        if need > self._scratch.size:
            self._scratch = np.empty(need, np.int32)

    def _grow(self, extra: int) -> None:
        """Enlarge whichever buffer is full, for `extra` more tokens or by half."""
        header = self.header
        length, nodes, edges = (int(header[word]) for word in (kernel.LENGTH, kernel.NODES, kernel.EDGES))
        text_room, node_room, edge_room = (int(header[word]) for word in _ROOMS)
        if length + extra > text_room:
            text_room = max(length + extra, int(_GROWTH * length)) + 16
        if nodes >= node_room:
            node_room = max(nodes + extra // 2, int(_GROWTH * nodes)) + 16
        if edges + 2 > edge_room:
            edge_room = max(edges + int(1.25 * extra), int(_GROWTH * edges)) + 16
        self._resize(text_room, node_room, edge_room)

    def _resize(self, text_room: int, node_room: int, edge_room: int) -> None:
        """Move what is held to buffers of this room, where it is another."""
        header = self.header
        if text_room != header[kernel.TEXT_ROOM]:
            self._text = _enlarged(self._text, text_room + 1)
            header[kernel.TEXT], header[kernel.TEXT_ROOM] = self._text.ctypes.data, text_room
        if node_room != header[kernel.NODE_ROOM]:
            self._nodes = _enlarged(self._nodes, kernel.FIELDS * (node_room + 1))
            header[kernel.NODE], header[kernel.NODE_ROOM] = self._nodes.ctypes.data, node_room
        if edge_room != header[kernel.EDGE_ROOM]:
            table = np.full(3 * _slots(edge_room), -1, np.int32)
            kernel.rehash(self._table, table)
            self._table = table
            header[[kernel.TABLE, kernel.SLOTS, kernel.EDGE_ROOM]] = table.ctypes.data, table.size // 3, edge_room


_ROOMS = kernel.TEXT_ROOM, kernel.NODE_ROOM, kernel.EDGE_ROOM
_MOST_A_TOKEN = (1, 1, 2)
"""Entries of the text, nodes and edges that a token makes at most."""


def _slots(edges: int) -> int:
    return int(edges / _LOAD + 1)


def _bytes(rooms: tuple[int, ...]) -> tuple[int, int, int]:
    """Bytes of buffers of these rooms; none where there is no buffer."""
    text, nodes, edges = rooms
    return 4 * (text + 1) * (text > 0), 4 * kernel.FIELDS * (nodes + 1) * (nodes > 0), 12 * _slots(edges) * (edges > 0)


def as_tokens(tokens: ArrayLike, name: str) -> NDArray[np.int32]:
    """(n,) int32 contiguous, checked; raises InvalidInputError for anything that is not token ids."""
    found = np.asarray(tokens)
    if found.size == 0:
        return np.empty(0, np.int32)
    require(
        found.ndim == 1 and found.dtype.kind in "iu",
        f"`{name}` must be one row of token ids",
        got=f"shape {found.shape}, dtype {found.dtype}",
        fix="Pass a flat sequence of integers, such as one row of `input_ids`.",
    )
    if found.min() < 0 or found.max() > _LARGEST:
        raise _bad_token(found, name)
    return np.ascontiguousarray(found, np.int32)


def _bad_token(tokens: NDArray[np.integer], name: str) -> InvalidInputError:
    place = int(np.flatnonzero((tokens < 0) | (tokens > _LARGEST))[0])
    return InvalidInputError(
        f"`{name}` must be token ids in [0, {_LARGEST}]",
        got=f"{int(tokens[place])} at {place}",
        fix="Drop the padding before the tokens reach the index.",
    )


def _enlarged(buffer: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    larger = np.zeros(size, np.int32)
    larger[: buffer.size] = buffer
    return larger


def record_positions(
    prompt: ArrayLike, output: ArrayLike, max_tokens: int = 24, *, max_depth: int = MAX_DEPTH
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """What retrieval would have offered live at every position of a finished output.

    Parameters
    ----------
    prompt : (P,) int32
    output : (T,) int32
    max_tokens : int
        Longest chain.

    Returns
    -------
    match_length, match_count, offered, run : (T,) int32
        At position t the index holds ``prompt + output[:t]``; `offered` is the length of the chain, `run` the
        number of its leading tokens that equal ``output[t:]``.
    """
    index = SuffixIndex(prompt, max_depth=max_depth)
    match_length, match_count, offered, run = index.replay(as_tokens(output, "output"), max_tokens)
    return match_length, match_count, offered, run
