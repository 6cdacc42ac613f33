"""Grow a draft tree best first: every node looks its own context up anew in all sources.

At a node the context is the text plus the path. Each source gives evidence for next tokens: the request's own
context tree at every length it matches, the delta the same way, the datastore the rows nearest to the context.
Evidence is an odds weight by source and match length; the estimate of a token is its share,

    p(token) = W(token) / (W_escape + sum of W),

and a node's path probability the product along its path. The node with the largest is taken next, until the
budget is spent or the largest falls below the price.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.suffix import context_tree as tree
from runtime.kernels.cpu.suffix import store as sorted_store
from runtime.kernels.cpu.suffix.memory import int32_at, int64_at

__all__ = ["SOURCES", "WEIGHTS", "grow", "grow_many"]

DEPTHS = sorted_store.CAP + 1
SOURCES = 4
"""Own text, delta, datastore, copy model: rows of the weight table, one weight for each match length up to 32."""
WEIGHTS = SOURCES * DEPTHS
LEVELS = 5
"""Match lengths of one source that give evidence, longest first."""
ROWS = 12
"""Rows of the datastore that give evidence, nearest first."""
KINDS = 16
"""Distinct next tokens weighed at one node."""
END_TOKEN = 2**31 - 1
ROW, ABOVE, BELOW, READ = 120, 121, 122, 123
"""Words of the request's header: where its text stands in the datastore, and how much of it was read."""


@njit(inline="always", nogil=True)
def add(kinds, weights, found, token, weight):
    for kind in range(found):
        if kinds[kind] == token:
            weights[kind] += weight
            return found
    if found == KINDS or token == END_TOKEN:
        return found
    kinds[found], weights[found] = token, weight
    return found + 1


@njit(inline="always", nogil=True)
def add_node(nodes, base, weight, kinds, weights, found):
    tally = nodes[base + tree.TALLY]
    scale = weight / np.sqrt(np.float64(nodes[base + tree.TOTAL]))
    for place in range(3):
        count = (tally >> (10 * place)) & 1023
        if count > 0:
            found = add(kinds, weights, found, np.int64(nodes[base + tree.FOLLOWER + place]), scale * count)
    return found


@njit(inline="always", nogil=True)
def from_tree(header, odds, query, end, path, kinds, weights, found):
    """Evidence of a context tree for what follows ``query[:end]``; kinds found, longest match, its place."""
    text, nodes, table = tree.views(header)
    cap = header[tree.MAX_DEPTH]
    depth, recent, _, child, passed = tree.descend(text, nodes, table, header[tree.SLOTS], cap, query, end, path)
    levels = 0
    if child != tree.NONE:
        levels = 1
        weight = odds[min(depth, DEPTHS - 1)]
        if child < 0:
            found = add(kinds, weights, found, np.int64(text[recent]), weight)
        else:
            found = add_node(nodes, tree.FIELDS * child, weight, kinds, weights, found)
    for step in range(passed - 1, -1, -1):
        if levels == LEVELS:
            break
        levels += 1
        base = tree.FIELDS * path[step]
        found = add_node(nodes, base, odds[min(nodes[base + tree.DEPTH], DEPTHS - 1)], kinds, weights, found)
    return found, depth, recent


@njit(inline="always", nogil=True)
def from_store(arrays, odds, row, above, below, kinds, weights, found):
    """Evidence of the rows of the datastore nearest to the context, longest match first."""
    follow, forward, _, shared, buckets = arrays
    up, down, size = row - 1, row, follow.size
    for rank in range(1, ROWS + 1):
        if above <= 0 and below <= 0:
            break
        if below >= above:
            at, same = down, below
            down += 1
            below = min(below, np.int64(shared[down])) if down < size else np.int64(0)
        else:
            at, same = up, above
            above = min(above, np.int64(shared[up]))
            up -= 1
        token = sorted_store.follower(at, follow, forward, buckets)
        if token >= 0:
            found = add(kinds, weights, found, token, odds[same] / np.sqrt(np.float64(rank)))
    return found


@njit(inline="always", nogil=True)
def read_text(header, arrays):
    """Bring the place of the request's text in the datastore up to date."""
    text, _, _ = tree.views(header)
    end = header[tree.LENGTH]
    if end - header[READ] > sorted_store.CAP:
        header[ROW], header[ABOVE], header[BELOW], header[READ] = 0, 0, 0, end - sorted_store.CAP
    while header[READ] < end:
        at = header[READ]
        header[ROW], header[ABOVE], header[BELOW] = sorted_store.step(
            arrays, header[ROW], header[ABOVE], header[BELOW], np.int64(text[at]), text, at + 1
        )
        header[READ] = at + 1


