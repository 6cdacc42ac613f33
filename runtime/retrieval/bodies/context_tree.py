"""Context tree of one request: a suffix tree of the reversed text, cut at a depth, that knows what followed.

Every position t of the text is a context: the tokens before it, read backwards. A node stands for all contexts
that share their last `depth` tokens, and records the most recent of them, how many there were and which tokens
followed. A position enters the tree when the token that follows it is known, so that no query ever meets itself.
A new token costs one descent of at most `max_depth` steps, and makes at most one node and two edges.

Buffers of a request (int32, owned by Python): the text; nodes of eight fields; an open-addressed table of
edges ``(node, token before the node's context, child)``. A child ``>= 0`` is a node; ``~p`` is the lone context p.
The header (int64) holds sizes, addresses and the last descent.
"""

from __future__ import annotations

import numpy as np

from runtime.retrieval.bodies.memory import int32_at, lean

__all__ = ["HEADER", "chain", "descend", "extend", "rehash", "replay"]

HEADER = 128
"""int64 words of a request's header."""
LENGTH, NODES, EDGES, SLOTS, MAX_DEPTH, TEXT, NODE, TABLE = 0, 1, 2, 3, 4, 5, 6, 7
"""Sizes in use, slots of the table, depth limit, addresses of text, nodes and table."""
MATCH, RECENT, COUNT, CHILD, PATHS = 8, 9, 10, 11, 12
"""Last descent: length, latest occurrence, occurrences, child it ended inside of, nodes passed (ids from PATH on)."""
TEXT_ROOM, NODE_ROOM, EDGE_ROOM = 13, 14, 15
"""Tokens, nodes and edges that the buffers hold."""
PATH = 20
ALIGNED, STREAK, MISSES, CREDIT, MEMO = 16, 17, 18, 19, 118
"""The copy model: the place it copies from, tokens it got right in a row, misses since; address of its memory."""
MEMORY = 256
"""Entries (token the copy model offered, token that came) of the memory of corrections."""
PATIENCE, SKIPS = 24, 3
"""Tokens that the copy model waits for an insertion to end, and that it skips at once."""
REGAIN = 2
"""A streak regrows faster by one for every so many tokens of credit."""
ANCHOR = 4
"""Match length from which the most recent longest match may become the place to copy from."""
FIELDS = 8
LAST, TOTAL, DEPTH, FOLLOWER, TALLY, NOVEL = 0, 1, 2, 3, 6, 7
"""Fields of a node; three followers from FOLLOWER on, their three counts of ten bits in TALLY."""
NONE = -(2**31)
TALLY_LIMIT = 1000


@lean(inline="always")
def slot_of(node, token, slots):
    key = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(np.uint32(token)) * np.uint64(0xC2B2AE3D27D4EB4F)
    return np.int64((key >> np.uint64(32)) * np.uint64(slots) >> np.uint64(32))


@lean(inline="always")
def find_edge(table, slots, node, token):
    """Slot of the edge, or ``~slot`` of the empty place where it would go."""
    slot = slot_of(node, token, slots)
    while True:
        base = 3 * slot
        if table[base] < 0:
            return ~slot
        if table[base] == node and table[base + 1] == token:
            return slot
        slot += 1
        if slot == slots:
            slot = 0


@lean(inline="always")
def put_edge(table, slots, node, token, child):
    slot = ~find_edge(table, slots, node, token)
    table[3 * slot] = node
    table[3 * slot + 1] = token
    table[3 * slot + 2] = child


@lean()
def rehash(old, table):
    """Move every edge of the table `old` into the larger, empty `table`."""
    slots = table.size // 3
    for base in range(0, old.size, 3):
        if old[base] >= 0:
            put_edge(table, slots, old[base], old[base + 1], old[base + 2])


@lean(inline="always")
def views(header):
    text = int32_at(header[TEXT], header[LENGTH] + 1)
    nodes = int32_at(header[NODE], FIELDS * (header[NODES] + 1))
    table = int32_at(header[TABLE], 3 * header[SLOTS])
    return text, nodes, table


