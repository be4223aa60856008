"""Watches a whole test run for secrets: keys, prompts, answers and upload URLs in anything printed, logged or raised.

Owns what counts as a secret and where it is looked for. It is loaded for every test, and cannot be left out: a test
during which a secret shows fails, whatever it tests. What it looks through, it takes where it comes into being:

* log records of all loggers at all levels, whether anybody listens or not; warnings, shown or not;
* what a test and its child processes print, including what a test takes out of pytest's capture;
* every ``CarpoolError`` and ``ProviderError`` at its beginning and its end, with all that is chained to it;
* what event loops, threads and destructors complain of;
* every client at its end: what it shows of itself, its account, its health, its settings; each alarm, each ticket.

Secrets are those that have a recognisable form (keys, upload URLs, the emulator's answers, ``PROMPT``), and besides all
keys and all long prompts that the test at hand gives to carpool. Reports of leaks do not quote them.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import fnmatch
import gc
import logging
import re
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator
from functools import wraps
from typing import Any, ClassVar, Final, NamedTuple

import pytest

from carpool import Client, errors
from carpool._gemini.encode import Encoded, Encoder
from carpool._gemini.http import Http
from carpool._gemini.upload import Upload
from carpool._ports import ProviderError
from carpool._runtime.watch import Watch
from carpool.responses import Ticket

API_KEY: Final = "AIza-canary-0123456789-canary"
"""The key that tests use."""
PROMPT: Final = "the canary sings in the dark of mine no 7"
"""Words that tests put into prompts."""

_SHAPES: Final = {
    "key": r"AIza[0-9A-Za-z_\-]{4,}",
    "prompt": re.escape(PROMPT),
    "answer": r"Answer to \\*\"",
    "upload URL": r"upload_id(?:=|%3D)[0-9A-Za-z_\-]{6,}",
}
_SHAPE: Final = re.compile("|".join(f"(?P<{name.replace(' ', '_')}>{shape})" for name, shape in _SHAPES.items()))
_STARTS: Final = ("AIza", PROMPT, "Answer to ", "upload_id")
"""One of these is in every text that has a secret of a recognisable form: quickly seen in those that have none."""
_LEARNT_CHARS_MIN: Final = 12
_LEARNT_PROMPT_CHARS_MIN: Final = 32
_LEARNT_PROMPTS_MAX: Final = 64
_PLACEHOLDERS: Final = frozenset({"no-key-needed"})
"""Keys that are none, and are told to everybody."""


class Exemption(NamedTuple):
    """What a channel of some tests may show, and why."""

    tests: str
    channel: str
    kinds: tuple[str, ...]
    why: str


_TEXTS: Final = ("prompt", "answer")
EXEMPTIONS: Final = (
    Exemption("tests/cli/test_map*", "stdout", _TEXTS, "carpool map prints answers: that is what it is for"),
    Exemption("tests/cli/test_results*", "stdout", _TEXTS, "carpool results prints answers"),
    Exemption(
        "tests/cli/test_jobs_more.py::test_the_rows_of_*", "stdout", _TEXTS, "carpool jobs results is for answers"
    ),
    Exemption("tests/cli/test_demo*", "stdout", _TEXTS, "carpool demo shows made-up prompts and their answers"),
    Exemption("tests/cli/test_emulate.py::test_it_says_how_*", "stdout", _TEXTS, "a program prints its answers"),
    Exemption("tests/cli/test_gc.py::test_requests_that_*", "stdout", _TEXTS, "a program prints its answers"),
    Exemption("tests/cli/test_documents*", "stdout", _TEXTS, "the programs of the documentation print answers"),
    Exemption("tests/docs/*", "stdout", _TEXTS, "the programs of the documentation print answers"),
    Exemption("tests/test_examples*", "stdout", _TEXTS, "the examples print answers"),
    Exemption("tests/end_to_end/test_sibling_processes*", "stdout", _TEXTS, "children tell their parent their answers"),
    Exemption("tests/frameworks/*", "stdout", _TEXTS, "programs of other libraries tell what they were answered"),
    Exemption("tests/sdk/*", "*log of http*", ("upload URL",), "Google's SDK, held against ours, logs what it calls"),
    Exemption("tests/surfaces/test_google_genai*", "*log of http*", ("upload URL",), "Google's SDK logs what it calls"),
    Exemption("tests/emulator/test_google_sdk*", "*log of http*", ("upload URL",), "Google's SDK logs what it calls"),
)
"""Everything else is a leak."""


class Leak(NamedTuple):
    """A secret that showed."""

    test: str
    channel: str
    kind: str
    around: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.channel}: {self.around}"


class Canaries:
    """One run's watch. Runs may be nested (pytester's are, in a process): the innermost watches."""

    stack: ClassVar[list[Canaries]] = []

    def __init__(self) -> None:
        self.test = ""
        self._seen: set[int] = set()
        self._learnt: dict[str, set[str]] = {kind: set() for kind in _SHAPES}
        self._leaks: list[Leak] = []
        self._lock = threading.RLock()

    # -- what is secret

    def learn(self, kind: str, secret: str) -> None:
        if len(secret) >= _LEARNT_CHARS_MIN and secret not in _PLACEHOLDERS:
            self._learnt[kind].add(secret)

    def learn_prompt(self, text: str) -> None:
        learnt = self._learnt["prompt"]
        if len(text) >= _LEARNT_PROMPT_CHARS_MIN and len(learnt) < 3 * _LEARNT_PROMPTS_MAX:
            half = (len(text) - _LEARNT_PROMPT_CHARS_MIN) // 2
            for start in (0, half, len(text) - _LEARNT_PROMPT_CHARS_MIN):
                learnt.add(text[start : start + _LEARNT_PROMPT_CHARS_MIN])

    # -- what is looked through

    def note(self, channel: str, text: str, test: str | None = None) -> None:
        """Look through what was shown somewhere."""
        if not text:
            return
        with self._lock:
            if (seen := hash((channel, text))) in self._seen:
                return
            self._seen.add(seen)
            for kind, start, stop in self._found(text):
                if not self._is_exempt(channel, kind):
                    around = f"{text[max(0, start - 60) : start]}<{kind}>{text[stop : stop + 30]}"
                    self._leaks.append(Leak(test or self.test, channel, kind, repr(self.redacted(around))))

    def _found(self, text: str) -> Iterator[tuple[str, int, int]]:
        if any(start in text for start in _STARTS):
            for match in _SHAPE.finditer(text):
                yield (match.lastgroup or "").replace("_", " "), match.start(), match.end()
        for kind, learnt in self._learnt.items():
            for secret in learnt:
                start = text.find(secret)
                if start >= 0:
                    yield kind, start, start + len(secret)

    def _is_exempt(self, channel: str, kind: str) -> bool:
        return any(
            kind in exempt.kinds
            and fnmatch.fnmatch(channel, exempt.channel)
            and fnmatch.fnmatch(self.test, exempt.tests)
            for exempt in EXEMPTIONS
        )

    def redacted(self, text: str) -> str:
        """Return a text without secrets."""
        for learnt in self._learnt.values():
            for secret in learnt:
                text = text.replace(secret, "<secret>")
        return _SHAPE.sub("<secret>", text)

    def note_error(self, channel: str, error: BaseException, test: str | None = None) -> None:
        """Look through an exception and all that is chained to it."""
        seen: set[int] = set()
        queue: list[BaseException | None] = [error]
        while queue:
            one = queue.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            what = f"{channel} ({type(one).__name__})"
            for shown in (str, repr):
                self.note(f"{shown.__name__} of {what}", _safely(shown, one), test)
            for note in getattr(one, "__notes__", ()):
                self.note(f"notes of {what}", _safely(str, note), test)
            queue += (one.__cause__, one.__context__)
            if isinstance(one, BaseExceptionGroup):
                queue += one.exceptions

    def take_leaks(self) -> list[Leak]:
        with self._lock:
            leaks, self._leaks = self._leaks, []
            return leaks

    def begin(self, test: str) -> None:
        self.test = test
        with self._lock:
            self._seen.clear()
            for learnt in self._learnt.values():
                learnt.clear()

    # -- pytest's hooks

    def pytest_configure(self) -> None:
        if not Canaries.stack:
            _patch()
        Canaries.stack.append(self)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        # pytest has put its own in place by now, and takes these away with them.
        sys.unraisablehook = _noting("complaint of a destructor", sys.unraisablehook)
        threading.excepthook = _noting("complaint of a thread", threading.excepthook)

    def pytest_unconfigure(self) -> None:
        Canaries.stack.remove(self)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.begin(item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> Generator[None, object, object]:
        result = yield
        if nextitem is None:
            gc.collect()  # errors that nobody has let go of: nothing of them is looked at later
        return result

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        self.note("warning", str(warning_message.message))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        for name, text in report.sections:
            if "log" not in name:  # records are looked at as they are made
                self.note("stderr" if "stderr" in name else "stdout", text)
        leaks = self.take_leaks()
        if leaks:
            own = "\n".join(sorted({f"{leak}" + _origin(leak, report.nodeid) for leak in leaks}))
            before = "" if report.passed else f"\n{self.redacted(report.longreprtext)}"
            report.outcome = "failed"
            report.longrepr = f"secrets showed (tests/canary.py says what is looked through):\n{own}{before}"
            report.sections = [(name, self.redacted(text)) for name, text in report.sections]
        return report


def _origin(leak: Leak, test: str) -> str:
    return "" if leak.test == test else f" [comes from {leak.test}]"


def _safely(shown: Callable[[Any], str], value: object) -> str:
    try:
        return shown(value)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not what was printed
        return f"{shown.__name__} failed: {type(error).__name__}"


def note(channel: str, text: str) -> None:
    """Look through what a helper got hold of, such as what a process left in a file."""
    if Canaries.stack:
        Canaries.stack[-1].note(channel, text)


# -- where things come into being: patched once a process, and never unpatched


def _patch() -> None:
    _patch_logging()
    _patch_warnings()
    _patch_errors()
    _patch_complaints()
    _patch_printing()
    _patch_clients()


def _patch_logging() -> None:
    """Take every record, though handlers get those only that they would get anyway."""
    is_enabled, call_handlers = logging.Logger.isEnabledFor, logging.Logger.callHandlers

    def enabled_for_us(logger: logging.Logger, level: int) -> bool:
        return bool(Canaries.stack) or is_enabled(logger, level)

    def call(logger: logging.Logger, record: logging.LogRecord) -> None:
        if Canaries.stack:
            _note_record(Canaries.stack[-1], record)
        if is_enabled(logger, record.levelno):
            call_handlers(logger, record)

    logging.Logger.isEnabledFor = enabled_for_us  # type: ignore[method-assign]
    logging.Logger.callHandlers = call  # type: ignore[method-assign]


def _note_record(watch: Canaries, record: logging.LogRecord) -> None:
    channel = f"log of {record.name}"
    watch.note(channel, _safely(logging.LogRecord.getMessage, record))
    if record.args:
        watch.note(f"arguments of the {channel}", _safely(repr, record.args))
    if record.exc_info and isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
        error = record.exc_info[1]
        watch.note_error(channel, error)
        # Lines of the tests' own source may name a secret; what the traceback says of our own is looked at.
        watch.note(channel, "".join(traceback.format_exception_only(error)))
    if record.stack_info:
        watch.note(channel, record.stack_info)


def _patch_warnings() -> None:
    warn = warnings.warn

    @wraps(warn)
    def warned(message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **more: Any) -> None:
        if Canaries.stack:
            Canaries.stack[-1].note("warning", _safely(str, message))
        warn(message, category, stacklevel + 1, source, **more)

    warnings.warn = warned


def _patch_errors() -> None:
    tests: dict[int, str] = {}

    def watch_type(kind: type[BaseException]) -> None:
        init: Any = kind.__init__

        @wraps(init)
        def made(self: BaseException, *args: Any, **fields: Any) -> None:
            init(self, *args, **fields)
            if Canaries.stack:
                watch = Canaries.stack[-1]
                tests[id(self)] = watch.test
                watch.note(f"str of {type(self).__name__}", _safely(str, self))
                watch.note(f"repr of {type(self).__name__}", _safely(repr, self))

        def ended(self: BaseException) -> None:
            test = tests.pop(id(self), None)
            if Canaries.stack:
                Canaries.stack[-1].note_error("error", self, test)

        kind.__init__ = made  # type: ignore[method-assign]
        kind.__del__ = ended  # type: ignore[attr-defined]

    watch_type(errors.CarpoolError)
    watch_type(ProviderError)


def _patch_complaints() -> None:
    loops = asyncio.base_events.BaseEventLoop
    handle = loops.call_exception_handler

    def complained(loop: asyncio.BaseEventLoop, context: dict[str, Any]) -> None:
        if Canaries.stack:
            watch = Canaries.stack[-1]
            for name, value in context.items():
                if isinstance(value, BaseException):
                    watch.note_error("event loop's complaint", value)
                elif name != "source_traceback":
                    watch.note("event loop's complaint", _safely(str if isinstance(value, str) else repr, value))
        handle(loop, context)

    loops.call_exception_handler = complained  # type: ignore[method-assign]


def _noting(channel: str, hook: Callable[[Any], object]) -> Callable[[Any], None]:
    def noted(args: Any) -> None:
        if Canaries.stack:
            watch = Canaries.stack[-1]
            if args.exc_value is not None:
                watch.note_error(channel, args.exc_value)
            watch.note(channel, _safely(repr, getattr(args, "object", None)))
        hook(args)

    return noted


def _patch_printing() -> None:
    read = pytest.CaptureFixture.readouterr
    talk = subprocess.Popen.communicate
    talk_async = asyncio.subprocess.Process.communicate

    @wraps(read)
    def taken(fixture: pytest.CaptureFixture[Any]) -> Any:
        result = read(fixture)
        _note_output(result.out, result.err)
        return result

    @wraps(talk)
    def told(process: subprocess.Popen[Any], *args: Any, **more: Any) -> Any:
        result = talk(process, *args, **more)
        _note_output(*result)
        return result

    @wraps(talk_async)
    async def told_async(process: asyncio.subprocess.Process, *args: Any, **more: Any) -> Any:
        result = await talk_async(process, *args, **more)
        _note_output(*result)
        return result

    pytest.CaptureFixture.readouterr = taken  # type: ignore[method-assign]
    subprocess.Popen.communicate = told  # type: ignore[method-assign]
    asyncio.subprocess.Process.communicate = told_async  # type: ignore[method-assign]


def _note_output(out: Any, err: Any) -> None:
    for channel, output in (("stdout", out), ("stderr", err)):
        note(channel, output.decode("utf-8", "replace") if isinstance(output, bytes) else output or "")


def _patch_clients() -> None:
    """Learn keys and prompts where carpool gets them, and look at what it shows of itself."""
    open_http, generate, leave, alarm = Http.__init__, Encoder.generate, Client.__aexit__, Watch.raise_alarm
    make_ticket, start_upload = Ticket.__init__, Upload._start

    @wraps(open_http)
    def http_opened(self: Http, base_url: str, api_key: str, *args: Any, **more: Any) -> None:
        if Canaries.stack:
            Canaries.stack[-1].learn("key", api_key)
        open_http(self, base_url, api_key, *args, **more)

    @wraps(generate)
    def encoded(self: Encoder, model: str, contents: Any, config: Any) -> Encoded:
        if type(contents) is str and len(contents) >= _LEARNT_PROMPT_CHARS_MIN and Canaries.stack:
            Canaries.stack[-1].learn_prompt(contents)
        return generate(self, model, contents, config)

    @wraps(leave)
    async def left(self: Client, *args: Any) -> None:
        try:
            await leave(self, *args)
        finally:
            _note_client(self)

    @wraps(alarm)
    def raised(self: Watch, what: Any) -> None:
        note("alarm", _safely(repr, what))
        alarm(self, what)

    @wraps(make_ticket)
    def ticket_made(self: Ticket[Any], *args: Any) -> None:
        make_ticket(self, *args)
        note("repr of Ticket", _safely(repr, self))

    @wraps(start_upload)
    async def upload_started(self: Upload) -> Any:
        result = await start_upload(self)
        if Canaries.stack and self._url:
            Canaries.stack[-1].learn("upload URL", self._url)
        return result

    Http.__init__ = http_opened  # type: ignore[method-assign]
    Encoder.generate = encoded  # type: ignore[method-assign]
    Client.__aexit__ = left  # type: ignore[method-assign]
    Watch.raise_alarm = raised  # type: ignore[method-assign]
    Ticket.__init__ = ticket_made  # type: ignore[method-assign]
    Upload._start = upload_started  # type: ignore[method-assign]


def _note_client(client: Client) -> None:
    runtime: Any = client._runtime
    for name, shown in {
        "Client": client,
        "Settings": client.settings,
        "facades": (client.jobs, client.files, client.caches),
        "adapters": (runtime._provider, runtime._store, getattr(runtime._provider, "_http", None)),
    }.items():
        note(f"repr of {name}", _safely(repr, shown))
    if runtime.is_opened:
        for name, ask in (("Stats", client.stats), ("Health", client.health), ("Receipt", client.receipt)):
            note(f"repr of {name}", _safely(lambda ask: repr(ask()), ask))
