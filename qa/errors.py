"""How a mistake in somebody's input reaches them: one line on standard error and exit status 1.

Knows nothing of the domain. Whoever finds the mistake words it: file, row or key, what was found,
what to do.
"""

from __future__ import annotations

import json
import os
import reprlib
import sys
from collections.abc import Callable

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class UserError(Exception):
    """Something a person can mend: the message is the one line they will read."""


def run(main: Callable[[], None]) -> None:
    """Run the `main` of a script so that a person's mistake never ends in a traceback.

    `UserError` and operating system errors (a full disk, a missing permission) are printed as
    `error: ...` with exit status 1, Ctrl-C as `interrupted` with status 130. Anything else is a
    defect of this project and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        message = str(error)
    except OSError as error:
        name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        message = f"{name}{error.strerror or error}"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    else:
        return
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(1)


def shown(value: object) -> str:
    """A value as a person finds it in a file of JSON or YAML, in few enough characters to read."""
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    return _SHORT.repr(value)


def first_sentence(error: Exception) -> str:
    """What a library says first of what went wrong: some go on for a page."""
    return " ".join(str(error).split()).partition(". ")[0][:200]
