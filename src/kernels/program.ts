/** What a step can do, in the order of `run` in `assembly/run.ts`; the arguments of each are listed there. */
export const operations = [
  "embed",
  "norm",
  "makeTables",
  "product",
  "rowProduct",
  "groupSums",
  "attend",
  "activate",
  "dense",
  "update",
  "addRows",
  "readAll",
] as const;

/** A step of a program, taken by all threads together. */
export interface Step {
  readonly operation: (typeof operations)[number];
  /** Addresses, sizes, and bits of floats ({@link float}). */
  readonly args: readonly number[];
  /** Whether threads wait for each other after it: what it wrote is read by others. */
  readonly waits: boolean;
}

/** A step after which threads wait. */
export function step(operation: Step["operation"], args: readonly number[]): Step {
  return { operation, args, waits: true };
}

/** A float32 as an argument. */
export function float(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0;
}

/** Threads wait after the last of these alone. */
export function together(steps: readonly Step[]): readonly Step[] {
  return steps.map((one, i) => ({ ...one, waits: i === steps.length - 1 }));
}

const stepWords = 3;

/** Bytes that a program takes. */
export function programBytes(steps: readonly Step[]): number {
  return steps.reduce((sum, { args }) => sum + 4 * (stepWords + args.length), 0);
}

/** Write a program at an address. */
export function writeProgram(words: Uint32Array, at: number, steps: readonly Step[]): void {
  let args = at / 4 + steps.length * stepWords;
  steps.forEach((one, i) => {
    const place = at / 4 + i * stepWords;
    words.set([operations.indexOf(one.operation), Number(one.waits), 4 * args], place);
    words.set(one.args, args);
    args += one.args.length;
  });
}
