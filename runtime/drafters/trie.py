"""One trie for one row and step: what every source offers, equal siblings merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["DraftTrie"]


class DraftTrie:
    """Tokens below the last committed token, node 0; a child knows its parent, and no two siblings share a token.

    Attributes
    ----------
    tokens, parents : list of int
        Of each node; node 0 is the last committed token, whose parent is -1.
    children : dict from (parent, token) to node
        Where a token leads.
    sources : list of int
        Of each node but the root, where a joined tree tells: 1 retrieval, 2 the draft, 3 both; else empty.
    """

    __slots__ = ("children", "parents", "sources", "tokens")

    def __init__(self, root: int) -> None:
        self.tokens = [root]
        self.parents = [-1]
        self.children: dict[tuple[int, int], int] = {}
        self.sources: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def child(self, parent: int, token: int) -> int:
        """The child of `parent` with `token`, added if there was none."""
        key = (parent, token)
        node = self.children.get(key)
        if node is None:
            node = self.children[key] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(parent)
        return node

    def add_chain(self, tokens: Iterable[int]) -> None:
        """Hang a chain off the root."""
        node = 0
        for token in tokens:
            node = self.child(node, token)

    def add_tree(self, tokens: Iterable[int], parents: Iterable[int]) -> None:
        """Hang a tree off the root; `parents` index the tree's own nodes, -1 for the root."""
        place: list[int] = []
        for token, parent in zip(tokens, parents, strict=True):
            place.append(self.child(place[parent] if parent >= 0 else 0, token))

    def follow(self, pick: Callable[[list[int]], int]) -> tuple[list[int], list[int]]:
        """Walk down from the root along the target's own tokens.

        Parameters
        ----------
        pick : callable
            The target's token after a path of nodes (the root first); called once a node, in order, and for no
            node off the path.

        Returns
        -------
        path : list of int
            Nodes on the path, the root first: what a cache must keep.
        emitted : list of int
            Tokens that the step emits: those of the path below the root, and the one where it leaves the trie.
        """
        path, emitted, node = [0], [], 0
        while True:
            token = pick(path)
            emitted.append(token)
            following = self.children.get((node, token))
            if following is None:
                return path, emitted
            path.append(following)
            node = following
