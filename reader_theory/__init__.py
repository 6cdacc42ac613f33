"""What is true of draft trees: acceptance, verification, cost, memory, load and limits."""

__version__ = "0.1.0"
