"""Grow a draft tree best first: every node looks its own context up anew in all sources.

At a node the context is the text plus the path. Evidence is an odds weight by source and match length; the estimate
of a token is its share, ``p(token) = W(token) / (escape + sum of W)``, and a node's path probability the product
along its path. The node with the largest is taken next, until the budget is spent or the largest falls to the price.
Effort follows probability: an unlikely node asks only the sources that offered its token.

Laws of a neural draft may be handed in for some nodes. There the mass that retrieval leaves to everything else goes
to the law, ``p(token) = (W(token) + escape * q(token)) / (escape + sum of W)``, and monotone maps by what offered
the token turn p into acceptance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from runtime.retrieval.bodies import candidates, evidence
from runtime.retrieval.bodies import context_tree as tree
from runtime.retrieval.bodies import laws as neural
from runtime.retrieval.bodies import store as sorted_store
from runtime.retrieval.bodies.memory import float64_at, int32_at, int64_at, lean, prefetch

__all__ = ["DELTA", "PARAMETERS", "STORE", "grow_many", "locate", "offers"]

DELTA, STORE, PARAMETERS, SHARED = 0, 1, 2, 4
"""Words of what requests share: addresses of the delta's header, the datastore's header and the parameters."""
ROW, ABOVE, BELOW, READ = 120, 121, 122, 123
"""Words of the request's header: where its text stands in the datastore, and how much of it was read."""
DEPTH_AT, ROW_AT, ABOVE_AT, BELOW_AT, COPY_AT, STREAK_AT, MISSES_AT, CREDIT_AT, LAW_AT, STATE = range(10)
"""Fields of a node's state; the last node's row is the root's. A row of -1 is a context new to the datastore."""
NEAR = 32
"""Bytes before and after a row of the datastore that its evidence is likely to lie in."""
REACH = 0.75
"""A node is looked up only where a child with this share of its path probability could still be taken."""
SOUGHT = 0.1
"""Path probability from which a node asks all sources; below, those alone that offered its own token."""
WIDE, FEW, FEW_LEVELS = 0.2, 6, 2
"""Path probability from which all the nearest rows of the datastore and all match lengths of a context tree give
evidence, and how many do below it."""


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
def write_path(query, tail, tokens, parents, node, depth):
    at = tail + depth
    while node >= 0:
        at -= 1
        query[at] = tokens[node]
        node = np.int64(parents[node])


class Sources(NamedTuple):
    """What a request's nodes are looked up in.

    Attributes
    ----------
    header, delta, store : int64
        Headers of the request, the delta and the datastore.
    parameters : float64
    text : (T,) int32
    path : int64
        Room for a descent.
    """

    header: NDArray[np.int64]
    delta: NDArray[np.int64]
    store: NDArray[np.int64]
    parameters: NDArray[np.float64]
    text: NDArray[np.int32]
    path: NDArray[np.int64]


@lean(inline="always")
def sources_of(address, shared_at, path_at):
    header, shared = int64_at(address, tree.HEADER), int64_at(shared_at, SHARED)
    delta, store = int64_at(shared[DELTA], tree.HEADER), int64_at(shared[STORE], sorted_store.HEADER)
    parameters = float64_at(shared[PARAMETERS], evidence.PARAMETERS)
    text = int32_at(header[tree.TEXT], header[tree.LENGTH])
    return Sources(header, delta, store, parameters, text, int64_at(path_at, tree.HEADER))


@lean(inline="always")
def move(sources, query, end, parent, state, token, row, share, sought):
    """State of the node that `token` leads to from the `parent`'s; `row` and `share` are the candidate's."""
    state[COPY_AT], state[STREAK_AT], state[MISSES_AT], state[CREDIT_AT] = tree.aligned_after(
        sources.text, sources.header[tree.LENGTH], parent[COPY_AT], parent[STREAK_AT], parent[MISSES_AT],
        parent[CREDIT_AT], token,
    )  # fmt: skip
    if sources.store[sorted_store.ROWS] == 0:
        return
    if row >= 0:
        state[ROW_AT] = row
        state[ABOVE_AT], state[BELOW_AT] = sorted_store.landed(sources.store, row, share)
    elif not sought or parent[ROW_AT] < 0:
        state[ROW_AT], state[ABOVE_AT], state[BELOW_AT] = -1, 0, 0
    else:
        state[ROW_AT], state[ABOVE_AT], state[BELOW_AT] = sorted_store.step(
            sources.store, parent[ROW_AT], parent[ABOVE_AT], parent[BELOW_AT], token, query, end
        )


