"""Who may ask what, how much of it, and what is written down about it.

Keys lie in storage as hashes (`keys`, `store`, `ring`), patterns say which models (`permission`),
routes are closed unless listed (`policy`), limits are counted in one place for all gateways
(`books`, `keeper`, `limiter`), and `gate` and `guard` put all of that around the application.
"""
