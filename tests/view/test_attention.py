"""Attention maps of a run on clips, and the report of an evaluation."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from psptool.common.errors import PspError
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.store.reading import open_store
from psptool.evaluation.api import evaluate
from psptool.schemas.run import RunConfig
from psptool.view.attention import with_attention
from psptool.view.report import report_page
from psptool.view.sources import find
from tests.builtin import UCLA20

from ..stores import make_clip, write_ucla
from ..trained import make_network, make_run, make_split

TEST = ["a01_s01_e00_v03", "a06_s01_e00_v03"]
NAMES = ["a01_s01_e00_v01", "a02_s01_e00_v01", *TEST]
# The second person is absent in the frames that the network samples from the eight: 0, 2, 4, 6.
HIDDEN = ((True,) * 8, (False, True) * 4)


@pytest.fixture
def run(tmp_path):
    data, split, folder = tmp_path / "u.h5", tmp_path / "s0.json", tmp_path / "run"
    clips = [make_clip(name, n, HIDDEN if n == 3 else ((True,) * 6,) * 2) for n, name in enumerate(NAMES)]
    manifest = write_ucla(data, clips)
    make_split(split, manifest, {"labelled": NAMES[:1], "unlabelled": NAMES[1:2], "test": TEST})
    make_run(folder, manifest, data, split)
    return folder


def test_maps_are_those_of_the_model_on_test_frames(run):
    config = RunConfig.load(run / "config.json")
    found = find(run.parent / "u.h5", TEST)
    shown = with_attention(run, config, found.clips, found.settings)
    assert [clip.attention.persons for clip in shown] == [(0, 1), (0,)]
    with open_store(run.parent / "u.h5") as store:
        clips = RaggedClips.from_store(store, UCLA20, torch.device("cpu"))
        chosen = torch.tensor([store.index(name) for name in TEST])
    model = make_network()
    with torch.inference_mode():
        features = model.features(Batcher(clips, config.training.sampling).test(chosen))
        for stream, x in features.items():
            for level, maps in model.pyramid.maps(x).items():
                shown_maps = np.concatenate([clip.attention.maps[stream][level] for clip in shown])
                # The page computes one clip at a time, this test all at once: convolutions round differently, and
                # the arguments of tanh are sums of large terms that nearly cancel in this untrained network.
                np.testing.assert_allclose(shown_maps, maps.numpy(), atol=1e-3)


def test_attention_maps_of_a_run_without_contrastive_branch_are_an_error(run):
    config = RunConfig.load(run / "config.json")
    save_file(make_network(contrast=False).state_dict(), run / "last.safetensors")
    found = find(run.parent / "u.h5", TEST)
    with pytest.raises(PspError, match="no attention maps"):
        with_attention(run, config, found.clips, found.settings)


def test_clips_of_another_preparation_are_refused(run):
    config = RunConfig.load(run / "config.json")
    found = find(run.parent / "u.h5", TEST)
    with pytest.raises(PspError, match="not prepared like"):
        with_attention(run, config, found.clips, found.settings.model_copy(update={"align": "none"}))


def test_report_shows_scores_most_confident_errors_and_provenance(run):
    evaluated = []
    scores = evaluate(run, report=lambda _, scores, clips: evaluated.append(clips) or "")
    (run / "log.jsonl").write_text('{"step": 10, "loss": 2.5, "ce": 2.5, "lr": 0.1}\n')
    text = report_page(run, scores, evaluated[0])
    wrong = evaluated[0].logits.fused.argmax(1) != evaluated[0].labels
    assert wrong.any()
    for name, is_wrong in zip(evaluated[0].names, wrong, strict=True):
        assert (f"<h3>{name}</h3>" in text) == is_wrong
    assert scores.content_fingerprint in text
    assert "This is one label split" in text
    assert "loss and its terms" in text


def test_report_plots_every_loss_term_in_the_log(run):
    evaluated = []
    scores = evaluate(run, report=lambda _, scores, clips: evaluated.append(clips) or "")
    terms = (
        '"loss": 2.5, "ce": 1.5, "body": 0.3, "part": 0.3, "joint": 0.2, "teacher": 0.2, "unheard of": 0.1'
    )
    (run / "log.jsonl").write_text(f'{{"step": 10, {terms}, "lr": 0.1, "seconds": 1.0}}\n')
    text = report_page(run, scores, evaluated[0])
    for name in ("cross-entropy", "joint contrast", "teacher loss", "unheard of"):
        assert name in text
    assert ">seconds<" not in text


def test_report_has_the_mean_over_label_splits_of_one_configuration(run):
    evaluated = []
    scores = evaluate(run, report=lambda _, scores, clips: evaluated.append(clips) or "")
    other = scores.model_copy(
        update={"draw": 1, "split_digest": "1" * 64, "top1": min(1.0, scores.top1 + 0.1)}
    )
    other.save(run.parent / "another" / "scores.json")
    text = report_page(run, scores, evaluated[0])
    assert "2 label splits of the same method in the same folder" in text
    assert f"{100 * scores.top1 + 5:.1f} ± 7.1</span>" in text
    assert re.search(r'<i class=strong style="[^"]*" title="label split 0: ', text)
    assert f'title="label split 1: {100 * other.top1:.1f} %"' in text
    # A run with another configuration is not counted, nor is a file that cannot be read.
    other.model_copy(update={"changes": ("optim.lr=9",)}).save(run.parent / "another" / "scores.json")
    (run.parent / "broken").mkdir()
    (run.parent / "broken" / "scores.json").write_text("{")
    assert "This is one label split" in report_page(run, scores, evaluated[0])
