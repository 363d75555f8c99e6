"""
The rules: heroes fight in rounds of matches until one is left.

Owns the heroes and what happens in a game. Does not own storing or logging it (store, play).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["HEROES", "Attack", "Death", "Event", "Game", "Hero", "MatchStarted", "RoundStarted", "Timeout"]

HEROES = (
    *("Paper Tiger", "The Lighthouse", "Signal Jack", "Iron Tulip", "Captain Kettle", "Madame Thunder", "Night Porter"),
    *("Doctor Drizzle", "The Cartographer", "Velvet Anvil", "Lady Latency", "The Semaphore", "Copper Finch"),
    *("Mister Monday", "The Understudy", "Granite Grace", "Professor Pendulum", "Salt Witch", "The Ferryman", "Hush"),
)
# A match without a death ends after this many attacks.
ATTACKS_IN_A_MATCH = 12
HEALTH = 100


@dataclass(slots=True)
class Hero:
    """One player's hero."""

    name: str
    strength: int
    health: int = HEALTH
    # The points of health that it has taken from others.
    damage: int = 0


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """The living heroes are paired for matches."""

    number: int
    hero_count: int


@dataclass(frozen=True, slots=True)
class MatchStarted:
    """Two heroes begin to attack each other in turn."""

    one: Hero
    other: Hero


@dataclass(frozen=True, slots=True)
class Attack:
    """One hero attacks the other."""

    attacker: Hero
    defender: Hero
    # The points of health that the defender loses.
    damage: int


@dataclass(frozen=True, slots=True)
class Death:
    """A hero has no health left."""

    hero: Hero
    winner: Hero
    # The place in the final order: the first to die is last.
    rank: int


@dataclass(frozen=True, slots=True)
class Timeout:
    """A match ended without a death."""

    one: Hero
    other: Hero


type Event = RoundStarted | MatchStarted | Attack | Death | Timeout


@dataclass(slots=True)
class Game:
    """
    One game.

    Args:
        heroes: At least one.
        dice: Decides everything: the same heroes and dice make the same game.

    Attributes:
        round_count, timeout_count: The rounds, and the matches without a death, so far.
        dead: The heroes that died, in the order of their deaths.
    """

    heroes: Sequence[Hero]
    dice: random.Random
    round_count: int = 0
    timeout_count: int = 0
    dead: list[Hero] = field(default_factory=list)

    @classmethod
    def with_players(cls, count: int, dice: random.Random) -> "Game":
        """A game with this many heroes. If there are not enough names, names are used again, with a number."""
        turns = range(count // len(HEROES) + 1)
        names = [f"{name} {turn + 1}" if turn else name for turn in turns for name in HEROES]
        chosen = dice.sample(names[: max(count, len(HEROES))], count)
        return cls([Hero(name, strength=dice.randint(6, 18)) for name in chosen], dice)

    @property
    def living(self) -> list[Hero]:
        """The heroes that have health left."""
        return [hero for hero in self.heroes if hero.health > 0]

    def play(self) -> Iterator[Event]:
        """Play until one hero is left; yields each event when it happens."""
        while len(living := self.living) > 1:
            self.round_count += 1
            yield RoundStarted(self.round_count, len(living))
            self.dice.shuffle(living)
            for one, other in zip(living[::2], living[1::2], strict=False):
                yield from self._match(one, other)

    def _match(self, one: Hero, other: Hero) -> Iterator[Event]:
        yield MatchStarted(one, other)
        for _ in range(ATTACKS_IN_A_MATCH):
            damage = min(self.dice.randint(one.strength // 3, 4 * one.strength // 3), other.health)
            other.health -= damage
            one.damage += damage
            yield Attack(one, other, damage)
            if not other.health:
                self.dead.append(other)
                yield Death(other, one, rank=len(self.heroes) - len(self.dead) + 1)
                return
            one, other = other, one
        self.timeout_count += 1
        yield Timeout(one, other)
