import { type Tensor, tensor } from "../graph/index.ts";
import {
  type Adapter,
  adaptableModules,
  adaptedModules,
  attach,
  checkParameters,
  endsOfPath,
} from "../methods/index.ts";
import type { OpenGraph, PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { withShare } from "../runtime/device-share.ts";
import { compileGraph, type Program } from "../runtime/program.ts";
import { type BaseWeightsName, heldGraph } from "../train/base-weights.ts";

/** How texts are turned into others. */
export interface TargetOptions {
  /** Fills rows up, and is what a decoder begins with where the model names no token for it. */
  readonly padId: number;
  readonly eosId: number | undefined;
  readonly maxNewTokens: number;
  readonly adapter?: Adapter;
  /** How frozen weights are held; in float32 unless given. */
  readonly baseWeights?: BaseWeightsName;
}

/**
 * What an encoder–decoder makes of texts side by side, greedily: the tokens of each up to its end. The source is read
 * once; the decoder keeps its keys and values.
 */
export function generateTarget(
  device: Device,
  model: PretrainedModel,
  sources: readonly Int32Array[],
  options: TargetOptions,
): Promise<readonly (readonly number[])[]> {
  return withShare(device, (share) => generateAlone(share, model, sources, options));
}

async function generateAlone(
  device: Device,
  model: PretrainedModel,
  sources: readonly Int32Array[],
  { padId, eosId, maxNewTokens, adapter, baseWeights }: TargetOptions,
): Promise<readonly (readonly number[])[]> {
  const { outputModule } = model.architecture;
  const { encoder_model: encoder, decoder_model_merged: decoder } = model.parts();
  if (!encoder || !decoder) throw new Error(`a ${model.modelType} model has no encoder and decoder`);
  const reads: Record<string, string> = {};
  if (adapter) {
    const { trainables } = attach(model.predict().outputs, { ...adapter, outputModule, training: false });
    checkParameters(trainables, adapter.parameters, model.folder);
    for (const [name, values] of adapter.parameters) {
      reads[name] = name;
      await device.upload(name, values);
    }
  }
  const [reader, writer] = [await compile(encoder), await compile(decoder)];
  const { feeds } = model.reads.feed(
    sources.map((inputIds) => ({ inputIds })),
    padId,
  );
  const { last_hidden_state: states } = await run(reader, feeds);
  const { heads, headDim } = model.sizes;
  const count = sources.length;
  const caches = decoder.inputs.filter(({ name }) => name.startsWith("past_key_values"));
  let past = Object.fromEntries(
    caches.map(({ name }) => [name, tensor("float32", [count, heads, 0, headDim], [])] as [string, Tensor]),
  );
  const written: number[][] = sources.map(() => []);
  const done = sources.map(() => false);
  let last = sources.map(() => model.startId ?? padId);
  for (let step = 0; step < maxNewTokens && done.includes(false); step++) {
    const { logits, ...present } = await run(writer, {
      ...past,
      input_ids: tensor("int64", [count, 1], last),
      encoder_hidden_states: states as Tensor, // an output of every encoder
      encoder_attention_mask: feeds["attention_mask"] as Tensor, // as token ids are fed
    });
    past = Object.fromEntries(
      Object.entries(present).map(([name, values]) => [name.replace("present", "past_key_values"), values]),
    );
    const scores = (logits as Tensor).data as Float32Array;
    const size = scores.length / count;
    last = sources.map((_, i) => {
      const row = scores.subarray(i * size, (i + 1) * size);
      return row.indexOf(row.reduce((best, score) => Math.max(best, score), Number.NEGATIVE_INFINITY));
    });
    for (const [i, id] of last.entries()) {
      if (id === eosId) done[i] = true;
      else if (!done[i]) written[i]?.push(id);
    }
  }
  return written;

  function compile({ inputs, outputs }: OpenGraph): Promise<Program> {
    const tuned = adapter
      ? attach(outputs, { ...partOf(adapter, outputs), outputModule, training: false }).outputs
      : outputs;
    return compileGraph(device, heldGraph(baseWeights, { inputs, outputs: tuned }));
  }

  /** An adapter's share in one of the two parts: those of its modules that are there. */
  function partOf({ choice, targets }: Adapter, outputs: OpenGraph["outputs"]): Pick<Adapter, "choice" | "targets"> {
    const there = adaptableModules(outputs, choice.method);
    const all = adaptedModules(model.predict().outputs, { choice, targets, outputModule });
    const { inPlace, ...rest } = choice;
    const modules =
      inPlace?.modules.filter((module) => [...there.keys()].some((name) => endsOfPath(name, module))) ?? [];
    const kept =
      inPlace && (modules.length > 0 || inPlace.biases !== "none" || inPlace.tokens)
        ? { inPlace: { ...inPlace, modules } }
        : {};
    return { choice: { ...rest, ...kept }, targets: all.filter((module) => there.has(module)) };
  }

  function run(program: Program, feeds: Readonly<Record<string, Tensor>>): Promise<Readonly<Record<string, Tensor>>> {
    const taken = new Set(program.graph.inputs.map(({ name }) => name));
    const own = new Set(program.graph.parameters.map(({ name }) => name));
    return program.run({
      feeds: Object.fromEntries(Object.entries(feeds).filter(([name]) => taken.has(name))),
      reads: Object.fromEntries(Object.entries(reads).filter(([name]) => own.has(name))),
    });
  }
}
