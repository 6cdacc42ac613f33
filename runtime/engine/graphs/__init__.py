"""The engine in static shapes: every step is a few calls of fixed size, which a GPU replays as CUDA graphs."""
