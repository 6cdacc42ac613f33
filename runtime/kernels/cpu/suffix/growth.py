"""Grow a draft tree best first: every node looks its own context up anew in all sources.

At a node the context is the text plus the path. Evidence is an odds weight by source and match length; the estimate
of a token is its share, ``p(token) = W(token) / (escape + sum of W)``, and a node's path probability the product
along its path. The node with the largest is taken next, until the budget is spent or the largest falls to the price.
A candidate below as many better ones as the budget has nodes can never be taken, and is dropped at once.

Laws of a neural draft may be handed in for some nodes. There the mass that retrieval leaves to everything else goes
to the law, ``p(token) = (W(token) + escape * q(token)) / (escape + sum of W)``, and monotone maps by what offered
the token turn p into acceptance.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.suffix import context_tree as tree
from runtime.kernels.cpu.suffix import evidence
from runtime.kernels.cpu.suffix import laws as neural
from runtime.kernels.cpu.suffix import store as sorted_store
from runtime.kernels.cpu.suffix.memory import bits_of, float64_at, int32_at, int64_at, prefetch

__all__ = ["DELTA", "PARAMETERS", "SHARED", "STORE", "grow", "grow_many", "offers"]

DELTA, STORE, PARAMETERS, SHARED = 0, 1, 2, 4
"""Words of what requests share: addresses of the delta's header, the datastore's header and the parameters."""
ROW, ABOVE, BELOW, READ = 120, 121, 122, 123
"""Words of the request's header: where its text stands in the datastore, and how much of it was read."""
DEPTH_AT, ROW_AT, ABOVE_AT, BELOW_AT, COPY_AT, STREAK_AT, MISSES_AT, CREDIT_AT, LAW_AT, STATE = range(10)
"""Fields of a node's state; the last node's row is the root's."""
CLASSES = 64
"""Quarter octaves of path probability that the floor tells apart."""
NEAR = 32
"""Bytes before and after a row of the datastore that its evidence is likely to lie in."""
REACH = 0.75
"""A node is looked up only where a child with this share of its path probability could still be taken."""


@njit(inline="always", nogil=True)
def read_text(header, store):
    """Bring the place of the request's text in the datastore up to date."""
    text = int32_at(header[tree.TEXT], header[tree.LENGTH])
    end = header[tree.LENGTH]
    if end - header[READ] > sorted_store.CAP:
        header[ROW], header[ABOVE], header[BELOW], header[READ] = 0, 0, 0, end - sorted_store.CAP
    for at in range(header[READ], end):
        header[ROW], header[ABOVE], header[BELOW] = sorted_store.step(
            store, header[ROW], header[ABOVE], header[BELOW], np.int64(text[at]), text, at + 1
        )
    header[READ] = end


@njit(inline="always", nogil=True)
def class_of(chance):
    """Quarter octaves below one."""
    return min(4092 - (bits_of(chance) >> 50), CLASSES - 1)


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


@njit(inline="always", nogil=True)
def write_path(query, tail, tokens, parents, node, depth):
    at = tail + depth
    while node >= 0:
        at -= 1
        query[at] = tokens[node]
        node = np.int64(parents[node])


@njit(inline="always", nogil=True)
def weigh(header, delta, store, parameters, text, query, end, parent, state, token, path, kinds, weights, ahead):
    """Evidence at a node reached by `token` from the state of its `parent` (-1 at the root): kinds, longest match."""
    found, match, recent = evidence.from_tree(header, parameters, evidence.OWN, query, end, path, kinds, weights, 0)
    if token >= 0:
        place, streak, misses, credit = tree.aligned_after(
            text, header[tree.LENGTH], parent[COPY_AT], parent[STREAK_AT], parent[MISSES_AT], parent[CREDIT_AT], token
        )
        if match >= max(tree.ANCHOR, streak):
            place, streak, misses = recent, np.int64(match), np.int64(0)
        state[COPY_AT], state[STREAK_AT], state[MISSES_AT], state[CREDIT_AT] = place, streak, misses, credit
    if delta[tree.LENGTH] > 0:
        found, other, _ = evidence.from_tree(delta, parameters, evidence.DELTA, query, end, path, kinds, weights, found)
        match = max(match, other)
    if store[sorted_store.ROWS] > 0:
        if token >= 0:
            state[ROW_AT], state[ABOVE_AT], state[BELOW_AT] = sorted_store.step(
                store, parent[ROW_AT], parent[ABOVE_AT], parent[BELOW_AT], token, query, end
            )
        above, below = state[ABOVE_AT], state[BELOW_AT]
        match = max(match, above, below)
        found = evidence.from_store(store, parameters, state[ROW_AT], above, below, kinds, weights, ahead, found)
    last = np.int64(query[end - 1]) if end > 0 else np.int64(-1)
    found = evidence.from_copy(header, text, parameters, state[COPY_AT], state[STREAK_AT], last, kinds, weights, found)
    return found, match


@njit(inline="always", nogil=True)
def shares(weights, found, escape):
    """Turn weights into probabilities; what they leave to everything else."""
    total = escape
    for kind in range(found):
        total += weights[kind]
    for kind in range(found):
        weights[kind] /= total
    return escape / total


