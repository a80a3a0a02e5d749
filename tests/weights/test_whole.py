"""Nothing whose bytes are not all there, or are not what the file says of them, loads; nor what can be read in two ways."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.weights.checkpoints import SMALL, heads, network, refusal, write_safetensors, write_weights
from vpt_gym.weights import load_checkpoint

Records = list[tuple[str, bytes]]


def records_of(source: str) -> Records:
    with zipfile.ZipFile(source) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def packed(path: Path, records: Records, method: int = zipfile.ZIP_STORED) -> str:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # of two records of one name
        for name, content in records:
            archive.writestr(name, content)
    return str(path)


@pytest.fixture(params=["weights", "ckpt"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An archive of torch.save: OpenAI's, or Lightning's with an optimizer's state in it."""
    if request.param == "weights":
        return write_weights(tmp_path / "a.weights", network())
    state = {f"mine_policy.{name}": tensor for name, tensor in network().items()}
    content = {"state_dict": state, "optimizer_states": [{"state": {0: torch.ones(4)}}]}
    torch.save(content, tmp_path / "a.ckpt")
    return str(tmp_path / "a.ckpt")


@pytest.mark.parametrize("share", [0, 0.5, -1, 2])
def test_every_record_has_the_bytes_that_its_tensor_wants(source: str, share: float) -> None:
    """One after the other, shorter or longer, in an archive whose own sizes and checksums are right."""
    records = records_of(source)
    numbered = [index for index, (name, _) in enumerate(records) if "/data/" in name and "/.data/" not in name]
    assert len(numbered) >= len(network())
    for index in numbered:
        name, content = records[index]
        changed = content[: int(len(content) * share)] if share < 1 else content * 2
        damaged = [*records[:index], (name, content[:-1] if share < 0 else changed), *records[index + 1 :]]
        refusal(packed(Path(source), damaged), "should have", "bytes and has")


def test_one_bit_anywhere_in_the_records(source: str) -> None:
    """A checksum is held against every record, those of tensors that are left aside included."""
    whole = Path(source).read_bytes()
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
    for entry in entries[::7]:
        name_length, extra = struct.unpack_from("<2H", whole, entry.header_offset + 26)
        place = entry.header_offset + 30 + name_length + extra + entry.file_size // 2
        damaged = bytearray(whole)
        damaged[place] ^= 4
        Path(source).write_bytes(damaged)
        refusal(source, "the checksum of its record", "is wrong")


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="this torch always writes them")
def test_archives_without_checksums(tmp_path: Path) -> None:
    """`torch.serialization.set_crc32_options(False)` writes zeros for all of them."""
    torch.serialization.set_crc32_options(False)
    try:
        source = write_weights(tmp_path / "a.weights")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(source).config == SMALL


def without(name: str) -> Callable[[Records], Records]:
    return lambda records: [(key, value) for key, value in records if not key.endswith(name)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: [*records, records[-1]], "two records 'a/.data/serialization_id'"),
        (lambda records: [*records, ("b/data.pkl", b"\x80\x02}.")], "its records lie in 2 folders"),
        (lambda records: [("a/constants.pkl", b""), *records], "is a TorchScript program"),
        (without("data.pkl"), "its record data.pkl is missing"),
        (without("data/3"), "its record data/3 is missing"),
        (
            lambda records: [(key, b"big" if "byteorder" in key else value) for key, value in records],
            "in the order little",
        ),
    ],
)
def test_archives_that_torch_never_wrote(tmp_path: Path, change: Callable[[Records], Records], message: str) -> None:
    source = write_weights(tmp_path / "a.weights")
    refusal(packed(Path(source), change(records_of(source))), message)


