"""Training of draft heads, their checkpoints, and the head that ships."""
