"""What the tests of continual runs share."""

from collections.abc import Callable
from contextlib import contextmanager

import pytest


@pytest.fixture
def killed_at(monkeypatch) -> Callable:
    """`with killed_at(step):` a run within ends, as if by SIGKILL, when it has learned so many batches."""
    from experiments import streaming

    class Killed(BaseException):
        pass

    line = streaming.line

    @contextmanager
    def at(step: int):
        def killed(done, *rest):
            if done == step:
                raise Killed
            return line(done, *rest)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(streaming, "line", killed)
            yield

    return at
