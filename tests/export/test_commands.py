"""``pocketfl export check``: a table or JSON, and an exit status."""

import json
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pocketfl.commands.root import build_app
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
        ("linear", "not MODULE:FACTORY"),
        ("no_such_module:x", "cannot import 'no_such_module'"),
        ("{here}:nothing", "no function 'nothing'"),
        ("{here}:three", "must return"),
    ],
)
def test_a_bad_factory_is_explained(factory: str, message: str, here: str) -> None:
    """Each error says what a factory is."""
    with pytest.raises(ExportError, match=message):
        load_factory(factory.format(here=here))
