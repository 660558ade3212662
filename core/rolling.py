"""A pass of the timer looks at some of many, and the next one goes on behind them. Pure."""

from typing import TypeVar

# What places are sorted by: a name, or a pair of them.
P = TypeVar("P", str, tuple[str, str])


def next_places(places: list[P], after: P, most: int) -> list[P]:
    """The next of the sorted places behind the one where the last pass stopped, from their beginning again at the end."""
    behind = [place for place in places if place > after]
    return (behind + places)[: min(most, len(places))]
