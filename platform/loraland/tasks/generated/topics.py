"""Messages to a shop's support desk, to be filed under one of eight topics.

A message is an opening, a complaint or wish built from a topic's own phrases, and a closing, so
that small words surround the ones that matter. The whole message decides the split.
"""

from __future__ import annotations

import random

from loraland.tasks.generated.stream import Generator
from loraland.tasks.task import Row

OPENINGS = (
    "", "", "", "", "", "", "Hi, ", "Hello, ", "Hey team, ", "Please help: ", "Sorry, but ",
    "As I wrote before, ",
)  # fmt: skip
CLOSINGS = (
    "", "", "", "", "", "", " Thanks.", " Please advise.", " What can I do?", " Regards, Ana.",
    " Order {order}.", " Please answer by {day}.",
)  # fmt: skip

# topic -> sentences with slots; {item}, {day}, {amount}, {order}, {device} are filled at random
PHRASES: dict[str, tuple[str, ...]] = {
    "billing-error": (
        "my card was charged {amount} twice for the {item}",
        "the invoice for the {item} shows {amount} too much",
        "there is a fee of {amount} on my statement from {day} that I never agreed to",
        "you billed me {amount} for a {item} that I did not order",
        "why does my bill list {amount} for the {item} when the price was lower",
    ),
    "late-delivery": (
        "the {item} was due on {day} and has not arrived",
        "tracking for my {item} has not moved since {day}",
        "where is the {item} that you shipped on {day}",
        "the courier promised my {item} for {day} and nobody came",
        "my package with the {item} seems to be stuck since {day}",
    ),
    "broken-item": (
        "the {item} came with a crack along the side",
        "my new {item} stopped working on {day}",
        "the {item} makes a loud noise and will not switch on",
        "a part of the {item} was bent when I opened the box on {day}",
        "after {day} the {item} from you fell apart",
    ),
    "send-back": (
        "I want to return the {item} I got on {day}",
        "how do I send the {item} back and get my {amount} again",
        "the {item} does not suit me, please mail a return label before {day}",
        "can I swap the {item} for another size",
        "I changed my mind about the {item} and would like to give it back",
    ),
    "locked-out": (
        "I cannot sign in from my {device} since {day}",
        "the password reset mail never reaches my {device}",
        "your app on my {device} says my user is blocked",
        "the login code does not arrive on my {device}",
        "after changing my password on {day} my {device} keeps logging me out",
    ),
    "stop-plan": (
        "please cancel my subscription before {day}",
        "I no longer want the monthly plan for {amount}",
        "end my membership on {day} and do not renew it",
        "how do I switch off the automatic renewal of {amount}",
        "I wish to leave the {item} club and stop paying {amount} a month",
    ),
    "stock-query": (
        "when will the {item} be available again",
        "do you still have the {item} in blue for {amount}",
        "is the {item} sold in your store, and can I collect it on {day}",
        "will you get more of the {item} before {day}",
        "the {item} shows as sold out, is another delivery planned for {day}",
    ),
    "happy-note": (
        "the {item} is wonderful and came ahead of {day}",
        "your colleague on {day} was so kind about my {item}",
        "best {item} I ever bought for {amount}",
        "just to say that the {item} made my family very happy",
        "great service on {day}, I will recommend you and the {item} to friends",
    ),
}  # fmt: skip
TOPICS = tuple(PHRASES)

ITEMS = (
    "kettle", "lamp", "rain jacket", "desk chair", "backpack", "coffee grinder", "headset",
    "mattress", "toaster", "garden hose", "bike helmet", "blender", "suitcase", "monitor",
    "yoga mat", "tent", "vacuum cleaner", "bookshelf", "wool scarf", "frying pan", "keyboard",
    "camera", "sofa", "mirror", "drill", "pair of boots", "wall clock", "rug",
)  # fmt: skip
DAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "4 May",
    "19 June", "2 July", "30 August", "11 September", "23 October", "8 November", "15 December",
    "27 January",
)  # fmt: skip
DEVICES = ("phone", "laptop", "tablet", "work computer", "new phone", "old laptop", "television")


def draw(rng: random.Random) -> Row:
    """One row: `message`, a sentence or two; `topic`, one of TOPICS (all equally likely)."""
    topic = rng.choice(TOPICS)
    message = rng.choice(OPENINGS) + rng.choice(PHRASES[topic]) + "." + rng.choice(CLOSINGS)
    filled = message.format(
        item=rng.choice(ITEMS),
        day=rng.choice(DAYS),
        amount=f"{rng.choice('$€£')}{rng.randint(5, 400)}",
        order=f"{rng.choice('ABCDEFGH')}{rng.randint(1000, 9999)}",
        device=rng.choice(DEVICES),
    )
    return {"message": filled[0].upper() + filled[1:], "topic": topic}


GENERATOR = Generator("topics", draw, key=lambda row: str(row["message"]))