@njit(nogil=True)
def offers(header, shared, laws, kinds, weights, marks):
    """All that is offered for the next token: tokens, scores and who offered each; their number."""
    store = int64_at(shared[STORE], sorted_store.HEADER)
    parameters = float64_at(shared[PARAMETERS], evidence.PARAMETERS)
    end, state = header[tree.LENGTH], np.zeros(STATE, np.int64)
    text = int32_at(header[tree.TEXT], end)
    if store[sorted_store.ROWS] > 0:
        read_text(header, store)
        state[ROW_AT : BELOW_AT + 1] = header[ROW : BELOW + 1]
    state[COPY_AT : CREDIT_AT + 1] = header[tree.ALIGNED : tree.CREDIT + 1]
    found, _ = weigh(
        header, int64_at(shared[DELTA], tree.HEADER), store, parameters, text, text, end, state, state, np.int64(-1),
        np.empty(tree.HEADER, np.int64), kinds, weights, np.full(evidence.KINDS, -1),
    )  # fmt: skip
    left = shares(weights, found, parameters[evidence.ESCAPE])
    marks[:found] = 1
    return neural.blend(laws, neural.first_of(laws), left, kinds, weights, marks, found) if laws != 0 else found


@njit(nogil=True)
def grow(header, shared, laws, budget, price, single, tokens, parents, matches, sources, law_at, chances):
    """Fill a row an output for each node grown, and return their number; `chances` are path probabilities.

    `laws` is the address of the laws' header, 0 for none; `sources` says who offered a token, `law_at` which law
    was its node's own. With `single`, only the likeliest token of every node is followed: the tree is a chain.
    """
    delta = int64_at(shared[DELTA], tree.HEADER)
    store = int64_at(shared[STORE], sorted_store.HEADER)
    parameters = float64_at(shared[PARAMETERS], evidence.PARAMETERS)
    stored, records = store[sorted_store.ROWS] > 0, store[sorted_store.RECORDS]
    end = header[tree.LENGTH]
    text = int32_at(header[tree.TEXT], end)
    tail = min(end, max(header[tree.MAX_DEPTH], sorted_store.CAP))
    query, path = np.empty(tail + budget + 1, np.int32), np.empty(tree.HEADER, np.int64)
    query[:tail] = text[end - tail : end]
    width = evidence.KINDS + (neural.width_of(laws) if laws != 0 else 0)
    kinds, weights = np.empty(width, np.int64), np.empty(width, np.float64)
    marks, ahead = np.ones(width, np.int64), np.empty(width, np.int64)
    states = np.zeros((budget + 1, STATE), np.int64)
    states[budget, LAW_AT] = neural.first_of(laws) if laws != 0 else -1
    if stored:
        read_text(header, store)
        states[budget, ROW_AT : BELOW_AT + 1] = header[ROW : BELOW + 1]
    states[budget, COPY_AT : CREDIT_AT + 1] = header[tree.ALIGNED : tree.CREDIT + 1]
    room = width * (budget + 1)
    pool, chance = np.empty((room, 4), np.int32), np.empty(room, np.float64)
    heap, waiting, made, pooled = np.empty(room, np.int32), 0, 0, 0
    tally, within, floor = np.zeros(CLASSES, np.int64), 0, CLASSES - 1
    node, token, parent, depth, mass = np.int64(-1), np.int64(-1), np.int64(budget), np.int64(0), 1.0
    while made < budget:
        if class_of(mass * REACH) <= floor and mass * REACH > price:
            write_path(query, tail, tokens, parents, node, depth)
            ahead[:] = -1
            found, match = weigh(
                header, delta, store, parameters, text, query, tail + depth, states[parent],
                states[node], token, path, kinds, weights, ahead,
            )  # fmt: skip
            left = shares(weights, found, parameters[evidence.ESCAPE])
            if laws != 0:
                found = neural.blend(laws, states[node, LAW_AT], left, kinds, weights, marks, found)
            if single:
                for kind in range(1, found):
                    if weights[kind] > weights[0]:
                        weights[0], kinds[0], marks[0] = weights[kind], kinds[kind], marks[kind]
                found = min(found, 1)
            for kind in range(found):
                estimate = weights[kind] * mass
                kept = class_of(estimate)
                if estimate <= price or kept > floor or kinds[kind] == evidence.END_TOKEN:
                    continue
                if stored and ahead[kind] >= 0:
                    prefetch(records + sorted_store.ROW_BYTES * ahead[kind] - NEAR)
                    prefetch(records + sorted_store.ROW_BYTES * ahead[kind] + NEAR)
                tally[kept] += 1
                within += 1
                while within - tally[floor] >= budget:
                    within -= tally[floor]
                    floor -= 1
                chance[pooled] = estimate
                pool[pooled, 0], pool[pooled, 1], pool[pooled, 2] = kinds[kind], node, match
                pool[pooled, 3] = marks[kind]
                heap[waiting] = pooled
                sift_up(heap, chance, waiting)
                waiting += 1
                pooled += 1
        if waiting == 0:
            break
        best = np.int64(heap[0])
        waiting -= 1
        heap[0] = heap[waiting]
        sift_down(heap, chance, waiting)
        token, parent, mass = np.int64(pool[best, 0]), np.int64(pool[best, 1]), chance[best]
        tokens[made], parents[made], matches[made], chances[made] = token, parent, pool[best, 2], mass
        depth = states[parent, DEPTH_AT] + 1
        states[made, DEPTH_AT] = depth
        states[made, LAW_AT] = neural.below(laws, states[parent, LAW_AT], token) if laws != 0 else -1
        sources[made], law_at[made] = pool[best, 3], states[made, LAW_AT]
        node = np.int64(made)
        made += 1
    return made


@njit(nogil=True)
def grow_many(addresses, shared, laws, budgets, prices, tokens, parents, matches, sources, law_at, chances, made):
    """`grow` for each request whose header's address is given, and whose laws' address is; outputs are rows."""
    for request in range(addresses.size):
        header = int64_at(addresses[request], tree.HEADER)
        made[request] = grow(
            header, shared, laws[request], budgets[request], prices[request], False, tokens[request],
            parents[request], matches[request], sources[request], law_at[request], chances[request],
        )  # fmt: skip
