"""How a hidden ceiling is searched for, and how files wait for room in the storage."""

from __future__ import annotations

import pytest

from carpool._core.quota import NEVER, SURE_TOKENS, Ceiling, Flight, Pauses, Storage

NOW = 1_000.0
MILLION = 1_000_000


def ceiling(start: int = 3 * MILLION, most: int | None = None) -> Ceiling:
    return Ceiling(start, most, Pauses(30.0, 300.0, "m"), Pauses(30.0, 300.0, "m/look"))


def send(of: Ceiling, tokens: int, rows: int = 10) -> Flight:
    flight = of.plan(tokens, rows)
    of.sent(flight)
    return flight


def take(of: Ceiling, tokens: int, rows: int = 10) -> Flight:
    flight = send(of, tokens, rows)
    of.accepted(flight)
    return flight


def refuse(of: Ceiling, tokens: int, rows: int = 10, now: float | None = None) -> Flight:
    flight = send(of, tokens, rows)
    of.refused(flight, max(NOW, of.blocked_until) if now is None else now)
    return flight


# -- up


def test_room_doubles_with_each_create_that_is_taken_beyond_the_ceiling() -> None:
    one, offers = ceiling(MILLION), []
    for _ in range(12):
        room, at = one.offer(1, 10**12)
        assert at == 0.0
        offers.append(room)
        take(one, room)
    assert offers == [MILLION, *(MILLION * 2**n for n in range(11))]
    assert one.tokens == 2048 * MILLION


def test_beyond_the_ceiling_one_create_goes_at_a_time() -> None:
    one = ceiling(MILLION)
    first = send(one, MILLION)
    assert one.offer(1, 10**9) == (0, NEVER)
    one.accepted(first)
    second = one.plan(500_000, 10)
    assert one.offer(1, 10**9) == (0, NEVER)
    assert one.create_at(second, NOW) == NOW
    one.sent(second)
    assert one.create_at(one.plan(1, 1), NOW) == NEVER


def test_few_tokens_go_together_until_anything_is_refused() -> None:
    one = ceiling()
    send(one, SURE_TOKENS - 10)
    assert one.offer(1, 10) == (10, 0.0)
    assert one.offer(1, 11) == (0, NEVER), "a crumb of what waits would make a job of its own"
    small = one.plan(10, 1)
    assert one.create_at(small, NOW) == NOW
    one.refused(send(one, 0), NOW)
    assert one.create_at(small, NOW + 100.0) == NEVER


def test_a_request_of_any_size_may_go_while_nothing_was_refused() -> None:
    one = ceiling(1_000)
    take(one, 900)
    assert one.offer(5_000, 10_000) == (1_100, 0.0)


def test_no_job_is_cut_for_a_crumb_of_room() -> None:
    one = ceiling(3_200)
    take(one, 3_150)
    assert one.offer(1, 40) == (50, 0.0)  # all that waits fits
    assert one.offer(1, 10_000) == (50 + 3_200, 0.0)  # else it is a look beyond
    one = ceiling(3_200, most=3_200)
    take(one, 3_150)
    assert one.offer(1, 10_000) == (0, NEVER)
    assert one.offer(1, 50) == (50, 0.0)


# -- the edge


def test_a_look_that_is_refused_leaves_the_ceiling_and_takes_longer_until_the_next() -> None:
    one = ceiling(MILLION)
    take(one, MILLION)
    pauses, steps = [], []
    now = NOW
    for _ in range(7):
        room, at = one.offer(1, 10**9)
        now = max(now, at)
        flight = refuse(one, room, now=now)
        assert (one.tokens, one.taken) == (MILLION, MILLION)
        pauses.append(one.look_at - now)
        steps.append(one.offer(1, 10**9)[0])
        one.over(flight)
    assert all(0.8 * low <= pause <= low for low, pause in zip([30, 60, 120, 240, 300, 300], pauses, strict=False))
    one.over(flight)
    assert one.offer(1, 10**9)[0] == MILLION // 32
    assert one.blocked_until > now


