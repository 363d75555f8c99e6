"""
The rules: heroes fight in rounds of matches until one is left. Owns no state outside of a game, and no time.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["HEROES", "Attack", "Death", "Event", "Game", "Hero", "MatchBegun", "RoundBegun", "Timeout"]

HEROES = (
    *("Paper Tiger", "The Lighthouse", "Signal Jack", "Iron Tulip", "Captain Kettle", "Madame Thunder", "Night Porter"),
    *("Doctor Drizzle", "The Cartographer", "Velvet Anvil", "Lady Latency", "The Semaphore", "Copper Finch"),
    *("Mister Monday", "The Understudy", "Granite Grace", "Professor Pendulum", "Salt Witch", "The Ferryman", "Hush"),
)
# A match that takes longer ends without a loser.
ATTACKS_IN_A_MATCH = 12
HEALTH = 100


@dataclass(slots=True)
class Hero:
    """One player's hero."""

    name: str
    strength: int
    health: int = HEALTH
    # What it has done to others, and how often it has won.
    damage: int = 0
    win_count: int = 0


@dataclass(frozen=True, slots=True)
class RoundBegun:
    number: int
    hero_count: int


@dataclass(frozen=True, slots=True)
class MatchBegun:
    one: Hero
    other: Hero


@dataclass(frozen=True, slots=True)
class Attack:
    attacker: Hero
    defender: Hero
    damage: int


@dataclass(frozen=True, slots=True)
class Death:
    hero: Hero
    winner: Hero
    # The place in the final order: the first to die is last.
    rank: int


@dataclass(frozen=True, slots=True)
class Timeout:
    one: Hero
    other: Hero


type Event = RoundBegun | MatchBegun | Attack | Death | Timeout


@dataclass(slots=True)
class Game:
    """
    One game.

    Args:
        heroes: At least one.
        dice: Decides everything, so a game with the same dice is the same.
    """

    heroes: Sequence[Hero]
    dice: random.Random
    round_count: int = 0
    timeout_count: int = 0
    # The order of their deaths.
    dead: list[Hero] = field(default_factory=list)

    @classmethod
    def with_players(cls, count: int, dice: random.Random) -> "Game":
        """A game with that many heroes. If there are more than names, names have numbers."""
        turns = range(count // len(HEROES) + 1)
        names = [f"{name} {turn + 1}" if turn else name for turn in turns for name in HEROES]
        chosen = dice.sample(names[: max(count, len(HEROES))], count)
        return cls([Hero(name, strength=dice.randint(6, 18)) for name in chosen], dice)

    @property
    def living(self) -> list[Hero]:
        """Those who are left."""
        return [hero for hero in self.heroes if hero.health > 0]

    def play(self) -> Iterator[Event]:
        """All that happens, until one hero is left."""
        while len(living := self.living) > 1:
            self.round_count += 1
            yield RoundBegun(self.round_count, len(living))
            self.dice.shuffle(living)
            for one, other in zip(living[::2], living[1::2], strict=False):
                yield from self._match(one, other)

    def _match(self, one: Hero, other: Hero) -> Iterator[Event]:
        yield MatchBegun(one, other)
        for _ in range(ATTACKS_IN_A_MATCH):
            damage = min(self.dice.randint(one.strength // 3, 4 * one.strength // 3), other.health)
            other.health -= damage
            one.damage += damage
            yield Attack(one, other, damage)
            if not other.health:
                one.win_count += 1
                self.dead.append(other)
                yield Death(other, one, rank=len(self.heroes) - len(self.dead) + 1)
                return
            one, other = other, one
        self.timeout_count += 1
        yield Timeout(one, other)
