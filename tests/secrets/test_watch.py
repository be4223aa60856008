"""The watch over the test run (``tests/canary.py``) bites: a test that leaks fails, on whichever way it leaks."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
from tests.canary import EXEMPTIONS, Canaries

OPTIONS = ("-p", "no:cacheprovider", "-p", "no:looptime_plugin")
ROOT = Path(__file__).parents[2]
HEAD = """
import asyncio, gc, logging, subprocess, sys, threading, warnings
import pytest
import carpool
from carpool._core.model import Fault
from carpool._ports import ProviderError
from carpool.emulator import Emulator
from carpool.types import Alarm, ServerError

KEY = "AIza" + "-canary-0123456789"
LONG = "what nobody may ever read of us, " * 3
log = logging.getLogger("aiohttp.client")

def client(base_url="http://127.0.0.1:9", key=KEY, **more):
    settings = carpool.Settings(linger_s=0.01, poll_min_s=0.01, poll_max_s=0.01)
    return carpool.Client(api_key=key, base_url=base_url, store=carpool.MemoryStore(), settings=settings, **more)

class Chained(Exception):
    pass
"""
LEAKS = {
    "log": ("def test(): log.debug('a %s', KEY)", "key in log of aiohttp.client"),
    "log without a listener": (
        "def test():\n log.setLevel(100)\n log.error(KEY)\n log.setLevel(0)",
        "key in log of aiohttp.client",
    ),
    "arguments of a log record": (
        "def test(): log.debug('%.3s', KEY)",
        "key in arguments of the log of aiohttp.client",
    ),
    "exception in the log": (
        "def test():\n try: raise Chained(KEY)\n except Chained: log.exception('oh')",
        "key in str of log of aiohttp.client (Chained)",
    ),
    "warning that is ignored": (
        "def test():\n with warnings.catch_warnings():\n  warnings.simplefilter('ignore')\n  warnings.warn(KEY)",
        "key in warning",
    ),
    "warning that is expected": (
        "def test():\n with pytest.warns(UserWarning): warnings.warn(KEY)",
        "key in warning",
    ),
    "stdout": ("def test(): print(KEY)", "key in stdout"),
    "stderr": ("def test(): print(KEY, file=sys.stderr)", "key in stderr"),
    "stdout of a fixture": (
        "@pytest.fixture\ndef made():\n yield\n print(KEY)\ndef test(made): pass",
        "key in stdout",
    ),
    "stdout that the test takes": ("def test(capsys): print(KEY); capsys.readouterr()", "key in stdout"),
    "stdout of the process that the test takes": (
        "def test(capfd): subprocess.run(['echo', KEY]); capfd.readouterr()",
        "key in stdout",
    ),
    "child": ("def test(): subprocess.run(['echo', KEY], capture_output=True)", "key in stdout"),
    "child of a loop": (
        (
            "def test():\n"
            " async def run():\n"
            "  child = await asyncio.create_subprocess_exec('echo', KEY, stdout=asyncio.subprocess.PIPE)\n"
            "  await child.communicate()\n"
            " asyncio.run(run())"
        ),
        "key in stdout",
    ),
    "text of an error": (
        (
            "def test(monkeypatch):\n"
            " monkeypatch.setattr('carpool.errors.without_secrets', str)\n"
            " carpool.CarpoolError(KEY)"
        ),
        "key in str of CarpoolError",
    ),
    "repr of an error": ("def test(): carpool.CarpoolError('oh', key=KEY)", "key in repr of CarpoolError"),
    "cause of an error": (
        "def test():\n with pytest.raises(carpool.CarpoolError):\n  raise carpool.CarpoolError('oh') from Chained(KEY)",
        "key in str of error (Chained)",
    ),
    "context of an error that hides it": (
        (
            "def test():\n"
            " with pytest.raises(ProviderError):\n"
            "  try: raise Chained(KEY)\n"
            "  except Chained: raise ProviderError(Fault(kind='unknown')) from None"
        ),
        "key in str of error (Chained)",
    ),
    "note of an error": (
        "def test():\n error = carpool.CarpoolError('oh')\n error.add_note(KEY)",
        "key in notes of error (CarpoolError)",
    ),
    "error in a group": (
        (
            "def test():\n"
            " error = carpool.CarpoolError('oh')\n"
            " error.__cause__ = ExceptionGroup('two', [Chained(KEY), Chained('b')])"
        ),
        "key in str of error (Chained)",
    ),
    "loop's complaint": (
        (
            "def test():\n"
            " async def run():\n"
            "  loop = asyncio.get_running_loop()\n"
            "  loop.set_exception_handler(lambda *_: None)\n"
            "  loop.call_exception_handler({'message': 'oh', 'exception': Chained(KEY)})\n"
            " asyncio.run(run())"
        ),
        "key in str of event loop's complaint (Chained)",
    ),
    "future that nobody looked at": (
        (
            "def test():\n"
            " async def run():\n"
            "  loop = asyncio.get_running_loop()\n"
            "  loop.set_exception_handler(lambda *_: None)\n"
            "  future = loop.create_future()\n"
            "  future.set_exception(Chained(KEY))\n"
            "  del future\n"
            " asyncio.run(run())"
        ),
        "key in str of event loop's complaint (Chained)",
    ),
    "destructor": (
        (
            "class Odd:\n"
            " def __del__(self): raise Chained(KEY)\n"
            "@pytest.mark.filterwarnings('ignore')\n"
            "def test(): Odd(); gc.collect()"
        ),
        "key in str of complaint of a destructor (Chained)",
    ),
    "thread": (
        (
            "def fail(): raise Chained(KEY)\n"
            "@pytest.mark.filterwarnings('ignore')\n"
            "def test():\n thread = threading.Thread(target=fail); thread.start(); thread.join()"
        ),
        "key in str of complaint of a thread (Chained)",
    ),
    "client": (
        (
            "def test(monkeypatch):\n"
            " monkeypatch.setattr(carpool.Client, '__repr__', lambda self: KEY)\n"
            " async def run():\n"
            "  async with Emulator() as emulator, client(emulator.base_url): pass\n"
            " asyncio.run(run())"
        ),
        "key in repr of Client",
    ),
    "health": (
        (
            "def test(monkeypatch):\n"
            " monkeypatch.setattr(carpool.Client, 'health', lambda self: carpool.Health(status='ok', reasons=[KEY]))\n"
            " async def run():\n"
            "  async with Emulator() as emulator, client(emulator.base_url): pass\n"
            " asyncio.run(run())"
        ),
        "key in repr of Health",
    ),
    "alarm": (
        (
            "def test():\n"
            " async def run():\n"
            "  async with Emulator() as emulator, client(emulator.base_url) as one:\n"
            "   one._runtime.raise_alarm(Alarm('bug', detail=KEY))\n"
            " asyncio.run(run())"
        ),
        "key in alarm",
    ),
    "key without a form": ("def test(): client(key='my-own-gateway'); print('my-own-gateway')", "key in stdout"),
    "part of a long prompt": (
        (
            "def test():\n"
            " async def run():\n"
            "  async with Emulator() as emulator, client(emulator.base_url) as one:\n"
            "   await one.generate('gemini-3.5-flash', LONG)\n"
            " asyncio.run(run())\n"
            " print(LONG[:40])"
        ),
        "prompt in stdout",
    ),
    "answer": (
        (
            "def test():\n"
            " async def run():\n"
            "  async with Emulator() as emulator, client(emulator.base_url) as one:\n"
            "   print((await one.generate('gemini-3.5-flash', 'a')).text)\n"
            " asyncio.run(run())"
        ),
        "answer in stdout",
    ),
    "upload URL": (
        (
            "from carpool._gemini.upload import Upload\n"
            "def test():\n"
            " async def run():\n"
            "  settings = carpool.Settings(linger_s=0.01, poll_min_s=0.01, poll_max_s=0.01, inline_cost_max_usd=0)\n"
            "  seen = []\n"
            "  command = Upload._command\n"
            "  async def spy(self, *args): seen.append(self._url); return await command(self, *args)\n"
            "  Upload._command = spy\n"
            "  try:\n"
            "   async with Emulator() as emulator, carpool.Client(\n"
            "    api_key=KEY, base_url=emulator.base_url, store=carpool.MemoryStore(), settings=settings\n"
            "   ) as one: await one.generate('gemini-3.5-flash', 'a')\n"
            "  finally: Upload._command = command\n"
            "  log.debug(seen[0])\n"
            " asyncio.run(run())"
        ),
        "upload URL in log of aiohttp.client",
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_test_that_leaks_fails_and_says_where_without_saying_what(name: str, pytester: pytest.Pytester) -> None:
    source, words = LEAKS[name]
    pytester.makepyfile(HEAD + source)
    result = pytester.runpytest_inprocess(*OPTIONS, plugins=[Canaries()])
    counts = result.parseoutcomes()
    assert counts.get("failed", 0) + counts.get("errors", 0) >= 1, counts
    assert f"{words}: " in result.stdout.str()
    assert "canary-0123456789" not in result.stdout.str().replace('"-canary-0123456789"', "")


def test_a_test_that_does_not_leak_passes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD + "def test(caplog, capsys):\n"
        " log.debug('nothing')\n print('nothing')\n carpool.CarpoolError('nothing', key='k')\n"
        " assert capsys.readouterr().out == 'nothing\\n'\n"
        " assert not caplog.records"
    )
    result = pytester.runpytest_inprocess(*OPTIONS, plugins=[Canaries()])
    result.assert_outcomes(passed=1)


def test_what_leaks_after_its_test_is_told_with_its_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD + "kept = []\n"
        "def test_one():\n"
        " error = carpool.CarpoolError('oh')\n error.__cause__ = Chained(KEY)\n kept.append(error)\n"
        "def test_two(): kept.clear()\n"
    )
    result = pytester.runpytest_inprocess(*OPTIONS, plugins=[Canaries()])
    result.assert_outcomes(passed=1, failed=1)
    assert "[comes from test_what_leaks_after_its_test_is_told_with_its_name.py::test_one]" in result.stdout.str()


def test_an_error_that_only_the_collector_ends_is_looked_at_before_the_run_is_over(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD + "def test():\n"
        " gc.disable()\n error = carpool.CarpoolError('oh')\n error.me = error\n error.__cause__ = Chained(KEY)\n"
    )
    try:
        result = pytester.runpytest_inprocess(*OPTIONS, plugins=[Canaries()])
    finally:
        gc.enable()
    assert "key in str of error (Chained): " in result.stdout.str()


def test_the_failure_of_a_test_that_also_leaks_is_shown_without_the_secret(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(HEAD + "def test():\n print(KEY)\n assert KEY == 'another'")
    result = pytester.runpytest_inprocess(*OPTIONS, plugins=[Canaries()])
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*key in stdout*", "*assert '<secret>' == 'another'*"])


def test_it_watches_in_each_process_of_xdist_and_no_option_switches_it_off(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}")
    (ROOT / "tests" / "conftest.py").read_text("utf-8").index("config.pluginmanager.register(Canaries())")
    pytester.makeconftest(
        "from tests.canary import Canaries\ndef pytest_configure(config): config.pluginmanager.register(Canaries())"
    )
    pytester.makepyfile(HEAD + "\n".join(f"def test_{n}(): print(KEY)" for n in range(4)))
    arguments = (*OPTIONS, "-n2", "-p", "no:canary", "-p", "no:Canaries", "-p", "no:tests.canary")
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(failed=4)


def test_every_exemption_is_for_tests_that_there_are() -> None:
    for exemption in EXEMPTIONS:
        path, _, name = exemption.tests.partition("::")
        found = list(ROOT.glob(path if path.endswith(".py") else f"{path.removesuffix('*')}*"))
        assert found, exemption
        assert any(f"def {name.rstrip('*')}" in file.read_text("utf-8") for file in found if file.is_file()) or not name
        assert exemption.why
        assert "key" not in exemption.kinds


def test_it_is_loaded_here() -> None:
    assert Canaries.stack
    assert sys.modules["tests.canary"].Canaries is Canaries
