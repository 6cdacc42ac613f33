"""Training of draft heads: text that the target writes, the unrolled forward, objectives, initialisation, the loop."""
