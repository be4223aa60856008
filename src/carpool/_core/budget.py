"""Money by day: what is reserved before it is spent, what was spent, and the ceilings that both are held below.

Owns the accounts of UTC days, their records, and the reservations (*holds*) in them. It must not know prices or tokens:
amounts come in pico-dollars. A hold belongs to the day on which it was made, and what is settled under it does too.

The rule that makes restarts safe: a record never says less than what may have been spent. Holds of jobs are written one
by one, and live on with their jobs. Holds of live calls are too many and too short for that: a record says how much of
them there may be at most (*granted*); what a dead process had granted and not given back counts as spent, of which
nobody knows whether it was (*lost*).

The rule that makes receipts exact: what a job cost is in a record only when its hold is closed, in the same commit as
the job. Until then it is in memory; who reads the job's output anew, after a crash or a break, begins it anew.
"""

from __future__ import annotations

from typing import Final

import msgspec

from carpool.settings import Settings
from carpool.types import PICO

DAY_S: Final = 86_400
DAYS_KEPT: Final = 400
"""Days whose account is kept."""
DOUBLES: Final = "max_double_cost_per_day_usd"
_GRANT_PICOUSD: Final = PICO // 100
"""Granted to live calls at least, so that not each of them has to write a record of its own."""


class Totals(msgspec.Struct, kw_only=True, gc=False, array_like=True):
    """Sums of answers."""

    requests: int = 0
    unknown: int = 0
    """Of the requests: of unknown cost."""
    list_picousd: int = 0
    paid_picousd: int = 0

    def add(self, other: Totals) -> None:
        """Add other sums."""
        self.requests += other.requests
        self.unknown += other.unknown
        self.list_picousd += other.list_picousd
        self.paid_picousd += other.paid_picousd


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """Money reserved for a job or a live call before it is sent."""

    id: str
    day: int
    route: str
    reserved_picousd: int
    double_picousd: int = 0
    """Of what is reserved: for requests that are in a running job too."""
    doubles: int = 0
    """How many requests that are."""


