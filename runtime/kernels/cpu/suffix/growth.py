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
from runtime.kernels.cpu.suffix.memory import bits_of, float64_at, int32_at, int64_at, lean, prefetch

__all__ = ["DELTA", "PARAMETERS", "SHARED", "STORE", "grow", "grow_many", "offers"]

DELTA, STORE, PARAMETERS, SHARED = 0, 1, 2, 4
"""Words of what requests share: addresses of the delta's header, the datastore's header and the parameters."""
ROW, ABOVE, BELOW, READ = 120, 121, 122, 123
"""Words of the request's header: where its text stands in the datastore, and how much of it was read."""
DEPTH_AT, ROW_AT, ABOVE_AT, BELOW_AT, COPY_AT, STREAK_AT, MISSES_AT, CREDIT_AT, LAW_AT, STATE = range(10)
"""Fields of a node's state; the last node's row is the root's."""
TOKEN, NODE, LONGEST, MARK, PLACE, SHARE, CANDIDATE = 0, 1, 2, 3, 4, 5, 6
"""Fields of a candidate: token, parent, longest match there, who offered it, `Desk.rows` and `Desk.shares`."""
CLASSES = 64
"""Quarter octaves of path probability that the floor tells apart."""
NEAR = 32
"""Bytes before and after a row of the datastore that its evidence is likely to lie in."""
REACH = 0.75
"""A node is looked up only where a child with this share of its path probability could still be taken."""


@lean(inline="always")
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


@lean(inline="always")
def class_of(chance):
    """Quarter octaves below one."""
    return min(4092 - (bits_of(chance) >> 50), CLASSES - 1)


@lean(inline="always")
def highest(keys, count):
    best = np.int64(0)
    for at in range(count):
        best = max(best, keys[at])
    return best


@lean(inline="always")
def write_path(query, tail, tokens, parents, node, depth):
    at = tail + depth
    while node >= 0:
        at -= 1
        query[at] = tokens[node]
        node = np.int64(parents[node])


@lean(inline="always")
def move(header, store, text, query, end, parent, state, token, row, share):
    """State of the node that `token` leads to from the `parent`'s; `row` and `share` are the candidate's."""
    state[COPY_AT], state[STREAK_AT], state[MISSES_AT], state[CREDIT_AT] = tree.aligned_after(
        text, header[tree.LENGTH], parent[COPY_AT], parent[STREAK_AT], parent[MISSES_AT], parent[CREDIT_AT], token
    )
    if store[sorted_store.ROWS] == 0:
        return
    if row >= 0:
        state[ROW_AT] = row
        state[ABOVE_AT], state[BELOW_AT] = sorted_store.landed(store, row, share)
    else:
        state[ROW_AT], state[ABOVE_AT], state[BELOW_AT] = sorted_store.step(
            store, parent[ROW_AT], parent[ABOVE_AT], parent[BELOW_AT], token, query, end
        )


@lean(inline="always")
def weigh(header, delta, store, parameters, text, query, end, state, below_root, path, desk):
    """Evidence at the node of `state`: kinds, longest match. A longer match than the copy's own moves the copy."""
    desk.kinds[: evidence.KINDS] = -1
    found, match, recent = evidence.from_tree(header, parameters, evidence.OWN, query, end, path, desk, 0)
    if below_root and match >= max(tree.ANCHOR, state[STREAK_AT]):
        state[COPY_AT], state[STREAK_AT], state[MISSES_AT] = recent, np.int64(match), np.int64(0)
    if delta[tree.LENGTH] > 0:
        found, other, _ = evidence.from_tree(delta, parameters, evidence.DELTA, query, end, path, desk, found)
        match = max(match, other)
    if store[sorted_store.ROWS] > 0:
        above, below = state[ABOVE_AT], state[BELOW_AT]
        match = max(match, above, below)
        found = evidence.from_store(store, parameters, state[ROW_AT], above, below, desk, found)
    last = np.int64(query[end - 1]) if end > 0 else np.int64(-1)
    found = evidence.from_copy(header, text, parameters, state[COPY_AT], state[STREAK_AT], last, desk, found)
    return found, match


@lean(inline="always")
def shares(weights, found, escape):
    """Turn weights into probabilities; what they leave to everything else."""
    total = escape
    for kind in range(found):
        total += weights[kind]
    for kind in range(found):
        weights[kind] /= total
    return escape / total


@lean(inline="always")
def desk_at(address, width):
    """Desk of `width` rows in the ``4 * width`` words at `address`."""
    return evidence.Desk(
        int32_at(address, width), float64_at(address + 8 * width, width), int64_at(address + 16 * width, width),
        int64_at(address + 24 * width, width),
    )  # fmt: skip


