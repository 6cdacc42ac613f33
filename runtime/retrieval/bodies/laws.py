"""Laws of a neural draft at some nodes of a tree, and how they share a node's mass with retrieval.

Law 0 stands at the root; law j at the node that its token leads to from the node of an earlier law. A header (int64)
holds their number, their width and the addresses of the arrays, owned by Python.
"""

from __future__ import annotations

from runtime.retrieval.bodies.memory import float64_at, int32_at, int64_at, lean

__all__ = ["CHANCES", "COUNT", "GRID", "HEADER", "MAPS", "MAPS_SIZE", "OF", "PARENTS", "TOKENS", "WIDTH", "blend"]

COUNT, WIDTH, TOKENS, CHANCES, PARENTS, OF, MAPS, HEADER = 0, 1, 2, 3, 4, 5, 6, 8
"""Words: laws, tokens of each; addresses of (laws, width) tokens int32 and chances float64 in descending order, of
the law that each comes after and the token between (int32), and of the maps (float64)."""
GRID = 128
"""Steps of a map from score to acceptance."""
MAPS_SIZE = 4 * (GRID + 1) + 1
"""Maps: of retrieval where the draft was not asked, of retrieval alone, of the draft alone, of both; then the trust
in retrieval's weights where there is a law."""


@lean(inline="always")
def width_of(address):
    return int64_at(address, HEADER)[WIDTH]


@lean(inline="always")
def first_of(address):
    return 0 if int64_at(address, HEADER)[COUNT] > 0 else -1


@lean(inline="always")
def below(address, law, token):
    """Law of the node that `token` leads to from the node of `law`; -1 for none."""
    if law < 0:
        return -1
    header = int64_at(address, HEADER)
    count = header[COUNT]
    parents, of = int32_at(header[PARENTS], count), int32_at(header[OF], count)
    for other in range(law + 1, count):
        if parents[other] == law and of[other] == token:
            return other
    return -1


@lean(inline="always")
def mapped(maps, source, score):
    """Acceptance at `score`: linear between the steps of the grid."""
    place = min(max(score, 0.0), 1.0) * GRID
    step = min(int(place), GRID - 1)
    at = source * (GRID + 1) + step
    return maps[at] + (maps[at + 1] - maps[at]) * (place - step)


@lean()
def blend(address, law, escape, kinds, weights, marks, found):
    """Turn retrieval's probabilities, `weights`, into acceptance beside the law; the number of kinds.

    `escape` is what they leave to everything else; `marks` takes who offered each kind: 1 retrieval, 2 the draft,
    3 both.
    """
    header = int64_at(address, HEADER)
    maps = float64_at(header[MAPS], MAPS_SIZE)
    if law < 0:
        for kind in range(found):
            weights[kind], marks[kind] = mapped(maps, 0, weights[kind]), 1
        return found
    trust, width = maps[MAPS_SIZE - 1], header[WIDTH]
    whole = escape + trust * (1.0 - escape)
    for kind in range(found):
        weights[kind], marks[kind] = trust * weights[kind] / whole, 1
    tokens = int32_at(header[TOKENS], header[COUNT] * width)
    chances = float64_at(header[CHANCES], header[COUNT] * width)
    known = found
    for rank in range(law * width, (law + 1) * width):
        share = escape * chances[rank] / whole
        if share <= 0:
            break
        for kind in range(known):
            if kinds[kind] == tokens[rank]:
                weights[kind] += share
                marks[kind] = 3
                break
        else:
            kinds[found], weights[found], marks[found] = tokens[rank], share, 2
            found += 1
    for kind in range(found):
        weights[kind] = mapped(maps, marks[kind], weights[kind])
    return found
