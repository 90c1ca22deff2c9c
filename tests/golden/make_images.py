"""Small PNG and JPEG files and what Pillow makes of them: decoded, and resized by its bilinear filter.

Run in this folder, with Pillow and numpy:  python make_images.py
`images/` holds the files, and `images.expected.safetensors` their pixels [height, width, 3] as int32 by name, and of
`photo.png` the sizes 7 by 7 and 40 by 40.
"""

import pathlib

import numpy as np
from PIL import Image
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
pixels = {path.name: np.array(Image.open(path).convert("RGB")).astype(np.int32) for path in sorted(folder.glob("*.*"))}
for size in (7, 40):
    pixels[f"resized{size}"] = np.array(photo.resize((size, size), Image.Resampling.BILINEAR)).astype(np.int32)
save_file(pixels, f"{folder}.expected.safetensors")
