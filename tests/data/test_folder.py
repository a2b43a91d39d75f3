"""Image folders: grey and colour, odd sizes, and folders that do not follow the layout."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedpurin.config import ConfigError, DataConfig, PartitionConfig
from fedpurin.data import LabelledData, load, partition


def write(path: Path, mode: str = "L", size: tuple[int, int] = (8, 8), colour: object = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]


def write_folder(root: Path) -> None:
    for split in ("train", "test"):
        write(root / split / "ant" / "1.png", size=(20, 11))
        write(root / split / "bee" / "1.png", size=(9, 30), colour=50)
        write(root / split / "bee" / "2.JPG", size=(15, 15), colour=60)
        (root / split / "bee" / "notes.txt").write_text("passed over")
        (root / split / ".hidden").mkdir()
        (root / split / "__MACOSX").mkdir()  # what an archive made on a Mac unpacks


def read(root: Path, **options: object) -> LabelledData:
    return load(DataConfig(name="image_folder", root=str(root), **options), seed=0)  # type: ignore[arg-type]


def test_grey_images_of_odd_sizes(tmp_path: Path) -> None:
    write_folder(tmp_path)
    data = read(tmp_path)
    assert data.class_names == ("ant", "bee")
    assert data.train.sample_shape == (1, 11, 11)  # the median of the shorter sides 11, 9, 15
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.inputs[0].unique().tolist() == [128]


def test_one_colour_image_makes_three_channels(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write(tmp_path / "test" / "ant" / "2.png", "RGB", (12, 12), (200, 0, 0))
    data = read(tmp_path, image_size=8)
    assert data.train.sample_shape == (3, 8, 8)
    assert data.test.inputs[1].flatten(1)[:, 0].tolist() == [200, 0, 0]
    assert torch.equal(data.train.inputs[:, 0], data.train.inputs[:, 2])
    assert read(tmp_path, channels=1).train.sample_shape == (1, 11, 11)


@pytest.mark.parametrize(
    ("mode", "colour", "channels", "value"),
    [
        ("1", 1, 1, 255),
        ("LA", (7, 255), 1, 7),
        ("I;16", 0xF234, 1, 0xF2),
        ("RGBA", (1, 2, 3, 255), 3, 1),
        ("P", 0, 3, 0),
    ],
)
def test_modes(tmp_path: Path, mode: str, colour: object, channels: int, value: int) -> None:
    for split in ("train", "test"):
        write(tmp_path / split / "only" / "1.png", mode, colour=colour)
    image = read(tmp_path).train.inputs[0]
    assert image.shape == (channels, 8, 8)
    assert int(image[0, 0, 0]) == value


def test_cmyk_and_exif_rotation(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8), dtype=np.uint8)
    pixels[:, 4:] = 255  # the right half is white
    for split in ("train", "test"):
        folder = tmp_path / split / "only"
        folder.mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90° clockwise: the right half becomes the lower one
        Image.fromarray(pixels).save(folder / "1.png", exif=exif)
        Image.new("CMYK", (4, 4)).save(folder / "2.jpg")
    data = read(tmp_path, channels=1)
    assert int(data.train.inputs[0, 0, -1, 0]) > int(data.train.inputs[0, 0, 0, 0])
    assert int(data.train.inputs[1].min()) == 255


def no_train(root: Path) -> str:
    (root / "test" / "ant").mkdir(parents=True)
    return r"there is no folder train/ in it; it must be laid out as <root>/\{train,test\}/<class>"


def no_classes(root: Path) -> str:
    (root / "train").mkdir()
    return "train/ holds no class folder"


def empty_class(root: Path) -> str:
    write_folder(root)
    (root / "train" / "cat").mkdir()
    return "no image in train/ for class cat"


def other_classes(root: Path) -> str:
    write_folder(root)
    write(root / "test" / "cat" / "1.png")
    write(root / "train" / "dog" / "1.png")
    return r"the same classes \(only in train/: dog; only in test/: cat\)"


def truncated(root: Path) -> str:
    write_folder(root)
    generator = np.random.default_rng(0)
    path = root / "train" / "ant" / "1.png"
    Image.fromarray(generator.integers(256, size=(40, 40), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    return r"train/ant/1\.png cannot be decoded"


def no_image(root: Path) -> str:
    write_folder(root)
    (root / "test" / "ant" / "1.png").write_text("hello")
    return r"test/ant/1\.png cannot be decoded"


def bomb(root: Path) -> str:
    """A file of 90 bytes that says it has 30,000 times 30,000 pixels."""
    write_folder(root)
    path = root / "train" / "ant" / "1.png"
    write(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    return r"train/ant/1\.png cannot be decoded \((Image size \(900000000|it has 30000 x 30000 pixels)"


def large(root: Path) -> str:
    """PIL only warns of fewer than 179 million pixels."""
    write_folder(root)
    Image.new("1", (9_000, 8_000)).save(root / "train" / "ant" / "1.png")
    return r"it has 9000 x 8000 pixels; more than 67,108,864 are not read"


def link_out(root: Path) -> str:
    write_folder(root / "data")
    write(root / "secret.png")
    (root / "data" / "train" / "ant" / "1.png").unlink()
    (root / "data" / "train" / "ant" / "1.png").symlink_to(root / "secret.png")
    return r"train/ant/1\.png leads to .*/secret\.png, out of the folder"


def folder_link_out(root: Path) -> str:
    write_folder(root / "data")
    shutil.copytree(root / "data" / "train" / "ant", root / "elsewhere")
    shutil.rmtree(root / "data" / "train" / "ant")
    (root / "data" / "train" / "ant").symlink_to(root / "elsewhere")
    return r"train/ant/.*png leads to .*/elsewhere/.*png, out of the folder"


def test_links_inside_the_root_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path)
    first = next((tmp_path / "train" / "ant").iterdir())
    (tmp_path / "train" / "ant" / "again.png").symlink_to(first)
    number = len(read(tmp_path).train.inputs)
    (tmp_path / "train" / "ant" / "again.png").unlink()
    assert number == len(read(tmp_path).train.inputs) + 1


@pytest.mark.parametrize(
    "spoil",
    [
        no_train, no_classes, empty_class, other_classes, truncated, no_image, bomb, large, link_out, folder_link_out,
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    message = spoil(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path / "data" if (tmp_path / "data").is_dir() else tmp_path)
    assert len(str(caught.value).splitlines()) <= 2


def test_root_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"data\.root=null: data=image_folder needs the folder"):
        load(DataConfig(name="image_folder"), seed=0)


def test_subfolders_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write(tmp_path / "train" / "ant" / "patient7" / "2.png", colour=9)
    (tmp_path / "train" / "ant" / "._1.png").write_bytes(b"AppleDouble")
    write(tmp_path / "train" / "ant" / ".cache" / "3.png")
    assert read(tmp_path).train.labels.tolist() == [0, 0, 1, 1]


def test_twelve_bits_in_sixteen_keep_their_levels(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write(tmp_path / "train" / "ant" / "1.png", "I;16", colour=0x0FF0)
    write(tmp_path / "test" / "ant" / "1.png", "I;16", colour=0x0800)
    data = read(tmp_path)
    assert (int(data.train.inputs[0].max()), int(data.test.inputs[0].max())) == (0xFF, 0x80)


@pytest.mark.parametrize("name", ["9.gif", "9.tif"])
def test_files_of_several_frames_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    frames = [Image.new("L", (8, 8), level) for level in (10, 20, 30)]
    frames[0].save(tmp_path / "train" / "ant" / name, save_all=True, append_images=frames[1:])
    with pytest.raises(ConfigError, match=rf"ant/{name} cannot be decoded \(it holds 3 frames or pages, and a file is"):
        read(tmp_path)


def test_floating_pixels_are_refused_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write(tmp_path / "train" / "ant" / "2.tiff", "F", colour=0.5)
    with pytest.raises(ConfigError, match=r"2\.tiff.*floating numbers"):
        read(tmp_path)


def test_folders_of_clients(tmp_path: Path) -> None:
    for client, names in (("w1", ("ant", "bee")), ("w0", ("bee",))):
        for split in ("train", "test"):
            for name in names:
                write(tmp_path / client / split / name / "1.png", colour=9 if client == "w0" else 90)
    write(tmp_path / "w0" / "train" / "cat" / "1.png")
    data = read(tmp_path)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.labels.tolist() == [1, 2, 0, 1]
    assert data.train.inputs[:, 0, 0, 0].tolist() == [9, 128, 90, 90]
    parts = partition(PartitionConfig(name="natural", num_clients=2), data, 0)
    assert [part.tolist() for part in parts.train] == [[0, 1], [2, 3]]
    assert [part.tolist() for part in parts.test] == [[0], [1, 2]]
    write(tmp_path / "w1" / "test" / "dog" / "1.png")
    with pytest.raises(ConfigError, match=r"the same classes \(only in test/: dog\)"):
        read(tmp_path)
    (tmp_path / "w2" / "train").mkdir(parents=True)
    with pytest.raises(ConfigError, match="client w2 has no train/ or no test/"):
        read(tmp_path)
    (tmp_path / "w2" / "test").mkdir()
    with pytest.raises(ConfigError, match="no image in w2/train/<class>/; each client needs one"):
        read(tmp_path)
