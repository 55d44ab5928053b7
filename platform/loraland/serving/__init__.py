"""Serving over HTTP: a gateway with OpenAI's API, and one replica deployment per base."""
