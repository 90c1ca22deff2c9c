import { assert, sessionClosed, TuneError } from "../errors.ts";
import { type Continuation, type Decoder, refusePrompts } from "../generate/index.ts";
import { planesBytes } from "../io/packed/index.ts";
import {
  chooseBuild,
  createArena,
  type EntryBytes,
  type KernelBuild,
  openTeam,
  programBytes,
  type ThreadHost,
  teamBytes,
  viewsOf,
  writeProgram,
} from "../kernels/index.ts";
import type { DecodeRecipe, PretrainedModel } from "../models/index.ts";
import type { Layout, Loading } from "./linear.ts";
import { layOutProgram, type RopeTables } from "./program.ts";
import type { LowRankUpdate } from "./updates.ts";

/**
 * How finely sums are looked up: `fast` leaves an error below 1 % of each product, `exact` float32's rounding, with three
 * look-ups in place of one.
 */
export type Lookups = "fast" | "exact";

/** How a packed model decodes. */
export interface EngineOptions {
  /** Threads; as many as the platform gives unless said otherwise. */
  readonly threads?: number;
  /** `exact` for models whose planes are smaller than {@link exactBelowBytes}, `fast` for others, unless said otherwise. */
  readonly lookups?: Lookups;
  /** The adapter's updates, by module. */
  readonly updates?: ReadonlyMap<string, LowRankUpdate>;
  /** Which build of the kernels; the fastest that runs here unless said otherwise. */
  readonly build?: KernelBuild;
}

/** A decoder, and what it takes. */
export interface PackedDecoder extends Decoder {
  readonly lookups: Lookups;
  readonly threads: number;
  /** Kernel memory without caches: weights, buffers, tables. */
  readonly modelBytes: number;
  /** What a token of one sequence takes in the cache. */
  readonly tokenBytes: number;
}

/** Planes that three look-ups go through in a millisecond or two. */
export const exactBelowBytes: number = 8e6;

const entryBytesOf: Readonly<Record<Lookups, EntryBytes>> = { fast: 1, exact: 3 };

/** Tokens of a prompt that go through the layers together. */
const rowsAtOnce = 16;
/** Room for caches: two whole contexts where it is not more than this. It is taken page by page as tokens come. */
const mostCacheBytes = 2 ** 30;
const addressable = 2 ** 32;

/**
 * Open a packed model on the kernels.
 * @throws {TuneError} `kernel-memory`, `worker-stopped`, and what reading the file throws.
 */
export async function openPackedDecoder(
  model: Pick<PretrainedModel, "packed" | "sizes" | "folder">,
  recipe: DecodeRecipe,
  host: ThreadHost,
  options: EngineOptions = {},
): Promise<PackedDecoder> {
  const { packed, sizes } = model;
  assert(packed !== undefined, "the model is packed");
  const planes = [...packed.matrices.values()].reduce((sum, { shape }) => sum + planesBytes(shape), 0);
  const usual: Lookups = planes < exactBelowBytes ? "exact" : "fast";
  const { updates = new Map(), lookups = usual, build = chooseBuild() } = options;
  const threads = Math.max(1, Math.min(options.threads ?? host.threads, host.threads));
  const arena = createArena();
  const control = arena.reserve(teamBytes);
  const loadings: Loading[] = [];
  const layout: Layout = { arena, packed, entryBytes: entryBytesOf[lookups], updates, loadings };
  const { vocabSize, hiddenSize, layers, kvHeads, headDim, contextLength } = sizes;
  const program = layOutProgram(layout, recipe, {
    ...{ vocabSize, hiddenSize, threads },
    ...{ rows: rowsAtOnce, capacity: contextLength },
  });
  const steps = arena.reserve(stepsRoom(recipe));
  const tokenBytes = layers * 2 * kvHeads * headDim * 4;
  const modelBytes = arena.sizeBytes;
  const whole = 2 * contextLength * tokenBytes;
  const caches = arena.reserve(
    Math.max(
      0,
      Math.min(whole, Math.max(mostCacheBytes, contextLength * tokenBytes), addressable - modelBytes - 65536),
    ),
  );
  const shared = threads > 1;
  const memory = arena.create({ shared });
  const views = viewsOf(memory);
  // The largest first: what reading it takes beside it is over before the rest is there.
  for (const one of loadings.sort((a, b) => b.sizeBytes - a.sizeBytes)) {
    const copied = await one.load(views);
    host.freeBuffers?.(copied);
  }
  const built = program.steps();
  assert(programBytes(built.steps) <= steps.bytes, "the program fits its room");
  writeProgram(views.words, steps.at, built.steps);
  const team = await openTeam(memory, control, host, { threads, build, shared });
  const slots = createSlots(caches.at, caches.bytes, tokenBytes);
  const { inputs } = program;

  interface Row {
    readonly id: number;
    readonly position: number;
    readonly cache: number;
    readonly capacity: number;
  }

  /** Run up to `rowsAtOnce` rows; scores of the picked ones. */
  const run = (rows: readonly Row[], picks: readonly number[]): readonly Float32Array[] => {
    const { words, floats } = views;
    words[inputs.rows / 4] = rows.length;
    words[inputs.pickCount / 4] = picks.length;
    words.set(picks, inputs.picks / 4);
    rows.forEach(({ id, position, cache, capacity }, i) => {
      words[inputs.ids / 4 + i] = id;
      words[inputs.positions / 4 + i] = position;
      words[inputs.caches / 4 + i] = cache;
      words[inputs.capacities / 4 + i] = capacity;
      for (const rope of program.ropes) writeAngles(floats, rope, i, position);
    });
    team.run(steps, picks.length > 0 ? built.steps.length : built.trunk);
    return picks.map((_, i) => {
      const at = (program.logits + i * program.logitsBytes) / 4;
      return floats.slice(at, at + vocabSize);
    });
  };

  let closed = false;

  const start = async (prompts: readonly (readonly number[])[]): Promise<Continuation> => {
    if (closed) throw sessionClosed();
    const longest = Math.max(0, ...prompts.map(({ length }) => length));
    const capacity = Math.min(contextLength, slots.room(prompts.length));
    refusePrompts(prompts, longest, capacity);
    const unknown = prompts.flat().find((id) => !(id >= 0 && id < vocabSize));
    if (unknown !== undefined) throw unknownToken(unknown, vocabSize);
    const held = prompts.map(() => slots.take(capacity));
    const lengths = prompts.map(({ length }) => length);
    const rowOf = (sequence: number, id: number, position: number): Row => ({
      ...{ id, position },
      ...{ cache: held[sequence] ?? 0, capacity },
    });
    const logits = prompts.map((prompt, sequence) => {
      let scores: Float32Array = new Float32Array();
      for (let from = 0; from < prompt.length; from += rowsAtOnce) {
        const rows = prompt.slice(from, from + rowsAtOnce).map((id, i) => rowOf(sequence, id, from + i));
        const last = from + rows.length === prompt.length;
        scores = run(rows, last ? [rows.length - 1] : [])[0] ?? scores;
      }
      return scores;
    });
    const continuation = (scores: readonly Float32Array[]): Continuation => ({
      logits: scores,
      room: capacity - Math.max(...lengths),
      next: async (tokens) => {
        if (closed) throw sessionClosed();
        const rows = tokens.map((id, sequence) => rowOf(sequence, id, lengths[sequence] ?? 0));
        const all: Float32Array[] = [];
        for (let from = 0; from < rows.length; from += rowsAtOnce) {
          const part = rows.slice(from, from + rowsAtOnce);
          all.push(...run(part, [...part.keys()]));
        }
        for (const sequence of lengths.keys()) lengths[sequence] = (lengths[sequence] ?? 0) + 1;
        return continuation(all);
      },
      end: async () => {
        for (const at of held.splice(0)) slots.give(at, capacity);
      },
    });
    return continuation(logits);
  };

  return {
    sizes,
    lookups,
    threads,
    modelBytes,
    tokenBytes,
    start,
    close: async () => {
      closed = true;
      await team.close();
    },
  };
}