@lean(inline="always")
def root_state(header, store, state):
    if store[sorted_store.ROWS] > 0:
        read_text(header, store)
        state[ROW_AT], state[ABOVE_AT], state[BELOW_AT] = header[ROW], header[ABOVE], header[BELOW]
    state[COPY_AT], state[STREAK_AT] = header[tree.ALIGNED], header[tree.STREAK]
    state[MISSES_AT], state[CREDIT_AT] = header[tree.MISSES], header[tree.CREDIT]


@lean(inline="always")
def width_beside(laws):
    return evidence.KINDS + (neural.width_of(laws) if laws != 0 else 0)


@njit(nogil=True)
def offers(address, shared_at, laws, kinds, weights, marks):
    """All that is offered for the next token: tokens, scores and who offered each; their number."""
    return offered(address, shared_at, laws, kinds, weights, marks, np.empty(tree.HEADER + STATE + 4 * kinds.size, np.int64))


@lean()
def offered(address, shared_at, laws, kinds, weights, marks, scratch):
    header, shared = int64_at(address, tree.HEADER), int64_at(shared_at, SHARED)
    store = int64_at(shared[STORE], sorted_store.HEADER)
    parameters = float64_at(shared[PARAMETERS], evidence.PARAMETERS)
    end, start = header[tree.LENGTH], scratch.ctypes.data
    text = int32_at(header[tree.TEXT], end)
    state, path = int64_at(start, STATE), int64_at(start + 8 * STATE, tree.HEADER)
    desk = desk_at(start + 8 * (STATE + tree.HEADER), kinds.size)
    root_state(header, store, state)
    delta = int64_at(shared[DELTA], tree.HEADER)
    found, _ = weigh(header, delta, store, parameters, text, text, end, state, False, path, desk)
    left = shares(desk.weights, found, parameters[evidence.ESCAPE])
    marks[:found] = 1
    if laws != 0:
        found = neural.blend(laws, neural.first_of(laws), left, desk.kinds, desk.weights, marks, found)
    for kind in range(found):
        kinds[kind], weights[kind] = desk.kinds[kind], desk.weights[kind]
    return found


@lean(inline="always")
def words_for(budget, width):
    """int64 words that growing a tree takes: states, query, path, desk, marks, candidates, their chances and keys."""
    room = width * (budget + 1)
    return (budget + 1) * STATE + (96 + budget + 2) // 2 + 1 + tree.HEADER + 5 * width + CLASSES + 5 * room


@njit(nogil=True)
def grow(address, shared_at, laws, budget, price, single, numbers, chances):
    """Fill a column an output for each node grown, and return their number.

    Parameters
    ----------
    laws : int
        Address of the laws' header, 0 for none.
    single : bool
        Only the likeliest token of every node is followed: the tree is a chain.
    numbers : (5, budget) int32
        Tokens, parents, matches, who offered the token, and which law was the node's own.
    chances : (budget,) float64
        Path probabilities.
    """
    scratch = np.empty(words_for(budget, width_beside(laws)), np.int64)
    return fill(address, shared_at, laws, budget, price, single, numbers.ctypes.data, budget, chances.ctypes.data, scratch)


@njit(nogil=True)
def grow_many(addresses, shared_at, laws, budgets, prices, numbers, chances, made, first, last):
    """`grow` for requests `first` .. `last` - 1, whose headers' addresses are given; outputs are rows."""
    words = 0
    for request in range(first, last):
        words = max(words, words_for(budgets[request], width_beside(laws[request])))
    scratch, most, column = np.empty(words, np.int64), chances.shape[1], chances.size
    for request in range(first, last):
        made[request] = fill(
            addresses[request], shared_at, laws[request], budgets[request], prices[request], False,
            numbers.ctypes.data + 4 * most * request, column, chances.ctypes.data + 8 * most * request, scratch,
        )  # fmt: skip


