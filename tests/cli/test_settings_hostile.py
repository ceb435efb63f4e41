"""YAML files and values of --set that would exhaust time or memory: each is an immediate error."""

from __future__ import annotations

from pathlib import Path

import pytest

BILLION = "\n".join(
    ["a: &a0 [1]"] + [f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
)
MERGED = "\n".join(
    ["a: &a0 {k: 1}"] + [f"b{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10)]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BILLION, "not plain YAML: found anchor 'a0'"),
        (MERGED, "not plain YAML: found anchor 'a0'"),
        ("optim: &a {lr: *a}", "not plain YAML: found anchor 'a'"),
        ("optim: {lr: *a}", "not plain YAML: found alias 'a'"),
        ("optim: {steps: !!int x}", "not plain YAML: found tag"),
        (f"optim: {{steps: {'9' * 5000}}}", "found an integer of 5000 characters"),
        (f"optim: {{steps: {'1:' * 5000}1}}", "optim.steps: Input should be"),
        ("model: {channels: [1000000], qk_channels: [1], strides: [1]}", "less than or equal to 4096"),
        (f"model: {{channels: [{'4, ' * 1000}]}}", "at most 64 items"),
        ("optim: {lr: .inf}", "optim.lr: Input should be"),
        ("optim: {weight_decay: .nan}", "optim.weight_decay: Input should be"),
        ("optim: {date: 2001-13-45}", "no key optim.date"),
        ("optim: {lr: {x: 1}}", "optim.lr is a value, not a group"),
        ("seed: 99999999999999999999", "seed: Input should be"),
        ("#" * 10**6, "larger than 200,000 bytes"),
    ],
    ids=range(15),
)
def test_a_malicious_yaml_file_is_refused(psptool, text, expected):
    Path("x.yaml").write_text(text)
    assert expected in psptool("train", "--config", "x.yaml", code=2).err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.channels=&a [1, *a]", "found anchor 'a'"),
        (f"optim.steps={'9' * 5000}", "found an integer of 5000 characters"),
        (f"optim{'.lr' * 20_000}=1", "optim.lr is a value, not a group of keys"),
        (f"{'x' * 100_000}=1", "no key xxx"),
        (
            "model={channels: [4096], qk_channels: [64], strides: [1], temporal_kernel: 99}",
            "lower channels",
        ),
        ("optim.labelled_batch=1000000000", "optim.labelled_batch: Input should be"),
        ("sampling.frames=1000000000", "sampling.frames: Input should be"),
    ],
    ids=range(7),
)
def test_a_malicious_value_of_set_is_refused(psptool, change, expected):
    assert expected in psptool("train", "--set", change, code=2).err
