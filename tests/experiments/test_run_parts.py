"""The data that flags describe."""

import numpy as np
import pytest
from PIL import Image

from experiments import few_shot
from experiments.cli import parse
from experiments.errors import UsageError
from experiments.parts import Parts


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for index, name in enumerate("abc"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        shape = (5, 5, 3) if index else (5, 5)
        Image.fromarray(np.full(shape, 50 * index, np.uint8)).save(folder / "1.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(("flags", "channels"), [((), 3), (("--color=rgb",), 3), (("--color=gray",), 1)])
def test_color_chooses_the_channels_of_ones_own_images(photographs, capsys, flags, channels):
    arguments = ["few_shot", "--dataset=folder", f"--data_dir={photographs}", *flags]
    assert Parts(parse(few_shot.EXPERIMENT, arguments)).dataset().info.shape == (5, 5, channels)
    note = "photos: 1 of 3 images are gray and the others in color: --color=auto reads all as RGB\n"
    assert capsys.readouterr().err == ("" if flags else note)


def test_color_belongs_to_ones_own_images():
    with pytest.raises(UsageError, match="--color=gray has no meaning here: the images of omniglot have"):
        parse(few_shot.EXPERIMENT, ["few_shot", "--dataset=omniglot", "--color=gray"])
