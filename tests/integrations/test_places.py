"""The page that says where foveate plugs in: the three lines of each place run."""

from __future__ import annotations

import re
from pathlib import Path

import foveate
import numpy as np
import pytest

pytestmark = pytest.mark.any_isa

PAGE = Path(__file__).resolve().parents[2] / "docs/places.md"


def places() -> dict[str, str]:
    """The code of each row, by what stands before the comma."""
    if not PAGE.is_file():
        return {}
    lines = PAGE.read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if "<br>" in line]
    return {where: "\n".join(re.findall(r"`([^`]+)`", lines)) for where, _, lines in rows}


def arrays(*shape: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name in ("q", "k", "v")}


def names_of_torch(torch) -> dict[str, object]:
    return {name: torch.from_numpy(x) for name, x in arrays(2, 3, 512, 64).items()}


def names_of_onnx() -> dict[str, object]:
    onnx = pytest.importorskip("onnx", minversion="1.23")
    from onnx.reference import ReferenceEvaluator

    shape = (1, 2, 8, 4)
    kind = onnx.TensorProto.FLOAT
    inputs = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in "QKV"]
    outputs = [onnx.helper.make_tensor_value_info("Y", kind, shape)]
    node = onnx.helper.make_node("Attention", ["Q", "K", "V"], ["Y"])
    graph = onnx.helper.make_graph([node], "attention", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)])
    return {**arrays(*shape), "model": model, "ReferenceEvaluator": ReferenceEvaluator}


def names_of_transformers(folder: Path) -> dict[str, object]:
    transformers = pytest.importorskip("transformers", minversion="5.4")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=16, vocab_size=10)
    transformers.BertModel(config).save_pretrained(folder)
    return {"AutoModel": transformers.AutoModel, "name": folder}


def names_of_regression(package: str) -> dict[str, object]:
    pytest.importorskip(package)
    x = np.linspace(0, 3, 20)[:, None]
    return {"x_train": x, "y_train": np.sin(x[:, 0]), "x": x}


def undo(kind: str) -> None:
    """End what the lines of a place changed in the whole process."""
    if kind == "flash-attention":
        foveate.flash_attn.uninstall()
    elif kind == "Keras":
        foveate.keras.deactivate()


@pytest.mark.skipif(not PAGE.is_file(), reason="the page is not beside the tests")
def test_there_are_rows():
    """Or else the test below would pass for want of rows."""
    assert len(places()) == 15
    assert all(len(code.splitlines()) == 3 for code in places().values())


@pytest.mark.parametrize("where", places())
def test_the_three_lines_run(where, request, tmp_path):
    kind = where.partition(",")[0]
    names: dict[str, object]
    if kind == "dask":
        pytest.importorskip("dask.array")
    if kind in ("JAX", "Keras"):
        pytest.importorskip("jax")
        pytest.importorskip(kind.lower())
    if kind in ("PyTorch", "flash-attention"):
        torch = request.getfixturevalue("torch")
        names = {**names_of_torch(torch), "torch": torch}
    elif kind == "transformers":
        request.getfixturevalue("torch")
        names = names_of_transformers(tmp_path)
    elif kind == "ONNX":
        names = names_of_onnx()
    elif kind in ("scikit-learn", "SciPy", "statsmodels"):
        names = names_of_regression("sklearn" if kind == "scikit-learn" else "scipy")
    else:
        if kind == "matplotlib":
            pytest.importorskip("matplotlib").use("agg")
        names = arrays(2, 3, 16, 8)
    try:
        exec(compile(places()[where], str(PAGE), "exec"), names)
    finally:
        undo(kind)
