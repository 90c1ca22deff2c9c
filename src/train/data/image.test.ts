import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { golden, readGolden } from "../../../tests/helpers/golden.ts";
import { memoryStorage } from "../../io/memory-storage.ts";
import { decodeImage, readImage, resize } from "./image.ts";

const bytesOf = (name: string): Uint8Array => new Uint8Array(readFileSync(golden(`images/${name}`)));
const expected = await readGolden("images.expected.safetensors");

function worst(found: Uint8Array, name: string): number {
  const values = expected.get(name)?.data as Int32Array;
  expect(found.length).toBe(values.length);
  return values.reduce((most, value, i) => Math.max(most, Math.abs(value - (found[i] ?? 0))), 0);
}

describe("images are decoded as Pillow decodes them", () => {
  it.each([
    ["photo.png", 0],
    ["grey.png", 0],
    ["palette.png", 0],
    ["alpha.png", 0],
    ["photo.jpg", 4], // decoders round their inverse transforms and colours differently
  ])("%s", async (name, tolerance) => {
    const { width, height, data } = await decodeImage(bytesOf(name), name);
    expect([width, height]).toEqual([32, 24]);
    expect(worst(data, name)).toBeLessThanOrEqual(tolerance);
  });

  it.each([7, 40])("resized to %i", async (size) => {
    const { data } = resize(await decodeImage(bytesOf("photo.png"), "photo.png"), size, size);
    expect(worst(data, `resized${size}`)).toBeLessThanOrEqual(1); // Pillow's weights are rounded to 22 bits
  });
});

describe("what is no image is refused", () => {
  const whole = bytesOf("photo.png");
  const huge = whole.slice();
  new DataView(huge.buffer).setUint32(16, 0x7fffffff);
  const broken = whole.map((byte, i) => (i > 60 && i < 90 ? byte ^ 255 : byte));
  it.each([
    ["text", new TextEncoder().encode("not an image")],
    ["nothing", new Uint8Array()],
    ["half a header", whole.slice(0, 12)],
    ["half a file", whole.slice(0, 80)],
    ["a side of two billion pixels", huge],
    ["damage", broken],
    ["half a JPEG", bytesOf("photo.jpg").slice(0, 100)],
  ])("%s", async (_name, bytes) => {
    const storage = memoryStorage();
    await storage.write("a.png", bytes);
    await expect(readImage(storage, "a.png", 8)).rejects.toMatchObject({ code: "bad-image" });
  });
});
