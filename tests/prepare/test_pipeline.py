"""From a folder to a dataset and its report: the counts add up, and the bytes do not depend on the workers."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest

import psptool
from psptool.common.errors import PspError
from psptool.data.store.validating import validate
from psptool.formats.synthesis import writing as synthesis
from psptool.preparation.pipeline import estimate, prepare
from psptool.schemas.builtin import builtin_dataset
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.report import PreparationReport
from tests.prepare.raw import ntu_text, write_ucla_clip, write_ucla_clips


@pytest.fixture
def raw(tmp_path):
    write_ucla_clips(tmp_path / "raw", 12)
    return tmp_path / "raw"


def run(raw, out, **options):
    return prepare("ucla", [raw] if isinstance(raw, Path) else raw, out, **options)


def check_counts(report):
    """Check found = kept + skipped + excluded + repeated."""
    counts = report.counts
    assert counts.skipped == len(report.skipped)
    assert counts.quarantined == len(report.quarantined)
    assert report.found == counts.clips + counts.skipped + counts.quarantined + report.repeated
    return report


def write_ntu(folder: Path, name: str, bodies: int = 1, length: int = 2) -> Path:
    rng = np.random.default_rng(len(name))
    upright = np.array((0.3, 1, 0.3))
    frames = [[(body, rng.normal(size=(25, 3)) * upright) for body in range(bodies)] for _ in range(length)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.skeleton"
    path.write_text(ntu_text(frames), newline="")
    return path


def test_dataset_and_report_are_in_the_same_folder_and_agree(raw, tmp_path):
    done = run(raw, tmp_path / "data" / "mine.h5")
    assert sorted(path.name for path in done.path.parent.iterdir()) == ["mine.h5", "mine.report.json"]
    assert PreparationReport.load(done.report_path) == check_counts(done.report)
    assert validate(done.path) == []
    with psptool.open(done.path) as store:
        assert store.manifest.counts == done.report.counts
        assert store.manifest.fingerprints.content == done.report.content_fingerprint
        assert store.names == tuple(sorted(path.stem for path in raw.iterdir()))


def test_the_default_output_is_in_the_data_folder(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare("ucla", [Path("raw")]).path == Path("data/ucla.h5")
    assert (tmp_path / "data" / "ucla.report.json").exists()


def test_the_bytes_do_not_depend_on_the_number_of_workers(raw, tmp_path, monkeypatch, worker_processes):
    monkeypatch.setattr("psptool.preparation.worker.TASK_CLIPS", 2)
    (raw / "a01_s05_e00_v01.json").write_text("{")
    one = run(raw, tmp_path / "one" / "u.h5")
    two = run(raw, tmp_path / "two" / "u.h5", jobs=2)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.report_path.read_bytes() == two.report_path.read_bytes()


@pytest.mark.slow
def test_preparation_and_joblib_can_use_the_same_worker_processes(raw, tmp_path, worker_processes):
    for name in ("one", "two"):
        run(raw, tmp_path / name / "u.h5", jobs=2)
        assert joblib.Parallel(2)(joblib.delayed(abs)(-n) for n in range(4)) == [0, 1, 2, 3]


def test_workers_started_in_another_working_directory_find_relative_paths(
    tmp_path, monkeypatch, worker_processes
):
    monkeypatch.setattr("psptool.preparation.worker.TASK_CLIPS", 1)
    reports = []
    for name in ("one", "two"):
        write_ucla_clips(tmp_path / name / "raw", 3)
        monkeypatch.chdir(tmp_path / name)
        done = prepare("ucla", [Path("raw")], Path("u.h5"), jobs=2)
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
        reports.append(done.report)
    assert [report.counts.clips for report in reports] == [3, 3]


def test_an_unusable_clip_is_excluded_with_its_reason_and_the_others_are_kept(raw, tmp_path):
    bad = raw / "a02_s01_e00_v01.json"
    bad.write_text((raw / "a01_s01_e00_v01.json").read_text()[:200])
    report = check_counts(run(raw, tmp_path / "u.h5").report)
    (excluded,) = report.quarantined
    assert (excluded.name, excluded.source) == ("a02_s01_e00_v01", str(bad))
    assert excluded.reason
    assert str(bad) in excluded.detail
    assert report.counts.clips == 12


def test_with_strict_an_unusable_clip_is_an_error_and_no_file_changes(raw, tmp_path):
    run(raw, tmp_path / "u.h5")
    (raw / "a02_s01_e00_v01.json").write_text("{")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(PspError, match="--strict"):
        run(raw, tmp_path / "u.h5", strict=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_strict_also_refuses_an_up_to_date_dataset_with_excluded_clips(raw, tmp_path):
    (raw / "a02_s01_e00_v01.json").write_text("{")
    run(raw, tmp_path / "u.h5")
    with pytest.raises(PspError, match="--strict"):
        run(raw, tmp_path / "u.h5", strict=True)


def test_recordings_without_a_usable_clip_are_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a02_s01_e00_v01.json").write_text("{")
    with pytest.raises(PspError, match="no usable clip"):
        run(tmp_path / "raw", tmp_path / "u.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_folder_without_recordings_is_an_error(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(
        PspError, match=r"no NTU RGB\+D recordings.*ntu-skeleton files named SsssCcccPpppRrrrAaaa"
    ):
        prepare("ntu", [tmp_path], tmp_path / "n.h5")


def test_files_whose_names_are_not_clip_names_are_skipped_and_counted(raw, tmp_path):
    (raw / "notes.json").write_text("{}")
    report = check_counts(run(raw, tmp_path / "u.h5").report)
    assert [skipped.name for skipped in report.skipped] == ["notes.json"]
    assert report.found == 13


def test_identical_files_of_one_clip_are_counted_as_repeated(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "copy")
    report = check_counts(run([raw, tmp_path / "copy"], tmp_path / "u.h5").report)
    assert (report.repeated, report.counts.clips, report.counts.duplicates) == (12, 12, 0)


def test_two_different_recordings_of_one_name_are_an_error_that_names_both(raw, tmp_path):
    other = write_ucla_clip(tmp_path / "other", "a01_s01_e03_v01", np.ones((4, 20, 3)))
    with pytest.raises(PspError) as caught:
        run([raw, tmp_path / "other"], tmp_path / "u.h5")
    assert str(other) in str(caught.value)
    assert str(raw / other.name) in str(caught.value)
    assert not list(tmp_path.glob("*u.h5*"))


def test_a_dry_run_also_compares_recordings_of_one_name_outside_its_sample(tmp_path):
    names = [f"a01_s01_e{e:02}_v01" for e in range(40)]
    for name in names:
        write_ucla_clip(tmp_path / "raw", name, np.ones((4, 20, 3)))
    ucla, copy = builtin_dataset("ucla"), tmp_path / "copy"
    shutil.copytree(tmp_path / "raw", copy)
    for folder, end in ((tmp_path / "raw", b"\n"), (copy, b"\r\n")):  # the same text
        file = folder / f"{names[1]}.json"
        file.write_bytes(file.read_bytes() + end)
    assert estimate(ucla, [tmp_path / "raw", copy], tmp_path / "u.h5").sample < 20
    other = write_ucla_clip(tmp_path / "other", names[31], np.ones((5, 20, 3)))
    for call in (estimate, prepare):
        with pytest.raises(PspError, match="two different recordings have the clip name") as caught:
            call(ucla, [tmp_path / "raw", tmp_path / "other"], tmp_path / "u.h5")
        assert str(other) in str(caught.value)


def test_clips_of_different_names_with_equal_coordinates_are_duplicates_and_both_are_kept(raw, tmp_path):
    xyz = np.random.default_rng(3).normal(size=(5, 20, 3))
    for name in ("a02_s01_e00_v02", "a02_s01_e00_v03"):
        write_ucla_clip(raw, name, xyz)
    report = check_counts(run(raw, tmp_path / "u.h5").report)
    assert report.duplicates == (("a02_s01_e00_v02", "a02_s01_e00_v03"),)
    assert (report.counts.duplicates, report.counts.clips) == (1, 14)


def test_missing_joints_and_a_body_without_spine_are_counted(raw, tmp_path):
    xyz = np.random.default_rng(3).normal(size=(5, 20, 3))
    xyz[2, 7] = 0
    write_ucla_clip(raw, "a03_s01_e00_v01", xyz)
    xyz[:, 2] = xyz[:, 0]
    write_ucla_clip(raw, "a03_s01_e01_v01", xyz)
    report = run(raw, tmp_path / "u.h5").report
    assert (report.counts.interpolated_joints, report.counts.unscaled) == (2, 1)
    filled, unscaled = (
        [note.name for note in report.notes if text in note.note] for text in ("missing", "reference length")
    )
    assert (filled, unscaled) == (["a03_s01_e00_v01", "a03_s01_e01_v01"], ["a03_s01_e01_v01"])


def test_an_up_to_date_dataset_is_prepared_again_only_with_force_or_after_a_change(raw, tmp_path):
    first = run(raw, tmp_path / "u.h5")
    written = first.path.stat().st_mtime_ns
    assert not first.current
    again = run(raw, tmp_path / "u.h5")
    assert again.current
    assert again.report == first.report
    assert first.path.stat().st_mtime_ns == written
    assert not run(raw, tmp_path / "u.h5", force=True).current
    assert not run(raw, tmp_path / "u.h5", settings=PreparationSettings(align="none")).current
    assert not run(raw, tmp_path / "u.h5").current
    write_ucla_clip(raw, "a01_s01_e03_v01", np.ones((4, 20, 3)))
    assert not run(raw, tmp_path / "u.h5").current


def test_replacing_a_dataset_prepared_with_other_settings_gives_a_warning_first(raw, tmp_path):
    def warnings(align: str) -> str:
        messages: list[str] = []
        arguments = ("ucla", [raw], tmp_path / "u.h5", PreparationSettings(align=align))
        estimate(*arguments, on_warning=messages.append)
        expected = list(messages)
        prepare(*arguments, on_warning=messages.append)
        assert sorted(messages) == sorted(2 * expected)  # the estimate gives the same warnings
        return "".join(text for text in expected if "replaces" in text)

    assert warnings("body") == ""
    assert warnings("body") == ""
    start = f"{tmp_path / 'u.h5'}: the new dataset (align=robust) replaces the one prepared with align=body;"
    assert warnings("robust").startswith(start)
    assert "(align=released, tracks=released) replaces" in warnings("released")


def test_replacing_a_dataset_by_other_recordings_gives_a_warning(raw, tmp_path):
    def warnings() -> str:
        messages: list[str] = []
        run(raw, tmp_path / "u.h5", force=True, on_warning=messages.append)
        return "".join(text for text in messages if "replace" in text)

    names = sorted(path.name for path in raw.iterdir())
    assert warnings() == warnings() == ""
    (raw / names[0]).unlink()
    start = f"{tmp_path / 'u.h5'}: the new dataset (11 clips) replaces the one prepared with 12 clips; runs trained"
    assert warnings().startswith(start)
    write_ucla_clip(raw, Path(names[1]).stem, np.random.default_rng(5).normal(size=(8, 20, 3)))
    assert "replaced by other recordings or labels of the same names; runs trained" in warnings()
    assert warnings() == ""


def test_a_damaged_dataset_or_one_without_its_own_report_is_not_up_to_date(raw, tmp_path):
    first = run(raw, tmp_path / "u.h5")
    content = first.path.read_bytes()
    first.path.write_bytes(content[:-1000])
    assert not run(raw, tmp_path / "u.h5").current
    assert first.path.read_bytes() == content
    run(raw, tmp_path / "other.h5", settings=PreparationSettings(align="none")).path.replace(first.path)
    assert not run(raw, tmp_path / "u.h5").current
    assert first.path.read_bytes() == content


def test_ntu_clips_on_the_missing_skeleton_list_are_skipped(tmp_path):
    missing = sorted(set(builtin_dataset("ntu60").missing))[0]
    for name in ("S001C001P001R001A001", missing):
        write_ntu(tmp_path / "raw", name)
    report = check_counts(prepare("ntu", [tmp_path / "raw"], tmp_path / "n.h5").report)
    assert [(skipped.name, skipped.reason) for skipped in report.skipped] == [
        (missing, "missing-skeleton list")
    ]
    assert report.counts.clips == 1


def test_an_action_above_60_selects_ntu120_and_its_longer_missing_list(tmp_path):
    only_120 = sorted(set(builtin_dataset("ntu120").missing) - frozenset(builtin_dataset("ntu60").missing))[0]
    for name in ("S001C001P001R001A001", "S018C001P008R001A061", only_120):
        write_ntu(tmp_path / "raw", name)
    report = prepare("ntu", [tmp_path / "raw"], tmp_path / "n.h5").report
    assert (report.dataset, report.counts.clips, report.counts.skipped) == ("ntu120", 2, 1)


def test_a_zip_archive_and_a_folder_give_the_same_dataset(tmp_path):
    names = ("S001C001P001R001A001", "S001C001P001R001A050")
    with zipfile.ZipFile(tmp_path / "raw.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            path = write_ntu(tmp_path / "raw", name, bodies=2, length=12)
            archive.write(path, f"nturgb+d_skeletons/{path.name}")
    folder = prepare("ntu", [tmp_path / "raw"], tmp_path / "a.h5")
    zipped = prepare("ntu", [tmp_path / "raw.zip"], tmp_path / "b.h5")
    assert folder.path.read_bytes() == zipped.path.read_bytes()
    assert zipped.report.counts.rows == 48


ARCHIVES = {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar", ".tar.bz2": "bztar", ".tar.xz": "xztar"}


@pytest.mark.parametrize("form", ARCHIVES)
@pytest.mark.parametrize("jobs", [1, 2])
def test_archives_of_every_format_and_a_folder_give_the_same_dataset(
    raw, tmp_path, monkeypatch, form, jobs, worker_processes
):
    monkeypatch.setattr("psptool.preparation.worker.TASK_CLIPS", 5)
    (tmp_path / "in").mkdir()
    shutil.make_archive(str(tmp_path / "in" / "raw"), ARCHIVES[form], raw)
    folder = run(raw, tmp_path / "a.h5")
    # The archive itself, and one inside a folder.
    for path in (tmp_path / "in" / f"raw{form}", tmp_path / "in"):
        packed = run(path, tmp_path / "b.h5", jobs=jobs, force=True)
        assert packed.path.read_bytes() == folder.path.read_bytes()
    assert run(tmp_path / "in", tmp_path / "b.h5").current


def test_single_compressed_files_and_a_folder_give_the_same_dataset(raw, tmp_path):
    (tmp_path / "packed").mkdir()
    for path in raw.iterdir():
        (tmp_path / "packed" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    packed, folder = run(tmp_path / "packed", tmp_path / "a.h5"), run(raw, tmp_path / "b.h5")
    assert packed.path.read_bytes() == folder.path.read_bytes()


def test_a_tar_archive_among_the_files_of_a_folder_is_read(tmp_path):
    write_ntu(tmp_path / "raw", "S001C001P001R001A001")
    write_ntu(tmp_path / "more", "S018C001P008R001A061")
    shutil.make_archive(str(tmp_path / "raw" / "s018"), "gztar", tmp_path / "more")
    report = check_counts(prepare("ntu", [tmp_path / "raw"], tmp_path / "n.h5").report)
    assert (report.dataset, report.counts.clips) == ("ntu120", 2)


def test_unsupported_archives_are_listed_in_the_report(raw, tmp_path):
    (raw / "more.rar").write_bytes(b"")
    with zipfile.ZipFile(raw / "outer.zip", "w") as archive:
        archive.writestr("inner.tar.gz", b"")
    report = check_counts(run(raw, tmp_path / "u.h5").report)
    assert {one.source.removeprefix(f"{raw}/"): one.reason for one in report.skipped} == {
        "more.rar": "unsupported archive format",
        "outer.zip:inner.tar.gz": "archive inside an archive",
    }


def test_copies_that_differ_in_line_ends_byte_order_mark_or_compression_are_one_recording(tmp_path):
    name = "S001C001P001R001A001"
    path = write_ntu(tmp_path / "raw", name)
    dos = path.read_bytes()
    copies = {
        "unix": dos.replace(b"\r\n", b"\n"),
        "marked": b"\xef\xbb\xbf" + dos,
    }
    for folder, blob in copies.items():
        (tmp_path / "raw" / folder).mkdir()
        (tmp_path / "raw" / folder / path.name).write_bytes(blob)
    (tmp_path / "raw" / f"{path.name}.gz").write_bytes(gzip.compress(dos))
    shutil.make_archive(str(tmp_path / "raw" / "more"), "gztar", tmp_path / "raw" / "unix")
    report = check_counts(prepare("ntu", [tmp_path / "raw"], tmp_path / "n.h5").report)
    assert (report.counts.clips, report.repeated) == (1, 4)


def test_view_folders_may_start_with_a_capital_letter(tmp_path):
    names = ["a01_s01_e00_v01", "a05_s01_e00_v03"]
    synthesis.write_ucla(tmp_path / "raw", names, form="text")
    for folder in list((tmp_path / "raw").glob("view_*")):
        folder.rename(folder.with_name(folder.name.title()))
    report = check_counts(run(tmp_path / "raw", tmp_path / "u.h5").report)
    assert (report.counts.clips, report.counts.skipped) == (2, 0)


def test_progress_is_reported_after_each_batch(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("psptool.preparation.worker.TASK_CLIPS", 5)
    calls = []
    run(raw, tmp_path / "u.h5", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(5, 12), (10, 12), (12, 12)]


def test_an_estimate_writes_nothing_and_predicts_the_file_size(raw, tmp_path):
    (raw / "a02_s01_e00_v01.json").write_text("{")
    (tmp_path / "out").mkdir()
    guess = estimate("ucla", [raw], tmp_path / "out" / "u.h5")
    assert list((tmp_path / "out").iterdir()) == []
    assert (len(guess.raw_input.clips), guess.quarantined, guess.sample, guess.current) == (13, 1, 13, False)
    done = run(raw, tmp_path / "out" / "u.h5")
    assert guess.file_bytes == done.report.counts.rows * (20 * 3 * 4 * 2 + 20 + 1)
    assert guess.seconds > 0
    assert estimate("ucla", [raw], tmp_path / "out" / "u.h5").current


def test_too_little_disk_space_is_an_error_before_any_clip_is_read(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    calls = []
    with pytest.raises(PspError, match="not enough free disk space"):
        run(raw, tmp_path / "u.h5", progress=lambda *_: calls.append(1))
    assert calls == []
    assert not list(tmp_path.glob("*u.h5*"))
