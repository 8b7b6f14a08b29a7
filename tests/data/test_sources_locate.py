import os
import pwd

import pytest
from source_helpers import one_line

from jmeta.data.sources.locate import expand, locate, roots, tfds_folder


def no_passwd(*_):
    raise KeyError("uid not found")


@pytest.fixture
def homeless(monkeypatch):
    """A container without HOME, for a user id without an entry in /etc/passwd."""
    for variable in ("HOME", "JMETA_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_passwd)


def test_data_are_found_without_a_home_folder(tmp_path, homeless, monkeypatch):
    assert roots(tmp_path) == [tmp_path]
    with one_line("the home folder is not known", "data_dir or JMETA_DATA"):
        roots(None)
    monkeypatch.setenv("JMETA_DATA", str(tmp_path))
    assert roots(None) == [tmp_path]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert roots(None) == [tmp_path, tmp_path / "tfds"]
    with one_line("the home folder is not known", "~/x"):
        expand("~/x")


def test_a_user_that_does_not_exist(tmp_path, monkeypatch):
    with one_line("~nosuchuser/x"):
        roots("~nosuchuser/x")
    monkeypatch.setenv("JMETA_DATA", "~nosuchuser/x")
    with one_line("~nosuchuser/x"):
        roots(None)
    monkeypatch.setenv("TFDS_DATA_DIR", "~nosuchuser/x")
    with one_line("~nosuchuser/x"):
        tfds_folder()


@pytest.mark.parametrize("name", ["a" * 300, "nul\0byte", "file/below", "nothing"])
def test_impossible_paths(tmp_path, name):
    (tmp_path / "file").write_text("")
    with one_line(tmp_path):
        roots(tmp_path / name)


def test_what_a_search_meets_is_one_line(tmp_path):
    def find(folder):
        raise PermissionError(13, "Permission denied", os.fspath(folder))

    with one_line("cannot read (Permission denied)", tmp_path):
        locate("omniglot", find, tmp_path, folders=("omniglot",), expected="files")
