"""Other engines as peers, each in a process of its own, in an environment of its own."""