@lean(inline="always")
def weigh(sources, query, end, state, below_root, nearest, levels, trees, desk):
    """Evidence at the node of `state`: kinds, longest match. A longer match than the copy's own moves the copy.

    `trees` says which context trees are asked, for how many `levels`; `nearest` how many rows of the datastore.
    """
    header, delta, store, parameters, text, path = sources
    desk.kinds[: evidence.KINDS] = -1
    found, match, recent = 0, np.int64(0), np.int64(-1)
    if trees & evidence.OF_OWN:
        found, match, recent = evidence.from_tree(header, parameters, evidence.OWN, query, end, levels, path, desk, 0)
    if below_root and match >= max(tree.ANCHOR, state[STREAK_AT]):
        state[COPY_AT], state[STREAK_AT], state[MISSES_AT] = recent, np.int64(match), np.int64(0)
    if trees & evidence.OF_DELTA and delta[tree.LENGTH] > 0:
        found, other, _ = evidence.from_tree(delta, parameters, evidence.DELTA, query, end, levels, path, desk, found)
        match = max(match, other)
    if store[sorted_store.ROWS] > 0:
        above, below = state[ABOVE_AT], state[BELOW_AT]
        match = max(match, above, below)
        found = evidence.from_store(store, parameters, state[ROW_AT], above, below, nearest, desk, found)
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
def offer(pool, desk, marks, known, found, node, match, mass, budget, price, single, store):
    """Make candidates of the kinds at a node; those from `known` on are the law's alone."""
    first = 0
    if single:
        for kind in range(1, found):
            if desk.weights[kind] > desk.weights[first]:
                first = kind
        found = min(found, first + 1)
    for kind in range(first, found):
        chance = desk.weights[kind] * mass
        kept = candidates.class_of(chance)
        if chance <= price or kept > pool.counts[candidates.FLOOR] or desk.kinds[kind] == evidence.END_TOKEN:
            continue
        row = desk.rows[kind] if kind < known else np.int64(-1)
        if row >= 0:
            prefetch(store[sorted_store.RECORDS] + sorted_store.ROW_BYTES * row - NEAR)
            prefetch(store[sorted_store.RECORDS] + sorted_store.ROW_BYTES * row + NEAR)
        base = candidates.put(pool, chance, kept, budget)
        pool.fields[base + candidates.TOKEN], pool.fields[base + candidates.NODE] = desk.kinds[kind], node
        pool.fields[base + candidates.LONGEST], pool.fields[base + candidates.MARK] = match, marks[kind]
        pool.fields[base + candidates.ROW], pool.fields[base + candidates.SHARE] = row, desk.shares[kind]
        pool.fields[base + candidates.TREES] = desk.trees[kind] if kind < known else 0


