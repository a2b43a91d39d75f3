from pathlib import Path

import numpy as np
import pytest

from fedpurin.cli.select import main


def test_vector_cut_into_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "scores.npy", np.array([1.0, 3.0, 2.0, 1e-11, 5.0, 4.0]))
    mask = tmp_path / "mask.npy"
    assert main(["--scores", str(tmp_path / "scores.npy"), "--sizes", "4,2", "--save-mask", str(mask)]) == 0
    assert np.load(mask).tolist() == [False, True, True, False, True, False]
    shown = capsys.readouterr().out
    assert "layerwise by SCIP" in shown
    assert "optimal" in shown
    assert "3 (50.00%)" in shown


def test_one_array_a_tensor_under_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "scores.npz", first=rng.random((10, 20)), second=rng.random(50))
    assert main(["--scores", str(tmp_path / "scores.npz"), "--program", "budget", "--budget", "400"]) == 0
    shown = capsys.readouterr().out
    assert "250 in 2 tensors" in shown
    assert "of 1,048 dense" in shown


def test_a_model_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning_modules.backbones")
    assert main(["--model", "cnn", "--in-channels", "1", "--program", "global", "--tau", "0.1"]) == 0
    assert "global by SCIP" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --scores --model is required"),
        (["--scores", "missing.npy"], "No such file"),
        (["--scores", "scores.npy", "--sizes", "4,4"], "adds up to 8; scores.npy has 6 scores"),
        (["--scores", "scores.npy", "--sizes", "a"], "--sizes=a is not a list of whole numbers"),
        (["--scores", "scores.npy", "--tau", "2"], "--tau=2.0 is not possible: it should be less than or equal to 1"),
        (["--scores", "scores.npy", "--program", "budget", "--budget", "1.5"], "program.budget=1.5"),
        (["--scores", "scores.npy", "--program", "budget", "--budget", "ten"], "--budget=ten"),
        (["--scores", "scores.npy", "--solver", "NOPE"], "program.solver='NOPE'"),
        (["--scores", "negative.npy"], "score of scores[1] is -1.0"),
        (["--scores", "text.npy"], "numbers are needed"),
        (["--scores", "damaged.npz"], "--scores=damaged.npz is not a .npy or .npz file of numbers"),
        (["--model", "resnet9000"], "--model=resnet9000"),
        (
            ["--model", "lstm"],
            "--model=lstm: lightning_modules.backbones has no such model of images; cnn, mlp, resnet8",
        ),
        (["--model", "of_options"], "--model=of_options: "),
        (["--model", "cnn", "--num-classes", "-1"], "--num-classes=-1: a model needs at least 1"),
        (["--model", "cnn", "--num-classes", "0"], "--num-classes=0: a model needs at least 1"),
        (["--model", "cnn", "--in-channels", "0"], "--in-channels=0: a model needs at least 1"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", np.arange(6.0))
    np.save("negative.npy", np.array([1.0, -1.0]))
    np.save("text.npy", np.array(["a"]))
    np.savez("whole.npz", scores=np.arange(6.0))
    Path("damaged.npz").write_bytes(Path("whole.npz").read_bytes()[:100])
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "examples:" in capsys.readouterr().out
