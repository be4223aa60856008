"""The simulated batch service: files, jobs, their fates, and a bill for every answer it computed.

Owns what is true on the server's side. Each call gives its reply, or the fault that the caller will see. It must not
know the engine; it shares the wire's words with it (``BatchJob``, ``Fault``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from carpool._core.model import Fault, RemoteFile
from carpool.types import BatchJob, ServerError

from .clock import Clock
from .plan import HOUR, Plan

FILE_WORDS: Final = "You do not have permission to access the File input or it may not exist."
BAD_WORDS: Final = "Request contains an invalid argument."
GONE: Final = Fault(kind="refused", error=ServerError(404, "Requested entity was not found.", "NOT_FOUND"))
BUSY: Final = Fault(kind="unknown", error=ServerError(503, "The model is overloaded.", "UNAVAILABLE"))
TIMEOUT: Final = Fault(kind="unknown", error=ServerError(message="timed out"))
NOT_SENT: Final = Fault(kind="not_sent", error=ServerError(message="connection refused"))
QUOTA: Final = Fault(kind="refused", error=ServerError(429, "Resource has been exhausted.", "RESOURCE_EXHAUSTED"))
BAD_KEY: Final = Fault(kind="refused", error=ServerError(400, "API key not valid.", "INVALID_ARGUMENT"))
FILE_GONE: Final = Fault(kind="refused", error=ServerError(403, FILE_WORDS, "PERMISSION_DENIED"))
TOO_LARGE: Final = Fault(
    kind="refused", error=ServerError(400, "Request payload size exceeds the limit.", "INVALID_ARGUMENT")
)
BILLING: Final = Fault(kind="refused", error=ServerError(400, "Billing is not set up.", "FAILED_PRECONDITION"))
TAKEN: Final = Fault(kind="refused", error=ServerError(409, "Another file has that name.", "ALREADY_EXISTS"))
TERMINAL_S: Final = 48 * HOUR
BUSY_LIVE: Final = Fault(kind="refused", error=ServerError(503, "The model is overloaded.", "UNAVAILABLE"))
MINUTE_QUOTA: Final = Fault(
    kind="refused", error=ServerError(429, "Quota exceeded: requests per minute.", "RESOURCE_EXHAUSTED")
)
DAY_QUOTA: Final = Fault(
    kind="refused", error=ServerError(429, "Quota exceeded: requests per day.", "RESOURCE_EXHAUSTED")
)
ASKS_TO_WAIT: Final = Fault(kind="refused", error=ServerError(503, "Overloaded. Please retry in 42s.", "UNAVAILABLE"))
INTERNAL: Final = Fault(kind="unknown", error=ServerError(500, "Internal error.", "INTERNAL"))
BAD_REQUEST: Final = Fault(kind="refused", error=ServerError(400, BAD_WORDS, "INVALID_ARGUMENT"))
LIVE_REFUSALS: Final = {
    "quota": MINUTE_QUOTA,
    "quota_of_day": DAY_QUOTA,
    "overloaded": BUSY_LIVE,
    "asks_to_wait": ASKS_TO_WAIT,
    "internal": INTERNAL,
    "lost_early": TIMEOUT,
    "not_sent": NOT_SENT,
    "billing": BILLING,
}
LIVE_SERIALS: Final = 1_000_000
"""Where the numbers of live answers begin."""
TARIFF_PICOUSD: Final = {"standard": 2_000, "flex": 1_000}
"""Of any answer: less than what is reserved for it."""


class Bill(msgspec.Struct, kw_only=True):
    """One answer that was computed and charged."""

    serial: int
    key: str
    prompt: str
    job: str
    good: bool
    """Whether its job's output holds it, and could be fetched ever since."""


class LiveBill(msgspec.Struct, kw_only=True):
    """One answer of a live route that was computed and charged."""

    serial: int
    key: str
    prompt: str
    route: str
    picousd: int
    """0: no price."""
    heard: bool = False
    """Whether a process lived to read it."""
    booked: bool = False
    """Whether the account that it is in became durable."""


class OutputRow(msgspec.Struct, frozen=True):
    """One row of a job's output."""

    key: str
    body: bytes = b""
    error: ServerError | None = None
    readable: bool = True


class RemoteJob(msgspec.Struct, kw_only=True):
    """A job as the server knows it."""

    name: str
    display_name: str
    form: str
    rows: list[tuple[str, str]]
    """Key and prompt."""
    file_name: str
    created_at: float
    fate: str
    ends_at: float
    twin: bool = False
    known: bool = False
    """Whether its name was ever on record at the client's."""
    state: str = "PENDING"
    error: ServerError | None = None
    output: list[OutputRow] | None = None
    output_at: float = 0.0
    gone: bool = False
    astray: bool = False
    """Whether its create was on its way when its client's store was lost: who looks before it arrives finds nothing."""
    bills: list[Bill] = []
    cancelled: bool = False


