"""Faults that the tests notice: each is planted in a copy of the tree, and the test named for it must fail.

    python -m tests.mutants [--only=NAME] [--list]

Exits with 1 unless every fault is noticed ("killed"). Some minutes: every fault is a pytest process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("jmeta", "experiments", "tests", "pyproject.toml")
FAILED = 1  # pytest's exit status if tests ran and failed, and not if they could not be collected
LIMIT = 900  # seconds for a test


class Mutant(NamedTuple):
    """A fault: `old`, found exactly once in `file`, becomes `new`, and `test` fails."""

    name: str
    file: str
    old: str
    new: str
    test: str


_NTM = "tests/memory/test_ntm.py::test_every_head_has_a_gate_and_a_slot_and_adds_to_the_usage"
_CPM = "tests/memory/test_prototypes.py::test_cpm_by_hand"
_META_LSTM = "tests/rules/test_meta_lstm.py::test_three_steps_by_hand"
_BLOCK = "tests/models/test_conv_norm_relu_pool.py::test_a_negative_scale_pools_by_the_minimum"
_VGG = "tests/models/test_vgg11.py::test_where_it_pools_and_that_cells_have_no_relu"
_SGD = "tests/outer/test_optimizer.py::test_sgd_has_nesterov_momentum_and_decays_arrays_alone"
_LIMITS = "tests/outer/test_optimizer.py::test_a_limit_by_value_holds_for_each_entry_and_one_by_norm_for_all"
_HORIZON = "tests/adapters/heads/test_task_horizon.py::test_padding_and_absent_ways_leave_the_horizon_alone"
_OSAKA_STEP = "tests/online/test_osaka_adaptation.py::test_one_inner_step_moves_all_but_normalization"
_CONTINUAL = "tests/experiments/test_preset_values.py::test_continual_learners"

MUTANTS = (
    Mutant(
        "gem_cache_never_refreshed", "jmeta/online/gem.py",
        "task == memory.task,", "jnp.asarray(True),",
        "tests/online/test_gem_cache.py::test_the_cache_is_renewed_with_every_task",
    ),
    Mutant("ntm_every_head_erases", "jmeta/memory/ntm.py", "(1 - unused[0])", "(1 - unused.max(0))", _NTM),
    Mutant(
        "ntm_heads_share_a_slot", "jmeta/memory/ntm.py",
        "(1 - again) * unused", "(1 - again) * unused[:1]", _NTM,
    ),
    Mutant(
        "ntm_usage_is_a_mean_over_heads", "jmeta/memory/ntm.py",
        "read.sum(0) + write.sum(0)", "read.mean(0) + write.mean(0)", _NTM,
    ),
    Mutant(
        "ntm_heads_share_a_gate", "jmeta/memory/ntm.py",
        "jax.nn.sigmoid(request[:, -1:])", "jax.nn.sigmoid(request[:1, -1:])", _NTM,
    ),
    Mutant(
        "cpm_compares_without_shift", "jmeta/memory/prototypes.py",
        "cosine((weights * placed)", "cosine((weights * features)", _CPM,
    ),
    Mutant(
        "cpm_stores_without_shift", "jmeta/memory/prototypes.py",
        "enqueue(before.queue, placed)", "enqueue(before.queue, features)", _CPM,
    ),
    Mutant(
        "cpm_novelty_is_multiplied", "jmeta/memory/prototypes.py",
        "/ jax.nn.softplus(scale + 1)", "* jax.nn.softplus(scale + 1)", _CPM,
    ),
    Mutant(
        "cpm_gates_are_not_normalized", "jmeta/memory/prototypes.py",
        "jax.nn.standardize(gates.reshape(4, -1), epsilon=1e-5)", "gates.reshape(4, -1)", _CPM,
    ),
    Mutant(
        "cpm_bias_on_the_scale", "jmeta/memory/prototypes.py", ".at[-1].set(-12)", ".at[-2].set(-12)",
        "tests/memory/test_prototypes.py::test_cpm_begins_with_a_low_threshold_of_novelty",
    ),
    Mutant(
        "known_and_new_masks_novelty_alone", "jmeta/memory/prototypes.py",
        "masked_sum(new - jnp.where(known, log_p, 0), stream.mask)",
        "(masked_sum(new, stream.mask) - jnp.where(known, log_p, 0).sum())",
        "tests/memory/test_prototypes.py::test_padding_has_no_part_in_the_loss",
    ),
    Mutant(
        "lstm_second_layer_forgets", "jmeta/memory/lstm.py",
        "gates + output @ cell.recurrent", "gates + (index == 0) * output @ cell.recurrent",
        "tests/memory/test_lstm.py::test_every_layer_remembers",
    ),
    Mutant(
        "apl_gradient_through_distances", "jmeta/memory/apl.py",
        "memory.features - constant[None]", "memory.features - features[None]",
        "tests/memory/test_apl_gradient.py::test_no_gradient_through_the_distances",
    ),
    Mutant(
        "apl_without_noise", "experiments/online_few_shot.py", '"noise": 0.1', '"noise": 0.0',
        "tests/experiments/test_preset_values.py::test_apl_sees_noise",
    ),
    Mutant(
        "cl_vgg11_with_relus", "jmeta/models/vgg11.py",
        "x = x if self.recurrent else nn.relu(x)", "x = nn.relu(x)", _VGG,
    ),
    Mutant(
        "vgg11_pools_early", "jmeta/models/vgg11.py",
        "(True, True, False, True, False, True, False, True)",
        "(True, True, True, True, True, False, False, False)", _VGG,
    ),
    Mutant(
        "cl_resnet20_with_relus", "jmeta/models/resnet20.py",
        "return x if self.recurrent else nn.relu(x)", "return nn.relu(x)",
        "tests/models/test_resnet20.py::test_cells_have_no_relu",
    ),
    Mutant(
        "block_ignores_negative_scales", "jmeta/models/conv.py",
        "jnp.where(slope < 0, -1, 1)", "jnp.where(slope < 0, 1, 1)", _BLOCK,
    ),
    Mutant(
        "block_ignores_negative_scales_of_few_channels", "jmeta/models/conv.py",
        "y = y * jnp.broadcast_to(sign, y.shape)",
        "sign = jnp.abs(sign) if in_windows else sign; y = y * jnp.broadcast_to(sign, y.shape)", _BLOCK,
    ),
    Mutant(
        "few_channels_count_padded_images", "jmeta/models/conv.py",
        "jnp.asarray(x.shape[0], x.dtype) if mask is None else mask.astype(x.dtype).sum()",
        "jnp.asarray(x.shape[0], x.dtype)", _BLOCK,
    ),
    Mutant(
        "la_maml_sync_rates", "experiments/presets/sparse_maml.py",
        '"learning_rate": (0.3, 0.1, 0.03)', '"learning_rate": (0.1, 0.3, 0.03)', _CONTINUAL,
    ),
    Mutant(
        "er_replays_ten_of_many_permutations", "experiments/presets/sparse_maml.py",
        '"learning_rate": 0.1, "replay": (10, 10, 25)', '"learning_rate": 0.1, "replay": 10', _CONTINUAL,
    ),
    Mutant(
        "finetuning_pretrains_fast", "jmeta/online/osaka_methods.py",
        "FINETUNING_RATE = 0.05", "FINETUNING_RATE = 0.5", _OSAKA_STEP,
    ),
    Mutant(
        "osaka_adapts_norms", "jmeta/online/osaka_methods.py",
        'return not path.startswith("norm")', "return True", _OSAKA_STEP,
    ),
    Mutant(
        "osaka_shows_omniglot_not_inverted", "experiments/osaka.py",
        "osaka_stream.invert_images(omniglot)", "omniglot",
        "tests/experiments/test_osaka_images.py::test_every_domain_is_light_on_dark",
    ),
    Mutant(
        "osaka_recall_counts_the_first_batch", "jmeta/online/stream.py",
        'records["switched"].sum()) - 1', 'records["switched"].sum())',
        "tests/online/test_stream_metrics.py::test_detected_switches_are_counted_after_the_first_batch",
    ),
    Mutant(
        "meta_lstm_gate_inputs_swapped", "jmeta/rules/meta_lstm.py",
        "weights * kernel[-2] + before * kernel[-1]", "weights * kernel[-1] + before * kernel[-2]",
        _META_LSTM,
    ),
    Mutant(
        "meta_lstm_squashes_previous_gates", "jmeta/rules/meta_lstm.py",
        "before * kernel[-1]", "jax.nn.sigmoid(before) * kernel[-1]", _META_LSTM,
    ),
    Mutant(
        "meta_lstm_cell_sees_the_whole_gradient", "jmeta/rules/meta_lstm.py",
        "columns(gradient, loss)", "columns(gradient * gradient_divisor, loss)", _META_LSTM,
    ),
    Mutant(
        "meta_lstm_differentiates_the_loss", "jmeta/rules/meta_lstm.py",
        "jax.lax.stop_gradient(", "(", "tests/rules/test_meta_lstm.py::test_the_loss_is_a_constant",
    ),
    Mutant(
        "turtle_differentiates_the_loss", "jmeta/rules/turtle.py",
        "jax.lax.stop_gradient(", "(", "tests/rules/test_turtle.py::test_the_loss_is_a_constant",
    ),
    Mutant(
        "turtle_remembers_updates_without_rates", "jmeta/rules/turtle.py",
        'average(carry["update_history"], moves, step == 0)',
        'average(carry["update_history"], moves / ravel_pytree(hyper["rates"])[0], step == 0)',
        "tests/rules/test_turtle.py::test_three_steps_by_hand",
    ),
    Mutant(
        "first_order_differentiates_the_loss", "jmeta/inner/gradient.py",
        "loss, grads = jax.lax.stop_gradient((loss, grads))", "grads = jax.lax.stop_gradient(grads)",
        "tests/inner/test_first_order.py::test_first_order_stops_the_loss_as_it_stops_the_gradient",
    ),
    Mutant(
        "clip_is_straight_through", "jmeta/rules/clip_gradients.py",
        "jnp.clip(g, -limit, limit)", "g + jax.lax.stop_gradient(jnp.clip(g, -limit, limit) - g)",
        "tests/rules/test_clip_gradients.py::test_a_clipped_coordinate_moves_by_a_constant",
    ),
    Mutant(
        "summary_of_the_population", "jmeta/metrics.py", "ddof=1", "ddof=0",
        "tests/test_metrics_summary.py::test_the_interval_is_that_of_the_sample_deviation",
    ),
    Mutant(
        "smoothing_over_absent_ways", "jmeta/losses.py",
        "present.astype(dtype) / present.sum().astype(dtype)", "jnp.full(way, 1 / way, dtype)",
        "tests/test_smooth_labels.py::test_a_label_is_spread_over_the_ways_of_its_task",
    ),
    Mutant(
        "loss_smooths_over_absent_ways", "jmeta/losses.py",
        "outputs[0] > ABSENT / 2", "outputs[0] > 2 * ABSENT",
        "tests/test_smooth_labels.py::test_absent_ways_and_padding_have_no_part_in_the_loss",
    ),
    Mutant(
        "task_horizon_of_padding", "jmeta/adapters/heads/comln.py",
        "(weights[:, None] * z * z).sum()", "(z * z).sum() / z.shape[0]", _HORIZON,
    ),
    Mutant(
        "task_horizon_of_absent_ways", "jmeta/adapters/heads/comln.py",
        "logits = mask_absent_ways(z @ w0.T, present)", "logits = z @ w0.T", _HORIZON,
    ),
    Mutant(
        "schedule_drops_late", "jmeta/outer/optimizer.py",
        "for rate in rates], steps)", "for rate in rates], [step + 1 for step in steps])",
        "tests/outer/test_optimizer.py::test_the_rate_changes_at_the_step_of_a_drop",
    ),
    Mutant(
        "sgd_without_nesterov", "jmeta/outer/optimizer.py", "nesterov=bool(momentum)", "nesterov=False", _SGD
    ),
    Mutant(
        "weight_decay_after_momentum", "jmeta/outer/optimizer.py",
        "descent = optax.sgd(schedule, momentum=momentum or None, nesterov=bool(momentum))",
        "decay, weight_decay = optax.add_decayed_weights(weight_decay, mask=_arrays), 0; descent = "
        "optax.chain(optax.trace(momentum, True), decay, optax.scale_by_learning_rate(schedule))", _SGD,
    ),
    Mutant("weight_decay_on_log_T", "jmeta/outer/optimizer.py", "leaf.ndim > 0", "leaf.ndim >= 0", _SGD),
    Mutant(
        "clip_value_by_norm", "jmeta/outer/optimizer.py",
        "optax.clip(clip_value)", "optax.clip_by_global_norm(clip_value)", _LIMITS,
    ),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Plant the faults one by one and print a line for each; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", action="append", help="this fault alone; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the faults and plant none")
    options = parser.parse_args(arguments)
    names = {mutant.name for mutant in MUTANTS}
    for name in options.only or ():
        if name not in names:
            parser.error(f"--only={name}; expected one of {', '.join(sorted(names))}")
    chosen = [mutant for mutant in MUTANTS if not options.only or mutant.name in options.only]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name}\n  {mutant.file}: {mutant.old}\n    -> {mutant.new}\n  {mutant.test}")
        return 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = _copy_tree(Path(folder))
        status, output = _run_tests(copy, dict.fromkeys(mutant.test for mutant in chosen))
        if status:
            print(output, "the tests fail before a fault is planted", sep="\n")
            return 1
        print(f"{'the tests pass without a fault':<50} {time.monotonic() - start:5.1f} s", flush=True)
        killed = sum(_report(copy, mutant) for mutant in chosen)
    print(f"{killed} of {len(chosen)} killed in {time.monotonic() - start:.0f} s")
    return 0 if killed == len(chosen) else 1


def _copy_tree(folder: Path) -> Path:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def _report(copy: Path, mutant: Mutant) -> bool:
    """Plant a fault in the copy, run its test, restore the file, print a line; whether the test failed."""
    start, path = time.monotonic(), copy / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        verdict, reason = "does not apply", f"{text.count(mutant.old)} places in {mutant.file}"
    else:
        path.write_text(text.replace(mutant.old, mutant.new))
        status, output = _run_tests(copy, [mutant.test])
        path.write_text(text)
        verdict = {0: "SURVIVED", FAILED: "killed"}.get(status, f"not run: pytest exits with {status}")
        failures = [line for line in output.splitlines() if line.startswith("FAILED")]
        reason = failures[0].partition(" - ")[2].partition(":")[0] if failures else ""
    line = f"{mutant.name:<50} {time.monotonic() - start:5.1f} s  {verdict}"
    print(f"{line} ({reason})" if reason else line, flush=True)
    return verdict == "killed"


def _run_tests(copy: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Run tests of the copy on its own packages; exit status and output."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-rf", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "COLUMNS": "200"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main())
