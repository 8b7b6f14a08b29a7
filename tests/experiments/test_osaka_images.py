"""The pixels that OSAKA shows."""

import numpy as np
import pytest

import jmeta
from experiments import osaka
from experiments.cli import parse
from experiments.runner import Run, start
from jmeta.data.episodes import from_splits
from jmeta.data.source import DatasetInfo
from jmeta.data.streams import osaka as osaka_stream


def source(run, name):
    """Omniglot is dark ink, 10 of 255, on white, and the others are light ink, 245, on black."""
    ink, paper = (10, 255) if name == "omniglot" else (245, 0)
    images = np.full((40, 28, 28, 1), paper, np.uint8)
    images[:, 3] = ink
    split = jmeta.from_arrays(images, np.repeat(np.arange(4), 10))
    info = DatasetInfo(name, "none", "none", {}, (28, 28, 1))
    return from_splits(info, dict.fromkeys(("train", "validation", "test"), split))


class Composed(Exception):
    pass


def test_every_domain_is_light_on_dark(monkeypatch, tmp_path):
    """And the stream has all characters of Omniglot, and the training images of the others."""
    domains = []

    def keep(sources, shares):
        domains.extend(zip(sources, shares))
        raise Composed

    monkeypatch.setattr(Run, "dataset", source)
    monkeypatch.setattr(osaka_stream, "domains", keep)
    with pytest.raises(Composed):
        start(osaka.EXPERIMENT, parse(osaka.EXPERIMENT, ["osaka", f"--workdir={tmp_path / 'run'}"]))
    assert [(len(part.counts), share) for part, share in domains] == [(12, 0.5), (4, 0.25), (4, 0.25)]
    for part, _ in domains:
        pixels = np.asarray(part.examples)
        assert (pixels[:, 3] == 245).all() and (np.delete(pixels, 3, 1) == 0).all()
