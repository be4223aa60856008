"""``carpool files``: uploaded files, for the parts of requests.

Owns how files are shown. What an upload is and when it may be used is the library's to know.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from carpool.cli.console import fit, print_json, run
from carpool.cli.server import full_name, with_server

if TYPE_CHECKING:
    from carpool import Client, File


def list_files(*, base_url: str | None = None, json: bool = False) -> int:
    """List uploaded files.

    Args:
        base_url: where to call, instead of Google.
        json: print a JSON array of files.
    """

    async def ask(client: Client) -> None:
        files = [file async for file in client.files.list()]
        if json:
            print_json([fit(file) for file in files])
        else:
            _print_table(files)

    return run(with_server(base_url, ask))


def upload_file(
    path: Path,
    /,
    *,
    mime_type: str | None = None,
    name: str | None = None,
    base_url: str | None = None,
    json: bool = False,
) -> int:
    """Upload a file, wait until it can be used, and print its name and URI. The server keeps it for two days.

    Args:
        path: the file.
        mime_type: what it is, where its name does not tell.
        name: display name, instead of the file's own.
        base_url: where to call, instead of Google.
        json: print the file as one JSON object.
    """

    async def ask(client: Client) -> None:
        file = await client.files.upload(path, mime_type=mime_type, display_name=name)
        if json:
            print_json(fit(file))
        else:
            print(f"{file.name} {file.uri}")

    return run(with_server(base_url, ask))


def remove_files(name: str, /, *more: str, base_url: str | None = None, json: bool = False) -> int:
    """Delete uploaded files. Requests that name one and have not run yet will fail.

    Args:
        name: of the file, with or without "files/".
        more: names of other files.
        base_url: where to call, instead of Google.
        json: print a JSON array of the names of the files that were deleted.
    """
    names = [full_name(each, "files") for each in dict.fromkeys((name, *more))]

    async def ask(client: Client) -> None:
        for each in names:
            await client.files.delete(each)
            if not json:
                print(f"deleted {each}")
        if json:
            print_json(names)

    return run(with_server(base_url, ask))


def _print_table(files: list[File]) -> None:
    from carpool.cli.jobs import make_table, print_table

    headings = ("name", "state", "type", "bytes", "expires", "display name")
    rows = [
        (file.name, file.state, file.mime_type, f"{file.size_bytes:,}", file.expires_at, file.display_name)
        for file in files
    ]
    print_table(make_table(headings, rows, right={"bytes"}))
