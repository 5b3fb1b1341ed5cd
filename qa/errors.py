"""How a mistake in somebody's input reaches them: one line on standard error and exit status 1.

Knows nothing of the domain. Whoever finds the mistake words it: file, row or key, what was found,
what to do.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class UserError(Exception):
    """Something a person can fix: the message is the one line they will read."""


def run(main: Callable[[], None]) -> None:
    """Run the `main` of a script so that a person's mistake never ends in a traceback.

    `UserError`, operating system errors (a full disk, a missing permission) and a lack of memory
    are printed as `error: ...` with exit status 1. Ctrl-C and SIGTERM end the script as an
    exception would, so that it cleans up, with exit status 130 and 143. Anything else is a defect
    of this project and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe without UTF-8 is shown `\xfc` in place of an error of its encoding.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        message = str(error)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does: Python must not write to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        message = f"{name}{error.strerror or error}"
    except MemoryError as error:
        message = f"memory ran out ({error})" if str(error) else "memory ran out"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except _TerminatedError:
        print("terminated", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    else:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(1)


def one_line(text: str) -> str:
    """`text` on one line: line breaks become spaces, what cannot be seen is escaped.

    Spaces stay as they are: a message may be about them.
    """
    joined = re.sub(r"\s*[\r\n]\s*", " ", text.strip())
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in joined
    )


def shown(value: object) -> str:
    """A value as a person finds it in a file of JSON or YAML, in few enough characters to read."""
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    return _SHORT.repr(value)


def first_sentence(error: Exception) -> str:
    """The first sentence of a library's error message; some run to a page."""
    return " ".join(str(error).split()).partition(". ")[0][:200]


class _TerminatedError(SystemExit):
    """SIGTERM arrived."""


def _terminate(number: int, frame: FrameType | None) -> Any:
    # Nothing is printed here: what this interrupts may be printing, which cannot be entered twice.
    raise _TerminatedError(128 + number)