@lean(inline="always")
def desk_at(address, width):
    """Desk of `width` rows in the ``5 * width`` words at `address`."""
    return evidence.Desk(
        int32_at(address, width), float64_at(address + 8 * width, width), int64_at(address + 16 * width, width),
        int64_at(address + 24 * width, width), int64_at(address + 32 * width, width),
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


@lean()
def locate(address, shared_at):
    """Find the request's text in the datastore now, not at the first query."""
    store = int64_at(int64_at(shared_at, SHARED)[STORE], sorted_store.HEADER)
    if store[sorted_store.ROWS] > 0:
        read_text(int64_at(address, tree.HEADER), store)


@njit(nogil=True, cache=True)
def offers(address, shared_at, laws, kinds, weights, marks):
    """All that is offered for the next token: tokens, scores and who offered each; their number."""
    scratch = np.empty(STATE + tree.HEADER + 5 * kinds.size, np.int64)
    return offered(address, shared_at, laws, kinds, weights, marks, scratch)


@lean()
def offered(address, shared_at, laws, kinds, weights, marks, scratch):
    start = scratch.ctypes.data
    sources = sources_of(address, shared_at, start + 8 * STATE)
    state, end = int64_at(start, STATE), sources.header[tree.LENGTH]
    desk = desk_at(start + 8 * (STATE + tree.HEADER), kinds.size)
    root_state(sources.header, sources.store, state)
    known, _ = weigh(sources, sources.text, end, state, False, evidence.NEAREST, evidence.LEVELS, evidence.BOTH, desk)
    left, found = shares(desk.weights, known, sources.parameters[evidence.ESCAPE]), known
    marks[:found] = 1
    if laws != 0:
        found = neural.blend(laws, neural.first_of(laws), left, desk.kinds, desk.weights, marks, known)
    for kind in range(found):
        kinds[kind], weights[kind] = desk.kinds[kind], desk.weights[kind]
    return found


@lean(inline="always")
def words_for(budget, width):
    """int64 words that growing a tree takes: states, path, desk, marks, candidates and query."""
    query = (tree.HEADER + budget) // 2 + 1
    return (budget + 1) * STATE + tree.HEADER + 6 * width + candidates.words_of(width * (budget + 1)) + query


@njit(nogil=True, cache=True)
def grow_many(addresses, shared, laws, budgets, prices, single, numbers, chances, made, first, last):
    """Trees of requests `first` .. `last` - 1: numbers of each node grown, and how many nodes there are.

    Requests of several stores may stand side by side.

    Parameters
    ----------
    addresses, shared : (B,) int64
        Of each request's header, and of what it shares with others.
    laws : (B,) int64
        Addresses of the laws' headers, 0 for none.
    budgets : (B,) int64
    prices : (B,) float64
    single : bool
        Only the likeliest token of every node is followed: the trees are chains.
    numbers : (5, B, N) int32, written
        Tokens, parents, matches, who offered the token, and which law was the node's own.
    chances : (B, N) float64, written
        Path probabilities.
    made : (B,) int64, written
    """
    words = 0
    for request in range(first, last):
        words = max(words, words_for(budgets[request], width_beside(laws[request])))
    scratch, most, column = np.empty(words, np.int64), chances.shape[1], chances.size
    for request in range(first, last):
        made[request] = fill(
            addresses[request], shared[request], laws[request], budgets[request], prices[request], single,
            numbers.ctypes.data + 4 * most * request, column, chances.ctypes.data + 8 * most * request, scratch,
        )  # fmt: skip


@lean()
def fill(address, shared_at, laws, budget, price, single, numbers, column, chances_at, scratch):
    """One tree, into columns of int32 that begin at `numbers`, each `column` after the one before."""
    states_at, width = scratch.ctypes.data, width_beside(laws)
    at = states_at + 8 * STATE * (budget + 1)
    sources = sources_of(address, shared_at, at)
    header, text = sources.header, sources.text
    tokens, parents = int32_at(numbers, budget), int32_at(numbers + 4 * column, budget)
    matches, offered_by = int32_at(numbers + 8 * column, budget), int32_at(numbers + 12 * column, budget)
    law_at, chances = int32_at(numbers + 16 * column, budget), float64_at(chances_at, budget)
    end, room = header[tree.LENGTH], width * (budget + 1)
    tail = min(end, max(header[tree.MAX_DEPTH], sorted_store.CAP))
    desk = desk_at(at + 8 * tree.HEADER, width)
    marks = int64_at(at + 8 * tree.HEADER + 40 * width, width)
    at += 8 * tree.HEADER + 48 * width
    pool, query = candidates.pool_at(at, room), int32_at(at + 8 * candidates.words_of(room), tail + budget + 1)
    for i in range(tail):
        query[i] = text[end - tail + i]
    marks[:] = 1
    state = int64_at(states_at + 8 * STATE * budget, STATE)
    state[DEPTH_AT], state[LAW_AT] = 0, neural.first_of(laws) if laws != 0 else -1
    root_state(header, sources.store, state)
    node, token, depth, mass, written, made = np.int64(-1), np.int64(-1), np.int64(0), 1.0, np.int64(-1), 0
    parent, row, share, trees = state, np.int64(-1), np.int64(0), np.int64(evidence.BOTH)
    while made < budget:
        if mass * REACH > price and candidates.class_of(mass * REACH) <= pool.counts[candidates.FLOOR]:
            if node >= 0:
                if parents[node] == written:
                    query[tail + depth - 1] = token
                else:
                    write_path(query, tail, tokens, parents, node, depth)
                written = node
                move(sources, query, tail + depth, parent, state, token, row, share, mass >= SOUGHT)
            if mass >= SOUGHT:
                trees = np.int64(evidence.BOTH)
            nearest, levels = (evidence.NEAREST, evidence.LEVELS) if mass >= WIDE else (FEW, FEW_LEVELS)
            known, match = weigh(sources, query, tail + depth, state, node >= 0, nearest, levels, trees, desk)
            left, found = shares(desk.weights, known, sources.parameters[evidence.ESCAPE]), known
            if laws != 0:
                found = neural.blend(laws, state[LAW_AT], left, desk.kinds, desk.weights, marks, known)
            offer(pool, desk, marks, known, found, node, match, mass, budget, price, single, sources.store)
        best = candidates.take(pool)
        if best < 0:
            break
        base, mass = candidates.FIELDS * best, pool.chances[best]
        token, above = np.int64(pool.fields[base + candidates.TOKEN]), np.int64(pool.fields[base + candidates.NODE])
        row, share = np.int64(pool.fields[base + candidates.ROW]), np.int64(pool.fields[base + candidates.SHARE])
        trees = np.int64(pool.fields[base + candidates.TREES])
        tokens[made], parents[made], chances[made] = token, above, mass
        matches[made], offered_by[made] = pool.fields[base + candidates.LONGEST], pool.fields[base + candidates.MARK]
        node = np.int64(made)
        parent = int64_at(states_at + 8 * STATE * (above if above >= 0 else budget), STATE)
        state = int64_at(states_at + 8 * STATE * node, STATE)
        depth = parent[DEPTH_AT] + 1
        state[DEPTH_AT] = depth
        law_at[made] = state[LAW_AT] = neural.below(laws, parent[LAW_AT], token) if laws != 0 else -1
        made += 1
    return made