@lean(inline="always")
def descend(text, nodes, table, slots, max_depth, query, end, path):
    """Longest context in the tree that ends ``query[:end]``.

    Returns its length, the most recent place where it occurred, the number of its occurrences, the child inside
    whose edge the descent ended (NONE at a node) and the number of nodes passed, whose ids are in `path`.
    """
    node, depth, passed = 0, 0, 0
    recent, count = -1, 0
    limit = min(max_depth, end) if slots > 0 else 0
    while depth < limit:
        slot = find_edge(table, slots, node, query[end - 1 - depth])
        if slot < 0:
            return depth, recent, count, NONE, passed
        child = table[3 * slot + 2]
        if child >= 0:
            base = FIELDS * child
            recent, count, bottom = np.int64(nodes[base + LAST]), np.int64(nodes[base + TOTAL]), nodes[base + DEPTH]
        else:
            recent, count, bottom = np.int64(~child), 1, limit
        stop = min(np.int64(bottom), limit, recent)
        depth += 1
        while depth < stop and text[recent - 1 - depth] == query[end - 1 - depth]:
            depth += 1
        if child < 0 or depth < bottom:
            return depth, recent, count, np.int64(child), passed
        node = np.int64(child)
        path[passed] = node
        passed += 1
    return depth, recent, count, NONE, passed


@lean(inline="always")
def note_follower(nodes, base, token, position):
    """One more occurrence of the node's context, at `position`, followed by `token`."""
    nodes[base + LAST] = position
    nodes[base + TOTAL] += 1
    tally = nodes[base + TALLY]
    for place in range(3):
        shift = 10 * place
        count = (tally >> shift) & 1023
        if count == 0:
            nodes[base + FOLLOWER + place] = token
            nodes[base + TALLY] = tally + (1 << shift)
            nodes[base + NOVEL] += 1
            return
        if nodes[base + FOLLOWER + place] == token:
            if count >= TALLY_LIMIT:
                tally = halved(tally)
            nodes[base + TALLY] = tally + (1 << shift)
            return
    nodes[base + NOVEL] += 1
    replace_rarest(nodes, base, token)


@lean(inline="always")
def halved(tally):
    first, second, third = tally & 1023, (tally >> 10) & 1023, (tally >> 20) & 1023
    return (first + 1) // 2 | ((second + 1) // 2) << 10 | ((third + 1) // 2) << 20


@lean(inline="always")
def replace_rarest(nodes, base, token):
    """Take one from the rarest follower; the newcomer has its place when nothing is left."""
    tally = nodes[base + TALLY]
    rarest, fewest = 2, (tally >> 20) & 1023
    for place in range(1, -1, -1):
        count = (tally >> (10 * place)) & 1023
        if count < fewest:
            rarest, fewest = place, count
    if fewest == 1:
        nodes[base + FOLLOWER + rarest] = token
    else:
        nodes[base + TALLY] = tally - (1 << (10 * rarest))


@lean()
def insert(header, text, nodes, table, token):
    """Enter the context at the end of the text, followed by `token`, along the last descent."""
    end, slots, depth, child = header[LENGTH], header[SLOTS], header[MATCH], header[CHILD]
    for step in range(header[PATHS]):
        note_follower(nodes, FIELDS * header[PATH + step], token, end)
    upper = header[PATH + header[PATHS] - 1] if header[PATHS] > 0 else np.int64(0)
    if child != NONE:
        upper = split(header, text, nodes, table, upper, child, depth)
        note_follower(nodes, FIELDS * upper, token, end)
    if depth < header[MAX_DEPTH]:
        before = np.int64(text[end - 1 - depth]) if end > depth else np.int64(-1)
        put_edge(table, slots, upper, before, ~end)
        header[EDGES] += 1


@lean(inline="always")
def split(header, text, nodes, table, upper, child, depth):
    """Put a node of `depth` into the edge from `upper` to `child`, with the child's record; its id."""
    slots, end, fresh = header[SLOTS], header[LENGTH], header[NODES]
    header[NODES] += 1
    base = FIELDS * fresh
    top = np.int64(nodes[FIELDS * upper + DEPTH])
    slot = find_edge(table, slots, upper, np.int64(text[end - 1 - top]))
    table[3 * slot + 2] = fresh
    if child >= 0:
        for field in range(FIELDS):
            nodes[base + field] = nodes[FIELDS * child + field]
        place = np.int64(nodes[FIELDS * child + LAST])
    else:
        place = ~child
        nodes[base + LAST], nodes[base + TOTAL], nodes[base + NOVEL] = place, 1, 1
        nodes[base + FOLLOWER], nodes[base + TALLY] = text[place], 1
    nodes[base + DEPTH] = depth
    if depth < header[MAX_DEPTH]:
        before = np.int64(text[place - 1 - depth]) if place > depth else np.int64(-1)
        put_edge(table, slots, fresh, before, child)
        header[EDGES] += 1
    return fresh


