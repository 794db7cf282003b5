"""Rounds: interleaved, repeated where the machine was busy, fewer for what is slow. No test looks at a time."""

import pytest
import torch

from xent._bench import clock
from xent._bench.clock import BUSY, LONG, TURN, Round, interleaved, quietest, turns_of


@pytest.fixture
def waits(monkeypatch):
    """What the rounds to come wait, in parts of their time; each round gives its number in ms."""
    waited = iter(())

    def set_to(*values):
        nonlocal waited
        waited = iter(values)

    made = []

    def one_round(clocks):
        made.append(list(clocks))
        return Round(next(waited), {name: float(len(made)) for name in clocks})

    monkeypatch.setattr(clock, "one_round", one_round)
    set_to.made = made
    return set_to


def jobs(*names):
    return {name: lambda: None for name in names}


def test_busy_rounds_are_made_up_for_and_left_out(waits):
    waits(0.0, 0.9, 0.01, 0.8, 0.0)
    found = interleaved(jobs("a", "b"), 3, "cpu")
    assert found.times["a"].rounds == (1.0, 5.0, 3.0)
    assert found.waited == 0.01
    assert waits.made == [["a", "b"]] * 5


def test_no_more_rounds_than_twice_as_many(waits):
    waits(*[BUSY * 2, BUSY * 3] * 4)
    found = interleaved(jobs("a"), 4, "cpu")
    assert len(waits.made) == 8
    assert len(found.times["a"].rounds) == 4
    assert found.waited == BUSY * 2


def test_each_round_runs_all_jobs_in_turn():
    order = []
    named = {name: lambda name=name: order.append(name) for name in "abc"}
    found = interleaved(named, 2, "cpu")
    changes = [name for at, name in enumerate(order) if at == 0 or order[at - 1] != name]
    rounds = len(changes) // 3
    assert changes == list("abc") * rounds
    assert rounds >= 3  # the first call of each, and two rounds
    assert all(len(times.rounds) == 2 and min(times.taken) > 0 for times in found.times.values())


def test_a_job_that_raises_is_out_with_its_words():
    def raises():
        raise ValueError("no such thing\nand more")

    found = interleaved(jobs("a") | {"b": raises}, 1, "cpu")
    assert found.failed == {"b": "ValueError: no such thing"}
    assert list(found.times) == ["a"]


def test_the_call_that_compiles_is_not_taken_for_the_time_of_a_call():
    calls = {"plain": 0, "compiled": 0}

    def job(name):
        def call():
            calls[name] += 1

        return call

    clock.first_calls({name: job(name) for name in calls}, ["compiled"])
    assert calls == {"plain": 1, "compiled": 2}


def test_a_slow_job_takes_part_in_fewer_rounds():
    assert turns_of(0.001, 5) == 10
    assert turns_of(TURN / 10, 5) == 10
    assert turns_of(TURN / 4, 5) == 4
    assert turns_of(TURN / 1.5, 5) == 1
    assert turns_of(TURN * 1.01, 5) == 0
    assert turns_of(LONG * 0.99, 100) == int(TURN / (2 * LONG * 0.99))


def test_a_job_that_takes_no_turn_has_the_time_of_its_first_call(waits, monkeypatch):
    monkeypatch.setattr(clock, "first_calls", lambda jobs, compiled: ({"slow": TURN * 2, "a": 0.1}, {}))
    waits(0.0, 0.0)
    found = interleaved(jobs("slow", "a"), 2, "cpu")
    assert found.times["slow"].rounds == (TURN * 2e3,)
    assert found.times["a"].rounds == (1.0, 2.0)
    assert waits.made == [["a"], ["a"]]


def test_a_slow_job_keeps_the_times_of_a_round_that_does_not_count():
    done = [Round(0.5, {"a": 1.0, "slow": 9.0}), Round(0.0, {"a": 2.0}), Round(0.1, {"a": 3.0})]
    times, waited = quietest(done, 2)
    assert times["a"].rounds == (2.0, 3.0)
    assert times["slow"].rounds == (None, None, 9.0)
    assert times["slow"].over(times["a"]).rounds == (9.0 / 2.5,)
    assert waited == 0.1


def test_waiting_for_cores_is_read_from_every_thread(tmp_path, monkeypatch):
    for thread, waited in (("1", 2_000_000_000), ("2", 500_000_000)):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(f"123 {waited} 7\n")
    monkeypatch.setattr(clock, "Path", lambda path: tmp_path)
    assert clock.seconds_waited() == 2.5


def test_threads_of_the_timer_are_torch_s():
    seen = []
    torch.set_num_threads(2)
    try:
        interleaved({"a": lambda: seen.append(torch.get_num_threads())}, 1, "cpu")
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {2}
