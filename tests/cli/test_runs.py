"""The commands ``train``, ``evaluate`` and ``demo``, with tiny training settings."""

import json
import re
import shutil
from pathlib import Path

import pytest

from psptool.cli import demo
from psptool.common.errors import PspError
from psptool.schemas.scores import Scores
from psptool.training import loop

RUN = Path("runs/ucla-xview-0.05-s0-psp-fast")


def test_evaluate_prints_the_keys_that_scripts_rely_on_and_writes_the_same(here, pictures):
    printed = json.loads(here("evaluate", RUN, "--json").out)
    keys = "top1 top5 streams clips top1_unseen clips_unseen classes_unseen per_class"
    assert set(keys.split()) <= printed.keys()
    assert printed["clips"] == 12
    assert Scores.load(RUN / "scores.json") == Scores.model_validate_json(json.dumps(printed))
    assert (RUN / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_shows_streams_and_classes(here):
    out = here("evaluate", RUN).out
    assert all(
        word in out
        for word in (
            "fusion of all streams",
            "joint stream",
            "motion stream",
            "sit down",
        )
    )
    assert "Next: " in out


def test_evaluate_uses_the_newest_run_and_reports_it(here):
    ran = here("evaluate")
    assert "val-view-2-psp-fast (the newest of 2)" in ran.err


def test_evaluate_on_a_dataset_with_other_preparation_is_refused(here):
    here("prepare", "ucla", "--raw", "all_sqe", "--align", "none", "--jobs", "1")
    ran = here("evaluate", RUN, code=2)
    assert "content" in ran.err
    assert "data/ucla.h5" in ran.err


def test_best_weights_of_a_run_without_validation_clips_are_an_error(here):
    assert "best.safetensors" in here("evaluate", RUN, "--weights", "best", code=2).err
    assert "Did you mean best?" in here("evaluate", RUN, "--weights", "bset", code=2).err


def test_validation_scores_are_not_written_as_the_test_scores_of_the_run(here):
    run = Path("runs/ucla-xview-k1-s0-val-view-2-psp-fast")
    here("evaluate", run, "--validation", "--weights", "best")
    assert not (run / "scores.json").exists()


def test_the_next_training_gets_a_new_folder(here):
    ran = here("train", "--split", "splits/ucla-xview-0.05-s0.json", "--preset", "fast", "--json")
    assert json.loads(ran.out)["run"] == f"{RUN}-2"
    assert Path(f"{RUN}-2/last.safetensors").exists()


def test_a_given_folder_with_another_run_is_refused(here):
    assert "not empty" in here("train", "--out", RUN, "--resume", "off", code=2).err
    ran = here("train", "--set", "optim.lr=0.5", "--preset", "fast", "--out", RUN, code=2)
    assert "the run of another training: found optim.lr 0.01 in the run, 0.5 requested" in ran.err


def test_a_given_folder_with_the_same_finished_run_is_kept_and_reported(here):
    before = (RUN / "last.safetensors").stat().st_mtime_ns
    assert "already finished" in here("train", "--out", RUN).err
    assert (RUN / "last.safetensors").stat().st_mtime_ns == before


def test_resume_is_off_required_or_auto(here):
    assert "Did you mean required?" in here("train", "--resume", "requird", code=2).err
    assert "has no unfinished run" in here("train", "--resume", "required", code=2).err


def test_a_training_plots_its_curves_and_removes_its_checkpoint(here, pictures):
    run = Path(json.loads(here("train", "--method", "supervised", "--preset", "fast", "--json").out)["run"])
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / "resume.pt").exists()


def test_set_overrides_the_file_and_the_file_overrides_the_preset(here):
    Path("training.yaml").write_text("optim: {steps: 3, labelled_batch: 3}\n")
    ran = here(
        "train",
        "--config",
        "training.yaml",
        "--set",
        "optim.steps=1",
        "--preset",
        "fast",
        "--seed",
        "7",
        "--json",
    )
    run = json.loads(ran.out)
    training = json.loads(Path(run["run"], "config.json").read_text())["training"]
    assert (
        training["optim"]["steps"],
        training["optim"]["labelled_batch"],
        training["optim"]["pool_batch"],
    ) == (
        1,
        3,
        4,
    )
    assert run["seed"] == 7
    assert "optim.steps=1 optim.labelled_batch=3" in ran.err


def test_the_summary_names_the_terms_of_the_loss_as_the_report_does(here):
    out = here("train", "--split", "splits/ucla-xview-0.05-s0.json", "--preset", "fast").out
    assert all(f"{name} contrastive loss " in out for name in ("body", "part", "joint"))
    run = Path(f"{RUN}-2")
    here("evaluate", run)
    assert "body contrastive loss" in (run / "report.html").read_text(encoding="utf-8")


def test_supervised_computes_no_contrastive_loss(here):
    run = json.loads(here("train", "--method", "supervised", "--preset", "fast", "--json").out)
    assert "ce" in run
    assert not {"body", "part", "joint"} & run.keys()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--set", "optim.lrr=1"), "Did you mean optim.lr?"),
        (("--set", "optim.lr"), "not a key=value"),
        (("--set", "optim.lr=-1"), "optim.lr"),
        (("--preset", "fas"), "Did you mean fast?"),
        (("--method", "pps"), "one of psp, supervised"),
        (("--config", "absent.yaml"), "absent.yaml"),
    ],
)
def test_an_invalid_configuration_is_an_error_before_anything_is_written(here, arguments, expected):
    before = sorted(Path("runs").iterdir())
    assert expected in here("train", *arguments, code=2).err
    assert sorted(Path("runs").iterdir()) == before


