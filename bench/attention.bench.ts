/*
 * npm run bench:attention [-- --lengths 1024,2048,4096,8192,16384] [--head-dims 16,32,64] [--rounds 3] [--python /venv/bin/python]
 *
 * The attention part of a training step, forward and backward, of four heads on one thread: exact attention as models are tuned
 * with (in blocks from 2k tokens on), with all scores of a layer at once, polynomials, and torch's scaled_dot_product_attention where a Python is given. Each case is a process of its own; kinds take turns, round by round. Prints
 * milliseconds (the least of the rounds' medians), the peak of memory over the idle process, exponents over the last four lengths,
 * and the errors of outputs and gradients where |score| is at most 1.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { AttentionCase, AttentionResult } from "./attention/case.ts";
import { compiled } from "./compiled.ts";
import { exponents } from "./size/growth.ts";

const { values } = parseArgs({
  options: {
    lengths: { type: "string", default: "1024,2048,4096,8192,16384" },
    "head-dims": { type: "string", default: "16,32,64" },
    rounds: { type: "string", default: "3" },
    python: { type: "string" },
  },
});
const lengths = values.lengths.split(",").map(Number);
const rounds = Number(values.rounds);
const heads = 4;
/** Longest that is tried where scores fill the memory beyond, or a run takes a quarter of a minute. */
const longest: Readonly<Record<string, number>> = { "exact, all scores": 8192, "degree 4": 8192 };

interface Kind {
  readonly name: string;
  readonly of: Pick<AttentionCase, "kind" | "degree" | "chunk"> | "torch";
}

function kindsFor(headDim: number): readonly Kind[] {
  const chunk = headDim <= 16 ? 64 : headDim <= 32 ? 128 : 256;
  return [
    { name: "exact", of: { kind: "exact" } },
    { name: "exact, all scores", of: { kind: "whole" } },
    { name: "degree 2", of: { kind: "polynomial", degree: 2, chunk } },
    ...(headDim <= 16 ? [{ name: "degree 4", of: { kind: "polynomial", degree: 4, chunk: 128 } } as const] : []),
    ...(values.python === undefined ? [] : [{ name: "torch sdpa", of: "torch" } as const]),
  ];
}

const script = await compiled("attention/case");

async function run(kind: Kind, rest: Omit<AttentionCase, "kind" | "degree" | "chunk">): Promise<AttentionResult> {
  const [program, file, of] =
    kind.of === "torch"
      ? [values.python as string, fileURLToPath(new URL("attention/side_sdpa.py", import.meta.url)), rest]
      : [process.execPath, script, { ...kind.of, ...rest }];
  const child = spawn(program, [file, JSON.stringify(of)], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  for await (const part of child.stdout) text += String(part);
  const line = text.trim().split("\n").at(-1) ?? "";
  return JSON.parse(line) as AttentionResult; // the protocol of both sides
}

const median = (of: readonly number[]): number =>
  [...of].sort((a, b) => a - b)[Math.floor(of.length / 2)] ?? Number.NaN;

for (const headDim of values["head-dims"].split(",").map(Number)) {
  const kinds = kindsFor(headDim);
  console.log(`\nhead size ${headDim}, ${heads} heads, one thread: ms and MB over idle`);
  console.log(["length".padEnd(8), ...kinds.map(({ name }) => name.padStart(22))].join(" "));
  const points = new Map<string, (readonly [number, number])[]>(kinds.map(({ name }) => [name, []]));
  for (const length of lengths) {
    const measured = new Map<string, { readonly ms: number[]; peak: number }>();
    for (let round = 0; round < rounds; round++) {
      for (const kind of kinds) {
        if (length > (longest[kind.name] ?? Number.POSITIVE_INFINITY)) continue;
        const { ms, peakBytes } = await run(kind, { length, headDim, heads, range: 1, memory: "balanced", runs: 4 });
        const own = measured.get(kind.name) ?? { ms: [], peak: 0 };
        own.ms.push(median(ms.slice(1))); // the first touches its memory for the first time
        own.peak = Math.max(own.peak, peakBytes);
        measured.set(kind.name, own);
      }
    }
    const cells = kinds.map(({ name }) => {
      const own = measured.get(name);
      if (own === undefined) return "–".padStart(22);
      const best = Math.min(...own.ms);
      points.get(name)?.push([length, best]);
      return `${best.toFixed(0)} (${(own.peak / 1e6).toFixed(0)} MB)`.padStart(22);
    });
    console.log([String(length).padEnd(8), ...cells].join(" "));
  }
  const ends = kinds.map(({ name }) => {
    const some = (points.get(name) ?? []).slice(-4);
    return (some.length < 2 ? "–" : exponents(some)[0].toFixed(2)).padStart(22);
  });
  console.log(["exponent", ...ends].join(" "));

  const errorsAt = { length: 1024, headDim, heads, range: 1, memory: "balanced", runs: 1, outputs: true } as const;
  const exact = await run({ name: "exact", of: { kind: "exact" } }, errorsAt);
  for (const kind of kinds.slice(1).filter(({ of }) => of !== "torch")) {
    const { outputs = {} } = await run(kind, errorsAt);
    const off = Object.entries(outputs).map(([name, found]) => {
      const wanted = exact.outputs?.[name] ?? [];
      const distance = Math.hypot(...chunked(found, wanted));
      const size = Math.hypot(...chunked(wanted, []));
      return `${name} ${((100 * distance) / size).toPrecision(2)} %`;
    });
    console.log(`${kind.name}, |score| ≤ 1, ${errorsAt.length} tokens: relative error of ${off.join(", ")}`);
  }
}

/** The length of the difference of two vectors, a thousand entries at a time. */
function chunked(a: readonly number[], b: readonly number[]): readonly number[] {
  return Array.from({ length: Math.ceil(a.length / 1000) }, (_, i) =>
    Math.hypot(...a.slice(1000 * i, 1000 * (i + 1)).map((x, j) => x - (b[1000 * i + j] ?? 0))),
  );
}
