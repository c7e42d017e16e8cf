"""Suites: what comes with the package is sound, what is wrong in a file is said, and equal runs have equal keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmvq_bench.comparison.execute import key_of
from gmvq_bench.comparison.methods import OURS, build_quantizer
from gmvq_bench.comparison.suite import Method, load_suite, suite_from_dict, suite_names
from gmvq_bench.rivals import BASELINES

SMALL = {
    "name": "small",
    "description": "for tests",
    "settings": {"a": {"data": "photos", "size": 8, "codebook_size": 16, "steps": 2, "dim": 4}},
    "methods": {
        "gm-vq": {"quantizer": "gm-vq", "grid": {"lr": [0.001, 0.004]}},
        "vq-2": {"quantizer": "ibq", "grid": {"lr": [0.001, 0.002, 0.004], "commitment_weight": [0.25, 1.0]}},
    },
}


#: In the suites of the paper alone.
OF_PAPER = {"gm-vq-published", "vq-affine-alternated"}


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_the_package_name_quantizers_and_options_that_exist(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    for method in suite.methods.values():
        assert method.quantizer == OURS or method.quantizer in BASELINES
        if method.quantizer not in (
            "gm-vq",
            "gm-vq-published",
            "sq-vae",
            "gumbel",
            "cvq",
            "ibq",
            "ae",
            "gaussian-vae",
        ):
            pytest.importorskip("vector_quantize_pytorch")
        for choice in method.choices():
            options = {**method.options, **{k: v for k, v in choice.items() if k != "lr"}}
            run = {"quantizer": method.quantizer, "dim": 16, "codebook_size": 64, "options": options}
            assert build_quantizer(run).dim == 16


@pytest.mark.parametrize("name", ["quick", "photos32", "fashion_mnist", "emoji64"])
def test_every_method_is_tuned_over_a_grid_of_the_same_size(name: str) -> None:
    suite = load_suite(name)
    assert len({len(method.choices()) for method in suite.methods.values()}) == 1
    assert {method.quantizer for method in suite.methods.values()} == {OURS, *BASELINES} - OF_PAPER


@pytest.mark.parametrize(("name", "large"), [("long", "long-large"), ("paper", "paper-full")])
def test_the_large_suites_have_the_methods_of_the_small_ones(name: str, large: str) -> None:
    methods = load_suite(large).methods
    assert methods == load_suite(name).methods
    assert {"gm-vq", "vq-ema-replace"} <= methods.keys()


def test_a_long_setting_is_tuned_on_fewer_steps() -> None:
    suite = load_suite("long")
    assert {run["steps"] for run in suite.grid_of("photos32-k1024", "gm-vq")} == {600}
    assert {run["steps"] for run in suite.finals("photos32-k1024", "gm-vq", {"lr": 0.1})} == {6000}


def test_what_a_run_does_not_use_is_not_in_it() -> None:
    suite = load_suite("quick")
    run = suite.run("photos32-k256", "cvq", {"lr": 0.1}, 0, "final")
    assert not {"recipe", "dress", "tuning_steps", "tuned_as"} & run.keys()


def test_a_method_may_have_a_latent_dimension_of_its_own() -> None:
    suite = load_suite("photos32")
    finals = {
        name: suite.finals("photos32-k256", name, {"lr": 0.1})[0] for name in ("gm-vq", "cvq", "cvq, D = 4")
    }
    assert [run["dim"] for run in finals.values()] == [4, 16, 4]
    with pytest.raises(ValueError, match="dim must be positive"):
        Method("gm-vq", {"lr": [0.1]}, dim=0)


def test_grid_is_the_product_of_its_values_and_finals_keep_the_choice() -> None:
    suite = suite_from_dict(SMALL, "small")
    grid = suite.grid_of("a", "vq-2")
    assert len(grid) == 6
    assert {(run["lr"], run["options"]["commitment_weight"]) for run in grid} == {
        (lr, w) for lr in (0.001, 0.002, 0.004) for w in (0.25, 1.0)
    }
    assert {(run["seed"], run["phase"]) for run in grid} == {(1000, "tune")}
    finals = suite.finals("a", "vq-2", {"lr": 0.002, "commitment_weight": 0.25})
    assert [run["seed"] for run in finals] == [0, 1, 2, 3, 4]
    assert {run["phase"] for run in finals} == {"final"}


def test_key_depends_on_what_is_run_and_not_on_its_name() -> None:
    suite = suite_from_dict(SMALL, "small")
    run = suite.run("a", "gm-vq", {"lr": 0.004}, 0, "final")
    key = key_of(run)
    assert key_of({**run, "method": "other", "setting": "b"}) == key
    for change in (
        {"lr": 0.002},
        {"seed": 1},
        {"steps": 3},
        {"codebook_size": 8},
        {"options": {"support": 8}},
    ):
        assert key_of({**run, **change}) != key
    default = {"objective": {"type": "Objective", "kind": "albo"}}
    assert key_of({**run, "options": default}) == key  # saying a default changes nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {}}, "at least one setting"),
        ({"settings": {"a": {"data": "photos", "size": 8, "codebok_size": 4}}}, "did you mean codebook_size"),
        ({"settings": {"a": {"data": "photos"}}}, "setting a: .*size"),
        ({"settings": {"a": {**SMALL["settings"]["a"], "steps": 0}}}, "steps"),
        ({"settings": {"a": {**SMALL["settings"]["a"], "tuned_as": "b"}}}, "no setting"),
        ({"methods": {"gm-vq": {"quantizer": "gm-vq", "grid": {}}}}, "learning rate"),
        ({"methods": ["gm-vq"]}, "expected a mapping"),
        ({"ours": "other"}, "none of its methods"),
        ({"tuning_seed": 3}, "one of the seeds"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_mistakes_in_a_suite_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suite_from_dict({**SMALL, **change}, "small")


def test_unknown_suite_is_named_with_a_near_one() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean quick"):
        load_suite("quik")


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/b", "..", "", "\x1b[2J", "x" * 100])
@pytest.mark.parametrize("place", ["name", "settings", "methods"])
def test_names_that_would_lead_out_of_the_folder(tmp_path: Path, name: str, place: str) -> None:
    data = load_suite("quick").to_dict()
    if place == "name":
        data["name"] = name
    else:
        data[place][name] = next(iter(data[place].values()))
    (tmp_path / "suite.yaml").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="cannot name a file"):
        load_suite(str(tmp_path / "suite.yaml"))


@pytest.mark.parametrize(
    ("field", "value"), [("grid", 0.5), ("grid", {"lr": 3}), ("options", []), ("dim", "8"), ("ceiling", None)]
)
def test_fields_of_another_type(tmp_path: Path, field: str, value: object) -> None:
    data = load_suite("quick").to_dict()
    data["methods"]["gm-vq"][field] = value
    (tmp_path / "suite.yaml").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"method gm-vq: the field '{field}' cannot be used: Expected"):
        load_suite(str(tmp_path / "suite.yaml"))
