"""Live: what a server counts as it serves, and the schedule that follows it."""
