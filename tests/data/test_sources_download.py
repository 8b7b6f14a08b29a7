import http.server
import threading
import time
import urllib.error
import urllib.request
from functools import partial

import numpy as np
import pytest
from source_helpers import one_line, write_tree, write_zip
from test_sources_cifar import binary, class_folders, write_tar
from test_sources_omniglot import CLASSES, drawings

from jmeta.data.datasets import dataset
from jmeta.data.sources import authors, cifar, omniglot
from jmeta.data.sources.download import prepare_dataset
from jmeta.data.sources.omniglot import IMAGE_SETS
from jmeta.data.sources.prepared import find_prepared


@pytest.fixture
def no_network(monkeypatch):
    asked = []

    def refuse(request, **_):
        asked.append(request.full_url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


def test_omniglot_prepared_from_archives_reads_back_the_same(tmp_path, monkeypatch, no_network):
    monkeypatch.setitem(omniglot._SPLITS, "vinyals", lambda: CLASSES)
    monkeypatch.setattr(omniglot, "_DRAWERS", 2)
    archives = tmp_path / "archives"
    archives.mkdir()
    for part, files in zip(IMAGE_SETS, drawings()):
        write_zip(archives / f"{part}.zip", files)
    folder = prepare_dataset("jmeta_omniglot", archives=archives, data_dir=tmp_path / "tfds")
    assert folder == tmp_path / "tfds/jmeta_omniglot/1.0.0"
    expected = dataset("omniglot", data_dir=archives, cache=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.delenv("JMETA_DATA", raising=False)
    for data in (
        dataset("omniglot", data_dir=tmp_path / "tfds", cache=False),
        dataset("omniglot", cache=str(tmp_path / "cache")),
        dataset("omniglot", download=True, cache=str(tmp_path / "cache")),
    ):
        for split in CLASSES:
            np.testing.assert_array_equal(data.splits[split].examples, expected.splits[split].examples)
    assert no_network == []
    for shard in folder.glob("*.array_record*"):
        shard.unlink()
    with one_line("cannot read what tensorflow-datasets prepared", folder):
        dataset("omniglot", data_dir=tmp_path / "tfds", cache=False)


@pytest.mark.parametrize("form", ["tar", "folders"])
def test_cifar_prepared_from_archives_reads_back_the_same(tmp_path, monkeypatch, form):
    monkeypatch.setattr(cifar, "_IMAGES_PER_CLASS", 3)
    archives = tmp_path / "archives"
    archives.mkdir()
    if form == "tar":
        write_tar(archives / "cifar-100-binary.tar.gz", binary())
    else:
        write_tree(archives, {name.partition("/")[2]: raw for name, raw in class_folders("WEBP").items()})
    prepare_dataset("jmeta_cifar100", archives=archives, data_dir=tmp_path / "tfds")
    data, expected = (dataset("fc100", data_dir=path, cache=False) for path in (tmp_path / "tfds", archives))
    for split in expected.splits:
        np.testing.assert_array_equal(data.splits[split].examples, expected.splits[split].examples)


def test_download_from_a_server(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(omniglot._SPLITS, "vinyals", lambda: CLASSES)
    monkeypatch.setattr(omniglot, "_DRAWERS", 2)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for part, files in zip(IMAGE_SETS, drawings()):
            write_zip(tmp_path / f"{part}.zip", files)
            url = f"http://127.0.0.1:{server.server_port}/{part}.zip"
            monkeypatch.setitem(authors.URLS, f"{part}.zip", url)
        data = dataset("omniglot", data_dir=tmp_path / "new", download=True, cache=False)
        server.shutdown()
    expected = dataset("omniglot", data_dir=tmp_path, cache=False)
    for split in CLASSES:
        np.testing.assert_array_equal(data.splits[split].examples, expected.splits[split].examples)
    assert capsys.readouterr().out == ""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_nothing_is_downloaded_unless_asked_for(tmp_path, no_network):
    with one_line("omniglot: no data found", "allow the download with download=True"):
        dataset("omniglot", data_dir=tmp_path)
    assert no_network == []


def test_download_without_network_fails_at_once(tmp_path, no_network):
    start = time.monotonic()
    with one_line("cannot be reached", "Name or service not known", "fetch images_background.zip on another"):
        dataset("omniglot", data_dir=tmp_path, download=True)
    with one_line("cannot be reached", "fetch cifar-100-binary.tar.gz on another machine"):
        dataset("cifar_fs", data_dir=tmp_path, download=True)
    assert time.monotonic() - start < 60  # tensorflow-datasets alone would try for minutes
    assert len(no_network) == 2


def test_archives_that_do_not_fit_fail_in_one_line(tmp_path):
    (tmp_path / "archives").mkdir()
    write_zip(tmp_path / "archives/images_background.zip", {"a/1.png": b""})
    with one_line("images_evaluation.zip is missing"):
        prepare_dataset("jmeta_omniglot", archives=tmp_path / "archives", data_dir=tmp_path / "tfds")
    write_zip(tmp_path / "archives/images_evaluation.zip", {"a/1.png": b""})
    with one_line("not laid out as Omniglot"):
        prepare_dataset("jmeta_omniglot", archives=tmp_path / "archives", data_dir=tmp_path / "tfds")
    assert find_prepared(tmp_path / "tfds", ("jmeta_omniglot",)) is None
