"""The facts of a run that reports compare by: what decides its test tasks, and what tells it from others."""

from experiments import comln, continual, online_continual, online_few_shot
from experiments.cli import parse
from experiments.records import distinguishing_words, facts_of_test_tasks
from jmeta.data.source import DatasetInfo

DATA = DatasetInfo("omniglot", "MIT", "lake", {"train": ("a",), "test": ("b", "c")}, (28, 28, 1))


def facts(module, *arguments, **identity):
    settings = parse(module.EXPERIMENT, ["x", *arguments])
    return facts_of_test_tasks(module.EXPERIMENT.flags, settings, identity, DATA)


def words(module, *arguments):
    settings = parse(module.EXPERIMENT, ["x", *arguments])
    return distinguishing_words(module.EXPERIMENT.flags, settings)


def test_the_query_of_test_tasks_counts_where_training_has_another():
    assert facts(online_continual, "--query=3", "--test_query=7")["query"] == 7
    assert facts(comln, "--query=3")["query"] == 3


def test_what_decides_the_test_tasks():
    base = facts(comln, "--dataset=omniglot")
    for arguments in (["--rotations"], ["--seed=3"], ["--filters=8"], ["--learning_rate=1"]):
        assert facts(comln, "--dataset=omniglot", *arguments) == base
    for arguments in (["--way=3"], ["--shot=5"], ["--query=2"]):
        assert facts(comln, "--dataset=omniglot", *arguments) != base
    assert (base["split"], base["shape"], base["classes"]) == ("lake", (28, 28, 1), ("b", "c"))
    assert facts(comln, "--dataset=omniglot", data_dir="/mine")["data_dir"] == "/mine"
    stream = facts(online_few_shot, "--presentations=4", "--delay=2")
    assert stream["presentations"] == 4 and "delay" not in stream


def test_words_say_what_goes_without_saying():
    texts = {name: (about, text, usual) for about, name, text, usual in words(online_few_shot, "--delay=3")}
    assert texts["delay"] == ("tasks", "delay 3", False)
    assert texts["inject"] == ("learner", "labels to first", True)
    assert texts["dataset"] == ("tasks", "glyphs", True)  # a report has a column for it
    assert "split" not in texts
    assert {name: usual for _, name, _, usual in words(continual, "--hidden=50")}["hidden"] is False