@njit(inline="always", nogil=True)
def sift_up(heap, chance, at):
    item = heap[at]
    while at > 0 and chance[heap[(at - 1) // 2]] < chance[item]:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = item


@njit(inline="always", nogil=True)
def sift_down(heap, chance, size):
    item, at = heap[0], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and chance[heap[child + 1]] > chance[heap[child]]:
            child += 1
        if chance[heap[child]] <= chance[item]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item


@njit(nogil=True)
def grow(header, delta, store, odds, escape, corrected, confirmed, budget, price, tokens, parents, chances, matches):
    """Fill `tokens`, `parents`, `chances` (path probabilities) and `matches`; the nodes grown, at most `budget`.

    `delta` and `store` are headers; an empty one has length, or rows, zero.
    """
    cap = header[tree.MAX_DEPTH]
    text, _, _ = tree.views(header)
    end = header[tree.LENGTH]
    tail = min(end, max(cap, sorted_store.CAP))
    query = np.empty(tail + budget + 1, np.int32)
    query[:tail] = text[end - tail : end]
    path = np.empty(128, np.int64)
    kinds, weights = np.empty(KINDS, np.int64), np.empty(KINDS, np.float64)
    stored = store[sorted_store.ROWS] > 0
    arrays = sorted_store.views(store)
    places = np.zeros((budget + 1, 7), np.int64)
    places[budget, 4:7] = header[tree.ALIGNED], header[tree.STREAK], header[tree.MISSES]
    memory = int32_at(header[tree.MEMO], 2 * tree.MEMORY)
    if stored:
        read_text(header, arrays)
        places[budget, :3] = header[ROW], header[ABOVE], header[BELOW]
    pool = KINDS * (budget + 1)
    token_of, parent_of, match_of = np.empty(pool, np.int32), np.empty(pool, np.int32), np.empty(pool, np.int32)
    chance = np.empty(pool, np.float64)
    heap, waiting, made, pooled, node = np.empty(pool, np.int32), 0, 0, 0, -1
    while made < budget:
        if node >= 0:
            at, up = tail + places[node, 3], node
            while up >= 0:
                at -= 1
                query[at] = tokens[up]
                up = parents[up]
        depth = places[node, 3] if node >= 0 else 0
        length = tail + depth
        if stored and node >= 0:
            above = parents[node] if parents[node] >= 0 else budget
            places[node, 0], places[node, 1], places[node, 2] = sorted_store.step(
                arrays, places[above, 0], places[above, 1], places[above, 2], np.int64(tokens[node]), query, length
            )
        found, match, recent = from_tree(header, odds[:DEPTHS], query, length, path, kinds, weights, 0)
        own = match
        if delta[tree.LENGTH] > 0:
            found, other, _ = from_tree(delta, odds[DEPTHS : 2 * DEPTHS], query, length, path, kinds, weights, found)
            match = max(match, other)
        if stored:
            where = node if node >= 0 else budget
            above, below = places[where, 1], places[where, 2]
            match = max(match, max(above, below))
            found = from_store(arrays, odds[2 * DEPTHS :], places[where, 0], above, below, kinds, weights, found)
        where = node if node >= 0 else budget
        if node >= 0:
            above = parents[node] if parents[node] >= 0 else budget
            aligned, streak, misses = tree.aligned_after(
                text, end, places[above, 4], places[above, 5], places[above, 6], np.int64(tokens[node])
            )
            if own >= max(tree.ANCHOR, streak):
                aligned, streak, misses = recent, own, np.int64(0)
            places[node, 4], places[node, 5], places[node, 6] = aligned, streak, misses
        aligned, streak = places[where, 4], places[where, 5]
        if 0 <= aligned < end:
            offered = np.int64(text[aligned])
            found = add(kinds, weights, found, offered, odds[3 * DEPTHS + min(streak, DEPTHS - 1)])
            entry = 2 * (offered % tree.MEMORY)
            if memory[entry] == offered:
                came = np.int64(memory[entry + 1])
                for kind in range(found):
                    if kinds[kind] == offered:
                        if came == offered:
                            weights[kind] *= confirmed
                        else:
                            found = add(kinds, weights, found, came, weights[kind] * corrected)
                        break
        total = escape
        for kind in range(found):
            total += weights[kind]
        scale = (chances[node] if node >= 0 else 1.0) / total
        for kind in range(found):
            estimate = weights[kind] * scale
            if estimate > price:
                chance[pooled], token_of[pooled] = estimate, kinds[kind]
                parent_of[pooled], match_of[pooled] = node, match
                heap[waiting] = pooled
                sift_up(heap, chance, waiting)
                waiting += 1
                pooled += 1
        if waiting == 0:
            break
        best = heap[0]
        waiting -= 1
        if waiting > 0:
            heap[0] = heap[waiting]
            sift_down(heap, chance, waiting)
        tokens[made], parents[made] = token_of[best], parent_of[best]
        chances[made], matches[made] = chance[best], match_of[best]
        places[made, 3] = depth_of(places, parent_of[best]) + 1
        node = made
        made += 1
    return made


@njit(inline="always", nogil=True)
def depth_of(places, node):
    return places[node, 3] if node >= 0 else 0


@njit(nogil=True)
def grow_many(addresses, delta, store, odds, escape, corrected, confirmed, budgets, prices, tokens, parents, chances, matches, made):
    """`grow` for each request whose header's address is given; outputs are rows."""
    for request in range(addresses.size):
        header = int64_at(addresses[request], tree.HEADER)
        made[request] = grow(
            header,
            delta,
            store,
            odds,
            escape,
            corrected,
            confirmed,
            budgets[request],
            prices[request],
            tokens[request],
            parents[request],
            chances[request],
            matches[request],
        )
