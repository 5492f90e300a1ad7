"""Work in portions: nothing is done twice, damaged or foreign outcomes are not believed, processes share."""

import os
import time

import pytest

from kdiga.runs.work_units import ResultCache, WorkUnit, key_hash, run_work_units
from tests.reference_process import ended, start, until


def work_units(calls, count=4):
    def work(number):
        calls.append(number)
        return {"square": number**2, "third": number / 3}

    return [WorkUnit("squares", {"number": n}, 2, lambda n=n: work(n)) for n in range(count)]


@pytest.mark.parametrize("kept", [False, True])
def test_outcomes_come_in_order_and_survive_json_exactly(tmp_path, kept):
    told = []
    outcomes = run_work_units(
        work_units([]), ResultCache(tmp_path if kept else None), lambda *event: told.append(event)
    )
    assert outcomes == [{"square": n**2, "third": n / 3} for n in range(4)]
    assert told == [("squares", 2 * n, 8) for n in range(1, 5)]


def test_what_is_done_is_not_done_again_and_more_is_added(tmp_path):
    calls = []
    run_work_units(work_units(calls, 3), ResultCache(tmp_path))
    outcomes = run_work_units(work_units(calls, 5), ResultCache(tmp_path))
    assert calls == [0, 1, 2, 3, 4]
    assert len(outcomes) == 5


@pytest.mark.parametrize("damage", ["", "{", '{"key": {"number": 9}, "outcome": 3}', "[]", '{"outcome": 3}'])
def test_a_damaged_or_foreign_file_is_done_again(tmp_path, damage):
    calls = []
    expected = run_work_units(work_units(calls), ResultCache(tmp_path))
    (tmp_path / f"{key_hash({'number': 2})}.json").write_text(damage)
    assert run_work_units(work_units(calls), ResultCache(tmp_path)) == expected
    assert calls == [0, 1, 2, 3, 2]


def test_not_a_number_is_refused_where_it_is_kept(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        ResultCache(tmp_path).put({"a": 1}, float("nan"))
    assert list(tmp_path.iterdir()) == []


def _slowly(folder, log, count, gate):
    (gate / str(os.getpid())).touch()
    while not (gate / "open").exists():
        time.sleep(0.01)

    def work(number):
        with log.open("a") as file:
            file.write(f"{os.getpid()} {number}\n")
        time.sleep(0.15)
        return number

    run_work_units([WorkUnit("slow", {"number": n}, 1, lambda n=n: work(n)) for n in range(count)], ResultCache(folder))


def test_processes_share_and_a_killed_one_leaves_its_portion_to_others(tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    log.touch()
    gate.mkdir()
    first, second = (start(_slowly, tmp_path / "shelf", log, 8, gate) for _ in range(2))
    for process in (first, second):
        until((gate / str(process.pid)).exists, process)
    (gate / "open").touch()
    until(lambda: log.read_text().count("\n") >= 5, first)
    first.kill()
    ended(first)
    assert ended(second) == 0
    lines = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    assert {number for _, number in lines} == set(range(8))
    assert {process for process, _ in lines} == {first.pid, second.pid}
    assert len(lines) <= 9, "only the killed process's own portion may be done twice"
