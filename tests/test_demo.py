"""`python -m batchnorm`: the demo from end to end, what it measures, and its errors of one line."""

import importlib.metadata
import json
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from matplotlib import image

import batchnorm
import forked
from batchnorm.__main__ import main
from batchnorm.demo import data, info
from batchnorm.demo.engines import ENGINES

pytestmark = [pytest.mark.needs("tensorflow", "keras", "sklearn", "matplotlib", "rich"), pytest.mark.forks]

FRAMEWORKS = {"tensorflow", "keras", "tf_keras", "tf_slim", "torch", "jax", "sklearn", "matplotlib", "rich"}


def run_python(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300, check=False
    )


def rows(output, *names):
    """The cells of the tables' rows that start with these names; progress bars end in a time and are left out."""
    found = {}
    for line in output.splitlines():
        for name in names:
            if re.match(rf"\s*{name}\s", line) and not re.search(r"\d:\d\d:\d\d", line):
                found[name] = re.split(r"\s{2,}", line.strip())[1:]
    return found


def test_quick_demo_from_end_to_end(tmp_path):
    # One test, so that several workers do not each run the demo.
    done = run_python("-m", "batchnorm", "demo", "--quick", "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "The four APIs agree" in done.stdout
    check_apis(done.stdout, ["v1 class", "v1 function", "contrib", "Keras"])
    check_methods(done.stdout)
    assert "demo-output/digits.png" in done.stdout
    check_picture(tmp_path / "demo-output" / "digits.png")


def test_quick_demo_on_torch(tmp_path):
    pytest.importorskip("torch")
    done = run_python("-m", "batchnorm", "demo", "--quick", "--engine", "torch", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "The three APIs agree" in done.stdout
    check_apis(done.stdout, ["torch.nn", "batchnorm.torch", "batch_norm"])
    check_methods(done.stdout)
    check_picture(tmp_path / "demo-output" / "digits-torch.png")


def check_apis(output, names):
    table = rows(output, *names)
    assert list(table) == names
    losses = [float(loss) for loss, *_ in table.values()]
    assert losses == pytest.approx([losses[0]] * len(names), abs=1.5e-5)
    for name, (_, accuracy, seconds, *differences) in table.items():
        # One epoch is enough to leave the accuracy of a guess, 10 %, behind.
        assert float(accuracy.rstrip("%")) > 50.0
        assert float(seconds.removesuffix(" s")) > 0.0
        if name == names[0]:
            assert differences == ["-", "-", "-"]
        else:
            assert [float(difference) < 1e-5 for difference in differences] == [True] * 3


def check_methods(output):
    table = rows(output, "plain", "renorm", "ghost", "none")
    assert list(table) == ["plain", "renorm", "ghost", "none"]
    for loss, by_batch, by_moving, lost in table.values():
        assert 0.0 < float(loss) < 10.0
        difference = float(by_batch.rstrip("%")) - float(by_moving.rstrip("%"))
        assert float(lost) == pytest.approx(difference, abs=0.11)


# Three steps through each API, then steps of renorm with its bounds closed and open.
FEW_STEPS = """
import json, os, sys
from batchnorm.demo.engines import ENGINES
engine = ENGINES[sys.argv[1]]
os.environ |= engine.environment
networks = engine.load()
from batchnorm.demo import compare, data, network, schedule
digits = data.load(seed=2)
few = slice(3 * data.BATCH)
digits = data.Digits(digits.train_images[few], digits.train_labels[few], digits.test_images, digits.test_labels)
results = compare.train_through_each(networks.APIS, digits, 1, 2, lambda *_: None)
renorm = networks.METHODS["renorm"](network.initial_weights(2))
batches = [slice(start, start + data.BATCH) for start in range(0, 3 * data.BATCH, data.BATCH)]
losses = [
    renorm.train(digits.train_images[b], digits.train_labels[b], {"rate": 0.05, **schedule.renorm_bounds(done)})
    for b, done in zip(batches, (0.0, 0.3, 1.0))
]
print(json.dumps({
    "agree": compare.agree(results),
    "losses": {name: result.losses for name, result in results.items()},
    "renorm": losses,
    "methods": list(networks.METHODS),
}))
"""


@cache
def few_steps(engine):
    done = forked.run([engine.removeprefix("keras-"), "sklearn"], "-c", FEW_STEPS, engine)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "tensorflow"])
