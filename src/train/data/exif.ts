/** How a camera held an image: EXIF's numbers 1 (upright) to 8. */
export type Orientation = 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;

const orientationTag = 0x0112;

/**
 * The orientation in a block of EXIF (a TIFF file without pictures); 1 where it says none, or nothing sensible, as Pillow
 * takes it. Only the first directory is read.
 */
export function orientationOf(exif: Uint8Array): Orientation {
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
  if (exif.length < 8) return 1;
  const little = view.getUint16(0) === 0x4949;
  if (!little && view.getUint16(0) !== 0x4d4d) return 1;
  const start = view.getUint32(4, little);
  if (start + 2 > exif.length) return 1;
  const entries = view.getUint16(start, little);
  for (let i = 0; i < entries; i++) {
    const at = start + 2 + 12 * i;
    if (at + 12 > exif.length) return 1;
    if (view.getUint16(at, little) !== orientationTag) continue;
    const value = view.getUint16(at + 8, little);
    return value >= 1 && value <= 8 ? (value as Orientation) : 1; // just checked
  }
  return 1;
}

/** Pixels [height, width, 3] turned and mirrored so that they stand upright. */
export function upright<Image extends { readonly width: number; readonly height: number; readonly data: Uint8Array }>(
  image: Image,
  orientation: Orientation,
): Image | { readonly width: number; readonly height: number; readonly data: Uint8Array } {
  if (orientation === 1) return image;
  const { width: across, height: down, data } = image;
  const [width, height] = orientation >= 5 ? [down, across] : [across, down];
  const turned = new Uint8Array(data.length);
  const mirrored = [2, 3, 7, 8].includes(orientation);
  const flipped = [3, 4, 6, 7].includes(orientation);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      // Where this pixel stands in the file: its column and row, exchanged from 5 on.
      const [a, b] = orientation >= 5 ? [y, x] : [x, y];
      const from = 3 * ((flipped ? down - 1 - b : b) * across + (mirrored ? across - 1 - a : a));
      const to = 3 * (y * width + x);
      turned[to] = data[from] ?? 0;
      turned[to + 1] = data[from + 1] ?? 0;
      turned[to + 2] = data[from + 2] ?? 0;
    }
  }
  return { width, height, data: turned };
}
