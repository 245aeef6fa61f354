"""Prints the log of an imaginary harbour: a text of our own for docs/TUTORIAL.md.

The sentences are drawn from a small grammar in which a verb agrees with a subject that may stand
several words back, a ship keeps her kind, and the weather depends on the season: enough for a
model to learn something, in a minute. The text is the same each time.
"""

import random
import sys

LINES = 8000
SEED = 1409

Choices = tuple[str, ...]

SHIPS: dict[str, Choices] = {
    "ferry": ("saint anne", "morning star", "island queen", "two sisters", "saint brendan"),
    "trawler": ("hope", "provider", "silver herring", "good intent", "grey seal", "mary ellen"),
    "tanker": ("meridian", "atlas", "cape wrath", "orion"),
    "tug": ("samson", "bulldog", "little john", "hercules"),
    "pilot boat": ("guide", "lantern", "argus"),
    "collier": ("black prince", "newcastle maid", "industry", "tyne", "wallsend"),
}
CARGOES: dict[str, Choices] = {
    "ferry": ("passengers", "mail and passengers", "sheep and a few passengers", "a school class"),
    "trawler": ("cod", "herring", "mackerel", "an empty hold", "torn nets"),
    "tanker": ("oil", "paraffin", "nothing but ballast"),
    "tug": ("a barge in tow", "two barges in tow", "no tow"),
    "pilot boat": ("a pilot", "two pilots", "a sick seaman"),
    "collier": ("coal", "coal for the gas works", "coke"),
}
PLACES: Choices = (
    *("the islands", "the northern banks", "the estuary", "the capital", "the south"),
    *("the skerries", "the sound", "across the bay"),
)
BERTHS: Choices = (
    *("the old quay", "the coal wharf", "the fish market", "the new pier", "berth four"),
    *("the dry dock", "the customs house"),
)
HOURS: Choices = ("five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SEASONS: dict[str, Choices] = {
    "winter": ("snow", "ice on the quays", "a gale from the north", "hard frost"),
    "spring": ("showers", "a fresh breeze", "fog before dawn"),
    "summer": ("calm", "haze over the water", "thunder in the evening"),
    "autumn": ("fog", "a gale from the west", "heavy rain", "a long swell"),
}
REASONS: Choices = (
    "because of the tide",
    "because of fog",
    "as her engine had failed",
    "for want of a pilot",
    "after a day of repairs",
)
GROUPS: dict[str, Choices] = {
    "was": ("the crane", "the light on the mole", "the slipway", "the bridge over the lock"),
    "were": ("the cranes", "the lights on the mole", "the gates of the lock", "the nets"),
}
STATES: Choices = ("out of order", "under repair", "in use again", "inspected", "painted")


def main() -> None:
    """Print the log."""
    rng = random.Random(SEED)
    season = "winter"
    for line in range(LINES):
        if line % 50 == 0:
            season = list(SEASONS)[line // 50 % len(SEASONS)]
        sys.stdout.write(_sentence(rng, season) + "\n")


def _sentence(rng: random.Random, season: str) -> str:
    kinds = (_arrival, _arrival, _departure, _departure, _waiting, _works, _weather)
    return rng.choice(kinds)(rng, season)


def _ship(rng: random.Random) -> tuple[str, str]:
    """Draw a ship: her kind, and what she is called."""
    kind = rng.choice(list(SHIPS))
    return kind, f"the {kind} {rng.choice(SHIPS[kind])}"


def _when(rng: random.Random) -> str:
    return f"at {rng.choice(HOURS)} in the {rng.choice(('morning', 'evening'))}"


def _arrival(rng: random.Random, season: str) -> str:
    kind, ship = _ship(rng)
    reason = f" , late {rng.choice(REASONS)}" if rng.random() < 0.3 else ""
    cargo = rng.choice(CARGOES[kind])
    return f"{_when(rng)} {ship} came in from {rng.choice(PLACES)} with {cargo}{reason}"


def _departure(rng: random.Random, season: str) -> str:
    _, ship = _ship(rng)
    return f"{ship} left {rng.choice(BERTHS)} {_when(rng)} for {rng.choice(PLACES)}"


def _waiting(rng: random.Random, season: str) -> str:
    count = rng.choice(("two", "three", "four"))
    kind, ship = _ship(rng)
    if rng.random() < 0.5:
        return f"{count} {kind}s from {rng.choice(PLACES)} were waiting off the mole for the tide"
    cargo = rng.choice(CARGOES[kind])
    return f"{ship} , which had come in with {cargo} , was still at {rng.choice(BERTHS)}"


def _works(rng: random.Random, season: str) -> str:
    verb = rng.choice(list(GROUPS))
    subject, place = rng.choice(GROUPS[verb]), rng.choice(BERTHS)
    near = f" by {place}" if rng.random() < 0.5 else ""
    return f"{subject}{near} {verb} {rng.choice(STATES)}"


def _weather(rng: random.Random, season: str) -> str:
    return f"{season} weather : {rng.choice(SEASONS[season])} all day"


if __name__ == "__main__":
    main()