def test_every_engine_trains_the_same_network(engine):
    missing = [module for module in ENGINES[engine].modules if find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    found, reference = few_steps(engine), few_steps("tensorflow")
    assert found["agree"]
    assert len(found["losses"]) == 3
    expected = reference["losses"]["v1 class"]
    assert len(expected) == 3
    for losses in found["losses"].values():
        assert losses == pytest.approx(expected, rel=1e-5)
    assert found["renorm"] == pytest.approx(reference["renorm"], rel=1e-5)
    assert found["methods"] == reference["methods"] == ["plain", "renorm", "ghost", "none"]


def check_picture(path):
    pixels = image.imread(path)
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert pixels.std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["demo", "--epoch-count", "3"],
            "--epoch-count 3 was asked for. The command demo has no such option. Run python -m batchnorm demo --help",
        ),
        (["demo", "--epochs", "0"], "'0' is not a whole number of at least 1"),
        (["demo", "--epochs", "two"], "'two' is not a whole number of at least 1"),
        (["demo", "--seed", "-1"], "--seed"),
        (
            ["demo", "--engine", "theano"],
            "argument --engine: invalid choice: 'theano' (choose from 'tensorflow', ",
        ),
        (["dmeo"], "invalid choice: 'dmeo'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_command_line_gets_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert "--help" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("missing", ["tensorflow", "keras", "sklearn", "matplotlib", "rich"])
def test_missing_extra_gets_one_line(missing, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--output", str(tmp_path / "made")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    distribution = {"sklearn": "scikit-learn", "tensorflow": "tensorflow-cpu"}.get(missing, missing)
    assert f"It needs {distribution}, which is not installed" in error
    assert "pip install 'batchnorm[demo]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("engine", "missing", "extras"),
    [
        ("torch", "torch", "torch,demo"),
        ("torch", "rich", "torch,demo"),
        ("jax", "jax", "flax,demo"),
        ("jax", "flax", "flax,demo"),
        ("keras-tensorflow", "tensorflow", "demo"),
        ("keras-jax", "jax", "jax,demo"),
        ("keras-jax", "keras", "jax,demo"),
        ("keras-torch", "torch", "torch,demo"),
    ],
)
def test_missing_framework_of_an_engine_gets_one_line(engine, missing, extras, capsys, monkeypatch, tmp_path):
    # With this one missing and the rest there, whatever else is installed here.
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == missing else module)
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--engine", engine, "--output", str(tmp_path / "made")])
    assert caught.value.code == 2
    title = ENGINES[engine].title
    distribution = "tensorflow-cpu" if missing == "tensorflow" else missing
    assert capsys.readouterr().err == (
        f"batchnorm: The demo on {title} was asked for. It needs {distribution}, which is not installed. "
        f"Run: pip install 'batchnorm[{extras}]'.\n"
    )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_extras_of_an_engine_exist(engine):
    known = importlib.metadata.metadata("batchnorm").get_all("Provides-Extra")
    assert set(ENGINES[engine].extras.split(",")) <= set(known)


def test_output_that_is_a_file_gets_one_line(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--output", str(tmp_path / "taken")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "Name another one" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--version"], ["info"], ["demo", "--help"]])
def test_no_framework_is_imported_before_it_is_needed(arguments):
    code = f"""
import sys
from batchnorm.__main__ import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
print("imported:", sorted(set(sys.modules) & {FRAMEWORKS!r}))
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_version():
    done = run_python("-m", "batchnorm", "--version")
    assert (done.returncode, done.stdout) == (0, f"batchnorm {batchnorm.__version__}\n")


def test_info_shows_versions_and_usable_faces(capsys):
    assert main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["numpy"] == np.__version__
    assert lines["keras"] == importlib.metadata.version("keras")
    assert lines["batchnorm.contrib.layers"] == "usable"


def test_info_says_what_a_face_lacks(capsys, monkeypatch):
    def version_without_keras(name):
        if name in info.LIBRARIES["keras"]:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(info, "version", version_without_keras)
    info.print_info()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["keras"] == "not installed"
    assert lines["batchnorm.keras.layers"] == "needs keras: pip install 'batchnorm[keras]'"
    assert lines["batchnorm.compat.v1.layers"] == "usable"


def test_few_label_batches_hold_one_group_each():
    labels = data.load(seed=1).train_labels
    batches = list(data.few_label_batches(labels, epochs=2, seed=1))
    held = [frozenset(labels[batch].tolist()) for batch in batches]
    assert set(held) == set(map(frozenset, data.LABEL_GROUPS))
    assert {len(set(batch.tolist())) for batch in batches} == {data.BATCH}


def test_mixed_batches_use_an_example_once_an_epoch():
    labels = np.arange(5 * data.BATCH + 7)
    batches = list(data.mixed_batches(labels, epochs=1, seed=0))
    assert len(batches) == 5
    assert len(set(np.concatenate(batches).tolist())) == 5 * data.BATCH


def test_split_is_fixed_by_the_seed():
    first, again, other = data.load(seed=1), data.load(seed=1), data.load(seed=2)
    np.testing.assert_array_equal(first.test_images, again.test_images)
    assert not np.array_equal(first.test_images, other.test_images)
    assert len(first.train_labels) + len(first.test_labels) == 1797


@pytest.mark.parametrize(("difference", "agreed"), [(0.9e-5, True), (1.1e-5, False), (float("nan"), False)])
@pytest.mark.parametrize("field", ["by_moving", "by_batch", "statistics"])
def test_apis_agree_within_the_tolerance(field, difference, agreed):
    from batchnorm.demo.compare import Trained, agree

    differences = dict.fromkeys(["by_moving", "by_batch", "statistics"], 0.0)
    first = Trained([1.0], 1.0, 1.0, **differences)
    second = Trained([1.0], 1.0, 1.0, **(differences | {field: difference}))
    assert agree({"first": first, "second": second}) is agreed


def test_renorm_bounds_start_as_plain_batch_norm_and_open():
    from batchnorm.demo.schedule import renorm_bounds

    assert renorm_bounds(0.0) == {"rmin": 1.0, "rmax": 1.0, "dmax": 0.0}
    assert renorm_bounds(0.3) == pytest.approx({"rmin": 0.5, "rmax": 2.0, "dmax": 2.5})
    assert renorm_bounds(1.0) == pytest.approx({"rmin": 1 / 3, "rmax": 3.0, "dmax": 5.0})
