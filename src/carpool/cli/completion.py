"""``carpool completion``: what a shell needs to complete the command line.

Owns nothing but the way to it: the parser of the command line writes the script.
"""

from __future__ import annotations

from typing import Literal

from carpool.cli.console import Exit


def print_completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script by which a shell completes commands and options.

    Put it where your shell looks for such scripts, and start a new shell. Print it anew after an upgrade of carpool.

    Args:
        shell: which one.
    """
    from carpool.cli import program

    print(program().generate_completion(prog_name="carpool", shell=shell))
    return Exit.OK
