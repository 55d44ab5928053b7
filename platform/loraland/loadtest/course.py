"""How a load test goes: its loop, its ends and its limits. All mistakes are told together."""

from __future__ import annotations

from dataclasses import dataclass

from loraland.errors import InvalidConfiguration

MOST_RATE, MOST_CLIENTS, MOST_REQUESTS, MOST_SECONDS = 10_000.0, 4096, 1_000_000, 86_400.0
IN_FLIGHT = 4096  # requests under way of an open loop; a client has only so many sockets


@dataclass(frozen=True, slots=True)
class Course:
    """An open loop where `clients` is None, a closed one otherwise. Raises InvalidConfiguration."""

    clients: int | None = 32  # that ask one request after the other
    requests: int | None = None  # at most, those of the warm-up included
    seconds: float | None = None  # in which requests begin; those under way then still end
    warm_up: int = 0  # first requests, which are asked and not counted
    timeout_s: float = 300.0  # of one request, from when it is sent
    in_flight: int = IN_FLIGHT  # of an open loop; what is due beyond it is not sent, and told

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} is {value:g}; give {least:g} to {most:g}"
            for name, value, least, most in (
                ("clients", self.clients, 1, MOST_CLIENTS),
                ("requests", self.requests, 1, MOST_REQUESTS),
                ("seconds", self.seconds, 0.001, MOST_SECONDS),
                ("warm_up", self.warm_up, 0, MOST_REQUESTS),
                ("timeout_s", self.timeout_s, 0.001, MOST_SECONDS),
                ("in_flight", self.in_flight, 1, IN_FLIGHT),
            )
            if value is not None and not least <= value <= most
        ]
        if self.requests is None and self.seconds is None:
            mistakes.append("give requests, seconds, or both: a load test has an end")
        if self.requests is not None and self.requests <= self.warm_up:
            mistakes.append(
                f"requests is {self.requests} and warm_up {self.warm_up}: nothing would be counted"
            )
        if mistakes:
            raise InvalidConfiguration("; ".join(mistakes))


def check_rate(rate: float) -> float:
    """The rate of an open loop in requests per second. Raises InvalidConfiguration."""
    if not 0.001 <= rate <= MOST_RATE:
        raise InvalidConfiguration(f"rate is {rate:g}; give 0.001 to {MOST_RATE:g} requests/s")
    return rate
