"""The report of a space: one HTML file that opens anywhere, and the same as Markdown.

Told what storage holds; loads no model, neither torch nor Ray.
"""
