"""NVFlare's convention: loss first, prediction second, parameters ``net.*``, trained by their loop."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.errors import ExportError
from pocketfl_export.nvflare import export_nvflare


def model() -> nn.Module:
    """With overlapping max pooling, whose stock kernel gives wrong gradients."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(3, stride=2), nn.Flatten(), nn.Linear(12, 4)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_their_loop_trains_it_as_torch_does(tmp_path: Path) -> None:
    """Load, forward_backward, SGD over names and gradients: what ends up on their server is torch's."""
    from executorch.extension.training import (
        _load_for_executorch_for_training,
        get_sgd_optimizer,
    )

    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    path = tmp_path / "device.pte"
    export_nvflare(model(), F.cross_entropy, images, labels, path)
    device = _load_for_executorch_for_training(str(path))
    reference = model()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    theirs = None
    for _ in range(4):
        loss, prediction = device.forward_backward("forward", (images, labels))
        theirs = theirs or get_sgd_optimizer(device.named_parameters(), 0.1, 0.9, 0, 0, False)
        optimizer.zero_grad()
        outputs = reference(images)
        expected = F.cross_entropy(outputs, labels)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        torch.testing.assert_close(prediction, outputs.argmax(1))
        expected.backward()
        gradients = device.named_gradients()
        assert set(gradients) == {f"net.{name}" for name, _ in reference.named_parameters()}
        for name, parameter in reference.named_parameters():
            torch.testing.assert_close(gradients[f"net.{name}"], parameter.grad, atol=1e-5, rtol=0)
        theirs.step(gradients)
        optimizer.step()
    for name, parameter in reference.named_parameters():
        found = device.named_parameters()[f"net.{name}"]
        torch.testing.assert_close(found, parameter.detach(), atol=1e-5, rtol=0)


def test_several_inputs_are_refused() -> None:
    """Their devices have one tensor to give."""
    with pytest.raises(ExportError, match="one tensor"):
        export_nvflare(model(), F.cross_entropy, {"image": torch.ones(1)}, torch.ones(1))  # type: ignore[arg-type]
