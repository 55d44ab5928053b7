"""Puts this library's log lines into Serve's own files, where each carries its request's id.

Serve gives every request an id, the client's `x-request-id` where there is one, and hands it on to
replicas; the audit line has it beside the client's trace id. So one id finds a request everywhere.
"""

from __future__ import annotations

import logging

SERVE = "ray.serve"  # whose handlers write to the logs of this actor and know its request


def into_serve_logs() -> None:
    """Called once in an actor of Serve; again it changes nothing."""
    ours = logging.getLogger("loraland")
    ours.setLevel(logging.INFO)
    for handler in logging.getLogger(SERVE).handlers:
        if handler not in ours.handlers:
            ours.addHandler(handler)
