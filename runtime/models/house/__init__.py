"""House models: a small target and draft that we trained, and the held-out prompts that go with them.

Importing this package loads nothing heavy; the scripts that made the models live beside it and run as
``python -m runtime.models.house``.
"""

from runtime.models.house.prompt import WORKLOADS, Prompt, house_folder, load_prompts

__all__ = ["WORKLOADS", "Prompt", "house_folder", "load_prompts"]