def test_compressed_archives(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "a.weights")
    refusal(packed(Path(source), records_of(source), zipfile.ZIP_DEFLATED), "is compressed", "pack it anew")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole + b"x", "does not end in its directory"),
        (lambda whole: whole[:-1], "does not end in its directory"),
        (lambda whole: whole + whole, "does not end in its directory"),
        (lambda whole: whole[:30], "directory"),
        (lambda whole: whole[:-10] + struct.pack("<I", 2**31) + whole[-6:], "the two ends of its directory disagree"),
    ],
)
def test_bytes_around_an_archive(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    source = write_weights(tmp_path / "a.weights")
    Path(source).write_bytes(change(Path(source).read_bytes()))
    refusal(source, message)


def test_a_header_that_says_another_thing_than_the_directory(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "a.weights")
    packed(Path(source), records_of(source))
    whole = bytearray(Path(source).read_bytes())
    whole[14] ^= 1  # the checksum in the first record's own header
    Path(source).write_bytes(whole)
    refusal(source, "the header of its record", "does not agree with its directory")


@pytest.mark.parametrize("change", [-1, 1, 2**40, -(2**40)])
def test_lengths_of_storages_in_files_of_torch_before_1_6(tmp_path: Path, change: int) -> None:
    path = tmp_path / "a.weights"
    content = {"net.x": torch.arange(3.0)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert whole[-20:-12] == struct.pack("<q", 3)
    path.write_bytes(whole[:-20] + struct.pack("<q", 3 + change) + whole[-12:])
    refusal(str(path), "its storage", "is cut off or of another size")


@pytest.mark.parametrize("added", [b"x", bytes(8), bytes(4096)])
def test_bytes_behind_files_of_torch_before_1_6(tmp_path: Path, added: bytes) -> None:
    path = tmp_path / "a.weights"
    torch.save(network() | heads(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + added)
    refusal(str(path), f"{len(added):,} bytes behind its last storage")


def test_tar_archives_of_torch_before_0_2(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(bytes([46]) * 257 + b"ustar\x0000" + bytes(1000))
    refusal(str(tmp_path / "a.pt"), "is a tar archive")


def test_safetensors_with_a_name_twice(tmp_path: Path) -> None:
    """The library takes one of the two without a word."""
    whole = save({"net.x": torch.ones(2)})
    length = int.from_bytes(whole[:8], "little")
    entry = whole[8 : 8 + length].strip()[1:-1]
    header = b"{" + entry + b"," + entry + b"}"
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + length :])
    refusal(str(tmp_path / "a.safetensors"), "gives 'net.x' twice")


@pytest.mark.parametrize("claimed", [2**24 + 1, 2**40, 2**63])
def test_safetensors_with_a_header_of_any_size(tmp_path: Path, claimed: int) -> None:
    source = write_safetensors(tmp_path / "a.safetensors")
    whole = Path(source).read_bytes()
    Path(source).write_bytes(claimed.to_bytes(8, "little") + whole[8:])
    refusal(source, f"its header claims {claimed:,} bytes")


@pytest.mark.parametrize(
    "prefixes", [("", "mine_policy."), ("policy.", "ema."), ("model.", "teacher.model."), ("a.", "b.")]
)
@pytest.mark.parametrize("ending", ["ckpt", "safetensors", "pt"])
def test_two_networks(tmp_path: Path, prefixes: tuple[str, str], ending: str) -> None:
    tensors = {prefix + name: tensor.clone() for prefix in prefixes for name, tensor in network().items()}
    path = tmp_path / f"a.{ending}"
    if ending == "safetensors":
        write_safetensors(path, tensors)
    else:
        torch.save({"state_dict": tensors} if ending == "ckpt" else tensors, path)
    refusal(str(path), "holds 2 networks", "cannot be known which of them is meant")


@pytest.mark.parametrize(
    "content",
    [
        {"model": network(), "ema": network()},
        {"state_dict": network(), "model": network()},
        {"state_dict": network(), "net.final_ln.bias": torch.zeros(32)},
    ],
)
def test_two_networks_in_two_entries(tmp_path: Path, content: dict[str, object]) -> None:
    torch.save(content, tmp_path / "a.pt")
    refusal(str(tmp_path / "a.pt"), "cannot be known which")


def test_two_tensors_for_one_name(tmp_path: Path) -> None:
    tensors = network() | {"net.module.final_ln.bias": torch.zeros(32)}
    refusal(write_safetensors(tmp_path / "a.safetensors", tensors), "two tensors for net.final_ln.bias")


def test_folders_with_two_checkpoints(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"net.x": "model.safetensors"}}))
    refusal(str(tmp_path), "holds both model.safetensors and model.safetensors.index.json")
    (tmp_path / "model.safetensors.index.json").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")  # many repositories have both kinds, of the same weights
    assert load_checkpoint(str(tmp_path)).config == SMALL


def test_an_archive_that_holds_nothing(tmp_path: Path) -> None:
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    (tmp_path / "a.weights").write_bytes(file.getvalue())
    refusal(str(tmp_path / "a.weights"), "was not written by torch.save")
