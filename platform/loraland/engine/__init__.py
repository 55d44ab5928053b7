"""Engines: token ids in, token ids out, for one base and any adapters loaded into it."""