@lean(inline="always")
def aligned_after(text, end, place, streak, misses, credit, token):
    """The copy model after `token`: it goes on, skips what was replaced or left out, or waits for an insertion to end.

    Returns the place to copy from (-1 for none), the tokens that it got right in a row, the misses since, and the
    credit that earlier streaks left, by which a streak regrows faster than by one.
    """
    if place < 0 or place >= end or misses > PATIENCE:
        return np.int64(-1), np.int64(0), np.int64(0), np.int64(0)
    if text[place] == token:
        return place + 1, min(streak + 1 + credit // REGAIN, 32), misses if streak < ANCHOR else np.int64(0), credit
    credit = max(streak, credit) * 7 // 8
    for skipped in range(1, SKIPS + 1):
        if place + skipped < end and text[place + skipped] == token:
            return place + skipped + 1, 1 + credit // REGAIN, misses + 1, credit
    return place, np.int64(0), misses + 1, credit


@lean(inline="always")
def follow_copy(header, text, token):
    """Note what came where the copy model offered a token, by that token and by the one before; move the model."""
    end, place, streak = header[LENGTH], header[ALIGNED], header[STREAK]
    if 0 <= place < end and streak > 0:
        memory = int32_at(header[MEMO], 4 * MEMORY)
        offered, last = np.int64(text[place]), np.int64(text[end - 1])
        entry = 2 * (offered % MEMORY)
        memory[entry], memory[entry + 1] = offered, token
        entry = 2 * (MEMORY + last % MEMORY)
        memory[entry], memory[entry + 1] = last, token if token != offered else -1
    header[ALIGNED], header[STREAK], header[MISSES], header[CREDIT] = aligned_after(
        text, end, place, streak, header[MISSES], header[CREDIT], token
    )


@lean()
def extend(header, tokens):
    """Append `tokens` as far as the buffers have room; how many were appended, -1 (and none) when one is negative."""
    for token in tokens:
        if token < 0:
            return -1
    for done, token in enumerate(tokens):
        full = header[LENGTH] >= header[TEXT_ROOM] or header[NODES] >= header[NODE_ROOM]
        if full or header[EDGES] + 2 > header[EDGE_ROOM]:
            return done
        text, nodes, table = views(header)
        insert(header, text, nodes, table, token)
        follow_copy(header, text, token)
        end = header[LENGTH]
        text[end] = token
        header[LENGTH] = end + 1
        header[MATCH], header[RECENT], header[COUNT], header[CHILD], header[PATHS] = descend(
            text, nodes, table, header[SLOTS], header[MAX_DEPTH], text, end + 1, header[PATH:]
        )
        if header[MATCH] >= max(ANCHOR, header[STREAK]):
            header[ALIGNED], header[STREAK], header[MISSES] = header[RECENT], header[MATCH], 0
    return tokens.size


@lean()
def chain(header, max_tokens, scratch, path):
    """Continuation of the most recent longest match into ``scratch[max_depth:]``; its length.

    Where an occurrence runs out at the end of the text, the text and the chain so far are looked up anew.
    """
    text, nodes, table = views(header)
    end, cap = header[LENGTH], header[MAX_DEPTH]
    depth, place, made = header[MATCH], header[RECENT], 0
    tail = min(cap, end)
    while made < max_tokens and depth > 0:
        while made < max_tokens and place < end:
            scratch[cap + made] = text[place]
            made += 1
            place += 1
        if made == max_tokens:
            break
        for back in range(1, tail + 1):
            scratch[cap - back] = text[end - back]
        query = scratch[cap - tail : cap + made]
        depth, place, _, _, _ = descend(text, nodes, table, header[SLOTS], cap, query, query.size, path)
    return made


@lean()
def replay(header, output, start, max_tokens, scratch, path, match_length, match_count, offered, run):
    """What the chain of each position of ``output[start:]`` offers, and how much of it the output agrees with.

    Returns the first position that the buffers had no room for, or ``output.size``.
    """
    for place in range(start, output.size):
        match_length[place], match_count[place] = header[MATCH], header[COUNT]
        made = chain(header, max_tokens, scratch, path)
        offered[place] = made
        same, limit, cap = 0, min(made, output.size - place), header[MAX_DEPTH]
        while same < limit and scratch[cap + same] == output[place + same]:
            same += 1
        run[place] = same
        if extend(header, output[place : place + 1]) == 0:
            return place
    return output.size
