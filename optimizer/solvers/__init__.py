"""One method, one file; the planner loads them on first use."""
