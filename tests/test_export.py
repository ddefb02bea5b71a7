"""ONNX: what ONNX Runtime finds with the exported file is what the model finds."""

import sys

import pytest
import torch
from torchvision.ops import batched_nms

from lesson_lib.detectors.export import OUTPUTS, export_onnx, run_onnx
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig

SIZE = (96, 128)


def spread(model):
    """Heads so scaled that an untrained model finds much, with scores that differ."""
    torch.manual_seed(1)
    for head in model.heads.children():
        for conv in head.modules() if isinstance(head, torch.nn.ModuleList) else [head]:
            if isinstance(conv, torch.nn.Conv2d):
                conv.weight.data.normal_(std=0.08)
                conv.bias.data.zero_()
    return model.train()


MODELS = {
    "ssd": lambda: SSD(SSDConfig(num_classes=3, backbone="tiny-8", norm="batch", image_size=SIZE)),
    "retinanet": lambda: RetinaNet(RetinaNetConfig(num_classes=3, backbone="tiny-8", channels=32)),
}


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    model = spread(MODELS[request.param]())
    model(torch.rand(4, 3, *SIZE))  # batch norms learn statistics that matter
    file = export_onnx(model, tmp_path_factory.mktemp("onnx") / "model.onnx", SIZE)
    assert model.training and [p.name for p in file.parent.iterdir()] == [
        "model.onnx"
    ]  # weights inside
    return model.eval(), file


@pytest.mark.parametrize("batch", [1, 3])
def test_detections_are_those_of_the_model(exported, batch):
    model, file = exported
    images = torch.rand(batch, 3, *SIZE)
    anchors = model.anchors(SIZE)
    with torch.no_grad():
        expected_outputs = model(images)
    outputs = run_onnx(file, images)
    for ours, theirs in zip(expected_outputs, outputs):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    found, expected = (model.detections(o, anchors, SIZE) for o in (outputs, expected_outputs))
    for here, there in zip(found, expected):
        assert len(there["boxes"]) >= 50
        assert torch.equal(here["labels"], there["labels"])
        assert torch.allclose(here["boxes"], there["boxes"], atol=1e-2)
        assert torch.allclose(here["scores"], there["scores"], atol=1e-4)


def test_boxes_and_scores_need_only_a_threshold_and_nms(exported):
    import onnxruntime

    model, file = exported
    images = torch.rand(1, 3, *SIZE)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    boxes, scores = (
        torch.from_numpy(x)[0] for x in session.run(list(OUTPUTS[2:]), {"images": images.numpy()})
    )
    rows, labels = (scores > 0.5).nonzero(as_tuple=True)
    kept = batched_nms(boxes[rows], scores[rows, labels], labels, 0.5)[:100]
    with torch.no_grad():
        options = dict(score_threshold=0.5, nms_threshold=0.5, max_detections=100, topk=10**4)
        expected = model.detections(model(images), model.anchors(SIZE), SIZE, **options)[0]
    assert len(kept) >= 20
    assert torch.allclose(boxes[rows][kept], expected["boxes"], atol=1e-2)
    assert torch.equal(labels[kept], expected["labels"])


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnx onnxscript onnxruntime"):
        run_onnx(tmp_path / "model.onnx", torch.rand(1, 3, *SIZE))