@lean()
def fill(address, shared_at, laws, budget, price, single, numbers, column, chances_at, scratch):
    header, shared = int64_at(address, tree.HEADER), int64_at(shared_at, SHARED)
    delta = int64_at(shared[DELTA], tree.HEADER)
    store = int64_at(shared[STORE], sorted_store.HEADER)
    parameters = float64_at(shared[PARAMETERS], evidence.PARAMETERS)
    stored, records = store[sorted_store.ROWS] > 0, store[sorted_store.RECORDS]
    tokens, parents = int32_at(numbers, budget), int32_at(numbers + 4 * column, budget)
    matches, sources = int32_at(numbers + 8 * column, budget), int32_at(numbers + 12 * column, budget)
    law_at, chances = int32_at(numbers + 16 * column, budget), float64_at(chances_at, budget)
    end = header[tree.LENGTH]
    text = int32_at(header[tree.TEXT], end)
    tail = min(end, max(header[tree.MAX_DEPTH], sorted_store.CAP))
    width = width_beside(laws)
    room = width * (budget + 1)
    at = scratch.ctypes.data
    states_at = at
    at += 8 * STATE * (budget + 1)
    path = int64_at(at, tree.HEADER)
    at += 8 * tree.HEADER
    tally = int64_at(at, CLASSES)
    at += 8 * CLASSES
    desk, marks = desk_at(at, width), int64_at(at + 32 * width, width)
    at += 40 * width
    keys, chance = int64_at(at, room), float64_at(at + 8 * room, room)
    pool_at = at + 16 * room
    query = int32_at(pool_at + 24 * room, tail + budget + 1)
    for i in range(tail):
        query[i] = text[end - tail + i]
    marks[:], tally[:] = 1, 0
    pooled, made, within, floor, mask = 0, 0, 0, CLASSES - 1, 1
    while mask < room:
        mask *= 2
    mask -= 1
    state = int64_at(states_at + 8 * STATE * budget, STATE)
    state[DEPTH_AT], state[LAW_AT] = 0, neural.first_of(laws) if laws != 0 else -1
    root_state(header, store, state)
    node, token, depth, mass, written = np.int64(-1), np.int64(-1), np.int64(0), 1.0, np.int64(-1)
    parent = state
    row, share = np.int64(-1), np.int64(0)
    while made < budget:
        if class_of(mass * REACH) <= floor and mass * REACH > price:
            if node >= 0:
                if parents[node] == written:
                    query[tail + depth - 1] = token
                else:
                    write_path(query, tail, tokens, parents, node, depth)
                written = node
                move(header, store, text, query, tail + depth, parent, state, token, row, share)
            found, match = weigh(
                header, delta, store, parameters, text, query, tail + depth, state, node >= 0, path, desk
            )
            left = shares(desk.weights, found, parameters[evidence.ESCAPE])
            if laws != 0:
                found = neural.blend(laws, state[LAW_AT], left, desk.kinds, desk.weights, marks, found)
            if single:
                for kind in range(1, found):
                    if desk.weights[kind] > desk.weights[0]:
                        desk.weights[0], desk.kinds[0], marks[0] = desk.weights[kind], desk.kinds[kind], marks[kind]
                        desk.rows[0], desk.shares[0] = desk.rows[kind], desk.shares[kind]
                found = min(found, 1)
            for kind in range(found):
                estimate = desk.weights[kind] * mass
                kept = class_of(estimate)
                if estimate <= price or kept > floor or desk.kinds[kind] == evidence.END_TOKEN:
                    continue
                row = desk.rows[kind] if kind < evidence.KINDS else np.int64(-1)
                if stored and row >= 0:
                    prefetch(records + sorted_store.ROW_BYTES * row - NEAR)
                    prefetch(records + sorted_store.ROW_BYTES * row + NEAR)
                tally[kept] += 1
                within += 1
                while within - tally[floor] >= budget:
                    within -= tally[floor]
                    floor -= 1
                chance[pooled] = estimate
                candidate = int32_at(pool_at + 24 * pooled, CANDIDATE)
                candidate[TOKEN], candidate[NODE], candidate[LONGEST] = desk.kinds[kind], node, match
                candidate[MARK], candidate[PLACE], candidate[SHARE] = marks[kind], row, desk.shares[kind]
                keys[pooled] = bits_of(estimate) & ~mask | (mask - pooled)
                pooled += 1
        key = highest(keys, pooled)
        if key == 0:
            break
        best = mask - (key & mask)
        keys[best] = 0
        candidate = int32_at(pool_at + 24 * best, CANDIDATE)
        token, above, mass = np.int64(candidate[TOKEN]), np.int64(candidate[NODE]), chance[best]
        row, share = np.int64(candidate[PLACE]), np.int64(candidate[SHARE])
        tokens[made], parents[made], matches[made], chances[made] = token, above, candidate[LONGEST], mass
        node = np.int64(made)
        parent = int64_at(states_at + 8 * STATE * (above if above >= 0 else budget), STATE)
        state = int64_at(states_at + 8 * STATE * node, STATE)
        depth = parent[DEPTH_AT] + 1
        state[DEPTH_AT] = depth
        state[LAW_AT] = neural.below(laws, parent[LAW_AT], token) if laws != 0 else -1
        sources[made], law_at[made] = candidate[MARK], state[LAW_AT]
        made += 1
    return made
