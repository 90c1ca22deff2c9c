import { spawnSync } from "node:child_process";
import { expect, it } from "vitest";
import type { AttentionCase, AttentionResult } from "../bench/attention/case.ts";
import { compiled } from "../bench/compiled.ts";

it("a step's memory for scores is one block's, in two layers as in one", async () => {
  const script = await compiled("attention/case");
  const [one = 0, two = 0] = [1, 2].map((layers) => {
    const asked: AttentionCase = {
      ...{ kind: "exact", length: 4096, headDim: 16, heads: 4, layers, range: 1, memory: "balanced", runs: 1 },
    };
    const { stdout } = spawnSync(process.execPath, [script, JSON.stringify(asked)], { encoding: "utf8" });
    return (JSON.parse(stdout) as AttentionResult).peakBytes; // our own program
  });
  // What a layer keeps of its tokens is about 30 MB. Its scores would be 180 MB, in several copies.
  expect(two).toBeLessThan(one + 120e6);
});
