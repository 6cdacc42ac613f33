"""Proposers inside other engines, driven by batches in those engines' own shapes."""
