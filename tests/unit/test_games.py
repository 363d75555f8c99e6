"""The rules of the demo's games: each game ends, and each of its heroes has a rank."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from project.demo.games.combat import (
    ATTACKS_IN_A_MATCH,
    HEALTH,
    Attack,
    Death,
    Event,
    Game,
    Hero,
    MatchStarted,
    RoundStarted,
    Timeout,
)

players = st.integers(min_value=2, max_value=60)
seeds = st.integers(min_value=0, max_value=2**32 - 1)


def dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a game


def played(count: int, seed: int) -> tuple[Game, list[Event]]:
    """A game that is over, and all that happened in it."""
    game = Game.with_players(count, dice(seed))
    return game, [*game.play()]


@given(players, seeds)
def test_every_hero_has_one_rank(count: int, seed: int) -> None:
    """The last to die is second; the survivor has won."""
    game, events = played(count, seed)
    deaths = [event for event in events if isinstance(event, Death)]
    (winner,) = game.living
    assert [death.rank for death in deaths] == [*range(count, 1, -1)]
    assert [death.hero for death in deaths] == game.dead
    assert {hero.name for hero in (winner, *game.dead)} == {hero.name for hero in game.heroes}
    assert len({hero.name for hero in game.heroes}) == count
    assert deaths[-1].winner is winner


@given(players, seeds)
def test_damage_adds_up(count: int, seed: int) -> None:
    """A hero's damage is the health that the others lost to it. No attack takes more health than is left."""
    game, events = played(count, seed)
    attacks = [event for event in events if isinstance(event, Attack)]
    assert all(attack.damage > 0 for attack in attacks)
    for hero in game.heroes:
        assert hero.damage == sum(attack.damage for attack in attacks if attack.attacker is hero)
        assert HEALTH - hero.health == sum(attack.damage for attack in attacks if attack.defender is hero)
    assert all(hero.health == 0 for hero in game.dead)


@given(players, seeds)
def test_the_same_seed_is_the_same_game(count: int, seed: int) -> None:
    """Each attack is the same."""
    (one, one_events), (other, other_events) = played(count, seed), played(count, seed)
    assert [repr(event) for event in one_events] == [repr(event) for event in other_events]
    assert one.heroes == other.heroes
    assert (one.round_count, one.timeout_count) == (other.round_count, other.timeout_count)


def test_another_seed_is_another_game() -> None:
    assert len({repr(played(10, seed)[0].heroes) for seed in range(20)}) == 20


@given(players, seeds)
def test_in_a_round_every_hero_fights_at_most_once(count: int, seed: int) -> None:
    """If the number of heroes is odd, one waits. The dead do not fight."""
    game, left, number = Game.with_players(count, dice(seed)), count, 0
    fighters: list[str] = []
    for event in game.play():
        match event:
            case RoundStarted():
                number += 1
                # The matches of the round before.
                assert number == 1 or len(fighters) == left // 2 * 2
                left = count - len(game.dead)
                assert (event.number, event.hero_count) == (number, left)
                fighters.clear()
            case MatchStarted():
                assert event.one.health and event.other.health
                fighters += [event.one.name, event.other.name]
                assert len({*fighters}) == len(fighters)
            case Attack():
                assert event.attacker.health
                assert {event.attacker.name, event.defender.name} == {*fighters[-2:]}
    assert number == game.round_count


@pytest.mark.parametrize("seed", range(5))
def test_two_heroes_fight_until_one_is_dead(seed: int) -> None:
    """The smallest game."""
    game, events = played(2, seed)
    assert sum(isinstance(event, Death) for event in events) == 1
    assert sum(isinstance(event, MatchStarted) for event in events) == game.round_count
    assert game.timeout_count == game.round_count - 1


def test_a_match_that_takes_too_long_has_no_loser() -> None:
    """Both go on with the health that they have left, so the game ends."""
    # In one match, each can lose at most 24 points.
    game = Game([Hero("Tortoise", strength=3), Hero("Snail", strength=3)], dice(1))
    events = [*game.play()]
    first = events[2 : 3 + ATTACKS_IN_A_MATCH]
    assert [type(event) for event in first] == [Attack] * ATTACKS_IN_A_MATCH + [Timeout]
    attackers = [event.attacker.name for event in first if isinstance(event, Attack)]
    assert len({*attackers[::2]}) == len({*attackers[1::2]}) == 1
    assert attackers[0] != attackers[1]
    assert isinstance(events[-1], Death)
    assert game.timeout_count == game.round_count - 1 > 0


def test_one_hero_has_won_without_a_fight() -> None:
    game, events = played(1, 0)
    assert events == []
    assert [hero.damage for hero in game.living] == [0]


@pytest.mark.parametrize("count", [20, 21, 40, 41, 1_000])
def test_more_heroes_than_names_have_numbers(count: int) -> None:
    """So each name is unique in a game."""
    names = [hero.name for hero in Game.with_players(count, dice(0)).heroes]
    assert len({*names}) == len(names) == count
    assert any(name.endswith(" 2") for name in names) == (count > 20)
