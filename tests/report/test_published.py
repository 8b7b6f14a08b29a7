"""The published numbers, against literals typed from the papers."""

import pytest

from jmeta.report.published import papers, published_rows, row_for, row_key

# (table, method, variant, backbone): mean and interval of mini 1-shot, 5-shot, tiered 1-shot, 5-shot.
COMLN = {
    ("2", "COMLN", None, "conv4"): ((53.01, 0.62), (70.54, 0.54), (54.30, 0.69), (71.35, 0.57)),
    ("2", "COMLN", None, "resnet12"): ((59.26, 0.65), (77.26, 0.49), (62.93, 0.71), (81.13, 0.53)),
    ("2", "MAML", None, "conv4"): ((48.70, 1.84), (63.11, 0.92), (51.67, 1.81), (70.30, 1.75)),
    ("2", "MAML", None, "resnet12"): ((49.92, 0.65), (63.93, 0.59), (55.37, 0.74), (72.93, 0.60)),
    ("2", "ANIL", None, "conv4"): ((46.30, 0.40), (61.00, 0.60), (49.35, 0.26), (65.82, 0.12)),
    ("2", "ANIL", None, "resnet12"): ((49.65, 0.65), (59.51, 0.56), (54.77, 0.76), (69.28, 0.67)),
    ("2", "CAVIA", None, "conv4"): ((51.82, 0.65), (65.85, 0.55), (52.41, 2.64), (67.55, 2.05)),
    ("2", "iMAML", None, "conv4"): ((49.30, 1.88), (59.77, 0.73), (38.54, 1.37), (60.24, 0.76)),
    ("2", "MetaOptNet-SVM", None, "resnet12"): ((62.64, 0.61), (78.63, 0.46), (65.99, 0.72), (81.56, 0.53)),
    ("4", "COMLN", "RK", "conv4"): ((53.01, 0.62), (70.54, 0.54)),
    ("4", "COMLN", "Euler", "conv4"): ((53.00, 0.83), (70.50, 0.72)),
    ("5", "COMLN", None, "leo_embeddings"): ((50.39, 0.63), (70.06, 0.52)),
    ("5", "Meta-SGD", None, "leo_embeddings"): ((50.57, 0.64), (69.09, 0.53)),
    ("5", "MetaOptNet", None, "leo_embeddings"): ((40.60, 0.60), (50.94, 0.62)),
}


@pytest.mark.parametrize("key", COMLN, ids=str)
def test_rows_are_the_papers(key):
    table, method, variant, backbone = key
    rows = [
        row
        for row in published_rows("comln", table, method=method, backbone=backbone)
        if row["variant"] == variant
    ]
    settings = [("mini_imagenet", 1), ("mini_imagenet", 5), ("tiered_imagenet", 1), ("tiered_imagenet", 5)]
    found = {
        (row["dataset"], row["shot"]): (row["accuracy"]["mean"], row["accuracy"]["ci95"]) for row in rows
    }
    assert found == dict(zip(settings, COMLN[key]))
    assert all(row["way"] == 5 for row in rows)


def test_tables_are_complete_and_settings_unique():
    assert {table: len(published_rows("comln", table)) for table in papers()["comln"]["tables"]} == {
        "2": 13 * 4,
        "4": 4,
        "5": 10 * 2,
    }
    assert len({row_key(row) for row in published_rows()}) == len(published_rows())


def test_starred_rows_are_those_run_with_official_code():
    starred = {
        (row["method"], row["dataset"], row["shot"])
        for row in published_rows(table=2, origin="official_code")
    }
    assert starred == {
        ("CAVIA", "tiered_imagenet", 1),
        ("CAVIA", "tiered_imagenet", 5),
        ("iMAML", "mini_imagenet", 5),
        ("iMAML", "tiered_imagenet", 1),
        ("iMAML", "tiered_imagenet", 5),
    }


def test_row_for_prefers_the_plain_method_and_forgives_spelling():
    row = row_for("miniImageNet", "comln", "Conv-4", 5, 1)
    assert (row["table"], row["variant"]) == ("2", None)
    assert row_for("mini_imagenet", "comln", "conv4", 5, 1, variant="euler")["table"] == "4"
    own = row_for("mini_imagenet", "meta_sgd", "leo_embeddings", 5, 1)
    assert own["accuracy"]["mean"] == 50.57  # not Rusu et al.'s 54.24, listed before it
    assert row_for("omniglot", "comln", "conv4", 5, 1) is None


def test_rows_are_copies_and_unknown_fields_are_named():
    published_rows("comln")[0]["accuracy"]["mean"] = 0.0
    assert published_rows("comln")[0]["accuracy"]["mean"] == 48.70
    with pytest.raises(ValueError, match="no field backbon; rows have"):
        published_rows(backbon="conv4")


