"""A trained head that drafts from the target's own hidden states: its shape, weights, forward and checkpoints."""
