"""Where keys and values live, and how little of them a step moves."""