# Huisman et al.: method, then accuracy and interval (percent) of mini 1-shot, 5-shot, CUB 1-shot, 5-shot.
TURTLE = {
    "Meta-learner LSTM": ((45, 1), (61, 0), (50, 0), (65, 1)),
    "Enhanced LSTM": ((48, 1), (63, 1), (53, 1), (71, 0)),
    "FO-MAML": ((46, 1), (63, 0), (52, 0), (72, 1)),
    "FO-TURTLE": ((43, 1), (59, 4), (50, 0), (64, 3)),
    "TURTLE": ((48, 1), (62, 1), (53, 0), (72, 1)),
    "Baseline++": ((44, 0), (58, 0), (36, 1), (53, 1)),
}


@pytest.mark.parametrize("method", TURTLE)
def test_rows_of_learned_optimizers_are_the_papers(method):
    rows = published_rows("turtle", "3.1", method=method)
    settings = [("mini_imagenet", 1), ("mini_imagenet", 5), ("cub", 1), ("cub", 5)]
    found = {(row["dataset"], row["shot"]): tuple(row["accuracy"].values()) for row in rows}
    assert found == dict(zip(settings, TURTLE[method]))


def test_rows_of_osaka_are_those_of_table_6():
    rows = {(row["method"], row["dataset"]): row for row in published_rows("sparse_maml", "6")}
    assert len(rows) == 20
    often = rows["sparse-C-MAML", "osaka_stay90"]["cumulative_accuracy"]
    assert often == {"mean": 86.3, "std": 0.4, "ci95": 0.35}
    assert rows["MetaBGD", "osaka_stay98"]["cumulative_accuracy"]["mean"] == 91.1
    assert rows["C-MAML", "osaka_stay90"]["cumulative_accuracy"]["mean"] == 83.3


def test_what_the_text_says_of_a_figure():
    rows = {row["method"]: row for row in published_rows("cl_lstm", "Figure 4", dataset="omniglot", way=20)}
    assert rows["CL+LSTM"]["accuracy_before_last"] == {"mean": 93.15, "ci95": None}
    assert rows["ANML"]["accuracy_before_last"]["mean"] == 91.78
    assert rows["ANML"]["accuracy_subtask_20"]["mean"] == 56
    assert row_for("omniglot", "cl_lstm", way=20, shot=5, paper="cl_lstm") == rows["CL+LSTM"]


def test_across_domains_a_row_says_where_it_was_trained():
    row = row_for("cub", "TURTLE", "conv4", 5, 5, paper="turtle", variant="from mini_imagenet")
    assert row["accuracy"]["mean"] == 56 and row["table"] == "3.4"
    assert row_for("cub", "TURTLE", "conv4", 5, 5, paper="turtle")["table"] == "3.1"
    assert len(published_rows("turtle", "3.1")) == len(published_rows("turtle", "3.4")) == 9 * 4


# von Oswald et al., Table 1 and 3: accuracy and sparsity (percent) with deviations, of 1 and 5 shots.
SPARSE_MAML = {
    "exp-MAML": (48.38, 0.45, 65.21, 0.62),
    "sparse-ReLU-MAML": (49.84, 0.49, 66.80, 0.43, 77.53, 0.73, 73.53, 0.85),
    "sparse-MAML": (50.35, 0.39, 67.03, 0.74, 79.04, 1.61, 74.98, 0.10),
    "sparse-MAML-plus": (51.04, 0.59, 68.05, 0.84, 78.05, 1.67, 76.66, 1.13),
}


@pytest.mark.parametrize("method", SPARSE_MAML)
def test_rows_of_sparse_maml_are_the_papers(method):
    numbers = []
    for table, metric in (("1", "accuracy"), ("3", "sparsity")):
        for row in published_rows("sparse_maml", table, method=method):
            numbers += [row[metric]["mean"], row[metric]["std"]]
            assert row[metric]["ci95"] == pytest.approx(1.96 * row[metric]["std"] / 5**0.5, abs=0.006)
    assert tuple(numbers) == SPARSE_MAML[method]


def test_the_few_shot_tables_of_sparse_maml_are_complete():
    tables = {table: len(published_rows("sparse_maml", table)) for table in "1234"}
    assert tables == {"1": 20, "2": 11, "3": 6, "4": 36}
    relu = row_for("mini_imagenet", "sparse-ReLU-MAML", "resnet12_boil", 5, 5)
    assert relu["table"] == "2" and relu["accuracy"] == {"mean": 73.01, "std": 0.24, "ci95": 0.27}
    cars = row_for("cars", "sparse-MAML-plus", way=5, shot=5, variant="from mini_imagenet")
    assert cars["accuracy"]["mean"] == 53.18
