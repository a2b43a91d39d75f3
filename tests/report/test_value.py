"""`--value`: a page in another recorded value than the one that its runs are judged by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedpurin.cli.report import main
from fedpurin.config import ConfigError
from fedpurin.report.alt import seen
from fedpurin.report.comparison import Comparison, compare
from fedpurin.report.facts import facts
from fedpurin.report.figure import Figure, Remark
from fedpurin.report.headline import Headline, asked_headline
from fedpurin.report.parts import sections
from fedpurin.report.parts.overview import comparison_table
from fedpurin.report.read import Run, read_run
from tests.report.synthetic import Spec, write_run
from tests.report.test_headline import judged_by_error

RECORDED = (
    "accuracy/personalized", "accuracy/sparse", "accuracy/merged", "test/mse/personalized", "test/mse/sparse",
    "bytes/up", "loss/train",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """local and fedavg have no sparse model; the recommended rule's is 3 points below the client's own."""
    root = tmp_path_factory.mktemp("value")
    specs = [Spec(method, seed) for method in ("local", "fedavg", "fedpurin_recommended") for seed in (1, 2)]
    return [read_run(write_run(root / f"{spec.method}{spec.seed}", spec)) for spec in specs]


def figures(comparison: Comparison) -> dict[str, Figure]:
    items = [item for section in sections(comparison) for item in section.items]
    return {item.key: item for item in items if isinstance(item, Figure)}


@pytest.mark.parametrize(
    ("value", "mode", "expected"),
    [
        ("accuracy", None, Headline()),
        ("accuracy/personalized", "max", Headline()),
        ("accuracy/sparse", None, Headline("accuracy", "max", "sparse")),
        ("accuracy/merged", None, Headline("accuracy", "max", "merged")),
        ("mse", "min", Headline("test/mse", "min")),
        ("test/mse", "max", Headline("test/mse", "max")),
        ("loss", None, Headline("test/loss", "min")),
        ("loss", "max", Headline("test/loss", "max")),
        ("mse/sparse", "min", Headline("test/mse", "min", "sparse")),
        ("test/mse/personalized", "min", Headline("test/mse", "min")),
    ],
)
def test_a_value_is_named_as_recorded_or_shorter(value: str, mode: str | None, expected: Headline) -> None:
    assert asked_headline(value, mode, (*RECORDED, "test/loss/personalized"), [Headline()]) == expected


def test_the_way_round_is_what_a_run_says_or_the_reader(tmp_path: Path) -> None:
    by_error = [Headline("test/mse", "min"), Headline()]
    assert asked_headline("mse/sparse", None, RECORDED, by_error) == Headline("test/mse", "min", "sparse")
    assert asked_headline("mse", "max", RECORDED, by_error) == Headline("test/mse", "max")
    both = [Headline("test/mse", "min"), Headline("test/mse", "max")]
    with pytest.raises(
        ConfigError, match="--value mse: add --mode max where more of it is better, --mode min where le"
    ):
        asked_headline("mse", None, RECORDED, both)


@pytest.mark.parametrize(
    ("value", "mode", "line"),
    [
        (
            "accuracy/spars",
            None,
            "--value accuracy/spars: no run recorded it; did you mean accuracy/sparse?\n"
            "recorded: accuracy, accuracy/sparse, accuracy/merged, mse, mse/sparse",
        ),
        ("mse/merged", "min", "--value mse/merged: no run recorded it; did you mean mse/sparse?\nrecorded: accuracy, "),
        ("mse", None, "--value mse: add --mode max where more of it is better, --mode min where less"),
        ("accuracy/sparse", "min", "--value accuracy/sparse --mode min: of an accuracy more is better"),
    ],
)
def test_what_cannot_be_is_a_line(value: str, mode: str | None, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        asked_headline(value, mode, RECORDED, [Headline()])
    assert str(error.value).startswith(line)


def test_a_logged_value_called_accuracy_does_not_hide_the_accuracy() -> None:
    recorded = ("accuracy/personalized", "test/accuracy/personalized")
    assert asked_headline("accuracy", None, recorded, []) == Headline()
    assert asked_headline("test/accuracy", "max", recorded, []) == Headline("test/accuracy")
    with pytest.raises(ConfigError, match=r"\nrecorded: accuracy, test/accuracy$"):
        asked_headline("f1", None, recorded, [])


def test_the_table_is_in_the_sparse_models(runs: list[Run]) -> None:
    comparison = compare(runs, value="accuracy/sparse")
    table = comparison_table(comparison)
    assert table.header[:4] == ("Method", "Seeds", "Final", "To the best (pp)")
    assert "Sparse (%)" not in table.header  # it is the one that is judged
    assert table.header_groups[2] == ("Sparse accuracy (%)", 4)
    rows = {row[0].text: row for _, block in table.blocks for row in block}
    finals = [
        json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])["accuracy/sparse"]
        for run in runs
        if run.method == "fedpurin_recommended"
    ]
    percent = 100 * np.array(finals)
    recommended = rows["fedpurin_recommended"]
    assert recommended[2].text == f"{percent.mean():.2f} ± {percent.std(ddof=1):.2f}"
    assert (recommended[3].text, recommended[2].is_best) == ("–", False)  # nothing to be compared with
    assert [cell.text for cell in rows["local"][2:4]] == ["–", "–"]
    assert "–: sparse accuracy was not recorded of local, fedavg." in table.caption
    assert ("Judged by", "sparse accuracy") in facts(comparison)
    assert "Judged by" not in dict(facts(compare(runs)))
    assert not comparison.problems  # it was asked for: no run is complained about


def test_figures_show_what_has_the_value_and_the_personalised_accuracy_beside_it(runs: list[Run]) -> None:
    drawn = figures(compare(runs, value="accuracy/sparse"))
    curves, others = drawn["sparse_accuracy_by_round"], drawn["measured_by_round"]
    assert [mark.label for mark in curves.panels[0].marks] == ["fedpurin_recommended"]
    assert curves.panels[0].y.label == "Sparse accuracy"
    assert curves.title == "Sparse accuracy by round"
    assert [panel.y.label for panel in others.panels] == ["Personalised accuracy"]
    assert [mark.label for mark in others.panels[0].marks] == ["local", "fedavg", "fedpurin_recommended"]
    assert drawn["client_sparse_accuracy"].panels[0].y.categories == ("fedpurin_recommended",)
    assert "accuracy_by_round" not in drawn
    assert seen(curves).startswith("Sparse accuracy by round. sparse accuracy over round from 1 to 12; ")
    remarks = [item.text for part in sections(compare(runs, value="accuracy/sparse")) for item in part.items
               if isinstance(item, Remark)]  # fmt: skip
    assert (
        "Who gained and who lost needs runs of method=local with the same seeds and setting that have sparse accuracy."
        in remarks
    )


def test_merged_models_are_compared_for_every_method(runs: list[Run]) -> None:
    comparison = compare(runs, value="accuracy/merged")
    table = comparison_table(comparison)
    assert table.header_groups[2] == ("Merged accuracy (%)", 4)
    assert "was not recorded" not in table.caption
    assert not any(cell.text == "–" for _, block in table.blocks for row in block for cell in row[2:4])
    gains = figures(comparison)["gains"]
    assert gains.caption.startswith("Each client's final merged accuracy minus its own under local, same seed")


def test_the_command_judges_by_a_value_of_the_user_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("local", "fedavg"):
        spec = Spec(name, rounds=3, clients=3, options={"trainer.monitor": None})
        judged_by_error(tmp_path / "runs" / name, spec, keep=True)
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--value", "mse", "--mode", "min"]) == 0
    assert (out / "figures" / "mse_by_round.csv").exists()
    page = (out / "report.html").read_text()
    assert "<dt>Judged by</dt><dd>personalised mse (less is better)</dd>" in page
    assert "Bold is the lowest final mean" in page
    with pytest.raises(ConfigError, match="--value mse: add --mode max"):
        main([str(tmp_path / "runs"), "--out", str(out), "--value", "mse"])
    with pytest.raises(ConfigError, match="--mode min belongs to --value: name the value as well"):
        main([str(tmp_path / "runs"), "--out", str(out), "--mode", "min"])
    capsys.readouterr()


def test_runs_of_different_headlines_share_a_page_by_a_value_that_is_asked_for(tmp_path: Path) -> None:
    by_error = read_run(judged_by_error(tmp_path / "a", Spec("fedavg"), keep=True))
    by_accuracy = read_run(judged_by_error(tmp_path / "b", Spec("local", options={"trainer.monitor": None}), keep=True))
    assert compare([by_error, by_accuracy], value="mse").judged_by == Headline("test/mse", "min")
