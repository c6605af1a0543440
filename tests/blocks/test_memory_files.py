"""Memory in files: what is kept, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import foveate as fv
import numpy as np
import pytest
from memory_checks import operands

# --- files ----------------------------------------------------------------------------------------


def test_files(tmp_path, dtype):
    _, keys, values = operands(dtype=dtype)
    path = tmp_path / "memory"  # by its whole name: nothing is added
    fv.Memory(keys[..., ::-1], values).save(path)
    assert path.is_file()
    for given in (path, str(path)):
        loaded = fv.Memory.load(given)
        assert loaded.keys.dtype == loaded.values.dtype == dtype
        assert loaded.keys.tobytes() == keys[..., ::-1].tobytes()
        assert loaded.values.tobytes() == values.tobytes()
    loaded.write(keys[:, :1], erase=1.0, add=1.0)


def test_a_file_holds_no_pickle(tmp_path):
    _, keys, values = operands()
    path = tmp_path / "memory.npz"
    fv.Memory(keys, values).save(path)
    with np.load(path, allow_pickle=False) as found:
        assert sorted(found) == ["dtype", "keys", "values"]


def test_files_that_hold_no_memory(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "trapped",))

    def refused(name: str, write: Any) -> None:
        write(tmp_path / name)
        with pytest.raises(
            ValueError, match=f"path: got .*{name}.* wanted a file that Memory.save"
        ):
            fv.Memory.load(tmp_path / name)

    keys = np.ones((2, 3))
    pickled = np.array([Trap()], dtype=object)
    refused("empty", lambda path: path.write_bytes(b""))
    refused("text", lambda path: path.write_text("keys = 3"))
    refused("cut.npz", lambda path: path.write_bytes(b"PK\x03\x04 and no more"))
    refused("one.npy", lambda path: np.save(path, keys))
    refused("other.npz", lambda path: np.savez(path, keys=keys))
    refused("pickle.npz", lambda path: np.savez(path, keys=pickled, values=keys, dtype="float64"))
    refused("type.npz", lambda path: np.savez(path, keys=keys, values=keys, dtype="bfloat16"))
    refused("name.npz", lambda path: np.savez(path, keys=keys, values=keys, dtype="object"))
    refused("bytes.npz", lambda path: write_bytes_as_parts(path))
    assert not (tmp_path / "trapped").exists()
    for shape in ((3, 3), (2,)):
        np.savez(tmp_path / "shape.npz", keys=keys, values=np.ones(shape), dtype="float64")
        with pytest.raises(
            ValueError, match=r"path: got .*shape.npz, which holds no .*values: got"
        ):
            fv.Memory.load(tmp_path / "shape.npz")
    with pytest.raises(OSError, match="nowhere"):
        fv.Memory.load(tmp_path / "nowhere")


def write_bytes_as_parts(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("keys", "values", "dtype"):
            file.writestr(f"{name}.npy", b"no array")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_damaged_files(tmp_path, write):
    """A byte changed anywhere, or the end cut off: an error that names the path, or no harm."""
    _, keys, values = operands(1, 3, (2, 2), leads=((), (), ()))
    path = tmp_path / "memory.npz"
    write(path, keys=keys, values=values, dtype="float32")
    whole = path.read_bytes()
    changed = [whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
               for at in range(len(whole)) for bit in (1, 8, 128)]  # fmt: skip
    refused: list[str] = []
    for data in changed + [whole[:at] for at in range(0, len(whole), 5)]:
        path.write_bytes(data)
        try:
            fv.Memory.load(path)
        except (ValueError, OSError) as error:
            refused.append(f"{type(error).__name__}: {error}")
    # OSError: it points to a place before the beginning of the file
    assert {x[: len("ValueError: path: got")] for x in refused if not x.startswith("OSError")} == {
        "ValueError: path: got"
    }
    assert len(refused) > len(whole)
