"""The table of abandoned requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from carpool._core.keys import Candidate, KeyTable

A, B = b"a" * 16, b"b" * 16


def test_the_oldest_is_adopted_first_whatever_the_order_of_offers() -> None:
    table = KeyTable()
    table.abandon(A, 30.0, 3, kept=False)
    table.abandon(A, 10.0, 1, kept=True)
    table.abandon(A, 20.0, 2, kept=False)
    assert [table.adopt(A) for _ in range(4)] == [
        Candidate(10.0, True, 1),
        Candidate(20.0, False, 2),
        Candidate(30.0, False, 3),
        None,
    ]
    assert not table.abandoned


def test_another_request_is_not_adopted() -> None:
    table = KeyTable()
    table.abandon(A, 10.0, 1, kept=False)
    assert table.adopt(B) is None


def test_an_offer_is_withdrawn_alone() -> None:
    table = KeyTable()
    table.abandon(A, 10.0, 1, kept=False)
    table.abandon(A, 10.0, 1, kept=True)
    table.discard(A, 10.0, 1, kept=False)
    table.discard(A, 10.0, 7, kept=True)
    table.discard(B, 10.0, 1, kept=True)
    assert table.adopt(A) == Candidate(10.0, True, 1)
    table.abandon(A, 10.0, 1, kept=False)
    table.discard(A, 10.0, 1, kept=False)
    assert not table.abandoned


OFFERS = st.lists(st.tuples(st.sampled_from([A, B]), st.floats(0, 9), st.integers(0, 5), st.booleans()), unique=True)


@given(OFFERS, st.data())
def test_what_is_offered_and_not_withdrawn_is_adopted_once(
    offers: list[tuple[bytes, float, int, bool]], data: st.DataObject
) -> None:
    table = KeyTable()
    for digest, at, place, kept in offers:
        table.abandon(digest, at, place, kept=kept)
    withdrawn = data.draw(st.sets(st.sampled_from(offers))) if offers else set()
    for digest, at, place, kept in withdrawn:
        table.discard(digest, at, place, kept=kept)
    for digest in (A, B):
        left = sorted(
            (at, kept, place) for d, at, place, kept in offers if d == digest and (d, at, place, kept) not in withdrawn
        )
        got = []
        while (candidate := table.adopt(digest)) is not None:
            got.append((candidate.accepted_at, candidate.kept, candidate.place))
        assert got == left


def test_a_key_leads_to_its_request_and_then_to_its_result() -> None:
    table = KeyTable()
    table.named["k"] = 7
    assert (table.live("k"), table.kept("k"), table.all_live(), table.all_kept()) == (7, None, [("k", 7)], [])
    table.keep(("k", "l"), 40)
    assert (table.live("k"), table.kept("k"), table.kept("l")) == (None, 40, 41)
    assert (table.all_live(), table.all_kept()) == ([], [("k", 40), ("l", 41)])
    table.end("k", 7)  # its request ends after its result was stored
    assert table.kept("k") == 40
    assert not table.forget("k", 41)
    assert table.forget("k", 40)
    assert (table.live("k"), table.kept("k"), table.all_kept()) == (None, None, [("l", 41)])
    assert not table.forget("k", 40)


def test_a_result_that_goes_does_not_take_a_new_request_of_its_key_along() -> None:
    table = KeyTable()
    table.keep(("k",), 0)
    assert table.kept("k") == 0
    table.named["k"] = 0
    assert not table.forget("k", 0)
    assert table.live("k") == 0
    table.end("k", 1)
    assert table.live("k") == 0
    table.end("k", 0)
    assert table.named == {}