/** Enough for every step that a recipe can become. */
function stepsRoom({ layers }: DecodeRecipe): number {
  const stepsOfLayer = 40;
  const bytesOfStep = 4 * 34;
  return (layers.length * stepsOfLayer + 8) * bytesOfStep;
}

function writeAngles(floats: Float32Array, rope: RopeTables, row: number, position: number): void {
  const pairs = rope.frequencies.length;
  rope.frequencies.forEach((frequency, i) => {
    // Float32 as the graph's: frequency and product are rounded before the cosine.
    const angle = Math.fround(Math.fround(frequency) * position);
    floats[rope.cos / 4 + row * pairs + i] = Math.cos(angle) * rope.scale;
    floats[rope.sin / 4 + row * pairs + i] = Math.sin(angle) * rope.scale;
  });
}

/** Caches of sequences, end to end in one range. */
interface Slots {
  /** Tokens that each of `count` new sequences can have. */
  room(count: number): number;
  take(tokens: number): number;
  give(at: number, tokens: number): void;
}

function createSlots(start: number, bytes: number, tokenBytes: number): Slots {
  let free: { at: number; tokens: number }[] = [{ at: start, tokens: Math.floor(bytes / tokenBytes) }];
  return {
    room: (count) => {
      const fits = (tokens: number): boolean =>
        free.reduce((sum, range) => sum + Math.floor(range.tokens / tokens), 0) >= count;
      let [low, high] = [0, Math.max(0, ...free.map(({ tokens }) => tokens)) + 1];
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (fits(middle)) low = middle;
        else high = middle;
      }
      return low;
    },
    take: (tokens) => {
      const range = free.find((candidate) => candidate.tokens >= tokens);
      assert(range !== undefined, "room() has been asked");
      const { at } = range;
      range.at += tokens * tokenBytes;
      range.tokens -= tokens;
      return at;
    },
    give: (at, tokens) => {
      free.push({ at, tokens });
      free.sort((a, b) => a.at - b.at);
      free = free.reduce<typeof free>((joined, range) => {
        const last = joined.at(-1);
        if (last && last.at + last.tokens * tokenBytes === range.at) last.tokens += range.tokens;
        else if (range.tokens > 0) joined.push({ ...range });
        return joined;
      }, []);
    },
  };
}

function unknownToken(id: number, vocabSize: number): TuneError {
  return new TuneError("tokenizer-mismatch", `Token ${id} is not one of the model's ${vocabSize}.`, {
    at: "the prompt",
    fix: "use the tokenizer files of the model itself",
  });
}
