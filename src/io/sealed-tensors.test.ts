import { describe, expect, it } from "vitest";
import { tensor } from "../graph/index.ts";
import { memoryStorage } from "./memory-storage.ts";
import { readSealedTensors, writeSealedTensors } from "./sealed-tensors.ts";

const tensors = {
  a: tensor("float32", [2, 3], [1, 2, 3, 4, 5, 6]),
  b: tensor("float64", [2], [0.1, 1e300]),
};

describe("tensors that can be made again", () => {
  it("come back as they were written, into memory that is given", async () => {
    const storage = memoryStorage();
    await writeSealedTensors(storage, "t", "from here", tensors);
    const into = new Float32Array(6);
    const found = await readSealedTensors(storage, "t", "from here", (name, length) => {
      expect([name, length]).toEqual(["a", 6]);
      return into.buffer;
    });
    expect([...((found?.get("a")?.data ?? []) as Float32Array)]).toEqual([1, 2, 3, 4, 5, 6]);
    expect(found?.get("b")).toEqual(tensors.b);
    expect(await readSealedTensors(storage, "none", "from here")).toBeUndefined();
    expect(await readSealedTensors(storage, "t", "from there")).toBeUndefined();
  });

  it("are none where any one byte is another, or the end is missing", async () => {
    const storage = memoryStorage();
    await writeSealedTensors(storage, "t", "from here", tensors);
    const whole = (await storage.read("t")).slice();
    for (let at = 0; at < whole.length; at++) {
      const damaged = whole.slice();
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      await storage.write("t", damaged);
      const found = await readSealedTensors(storage, "t", "from here");
      // A byte of a header may be one that says nothing, such as padding: what is read is then what was written.
      if (found) expect([...found].sort()).toEqual(Object.entries(tensors));
      if (at >= whole.length - 40) expect(found).toBeUndefined(); // the numbers themselves
      await storage.write("t", whole.slice(0, at));
      expect(await readSealedTensors(storage, "t", "from here")).toBeUndefined();
    }
  });
});