def parse(line: bytes) -> tuple[str, str]:
    """Return key and prompt of a row."""
    key, prompt, _ = line.decode().split("|", 2)
    return key, prompt


class Server:
    """The service."""

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self.plan = plan
        self.clock = clock
        self.files: dict[str, list[bytes]] = {}
        self.deleted_files: dict[str, list[bytes]] = {}
        self.jobs: dict[str, RemoteJob] = {}
        self.bills: list[Bill] = []
        self.live_bills: dict[int, LiveBill] = {}
        self.lost_at = float("-inf")
        """When the client's store was lost."""
        self.protected: set[str] = set()
        """Jobs that the store of their client does not know: they must never be cancelled."""

    # -- calls

    def weather(self) -> Fault | None:
        """Return what befalls any call at this time."""
        now = self.clock.now
        if any(start <= now < stop for start, stop in self.plan.outages):
            return NOT_SENT
        if any(start <= now < stop for start, stop in self.plan.lockouts):
            return BAD_KEY
        if self._may_fail() and self.plan.chance(self.plan.call_fault_odds):
            return self.plan.rng.choice((BUSY, TIMEOUT, NOT_SENT))
        return None

    def upload(self, name: str, lines: list[bytes]) -> RemoteFile | Fault:
        """Take a file; the same name again is the same file."""
        fault = self.weather()
        if fault is not None and fault.kind != "unknown":
            return fault
        if self._may_fail() and self.plan.chance(self.plan.call_fault_odds / 4):
            return self.plan.rng.choice((QUOTA, TOO_LARGE, FILE_GONE, BILLING))
        if self.files.get(name, lines) != lines:
            assert self.plan.restore is not None, "an uploaded file never changes"
            return TAKEN
        self.files[name] = lines
        return fault or RemoteFile(name=name, size_bytes=sum(map(len, lines)))

    def find(self, display_name: str) -> list[BatchJob] | Fault:
        """List the jobs with a display name, as far as the list has caught up."""
        fault = self.weather()
        if fault is not None:
            return fault
        seen_until = self.clock.now - self.plan.list_lag_s
        jobs = [job for job in self.jobs.values() if job.display_name == display_name and not job.gone]
        return [self._shown(job) for job in jobs if job.created_at <= seen_until]

    def list_all(self, prefix: str) -> list[BatchJob] | Fault:
        """List the jobs of one store, as far as the list has caught up."""
        fault = self.weather()
        if fault is not None:
            return fault
        seen_until = self.clock.now - self.plan.list_lag_s
        jobs = [job for job in self.jobs.values() if job.display_name.startswith(prefix) and not job.gone]
        return [self._shown(job) for job in jobs if job.created_at <= seen_until]

    def delete(self, name: str) -> Fault | None:
        """Delete a file or a job; gone already is fine."""
        fault = self.weather()
        if fault is None or fault.kind == "unknown":
            if name in self.files and "A2" in self.plan.broken:
                self.clock.after(HOUR / 4, lambda: self._drop_file(name))
            elif name in self.files:
                self._drop_file(name)
            elif name in self.jobs:
                self.jobs[name].gone = True
        return fault

    def _drop_file(self, name: str) -> None:
        if name in self.files:
            self.deleted_files[name] = self.files.pop(name)

    def cancel(self, name: str) -> Fault | None:
        """Cancel a job."""
        fault = self.weather()
        job = self.jobs[name]
        assert name not in self.protected, f"cancelled, though its store does not know it: {job}"
        job.cancelled = True
        if fault is None and job.state == "PENDING":
            job.state, job.output = "CANCELLED", None
        return fault

    def poll(self, name: str) -> BatchJob | Fault:
        """Show a job."""
        fault = self.weather()
        if fault is not None:
            return fault
        job = self.jobs[name]
        if job.gone or (self._may_fail() and self.plan.chance(self.plan.call_fault_odds / 4)):
            return GONE
        return self._shown(job)

    def fetch(self, name: str) -> tuple[list[list[OutputRow]], Fault | None]:
        """Give a job's output in blocks, and the fault that breaks it off."""
        fault = self.weather()
        if fault is not None:
            return [], fault
        job = self.jobs[name]
        if job.gone or job.output is None or job.fate == "output_vanished":
            return [], GONE
        rows, size = job.output, self.plan.rng.choice((1, 2, 7, 100))
        blocks = [rows[at : at + size] for at in range(0, len(rows), size)]
        if self._may_fail() and self.plan.chance(self.plan.call_fault_odds):
            return blocks[: self.plan.rng.randint(0, len(blocks))], TIMEOUT
        return blocks, None

    def create(self, display_name: str, form: str, file_name: str, lines: list[bytes]) -> str | Fault:
        """Create a job, or not; the reply does not always tell which."""
        fault = self.weather()
        if fault is not None and fault.kind != "unknown":
            return fault
        choice = self.plan.pick(self.plan.create_faults) if self._may_fail() else ""
        refusal = self._refusal(choice, form, file_name, lines)
        if refusal is not None:
            return refusal
        if choice == "overloaded":
            return BUSY
        if choice == "slow":
            delay_s = self.plan.seconds(60, HOUR)
            sent_at = self.clock.now
            self.clock.after(delay_s, lambda: self._create_late(display_name, form, file_name, lines, sent_at))
            return TIMEOUT
        if choice in ("lost", "applied_500", "twin"):
            self._add(display_name, form, file_name, lines)
            if choice == "twin":
                self._add(display_name, form, file_name, lines, twin=True)
            return BUSY if choice == "applied_500" else TIMEOUT
        if fault is not None:
            if self.plan.chance(0.5):
                self._add(display_name, form, file_name, lines)
            return fault
        if self._may_fail() and self.plan.side.random() < self.plan.quiet_twin_odds:
            self._add(display_name, form, file_name, lines, twin=True)
        return self._add(display_name, form, file_name, lines).name

    def _refusal(self, choice: str, form: str, file_name: str, lines: list[bytes]) -> Fault | None:
        simple = {
            "not_sent": NOT_SENT,
            "quota": QUOTA,
            "credentials": BAD_KEY,
            "billing": BILLING,
            "too_large": TOO_LARGE,
        }
        if choice in simple:
            return simple[choice]
        if choice == "file_gone" and form == "file":
            self.delete(file_name)
        if choice == "row_file_gone" and form == "inline":
            return FILE_GONE
        if form == "file" and file_name not in self.files and "A1" not in self.plan.broken:
            return FILE_GONE
        bad = self._bad(lines)
        if bad and (form == "inline" or self.plan.refuses_at_create):
            return Fault(kind="refused", error=self._bad_rows_error(bad, form))
        return None

    def _bad(self, lines: list[bytes]) -> list[int]:
        return [number for number, line in enumerate(lines) if parse(line)[1].startswith("bad")]

    def _bad_rows_error(self, bad: list[int], form: str) -> ServerError:
        message = BAD_WORDS
        if self.plan.names_bad_rows and form == "file":
            message = "\n".join(f"Error on line {row + 1}: invalid JSON, near column 3: no such field" for row in bad)
        elif self.plan.names_bad_rows:
            message = f"Unknown name at 'batch.input_config.requests.requests[{bad[0]}]': Cannot find field."
        return ServerError(400, message, "INVALID_ARGUMENT")

    # -- live calls

    def call(self, route: str, model: str, lines: list[bytes]) -> tuple[list[LiveBill] | Fault, float]:
        """Answer some requests at once, or not; return also after how many seconds."""
        plan = self.plan
        weather = self.weather()
        if weather is not None:
            return self._perhaps_computed(route, model, lines, weather), plan.live_seconds(0.01, 30)
        if any(start <= self.clock.now < stop for start, stop in plan.storms):
            return plan.live.choice((MINUTE_QUOTA, BUSY_LIVE)), plan.live_seconds(0.01, 1)
        bad = [line for line in lines if parse(line)[1].startswith("bad")]
        if bad:
            return BAD_REQUEST, 0.1
        if any(parse(line)[1].startswith("cursed") for line in lines):
            return INTERNAL, 0.1
        choice = self._live_choice()
        match choice:
            case "":
                return self._compute_live(route, model, lines), plan.live_seconds(0.2, plan.live_slowest_s)
            case "internal_computed" | "lost":
                self._compute_live(route, model, lines)
                return (TIMEOUT if choice == "lost" else INTERNAL), plan.live_seconds(1, 300)
            case _:
                return LIVE_REFUSALS[choice], plan.live_seconds(0.01, 3)

    def _live_choice(self) -> str:
        if not self._may_fail():
            return ""
        at = self.plan.live.random()
        for name, share in self.plan.live_faults.items():
            at -= share
            if at < 0:
                return name
        return ""

    def _perhaps_computed(self, route: str, model: str, lines: list[bytes], fault: Fault) -> Fault:
        sound = not any(parse(line)[1].startswith(("bad", "cursed")) for line in lines)
        # What the service itself turns away it has not taken; what timed out it may have.
        if fault is TIMEOUT and sound and self.plan.live.random() < 0.5:
            self._compute_live(route, model, lines)
        return fault

    def _compute_live(self, route: str, model: str, lines: list[bytes]) -> list[LiveBill]:
        bills: list[LiveBill] = []
        for line in lines:
            key, prompt = parse(line)
            serial = LIVE_SERIALS + len(self.live_bills)
            price = TARIFF_PICOUSD[route] if model != "model-without-price" else 0
            self.live_bills[serial] = LiveBill(serial=serial, key=key, prompt=prompt, route=route, picousd=price)
            bills.append(self.live_bills[serial])
        return bills

    # -- jobs

    def _create_late(self, display_name: str, form: str, file_name: str, lines: list[bytes], sent_at: float) -> None:
        if form == "file" and file_name not in self.files and "A1" not in self.plan.broken:
            return
        job = self._add(display_name, form, file_name, lines)
        job.astray = sent_at <= self.lost_at

    def _add(
        self, display_name: str, form: str, file_name: str, lines: list[bytes], *, twin: bool = False
    ) -> RemoteJob:
        fate = self.plan.pick(self.plan.job_fates) if self._may_fail() else ""
        lasts_s = TERMINAL_S if fate == "stuck" else self.plan.seconds(5, 2 * HOUR)
        job = RemoteJob(
            name=f"batches/{len(self.jobs) + 1}",
            display_name=display_name,
            form=form,
            rows=[parse(line) for line in lines],
            file_name=file_name,
            created_at=self.clock.now,
            fate=fate,
            ends_at=self.clock.now + lasts_s,
            twin=twin,
        )
        self.jobs[job.name] = job
        self.clock.at(job.ends_at, lambda: self._end(job))
        if fate == "vanished":
            self.clock.at(job.created_at + self.plan.seconds(1, 4 * HOUR), lambda: self._vanish(job))
        return job

    def _vanish(self, job: RemoteJob) -> None:
        job.gone = True
        for bill in job.bills:
            bill.good = False

    def _end(self, job: RemoteJob) -> None:
        if job.state != "PENDING":
            return
        bad = [number for number, (_, prompt) in enumerate(job.rows) if prompt.startswith("bad")]
        if bad:
            job.state = "FAILED"
            job.error = msgspec.structs.replace(self._bad_rows_error(bad, job.form), code=3)
            return
        job.output_at = self.clock.now
        match job.fate:
            case "failed":
                job.state, job.error = "FAILED", ServerError(13, "Internal error.", "INTERNAL")
            case "expired" | "stuck":
                job.state = "EXPIRED"
            case "cancelled" if self.plan.chance(0.5):
                job.state = "CANCELLED"
            case "failed_with_output" | "partial" | "cancelled":
                states = {"failed_with_output": "FAILED", "partial": "PARTIALLY_SUCCEEDED", "cancelled": "CANCELLED"}
                job.state = states[job.fate]
                self._compute(job, share=self.plan.rng.random())
            case _:
                job.state = "SUCCEEDED"
                self._compute(job, share=1.0)
                if job.fate == "output_late":
                    job.output_at += self.plan.seconds(1, 1.5 * self.plan.settings.output_grace_s + 2)
                elif job.fate == "output_never":
                    job.output_at = float("inf")
        if job.gone or job.fate in ("output_never", "output_vanished", "output_late"):
            for bill in job.bills:
                bill.good = False

    def _compute(self, job: RemoteJob, share: float) -> None:
        job.output, job.bills = [], []
        for key, prompt in job.rows:
            if share < 1 and self.plan.rng.random() > share:
                continue
            fault = self.plan.pick(self.plan.row_faults) if self._may_fail() else ""
            if prompt.startswith("cursed"):
                fault = "error_13"
            if fault.startswith("error_"):
                job.output.append(OutputRow(key, error=ServerError(int(fault[6:]), f"row failed: {fault}")))
                continue
            bill = Bill(
                serial=len(self.bills), key=key, prompt=prompt, job=job.name, good=fault not in ("missing", "garbled")
            )
            self.bills.append(bill)
            job.bills.append(bill)
            body = f"{prompt}#{bill.serial}".encode()
            if fault != "missing":
                job.output.append(OutputRow(key, body, readable=fault != "garbled"))
            if fault.startswith("doubled"):
                job.output.append(OutputRow(key, body + b"#other" if fault == "doubled_other" else body))
        if self.plan.row_faults:
            job.output.append(OutputRow("nobody's", b"?"))
        self.plan.rng.shuffle(job.output)

    def _shown(self, job: RemoteJob) -> BatchJob:
        state = "RIPENING" if job.fate == "strange_word" and job.state == "PENDING" else job.state
        output = job.output is not None and self.clock.now >= job.output_at
        return BatchJob(
            name=job.name,
            display_name=job.display_name,
            model="models/model-without-price",
            state=state,
            error=job.error,
            output_file=f"files/out-{job.name[8:]}" if output and job.form == "file" else "",
            inline_output=output and job.form == "inline",
        )

    def _may_fail(self) -> bool:
        return self.clock.now < self.plan.faults_end
