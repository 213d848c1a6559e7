"""What comes of a command: its exit code, and its errors in words.

Whatever is wrong is a line or two on standard error, and a traceback only where it is our bug.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from typing import Any

import typer

from forebay.cli.console import print_error
from forebay.cli.extras import missing, verb_of
from forebay.errors import ForebayError

# The class of every mistake in a command line: click's up to typer 0.25, typer's own from 0.26 on. Neither typer
# exports it, and both export this child of it.
_Misused: Any = typer.BadParameter.__base__
# A folder or file that cannot be used where it is, whatever is done again.
_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


def logged() -> None:
    """Logs go to standard error, ours from INFO on."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("forebay").setLevel(logging.INFO)
    for client in ("kafka", "aiokafka"):  # each retry is a warning; what fails in the end is our error
        logging.getLogger(client).setLevel(logging.ERROR)


def told(work: Callable[[], Any]) -> int:
    """The exit code of `work`, whose errors have been printed."""
    try:
        result = work()
        return result if isinstance(result, int) else 0
    except ModuleNotFoundError as error:
        told = missing(error.name, verb_of(sys.argv[1:]))
        if told is None:
            raise
        print_error(told)
        return told.exit_code
    except ForebayError as error:
        print_error(error)
        return error.exit_code
    except _Misused as error:
        print_error(_in_a_line(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except OSError as error:
        print_error(ForebayError(error.strerror or str(error), where=str(error.filename or ""), do=_for_system(error)))
        return 1


def _in_a_line(error: Any) -> ForebayError:
    """What the parser says, with the command whose help has the right words."""
    at = error.ctx.command_path if error.ctx is not None else "forebay"
    said = " ".join(error.format_message().split()).rstrip(".")
    return ForebayError(f"{said}{'' if said.endswith(('?', ')')) else '.'} See: {at} --help")


def _for_system(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "Make room on that disk and start again: nothing acknowledged is lost"
    if error.errno in _PLACE and error.filename:
        return "Is the path right, and may this user write there? forebay config says which setting it is of"
    return ""
