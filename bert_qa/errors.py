"""How a mistake in somebody's input reaches them: one line on standard error and exit status 1.

Knows nothing of the domain. Whoever finds the mistake words it: file, row or key, what was found,
what to do.
"""

from __future__ import annotations

import gc
import json
import os
import re
import reprlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from bert_qa import stage_costs

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


NAMED = 10
"""Mistakes that one error names; of more it says how many."""


class UserError(Exception):
    """Something a person can fix: the message is the one line they will read."""


ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""What a script says when a signal ends it."""


def run(main: Callable[[], None]) -> None:
    """Run the `main` of a script so that a person's mistake never ends in a traceback.

    `UserError`, operating system errors (a full disk, a missing permission) and a lack of memory
    are printed as `error: ...` with exit status 1. Ctrl-C and SIGTERM end the script as an
    exception would, so that it cleans up, with exit status 130 and 143. Anything else is a defect
    of this project and keeps its traceback.

    The first lines of a script turn Python's search for cycles off while it imports. Here it is on
    again, but for what was imported: that stays until the end.
    """
    of_a_script = not gc.isenabled()
    if of_a_script:
        gc.freeze()
        gc.enable()
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe without UTF-8 is shown `\xfc` in place of an error of its encoding.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # Prints nothing: what it interrupts may be printing, which cannot be entered twice.
        stopped.append(number)
        if _imports(frame):  # where C code answers an exception with a traceback of its own
            os.write(sys.stderr.fileno(), f"{ENDINGS[signal.Signals(number)]}\n".encode())
            os._exit(128 + number)
        raise KeyboardInterrupt

    heard = [number for number in ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        main()
        sys.stdout.flush()
        stage_costs.note()
    except BaseException as error:
        # A signal counts before the error: C code makes others of an exception that interrupts it.
        if stopped or isinstance(error, KeyboardInterrupt):
            number = signal.Signals(stopped[0]) if stopped else signal.SIGINT
            print(ENDINGS[number], file=sys.stderr)
            sys.exit(128 + number)
        if isinstance(error, BrokenPipeError):
            # The reader of our output has gone, as `head` does: Python must not write to it again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        if (message := user_message(error)) is None:
            raise
        print(f"error: {one_line(message)}", file=sys.stderr)
        sys.exit(1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if of_a_script:
            gc.freeze()  # Python's end searches too, for a second, among what is gone anyway


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block has ended.

    For what must not stop halfway, such as starting a process that waits to be told its task. In
    another thread than the main one, which signals do not interrupt, it does nothing.
    """
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDINGS}
    here = threading.current_thread() is threading.main_thread()
    deferred = [number for number, handler in handlers.items() if here and handler is not None]
    for number in deferred:
        if handlers[number] is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        for number in deferred:
            signal.signal(number, handlers[number])
        for held_back in heard:
            signal.raise_signal(held_back)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported in a frame."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def user_message(error: BaseException) -> str | None:
    """What a person is told of an error; None for a defect."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        return f"{name}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return f"memory ran out ({error})" if str(error) else "memory ran out"
    return None


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
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"


def listed(first: Sequence[str], total: int) -> str:
    """The first mistakes of many, at most `NAMED`, and how many more there are."""
    more = [f"and {total - len(first)} more"] if total > len(first) else []
    return "; ".join([*first, *more])


@contextmanager
def reading(what: object, remedy: str) -> Iterator[None]:
    """Turn what readers raise inside the block into one line about a file of this project's own.

    Such a file is right or spoilt, and each reader has errors of its own for the latter.

    Args:
        what: the file.
        remedy: what makes it anew.

    Raises:
        UserError: it is not there, or is not what the project wrote.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or what}: no such file; {remedy}") from None
    except OSError:
        raise  # `run` names the file
    except Exception as error:
        raise UserError(
            f"{what}: not what this project wrote ({type(error).__name__}:"
            f" {first_sentence(error)}); {remedy}"
        ) from None


def first_sentence(error: Exception) -> str:
    """The first sentence of a library's error message; some run to a page."""
    return " ".join(str(error).split()).partition(". ")[0][:200]
