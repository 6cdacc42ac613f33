"""The house pair for column addition in free wording: the task, its tokens, and how target and draft were trained."""