class DayAccount(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """The account of one UTC day with one service, on disk. Replaced whole."""

    day: int
    """Days since 1970-01-01."""
    routes: dict[str, Totals] = {}
    """What was answered, by route: under closed holds, and without one."""
    spent_picousd: int = 0
    """The same in all, and what is lost."""
    full_picousd: int = 0
    """Of that, on the standard route."""
    double_picousd: int = 0
    """Of that, for requests that were in a running job too."""
    overrun_picousd: int = 0
    """Spent beyond what was reserved."""
    lost_picousd: int = 0
    """Of what was spent: reserved for what never told what it cost. Counted against the ceilings, and in no receipt."""
    holds: list[Hold] = []
    """Of jobs that are not closed."""
    granted_picousd: int = 0
    """Live calls may have spent so much that is nowhere else in this record."""
    granted_full_picousd: int = 0
    """Of that, on the standard route."""
    granted_double_picousd: int = 0
    """Of that, for requests that were in a running job too."""
    doubles: int = 0
    """Jobs that the server made twice, and requests that were sent again while a running job held them, unless the
    server did not take them."""
    base_url: str = ""
    """Of the service: see ``base_url_of``. Empty until it is written down."""

    def left(self) -> DayAccount:
        """Return what it says once its process is gone: what was granted to live calls is lost, as far as we know."""
        granted = self.granted_picousd
        return msgspec.structs.replace(
            self,
            spent_picousd=self.spent_picousd + granted,
            full_picousd=self.full_picousd + self.granted_full_picousd,
            double_picousd=self.double_picousd + self.granted_double_picousd,
            lost_picousd=self.lost_picousd + granted,
            granted_picousd=0,
            granted_full_picousd=0,
            granted_double_picousd=0,
        )


class Ceilings(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Most that may be reserved and spent in a day. ``None``: no limit."""

    all_picousd: int | None
    full_picousd: int | None
    double_picousd: int

    @classmethod
    def of(cls, settings: Settings) -> Ceilings:
        """Return the ceilings that settings name."""
        budget, full = settings.budget_per_day_usd, settings.full_price_per_day_usd
        return cls(
            all_picousd=None if budget is None else int(budget * PICO),
            full_picousd=None if full is None else int(full * PICO),
            double_picousd=int(settings.max_double_cost_per_day_usd * PICO),
        )

    def need_price(self, route: str, *, double: bool) -> bool:
        """Return whether there is a limit that what has no price cannot be held below."""
        return double or self.all_picousd is not None or (route == "standard" and self.full_picousd is not None)


class Sums(msgspec.Struct, kw_only=True, gc=False):
    """Reserved and spent together: what a ceiling is compared with."""

    all_picousd: int = 0
    full_picousd: int = 0
    double_picousd: int = 0


class _Open:
    """A hold, and what was answered under it so far."""

    __slots__ = ("hold", "lasting", "totals")

    def __init__(self, hold: Hold, *, lasting: bool) -> None:
        self.hold = hold
        self.lasting = lasting
        self.totals = Totals()

    @property
    def exposed(self) -> int:
        """What it may cost, as far as that is known."""
        return max(self.hold.reserved_picousd, self.totals.paid_picousd)

    @property
    def overrun(self) -> int:
        """What was spent beyond what was reserved."""
        return max(0, self.totals.paid_picousd - self.hold.reserved_picousd)

    def doubled(self, amount_picousd: int) -> int:
        """Return the share of doubles in an amount, rounded up."""
        hold = self.hold
        if not hold.double_picousd:
            return 0
        return -(-amount_picousd * hold.double_picousd // hold.reserved_picousd)


class _Day:
    """One day in memory."""

    __slots__ = ("account", "changed", "granted", "live", "opened", "sums")

    def __init__(self, account: DayAccount) -> None:
        self.account = account
        """Without open holds."""
        self.opened = {hold.id: _Open(hold, lasting=True) for hold in account.holds}
        self.granted = Sums()
        """What the last record grants to live calls."""
        self.live = Sums()
        """What live calls may still spend: the rest of their holds."""
        self.sums = Sums(
            all_picousd=account.spent_picousd,
            full_picousd=account.full_picousd,
            double_picousd=account.double_picousd,
        )
        for opened in self.opened.values():
            self.count(opened, 1)
        self.changed = False

    def count(self, opened: _Open, sign: int) -> None:
        """Count an open hold in (1) or out (-1)."""
        exposed, spent, route = opened.exposed, opened.totals.paid_picousd, opened.hold.route
        double = opened.doubled(exposed)
        _add(self.sums, route, sign * exposed, sign * double)
        if not opened.lasting:
            _add(self.live, route, sign * (exposed - spent), sign * (double - opened.doubled(spent)))

    def spend(self, route: str, totals: Totals, amount_picousd: int, double_picousd: int, overrun_picousd: int) -> None:
        """Book answers for good, and count money as spent."""
        _add(self.sums, route, amount_picousd, double_picousd)
        self.account = _spent(self.account, route, totals, amount_picousd, double_picousd, overrun_picousd)
        self.changed = True

    @property
    def outgrown(self) -> bool:
        """Whether live calls may spend more than the record grants."""
        granted, live = self.granted, self.live
        return (
            live.all_picousd > granted.all_picousd
            or live.full_picousd > granted.full_picousd
            or live.double_picousd > granted.double_picousd
        )

    def so_far(self, *, lasting: bool) -> DayAccount:
        """Return the account with what was answered under open holds: those of live calls, or all."""
        account = self.account
        for opened in self.opened.values():
            totals = opened.totals
            if totals.requests and (lasting or not opened.lasting):
                paid = totals.paid_picousd
                account = _spent(account, opened.hold.route, totals, paid, opened.doubled(paid), opened.overrun)
        return account

    def record(self, ceilings: Ceilings) -> DayAccount:
        """Return what goes to disk: what live calls have spent so far is spent there, what jobs have is not."""
        live, sums = self.live, self.sums
        grants = self.granted = Sums(
            all_picousd=_grant(live.all_picousd, sums.all_picousd, ceilings.all_picousd),
            full_picousd=_grant(live.full_picousd, sums.full_picousd, ceilings.full_picousd),
            double_picousd=_grant(live.double_picousd, sums.double_picousd, ceilings.double_picousd),
        )
        return msgspec.structs.replace(
            self.so_far(lasting=False),
            holds=[opened.hold for opened in self.opened.values() if opened.lasting],
            granted_picousd=grants.all_picousd,
            granted_full_picousd=grants.full_picousd,
            granted_double_picousd=grants.double_picousd,
        )


def _add(sums: Sums, route: str, amount: int, double: int) -> None:
    sums.all_picousd += amount
    if route == "standard":
        sums.full_picousd += amount
    sums.double_picousd += double


def _spent(  # noqa: PLR0917 - one line's work, shared by memory and disk
    account: DayAccount, route: str, totals: Totals, amount: int, double: int, overrun: int
) -> DayAccount:
    """Return an account with more answered and spent; none of its parts is changed in place."""
    routes = account.routes
    if totals.requests:
        sums = msgspec.structs.replace(routes.get(route, Totals()))
        sums.add(totals)
        routes = {**routes, route: sums}
    return msgspec.structs.replace(
        account,
        routes=routes,
        spent_picousd=account.spent_picousd + amount,
        full_picousd=account.full_picousd + (amount if route == "standard" else 0),
        double_picousd=account.double_picousd + double,
        overrun_picousd=account.overrun_picousd + overrun,
    )


def _grant(live: int, exposed: int, ceiling: int | None) -> int:
    """Return how much of live calls a record is to allow: some more than there is, within the ceiling."""
    if not live:
        return 0
    wanted = max(2 * live, _GRANT_PICOUSD)
    return wanted if ceiling is None else max(live, min(wanted, live + ceiling - exposed))


class Budget:
    """The days, and what is reserved in them.

    Args:
        ceilings: most that may be reserved and spent in a day.
    """

    def __init__(self, ceilings: Ceilings) -> None:
        self.ceilings = ceilings
        self._days: dict[int, _Day] = {}
        self._opened: dict[str, _Open] = {}

    # -- restarts

    def take(self, account: DayAccount) -> None:
        """Take in the record of an earlier process. What it had granted to live calls is lost, as far as we know."""
        day = self._days[account.day] = _Day(account.left())
        day.changed = account.granted_picousd > 0
        self._opened |= day.opened

    def changes(self) -> list[DayAccount]:
        """Return the records that must be written with this step, before anything that it does."""
        found: list[DayAccount] = []
        for day in self._days.values():
            if day.changed or day.outgrown:
                found.append(day.record(self.ceilings))
                day.changed = False
        return found

    def forgotten(self, now: float) -> list[int]:
        """Forget days that are too long ago and have no holds, and return them: their records are to be dropped."""
        last = day_of(now) - DAYS_KEPT
        old = [number for number, day in self._days.items() if number < last and not day.opened]
        for number in old:
            del self._days[number]
        return old

    # -- holds

    def room_picousd(self, now: float, route: str, *, double: bool = False) -> int | None:
        """Return how much may still be reserved today; ``None``: there is no limit."""
        rooms = [left for left, _ in self._rooms(now, route, double=double)]
        return min(rooms) if rooms else None

    def refusal(self, now: float, route: str, amount_picousd: int, double_picousd: int | None = None) -> str | None:
        """Return the name of the setting that forbids to reserve an amount today; ``None``: none does.

        Args:
            now: the time.
            route: on which it would be spent.
            amount_picousd: how much.
            double_picousd: of that, for requests that are in a running job too; ``None``: there are none such.
        """
        for left, setting in self._rooms(now, route, double=double_picousd is not None):
            wanted = amount_picousd if setting != DOUBLES or double_picousd is None else double_picousd
            if wanted > left:
                return setting
        return None if double_picousd is None or self.ceilings.double_picousd else DOUBLES

    def _rooms(self, now: float, route: str, *, double: bool) -> list[tuple[int, str]]:
        ceilings = self.ceilings
        rooms: list[tuple[int, str]] = []
        if ceilings.all_picousd is None and ceilings.full_picousd is None and not double:
            return rooms
        sums = self.committed(day_of(now))
        if ceilings.all_picousd is not None:
            rooms.append((ceilings.all_picousd - sums.all_picousd, "budget_per_day_usd"))
        if route == "standard" and ceilings.full_picousd is not None:
            rooms.append((ceilings.full_picousd - sums.full_picousd, "full_price_per_day_usd"))
        if double:
            rooms.append((ceilings.double_picousd - sums.double_picousd, DOUBLES))
        return rooms

    def reserve(self, hold: Hold, *, lasting: bool) -> None:
        """Reserve what ``refusal`` did not refuse.

        Args:
            hold: how much, and for what.
            lasting: whether it outlives the process: a job's does.
        """
        assert hold.id not in self._opened, "what is reserved twice is not reserved"
        day = self._day(hold.day)
        opened = self._opened[hold.id] = day.opened[hold.id] = _Open(hold, lasting=lasting)
        day.count(opened, 1)
        day.changed = day.changed or lasting

    def has(self, hold_id: str) -> bool:
        """Return whether something is reserved under this id."""
        return hold_id in self._opened

    def begin(self, hold_id: str) -> None:
        """Forget what was answered under a hold: it is read anew from its beginning."""
        opened = self._opened.get(hold_id)
        if opened is None:
            return
        day = self._day(opened.hold.day)
        day.count(opened, -1)
        opened.totals = Totals()
        day.count(opened, 1)

    def settle(self, hold_id: str, now: float, route: str, totals: Totals) -> None:
        """Book answers under their hold; if there is none, at once, as overrun of today."""
        opened = self._opened.get(hold_id)
        if opened is None:
            paid = totals.paid_picousd
            self._day(day_of(now)).spend(route, totals, paid, 0, paid)
            return
        day = self._day(opened.hold.day)
        day.count(opened, -1)
        opened.totals.add(totals)
        day.count(opened, 1)
        day.changed = day.changed or not opened.lasting

    def close(self, hold_id: str, *, known: bool = True) -> None:
        """End a hold: its answers are booked for good, and what was not spent is given back.

        Args:
            hold_id: as it was reserved under; one that is not there is ended already.
            known: whether all that it paid for has told what it cost. If not, all of it counts as spent.
        """
        opened = self._opened.pop(hold_id, None)
        if opened is None:
            return
        day = self._day(opened.hold.day)
        del day.opened[hold_id]
        day.count(opened, -1)
        paid = opened.totals.paid_picousd
        if opened.hold.doubles and (opened.totals.requests or not known):
            self._count_doubles(day, opened.hold.doubles)
        kept = paid if known and not opened.totals.unknown else opened.exposed
        day.spend(opened.hold.route, opened.totals, kept, opened.doubled(kept), opened.overrun)
        if kept > paid:
            day.account = msgspec.structs.replace(day.account, lost_picousd=day.account.lost_picousd + kept - paid)

    def count_doubles(self, now: float, count: int) -> None:
        """Count jobs that the server made twice."""
        self._count_doubles(self._day(day_of(now)), count)

    @staticmethod
    def _count_doubles(day: _Day, count: int) -> None:
        day.account = msgspec.structs.replace(day.account, doubles=day.account.doubles + count)
        day.changed = True

    # -- looks

    def account(self, number: int) -> DayAccount:
        """Return the account of a day as it stands, with what was answered under open holds."""
        day = self._days.get(number)
        return DayAccount(day=number) if day is None else day.so_far(lasting=True)

    def days(self) -> list[int]:
        """Return the days of which there is an account, the oldest first."""
        return sorted(self._days)

    def committed(self, number: int) -> Sums:
        """Return what is spent and reserved on a day."""
        day = self._days.get(number)
        return Sums() if day is None else msgspec.structs.replace(day.sums)

    def _day(self, number: int) -> _Day:
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = _Day(DayAccount(day=number))
        return day


def day_of(now: float) -> int:
    """Return the UTC day of a time, in days since 1970-01-01."""
    return int(now // DAY_S)
