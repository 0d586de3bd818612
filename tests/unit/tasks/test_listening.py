"""A worker is deaf when rows wait, the broker takes its wake-ups, and none of them reaches it."""

from dataclasses import dataclass, field

import pytest

from app.errors import Unavailable
from workers.tasks.listening import UNHEARD, Listening


@dataclass
class Surroundings:
    """What a worker finds around it, and what it did."""

    rows_wait: bool = True
    database_answers: bool = True
    broker_answers: bool = True
    hears: bool = False
    sent: int = 0
    given_up: int = 0
    listening: Listening = field(init=False)

    def __post_init__(self) -> None:
        self.listening = Listening(waits=self._waits, wake=self._wake, give_up=self._give_up)

    def look(self, times: int) -> None:
        for _ in range(times):
            self.listening.look()

    def _waits(self) -> bool:
        if not self.database_answers:
            raise Unavailable("The database cannot be reached now.")
        return self.rows_wait

    def _wake(self) -> bool:
        self.sent += self.broker_answers
        if self.broker_answers and self.hears:
            with self.listening.at_work():
                pass
        return self.broker_answers

    def _give_up(self) -> None:
        self.given_up += 1


def test_a_deaf_worker_gives_up_after_its_wake_ups_and_not_before() -> None:
    around = Surroundings()
    around.look(UNHEARD)
    assert (around.sent, around.given_up) == (UNHEARD, 0)
    around.look(2)
    assert (around.sent, around.given_up) == (UNHEARD, 2), "until it has ended"


@pytest.mark.parametrize("lacking", ["rows_wait", "database_answers", "broker_answers"])
def test_what_is_no_deafness(lacking: str) -> None:
    around = Surroundings(**{lacking: False})
    around.look(10 * UNHEARD)
    assert (around.sent, around.given_up) == (0, 0)


def test_whoever_hears_is_never_given_up() -> None:
    """A wake-up may be heard, and its task be over, before the look that sent it ends."""
    around = Surroundings(hears=True)
    for _ in range(10):
        around.look(UNHEARD - 1)
        with around.listening.at_work():
            around.look(10 * UNHEARD)
    assert around.given_up == 0


def test_hearing_again_and_an_empty_queue_start_the_count_anew() -> None:
    around = Surroundings()
    around.look(UNHEARD)
    with around.listening.at_work():
        pass
    around.look(UNHEARD)
    assert around.given_up == 0
    around.rows_wait = False
    around.look(1)
    around.rows_wait = True
    around.look(UNHEARD)
    assert around.given_up == 0
    around.look(1)
    assert around.given_up == 1
