"""Audit an engine, ours or anybody's: sample from it, and hold its tokens against the law of the target."""
