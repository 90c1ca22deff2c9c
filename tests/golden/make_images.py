"""Small PNG and JPEG files and what Pillow makes of them: decoded, and resized by its bilinear filter.

Run in this folder, with Pillow 12 and numpy:  python make_images.py
`images/` holds the files, and `images.expected.safetensors` their pixels [height, width, 3] as int32 by name, upright
(`ImageOps.exif_transpose`, as transformers and datasets read images), and of `photo.png` the sizes 7 by 7 and 40 by 40.
"""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

folder = pathlib.Path(__file__).parent / "images"
folder.mkdir(exist_ok=True)
y, x = np.mgrid[0:24, 0:32]
colours = np.stack([x * 8, y * 10, (x * y) % 256], -1).astype(np.uint8)
photo = Image.fromarray(colours)
photo.save(folder / "photo.png")
photo.save(folder / "photo.jpg", quality=90, subsampling=0)
photo.convert("L").save(folder / "grey.png")
photo.convert("P", palette=Image.Palette.ADAPTIVE, colors=16).save(folder / "palette.png")
Image.fromarray(np.dstack([colours, np.full((24, 32), 255, np.uint8)])).save(folder / "alpha.png")
photo.save(folder / "progressive.jpg", quality=90, subsampling=0, progressive=True)
photo.save(folder / "rgb.jpg", quality=90, keep_rgb=True)
photo.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(folder / f"turned{orientation}.png", exif=exif)
    if orientation == 6:
        photo.save(folder / "turned6.jpg", quality=90, subsampling=0, exif=exif)


def png(name, samples, interlaced):
    """Write RGB samples [height, width, 3], of 8 or 16 bits, which Pillow itself writes neither in 16 bits nor interlaced."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = b""
    for left, top, right, down in passes if interlaced else [(0, 0, 1, 1)]:
        for line in samples[top::down, left::right]:
            lines += b"\0" + line.astype(f">u{samples.itemsize}").tobytes()
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, 2, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


png("interlaced.png", colours, True)
png("deep.png", colours.astype(np.uint16) * 256 + 77, False)


def read(path):
    return np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(np.int32)


pixels = {path.name: read(path) for path in sorted(folder.glob("*.*"))}
for size in (7, 40):
    pixels[f"resized{size}"] = np.array(photo.resize((size, size), Image.Resampling.BILINEAR)).astype(np.int32)
save_file(pixels, f"{folder}.expected.safetensors")
