"""``pocketfl export check``: a table or JSON, and an exit status."""

import json
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pocketfl.commands.root import build_app
from pocketfl.plan import Plan, generate_signing_key, save_signing_key
from pocketfl.plan.archive import read_signer
from pocketfl_export.commands import load_factory
from pocketfl_export.errors import ExportError

MODELS = textwrap.dedent(
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    def linear():
        torch.manual_seed(0)
        return nn.Linear(3, 2), F.cross_entropy, torch.randn(4, 3), torch.tensor([0, 1, 0, 1])

    def batch_norm():
        model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
        return model, F.cross_entropy, torch.randn(4, 3), torch.tensor([0, 1, 0, 1])

    def three():
        return 1, 2, 3
    """
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a module of factories, as the current one; returns the module's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"models_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    return name


def check(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["export", "check", *arguments])
    return result.exit_code, result.output


def test_json_has_the_agreed_keys(here: str) -> None:
    """The figures of every runtime, and nothing refused."""
    code, output = check(f"{here}:linear", "--runtime", "onnxruntime", "--steps", "3", "--json")
    assert code == 0
    report = json.loads(output)
    figures = report["runtimes"]["onnxruntime"]
    assert figures["ok"] is True
    assert figures["steps"] == 3
    assert figures["max_parameter_error"] <= 1e-5
    assert report["refused"] == []


def test_a_refused_model_exits_with_1_and_says_why(here: str) -> None:
    """The table is followed by operator and rewrite."""
    code, output = check(f"{here}:batch_norm", "--runtime", "onnxruntime")
    assert code == 1
    assert "refused" in output
    assert "BatchNorm1d" in output
    assert ".eval()" in output
    code, output = check(f"{here}:batch_norm", "--runtime", "onnxruntime", "--json")
    assert code == 1
    (refusal,) = json.loads(output)["refused"]
    assert {"runtime", "operator", "rewrite"} <= set(refusal)


def test_nothing_is_written(here: str) -> None:
    """A check leaves the folder as it was, but for Python's own cache."""
    check(f"{here}:linear", "--runtime", "onnxruntime", "--steps", "1")
    assert {p.name for p in Path().iterdir()} <= {f"{here}.py", "__pycache__"}


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("linear", "not MODULE:NAME"),
        ("no_such_module:x", "cannot import 'no_such_module'"),
        ("{here}:nothing", "has no 'nothing'"),
        ("{here}:three", "must return"),
    ],
)
def test_a_bad_factory_is_explained(factory: str, message: str, here: str) -> None:
    """Each error says what a factory is."""
    with pytest.raises(ExportError, match=message):
        load_factory(factory.format(here=here))


def export(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["export", *arguments])
    return result.exit_code, result.output + str(result.exception or "")


CONFIGURATION = """
model = "{module}:linear"
name = "tiny"
version = "{version}"
key = "modeller.pem"
out = "{version}.pocketfl"
runtimes = ["onnxruntime"]

[training]
learning_rate = {rate}

[aggregation]
clip_norm = 1.0
population = 100
cohort_floor = 10
max_rounds = 5
max_participations = 5

[dp]
noise_multiplier = 2.0
epsilon = 8.0
delta = 1e-5
"""


def test_a_configuration_becomes_a_plan_and_two_plans_are_compared(here: str) -> None:
    """What the file says stands in the plan; diff names exactly what differs."""
    save_signing_key(generate_signing_key(), "modeller.pem")
    for version, rate in (("1", 0.25), ("2", 0.5)):
        text = CONFIGURATION.format(module=here, version=version, rate=rate)
        Path("plan.toml").write_text(text)
        code, output = export("plan.toml")
        assert code == 0, output
        assert f"plan tiny {version}" in output
    signer = read_signer(Path("1.pocketfl"))
    plan = Plan.load("1.pocketfl", trusted_keys=[signer])
    assert plan.manifest.required_training.learning_rate == 0.25
    assert plan.manifest.aggregation.population == 100
    arguments = ["plan", "diff", "1.pocketfl", "2.pocketfl", "--json"]
    changes = json.loads(CliRunner().invoke(build_app(), arguments).stdout)
    assert {c["what"]: (c["before"], c["after"]) for c in changes} == {
        "version": ("1", "2"),
        "training.learning_rate": (0.25, 0.5),
    }
    same = CliRunner().invoke(build_app(), ["plan", "diff", "1.pocketfl", "1.pocketfl"])
    assert "the same" in same.stdout


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = ", "not TOML"),
        ('model = "a:b"', "'name'"),
        (CONFIGURATION.format(module="x", version="1", rate=1) + "surprise = 1", "surprise"),
        (CONFIGURATION.format(module="x", version="1", rate=-1.0), "learning_rate"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_wrong_configuration_is_refused(text: str, reason: str) -> None:
    """The file and the entry are named; nothing is written."""
    Path("plan.toml").write_text(text)
    code, output = export("plan.toml")
    assert code != 0
    assert "plan.toml" in output
    assert reason in output
    assert not Path("1.pocketfl").exists()


def test_a_factory_alone_is_an_experiment_without_privacy(here: str) -> None:
    """It is labelled so; without key and file it is refused."""
    save_signing_key(generate_signing_key(), "modeller.pem")
    assert export(f"{here}:linear")[0] == 2
    code, output = export(
        *(f"{here}:linear", "--key", "modeller.pem", "--out", "a.pocketfl"),
        *("--runtime", "onnxruntime"),
    )
    assert code == 0, output
    assert "privacy none" in output
    plan = Plan.load("a.pocketfl", trusted_keys=[read_signer(Path("a.pocketfl"))])
    assert plan.manifest.privacy == "none"


def test_fix_says_what_it_changed_and_checks_it(here: str) -> None:
    """A model that check refuses passes once the stated rewrites are applied."""
    runtime = ("--runtime", "onnxruntime", "--steps", "2")
    assert check(f"{here}:batch_norm", *runtime)[0] == 1
    code, output = export("fix", f"{here}:batch_norm", *runtime)
    assert code == 0, output
    assert "BatchNorm1d" in output
    assert "GroupNorm" in output
    assert "equal" in output
