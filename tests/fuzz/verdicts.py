"""Cases that run each in a process of its own, with limits of time and memory, and their verdicts."""

import argparse
import collections
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

GIGABYTE = 2**30
# A case may take so much more memory than the undamaged data do; its address space ends at four times that.
EXTRA_MEMORY = GIGABYTE

GOOD = ("equal", "refused", "noted", "not knowable", "traced", "ended")
BAD = ( "silent difference", "traceback", "nameless refusal", "foreign refusal",
    "refusal of whole data", "hang", "memory", )  # fmt: skip


class Outcome(NamedTuple):
    """The end of a process: `kind` "value", "refused", "raised", "exit", "hang" or "killed"; its `value`, or
    the text of the error; the `peak` of its memory in bytes, the `seconds` it took, and what it printed."""

    kind: str
    value: Any
    peak: int
    seconds: float
    printed: str = ""


class Verdict(NamedTuple):
    """One of GOOD or BAD, and a line that explains it."""

    kind: str
    line: str = ""


def in_a_process(
    case: Callable[[], Any], *, seconds: int, address_space: int | None = 4 * EXTRA_MEMORY
) -> Outcome:
    """Run a case in a forked process.

    Args:
      case: returns what JSON can say. An error called DataError is a refusal, SystemExit an exit status.
      seconds: after which the process is killed.
      address_space: bytes that the process may map beyond those it starts with; None sets no limit.
    """
    reader, writer = os.pipe()
    start = time.monotonic()
    sys.stdout.flush()
    with tempfile.TemporaryFile() as printed:
        process = os.fork()
        if process == 0:
            os.close(reader)
            _run_and_exit(case, seconds, address_space, writer, printed.fileno())
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        _, status, usage = os.wait4(process, 0)
        printed.seek(0)
        text = printed.read().decode("utf-8", "replace")
    measured = (usage.ru_maxrss * 1024, time.monotonic() - start, text)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind = "hang" if number == signal.SIGALRM else "killed"
        return Outcome(kind, f"{signal.Signals(number).name} after {measured[1]:.0f} s", *measured)
    return Outcome(*json.loads(answer), *measured)


def _run_and_exit(
    case: Callable[[], Any], seconds: int, address_space: int | None, writer: int, printed: int
) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        if address_space is not None:
            limit = _mapped() + address_space
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        answer = _answer(case)
        signal.alarm(10)  # for what a library does when it is flushed
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(writer, json.dumps(answer).encode("ascii"))
    except BaseException:
        os.write(writer, json.dumps(("raised", traceback.format_exc()[-2000:])).encode("ascii"))
    finally:
        os._exit(0)


def _answer(case: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "value", case()
    except SystemExit as error:
        return "exit", error.code
    except BaseException as error:
        if type(error).__name__ == "DataError":
            return "refused", str(error)[:2000]
        *_, frame = traceback.extract_tb(error.__traceback__)
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
        places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (frame, *ours[:-4:-1]))
        return "raised", f"{type(error).__name__}: {str(error)[:300]} ({places})"


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def of_loading(
    outcome: Outcome, undamaged: Outcome, place: Path, knowable: Callable[[], str | None]
) -> Verdict:
    """Judge what loading damaged data came to.

    Args:
      outcome: of the damaged data; a value is (digest, notes).
      undamaged: of the same data before the damage.
      place: the folder of the data; a refusal names a file or folder in it.
      knowable: returns the reason why a reader can know of the damage, None if none can.
    """
    if excess := of_process(outcome, undamaged):
        return excess
    if outcome.kind == "refused":
        if "\n" in outcome.value or str(place) not in outcome.value:
            return Verdict("nameless refusal", outcome.value)
        return Verdict("refused", outcome.value)
    (digest, notes), (right, usual) = outcome.value, undamaged.value
    if digest == right:
        return Verdict("equal")
    if new := [note for note in notes if note not in usual]:
        return Verdict("noted", new[0])
    reason = knowable()
    return Verdict("silent difference", reason) if reason else Verdict("not knowable")


def of_process(outcome: Outcome, undamaged: Outcome) -> Verdict | None:
    """Judge a process that hung, died, raised or took too much memory; None if it did nothing of that."""
    extra = outcome.peak - undamaged.peak
    if extra > EXTRA_MEMORY:
        return Verdict("memory", f"{extra / GIGABYTE:.1f} GB more than the undamaged data; {outcome.value}")
    if outcome.kind == "hang":
        return Verdict("hang", outcome.value)
    if outcome.kind in ("raised", "killed"):
        return Verdict("traceback", outcome.value)
    return None


def main(
    name: str,
    cases: Callable[[int], Callable[[int], tuple[str, Verdict]]],
    *,
    count: int,
    argv: Iterable[str],
) -> int:
    """Run the cases of the command line, print a line of JSON, and return the exit status, 1 after a failure.

    `cases(seed)` returns `case(index) -> (description, verdict)`. The options are `--count`, `--seed`,
    `--first` (the first index), `--only` (one index) and `--verbose`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.fuzz.{name}")
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(list(argv))
    case, start = cases(options.seed), time.monotonic()
    first = options.first if options.only is None else options.only
    counts: collections.Counter[str] = collections.Counter()
    failures = []
    for index in range(first, first + (options.count if options.only is None else 1)):
        description, verdict = case(index)
        counts[verdict.kind] += 1
        if verdict.kind in BAD:
            again = f"python -m tests.fuzz.{name} --seed={options.seed} --only={index}"
            line = " ".join(f"{again}  # {description}: {verdict.kind}: {verdict.line}".split())
            failures.append(line)
            print(line, file=sys.stderr, flush=True)
        elif options.verbose or options.only is not None:
            print(f"{index} {description}: {verdict.kind}: {verdict.line}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - start, 1)
    record = {"suite": name, "seed": options.seed, "cases": sum(counts.values()), "counts": dict(counts)}
    print(json.dumps({**record, "seconds": seconds, "failures": failures}))
    return 1 if failures else 0
