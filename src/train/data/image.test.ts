import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { golden, readGolden } from "../../../tests/helpers/golden.ts";
import { idat, iend, ihdr, png } from "../../../tests/helpers/png.ts";
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
  it.each<[string, number]>([
    ["photo.png", 0],
    ["grey.png", 0],
    ["palette.png", 0],
    ["alpha.png", 0],
    ["photo.jpg", 4], // decoders round their inverse transforms and colours differently
    ["interlaced.png", 0],
    ["deep.png", 0],
    ["progressive.jpg", 4],
    ["rgb.jpg", 4],
    ["cmyk.jpg", 6],
    ["turned6.jpg", 4],
    ...[1, 2, 3, 4, 5, 6, 7, 8].map((orientation) => [`turned${orientation}.png`, 0] as [string, number]),
  ])("%s", async (name, tolerance) => {
    const { width, height, data } = await decodeImage(bytesOf(name), name);
    expect([width, height]).toEqual(/[5-8]\./.test(name) ? [24, 32] : [32, 24]);
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
  const row = new Uint8Array(3 * 4 + 1);
  const four = Array<Uint8Array>(4).fill(row);
  const bomb = idat(new Uint8Array(5e7));
  const photo = bytesOf("photo.jpg");
  const frameAt = photo.findIndex((byte, i) => byte === 0xff && photo[i + 1] === 0xc0);
  const claiming = (bytes: Uint8Array, at: number, ...values: number[]): Uint8Array => {
    const claims = bytes.slice();
    claims.set(values, at);
    return claims;
  };
  const scanAt = photo.findIndex((byte, i) => byte === 0xff && photo[i + 1] === 0xda);
  const scan = photo.slice(scanAt, -2);
  const scans = new Uint8Array(Buffer.concat([photo.slice(0, -2), ...Array<Uint8Array>(120).fill(scan)]));

  it.each([
    ["more samples than the header says", png(ihdr(4, 4, 8, 2), bomb, iend), /more than the 52 bytes/],
    ["fewer samples", png(ihdr(4, 4, 8, 2), idat(row), iend), /holds 13 of the 52 bytes/],
    [
      "800 megabytes of them",
      png(ihdr(16384, 6100, 16, 6), bomb, iend),
      /799545600|16384 by 6100.*the most is 268435456/,
    ],
    ["more than deflate can fold", png(ihdr(4000, 4000, 8, 2), idat(row), iend), /cannot hold/],
    ["a side that is too long", png(ihdr(20000, 4, 8, 2), bomb, iend), /20000 by 4.*at most 16384/],
    ["seven bits", png(ihdr(4, 4, 7, 2), idat(row), iend), /no colour type 2 in 7 bits/],
    ["numbers of colours without a palette", png(ihdr(4, 4, 8, 3), idat(row), iend), /no palette/],
    ["a large palette", png(ihdr(4, 4, 8, 3), ["PLTE", new Uint8Array(900)], idat(row), iend), /256 colours/],
    [
      "a JPEG larger than its bytes can hold",
      claiming(photo, frameAt + 5, 0x20, 0, 0x20, 0),
      /cannot hold the 8192 by 8192/,
    ],
    ["a JPEG of 12 bits", claiming(photo, frameAt + 4, 12), /samples have 12 bits/],
    ["an arithmetic JPEG", claiming(photo, frameAt + 1, 0xc9), /arithmetic coding/],
    ["a lossless JPEG", claiming(photo, frameAt + 1, 0xc3), /lossless coding/],
    ["too many scans", scans, /too many scans/],
  ])("%s, within a second", async (_name, bytes, why) => {
    const before = performance.now();
    await expect(decodeImage(bytes, "a")).rejects.toMatchObject({
      code: "bad-image",
      message: expect.stringMatching(why),
    });
    expect(performance.now() - before).toBeLessThan(1000);
  });

  it("what nothing reads is not inflated", async () => {
    const image = png(ihdr(4, 4, 8, 2), ["iCCP", Buffer.from("a\0\0not deflate")], idat(Buffer.concat(four)), iend);
    expect((await decodeImage(image, "a")).width).toBe(4);
  });

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
