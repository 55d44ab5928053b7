"""The report's study as data, what its numbers say, and what they foretell of a new task.

Stands on `tasks` alone; imports neither torch nor Ray.
"""
