"""The command line: ``carpool`` and ``python -m carpool``.

Owns the program: which commands there are, and how the process ends when one of them fails. Each group of commands has
a module of its own. Nothing here is loaded by ``import carpool``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from carpool.cli.console import Exit, UsageError, lose_output, say, tell_warnings
from carpool.cli.lessons import LESSONS

if TYPE_CHECKING:
    from cyclopts import App

__all__ = ["main"]

_GROUPS: Final = {
    "jobs": "Look at batch jobs on the server, whoever created them.",
    "files": "Uploaded files, for the parts of requests.",
}

_HELP: Final = """\
Gemini calls through the Batch API, at half the list price.

See it work, without a key and without a network:

    carpool demo

Answer every row of a file; rerun the same command after a kill, and it goes on:

    export GEMINI_API_KEY=...
    carpool map questions.jsonl answers.jsonl --model gemini-3.5-flash

Have a program that knows nothing of carpool make batches, without a change to it:

    carpool run -- python app.py

Try your own program against an emulated service first:

    carpool emulate --port 8700
    export CARPOOL_BASE_URL=http://127.0.0.1:8700 CARPOOL_HOME=$PWD/emulated

Every command explains itself: carpool COMMAND --help"""

_EPILOGUE: Final = """\
Environment: GOOGLE_API_KEY or GEMINI_API_KEY is the key, CARPOOL_BASE_URL is where to call, CARPOOL_HOME where state \
is kept. CARPOOL_LINGER_S, CARPOOL_JOBS_MAX and so on are the fields of carpool.Settings.

Exit codes: 0 ok, 1 something failed, 2 wrong usage, 3 a deadline was missed, 130 interrupted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return the exit code of the process.

    Args:
        arguments: of the command line; ``None`` for the process's own.
    """
    import cyclopts

    from carpool.errors import CarpoolError, ConfigurationError, DeadlineExceeded

    app = program()
    with tell_warnings():
        try:
            code = app(arguments, exit_on_error=False, print_error=False)
        except cyclopts.CycloptsError as error:
            say(f"{error} Try '{_command_of(error)} --help'.")
            return Exit.USAGE
        except (UsageError, ConfigurationError) as error:
            say(str(error))
            return Exit.USAGE
        except DeadlineExceeded as error:
            say(str(error))
            return Exit.LATE
        except CarpoolError as error:
            say(str(error))
            return Exit.FAILED
        except KeyboardInterrupt:
            say("interrupted")
            return Exit.INTERRUPTED
        except BrokenPipeError:
            lose_output()
            return Exit.FAILED
        except OSError as error:
            say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            return Exit.FAILED
    return int(code or 0)


def program() -> App:
    """Return the program with all its commands."""
    import cyclopts

    app = cyclopts.App(
        name="carpool",
        help=_HELP,
        help_epilogue=_EPILOGUE,
        help_format="plaintext",
        version=_version,
        version_flags=["--version"],
        default_parameter=cyclopts.Parameter(negative=()),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app["--version"].help = "Show the version and exit."
    app["--help"].help = "Show this help and exit."
    groups = {"": app}
    for name, words in _GROUPS.items():
        groups[name] = cyclopts.App(name=name, help=words, help_epilogue="", version_flags=[])
        app.command(groups[name])
    for words, command in _commands().items():
        group, _, name = words.rpartition(" ")
        groups[group].command(command, name=name, help_format="markdown", help_epilogue=LESSONS[words].epilogue)
    return app


def _commands() -> dict[str, Callable[..., int]]:
    """Return what each command calls, by the words behind ``carpool``."""
    from carpool.cli import files, jobs, results
    from carpool.cli.collect import collect_garbage
    from carpool.cli.completion import print_completion
    from carpool.cli.demo import demo
    from carpool.cli.doctor import doctor
    from carpool.cli.emulate import emulate
    from carpool.cli.map import map_rows
    from carpool.cli.quote import quote_rows
    from carpool.cli.receipt import show_receipt
    from carpool.cli.run import run_command
    from carpool.cli.serve import serve
    from carpool.cli.watch import watch_jobs

    return {
        "demo": demo,
        "emulate": emulate,
        "serve": serve,
        "map": map_rows,
        "run": run_command,
        "quote": quote_rows,
        "receipt": show_receipt,
        "results": results.show_results,
        "gc": collect_garbage,
        "doctor": doctor,
        "completion": print_completion,
        "jobs ls": jobs.list_jobs,
        "jobs show": jobs.show_job,
        "jobs watch": watch_jobs,
        "jobs cancel": jobs.cancel_job,
        "jobs rm": jobs.remove_jobs,
        "jobs results": results.job_results,
        "files ls": files.list_files,
        "files upload": files.upload_file,
        "files rm": files.remove_files,
    }


def _version() -> str:
    import carpool

    return f"carpool {carpool.__version__}"


def _command_of(error: object) -> str:
    chain: Sequence[str] = getattr(error, "command_chain", None) or ()
    return " ".join(("carpool", *chain))