def test_yaml_with_python_tags_is_refused(here):
    Path("evil.yaml").write_text("optim: !!python/object/apply:os.system ['touch owned']\n")
    assert "evil.yaml" in here("train", "--config", "evil.yaml", code=2).err
    assert not Path("owned").exists()


def test_inspect_of_a_run_shows_settings_and_scores(here):
    here("evaluate", RUN)
    seen = json.loads(here("inspect", RUN, "--json").out)
    assert (seen["method"], seen["preset"], seen["split_name"]) == ("psp", "fast", "ucla-xview-0.05-s0")
    assert set(seen["scores"]) == {"top1", "top5", "top1_unseen"}
    assert "training.optim.steps" in here("inspect", RUN).out


def test_demo_checks_its_settings_first(psptool):
    assert "Did you mean optim.steps?" in psptool("demo", "--set", "optim.step=10", code=2).err
    assert not Path("psptool-demo").exists()


def test_demos_with_different_seeds_have_different_datasets(small, psptool):
    before = {}
    for seed in (0, 1):
        raw = demo._recordings(Path("out"), seed)
        data = demo._prepared(Path("out"), raw, seed)
        assert all(path.read_bytes() == content for path, content in before.items())
        assert data not in before
        before[data] = data.read_bytes()
    assert len(set(before.values())) == 2


@pytest.mark.slow
def test_demo_compares_both_methods_and_can_run_again(small, psptool):
    first = psptool("demo")
    assert "supervised %  psp %" in first.out
    shown = re.search(r"supervised (.+) %, psp (.+) %  difference (.+) points", first.out)
    supervised, psp, points = (float(value) for value in shown.groups())
    assert points == pytest.approx(psp - supervised, abs=0.11)
    assert "confusion.png" in first.out
    listed = psptool(*re.search(r"psptool (runs psptool-demo)", first.out)[1].split()).out
    assert "psptool-demo/runs/" in listed
    assert "Next: psptool table psptool-demo/runs" in listed
    page = re.search(r"Report: +(.+)", first.out)[1]
    assert Path(page).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert page in first.out.rstrip().splitlines()[-1]
    again = psptool("demo", "--json")
    shown = json.loads(again.out)
    assert {"supervised", "psp"} <= shown.keys()
    assert shown["psp"]["clips"] > 0
    assert "exists already" in again.err
    assert len(list(Path("psptool-demo/runs").glob("*-psp-demo-2"))) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_default_preset_is_fast_on_every_device(here, monkeypatch, device):
    import torch

    called = []

    def no_training(data, split, recipe, computing_on, *rest, **options):
        called.append((recipe.preset, computing_on.type))
        raise PspError("no training in this test")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr("psptool.cli.train.run_training", no_training)
    ran = here("train", code=2)
    assert ("--preset best" in ran.err) == (device == "cuda")
    assert "--preset best" not in here("train", "--preset", "fast", code=2).err
    assert called == [("fast", device)] * 2
    assert "fast (4 minutes on 2 CPU cores; default)" in " ".join(here("train", "--help").out.split())


def interrupt(here) -> Path:
    """The newest run, interrupted after its first step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_should_stop", lambda *_: True)
        ran = here("train", "--split", "splits/ucla-xview-0.05-s0.json", "--preset", "fast", code=130)
    assert "--resume required --out" in ran.err
    return Path(f"{RUN}-2")


def test_commands_on_an_interrupted_run_report_its_step_and_how_to_resume(here):
    run = interrupt(here)
    words = f"{run}: interrupted at step 1 of 2. Resume: psptool train --resume required --out {run}\n"
    for command in (
        ("evaluate", run),
        ("evaluate", run, "--weights", "best"),
        ("embed", run),
        ("export", run, "--safetensors"),
        ("predict", "all_sqe", "--model", run),
        ("view", "data/ucla.h5", "--model", run),
    ):
        assert here(*command, code=2).err.endswith(words), command
    for finished in Path("runs").glob("*/last.safetensors"):
        finished.unlink()
    for other in Path("runs").iterdir():
        if other != run:
            shutil.rmtree(other)
    assert words in here("evaluate", code=2).err
    here(*["train", "--resume", "required", "--out"], run)
    here("evaluate", run)


@pytest.mark.slow
def test_a_run_of_an_unavailable_device_resumes_on_an_available_one(here):
    run = interrupt(here)
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["provenance"][0].update(device="cuda:7", hardware="NVIDIA Abacus")
    path.write_text(json.dumps(config))
    ran = here("train", "--out", run)
    assert "(cuda:7 -> c" in ran.err
    assert "(NVIDIA Abacus -> " in ran.err
    here("evaluate", run)
    scores = Scores.load(run / "scores.json")
    assert scores.hardware is not None
    assert scores.hardware.startswith("NVIDIA Abacus; ")
    seen = json.loads(here("inspect", run, "--json").out)
    assert [record["from_step"] for record in seen["provenance"].values()] == [0, 1]
    assert "trained from step 1 on" in (run / "report.html").read_text()


def test_a_damaged_configuration_among_the_runs_causes_a_warning(here):
    run = interrupt(here)
    (run / "config.json").write_text("{")
    ran = here("train", "--split", "splits/ucla-xview-0.05-s0.json", "--preset", "fast", "--quiet")
    assert f"{run}: unfinished run not resumed: config.json: not a valid RunConfig" in ran.err