def test_a_small_look_may_be_repeated_as_it_is_and_a_large_one_may_not() -> None:
    one = ceiling(MILLION)
    take(one, MILLION)
    large = refuse(one, MILLION)
    assert one.is_too_large(large)
    one.over(large)
    small = refuse(one, MILLION // 8)
    assert not one.is_too_large(small)
    assert one.create_at(small, one.blocked_until) >= one.blocked_until
    assert one.create_at(small, NOW + 10_000.0) == NOW + 10_000.0


def test_a_few_tokens_are_not_taken_apart_while_others_run_since_it_is_rather_the_number_of_jobs() -> None:
    one = ceiling(MILLION)
    running = take(one, SURE_TOKENS)
    small, larger = one.plan(SURE_TOKENS, 10), one.plan(SURE_TOKENS + 1, 10)
    for _ in range(9):
        one.sent(small)
        one.refused(small, one.blocked_until)
    assert one.is_too_large(larger)
    assert not one.is_too_large(small)
    assert one.create_at(small, one.blocked_until) == one.blocked_until
    one.over(running)
    assert one.is_too_large(small)


def test_a_large_create_of_several_is_no_look() -> None:
    one = ceiling(MILLION)
    take(one, MILLION)
    one.over(refuse(one, MILLION))
    flight = one.plan(900_000, 10)
    one.sent(flight)
    one.refused(flight, NOW + 1_000.0)
    assert "lost" in repr(one)


# -- down


def test_after_a_fall_what_runs_is_all_there_is_room_for() -> None:
    one = ceiling(MILLION)
    old = [take(one, 100_000) for _ in range(8)]
    one.over(refuse(one, 200_000))
    assert (one.tokens, "lost" in repr(one)) == (800_000, True)
    at = one.blocked_until
    assert one.offer(1, 10**9) == (62_500, at)
    one.over(old[0])
    assert one.tokens == 700_000  # its end makes no room
    assert one.offer(1, 10**9) == (62_500, at)
    one.over(refuse(one, 62_500))
    assert one.offer(1, 10**9)[0] == 31_250
    for _ in range(9):
        one.over(refuse(one, one.offer(1, 10**9)[0]))
    assert one.offer(1, 10**9)[0] == MILLION // 256


def test_what_is_taken_after_a_fall_doubles_and_its_end_makes_room() -> None:
    one = ceiling(MILLION)
    old = take(one, 800_000)
    one.over(refuse(one, 200_000))
    fresh = [take(one, one.offer(1, 10**9)[0]) for _ in range(3)]
    assert [flight.tokens for flight in fresh] == [62_500, 125_000, 250_000]
    one.over(refuse(one, 500_000))
    assert ("known" in repr(one), one.tokens) == (True, 1_237_500)
    one.over(old)
    assert one.tokens == 437_500
    one.over(fresh[2])
    assert one.tokens - one.held == 250_000


def test_a_request_that_is_a_little_larger_than_the_one_taken_after_a_fall_goes_beside_it() -> None:
    one = ceiling(30 * MILLION)
    one.over(refuse(one, 40_000))
    take(one, 58_000, rows=1)
    room, at = one.offer(64_000, 10**9)
    assert room > 0
    assert at == 0.0
    assert one.create_at(one.plan(64_000, 1), NOW) == NOW
    two = ceiling(30 * MILLION)
    two.over(refuse(two, 40_000))
    take(two, 58_000, rows=1)
    assert two.create_at(two.plan(120_000, 1), NOW) == NEVER, "much larger ones wait for it to end"


def test_refused_alone_creates_shrink_quickly_down_to_one_token() -> None:
    one = ceiling(50 * MILLION)
    sizes = []
    for _ in range(14):
        room, at = one.offer(1, 10**9)
        sizes.append(room)
        one.over(refuse(one, room, now=max(NOW, at)))
    assert sizes[:6] == [50_000_000, 3_125_000, 390_625, 48_828, 24_414, 12_207]
    while room > 1:
        room, at = one.offer(1, 10**9)
        one.over(refuse(one, room, now=max(NOW, at)))
    assert one.offer(5_000, 10**9)[0] == 1  # the first request goes alone
    take(one, 5_000, 1)
    assert one.offer(5_000, 10**9)[0] == 5_000


def test_a_refusal_that_names_another_quota_only_makes_a_pause() -> None:
    one = ceiling(MILLION)
    take(one, 100_000)
    flight = send(one, 100_000)
    one.refused(flight, NOW, named=True, asked_s=500.0)
    assert (one.tokens, one.blocked_until, "known" in repr(one)) == (MILLION, NOW + 500.0, True)
    assert one.create_at(flight, NOW) == NOW + 500.0


def test_creates_refused_together_count_once() -> None:
    one = ceiling()
    first, second = send(one, 10), send(one, 10)
    one.refused(first, NOW)
    until, state = one.blocked_until, repr(one)
    one.refused(second, NOW + 1.0)
    assert one.blocked_until == until
    assert "'flying': 0" in repr(one)
    assert state.partition("step")[2][:12] == repr(one).partition("step")[2][:12]


def test_a_create_that_was_sent_before_a_refusal_does_not_end_its_pause() -> None:
    one = ceiling()
    early, late = send(one, 10), send(one, 10)
    one.refused(late, NOW)
    one.accepted(early)
    assert one.blocked_until > NOW
    fresh = send(one, 10)
    one.accepted(fresh)
    assert one.blocked_until == 0.0


def test_whoever_never_has_room_waits_for_the_end_of_others_unless_alone() -> None:
    one = ceiling(100, most=100)
    running = take(one, 80)
    job = one.plan(30, 3)
    assert one.create_at(job, NOW) == NEVER
    one.over(running)
    assert one.create_at(job, NOW) == NOW
    one.over(job)
    one.over(job)
    assert one.held == 0
    take(one, 500, 1)
    assert one.tokens == 100


def test_jobs_of_before_show_how_much_is_taken() -> None:
    one = ceiling(100)
    one.adopt(500, 5)
    assert (one.tokens, one.taken) == (500, 500)
    capped = ceiling(100, most=100)
    capped.adopt(500, 5)
    assert (capped.tokens, capped.taken) == (100, 500)
    assert capped.offer(1, 10) == (0, NEVER)


def test_a_create_of_unknown_fate_takes_up_room_and_teaches_nothing() -> None:
    one = ceiling(100)
    flight = send(one, 500)
    one.unsure(flight)
    assert (one.taken, one.tokens) == (500, 100)
    one.not_sent(flight)
    assert (one.taken, one.held) == (0, 500)


# -- storage


def storage(most: int = 100) -> Storage:
    return Storage(most, Pauses(30.0, 300.0, "storage"))


def test_files_wait_until_others_are_deleted() -> None:
    room = storage()
    room.sent("a", 60)
    room.stored("a")
    assert room.upload_at("b", 41, NOW) == NEVER
    assert room.upload_at("b", 40, NOW) == NOW
    room.failed("a")
    assert (room.bytes, room.upload_at("a", 60, NOW)) == (60, NOW)  # again, in place of itself
    room.deleted("a")
    assert (room.bytes, room.upload_at("b", 500, NOW)) == (0, NOW)  # alone, whatever its size
    room.adopt("c", 50)
    assert room.upload_at("b", 60, NOW) == NEVER


def test_after_a_refusal_uploads_wait_and_then_go_one_at_a_time_until_one_is_taken() -> None:
    room = storage(1_000)
    for job in "abc":
        room.sent(job, 10)
    room.refused("a", NOW)
    until = room.upload_at("a", 10, NOW)
    assert NOW + 24.0 <= until <= NOW + 30.0
    room.refused("b", NOW + 1.0)
    assert room.upload_at("b", 10, NOW) == until
    room.refused("c", until, asked_s=500.0)
    until += 500.0
    assert room.upload_at("a", 10, until - 1.0) == until
    assert room.upload_at("a", 10, until) == until
    room.sent("a", 10)
    assert room.upload_at("b", 10, until) == NEVER
    assert room.upload_at("a", 10, until) == until
    room.stored("a")
    assert room.upload_at("b", 10, until) == until


@pytest.mark.parametrize("told", ["failed", "deleted"])
def test_an_upload_that_ends_in_any_way_lets_the_next_go(told: str) -> None:
    room = storage(1_000)
    room.sent("a", 10)
    room.refused("a", NOW)
    later = NOW + 100.0
    room.sent("a", 10)
    getattr(room, told)("a")
    assert room.upload_at("b", 10, later) == later
