"""Fixtures that the tests of runs over streams share."""

from collections.abc import Callable
from contextlib import contextmanager

import pytest


@pytest.fixture
def killed_at(monkeypatch) -> Callable:
    """`with killed_at(step):` a run within ends, as if by SIGKILL, when it has learned so many batches."""
    from experiments import streams

    class Killed(BaseException):
        pass

    log_line = streams.log_line

    @contextmanager
    def at(step: int):
        def killed(done, *rest):
            if done == step:
                raise Killed
            return log_line(done, *rest)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(streams, "log_line", killed)
            yield

    return at
