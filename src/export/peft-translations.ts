import { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import type { JsonObject } from "../io/json.ts";
import type { AdapterTensors } from "../io/peft.ts";
import { adaloraFromPeft, adaloraToPeft } from "../io/peft-adalora.ts";
import { type LoraSettings, loraFromPeft, loraToPeft } from "../io/peft-lora.ts";
import { pacaFromPeft, pacaToPeft } from "../io/peft-paca.ts";
import {
  type AdaloraConfig,
  type Adapter,
  chooseMethod,
  configAt,
  type MethodChoice,
  type PacaConfig,
  pacaScale,
  updatesOf,
} from "../methods/index.ts";
import { placed, someColumns, someRows } from "./rows.ts";

/** What a PEFT config says besides the method. */
export interface PeftSite {
  readonly targetModules: readonly string[];
  readonly fanInFanOut: boolean;
  readonly baseModel: string;
}

/** Tensors of an adapter by module, under the method's names. */
export type ModuleTensors = AdapterTensors<Tensor>;

/** Between a method's options and tensors and PEFT's config and tensors; one record a `peft_type`. */
export interface PeftTranslation {
  readonly write: (
    adapter: Pick<Adapter, "choice" | "steps">,
    tensors: ModuleTensors,
    site: PeftSite,
  ) => { readonly config: JsonObject; readonly tensors: ModuleTensors };
  readonly read: (
    config: JsonObject,
    tensors: ModuleTensors,
    source: PeftSource,
  ) => TranslatedAdapter | Promise<TranslatedAdapter>;
}

/** Where an adapter is read from, and for which model. */
export interface PeftSource {
  readonly at: string;
  /** The pretrained weight of a module, as [out, in]. */
  readonly weight: (module: string) => Promise<Tensor>;
}

/** A method with its options, and its tensors. */
export interface TranslatedAdapter {
  readonly choice: MethodChoice;
  readonly tensors: ModuleTensors;
  readonly steps?: number;
}

const lora: PeftTranslation = {
  write: ({ choice: { method, config, patterns } }, tensors, { targetModules, fanInFanOut, baseModel }) => {
    const settings = {
      rank: Number(config["rank"]),
      alpha: Number(config["alpha"]),
      rslora: config["rslora"] === true,
      dora: method.peft?.flag === "use_dora",
      rankPattern: patterns?.["rank"] ?? {},
      alphaPattern: patterns?.["alpha"] ?? {},
      dropout: Number(config["dropout"]),
      targetModules,
      fanInFanOut,
      init: config["init"] as LoraSettings["init"], // the words of LoRA's `init`
    };
    return { config: loraToPeft(settings, { baseModel, taskType: "CAUSAL_LM" }), tensors };
  },
  read: (config, tensors, { at }) => {
    const { rank, alpha, rslora, dora, dropout, init, rankPattern, alphaPattern } = loraFromPeft(config, at);
    const patterns = { rank: rankPattern, alpha: alphaPattern };
    const options = { rank, alpha, rslora, dropout, init };
    return { choice: chooseMethod(dora ? "dora" : "lora", options, patterns), tensors };
  },
};

/** PEFT's files hold the triplets that are left; ours, all of them, with zeros for the pruned ones. */
const adalora: PeftTranslation = {
  write: ({ choice, steps = 1 }, tensors, { targetModules, fanInFanOut, baseModel }) => {
    const options = choice.config as unknown as AdaloraConfig; // the method whose `peft.type` led here
    const { initialRank, targetRank, alpha, dropout, budgetEvery, orthogonalWeight } = options;
    const left = [...tensors].map(([module, { E }]): [string, readonly boolean[]] => [
      module,
      // biome-ignore lint/plugin: the ranks of one module
      Array.from(E?.data as Float32Array, (value) => value !== 0), // the layout's, read as float32
    ]);
    // A run that has not begun has pruned nothing, though every E is zero.
    const kept = new Map(left.some(([, own]) => own.includes(true)) ? left : []);
    const cut = [...tensors].map(([module, own]): [string, Readonly<Record<string, Tensor>>] => {
      const rows = (kept.get(module) ?? []).flatMap((is, i) => (is ? [i] : []));
      const { A, B, E } = own as Readonly<Record<"A" | "B" | "E", Tensor>>; // the layout's tensors
      return [module, kept.size === 0 ? own : { A: someRows(A, rows), B: someColumns(B, rows), E: someRows(E, rows) }];
    });
    const settings = {
      ...{ initialRank, targetRank, alpha, dropout, steps, every: budgetEvery, orthogonalWeight },
      warmup: updatesOf(options.budgetWarmup, steps),
      final: updatesOf(options.budgetFinal, steps),
      sensitivityDecay: options.sensitivityDecay,
      uncertaintyDecay: options.uncertaintyDecay,
      ...{ kept, targetModules, fanInFanOut },
    };
    return { config: adaloraToPeft(settings, { baseModel }), tensors: new Map(cut) };
  },
  read: (config, tensors, { at }) => {
    const found = adaloraFromPeft(config, at);
    const { initialRank, targetRank, alpha, dropout, every, orthogonalWeight, kept, steps } = found;
    const choice = chooseMethod("adalora", {
      ...{ initialRank, targetRank, alpha, dropout, orthogonalWeight, budgetEvery: every },
      budgetWarmup: found.warmup,
      budgetFinal: found.final,
      sensitivityDecay: found.sensitivityDecay,
      uncertaintyDecay: found.uncertaintyDecay,
    });
    const whole = [...tensors].map(([module, own]): [string, Readonly<Record<string, Tensor>>] => {
      const pattern = kept.get(module);
      if (pattern === undefined) return [module, own];
      const rows = pattern.flatMap((is, i) => (is ? [i] : []));
      const { A, B, E } = own as Readonly<Record<"A" | "B" | "E", Tensor>>; // the layout's tensors
      const places = { size: initialRank, at: `${module} in ${at}` };
      return [
        module,
        {
          A: placed(A, rows, 0, places),
          B: placed(B, rows, 1, places),
          E: placed(E, rows, 0, places),
        },
      ];
    });
    return { choice, tensors: new Map(whole), steps };
  },
};

const paca: PeftTranslation = {
  write: ({ choice: { config, patterns } }, tensors, { targetModules, baseModel }) => {
    if (patterns !== undefined) {
      throw new TuneError("no-adapter-form", "PEFT's PaCA has one rank and one alpha for all modules.", {
        at: "the adapter",
        fix: "export it as plain LoRA (lora), which may have others by module",
      });
    }
    const settings = { rank: Number(config["rank"]), alpha: Number(config["alpha"]), targetModules };
    return { config: pacaToPeft(settings, { baseModel }), tensors };
  },
  read: async (config, tensors, { at, weight }) => {
    const { rank, alpha, rankPattern, alphaPattern } = pacaFromPeft(config, at);
    const choice = chooseMethod("paca", { rank, alpha, select: "random" }, { rank: rankPattern, alpha: alphaPattern });
    const read = new Map<string, Readonly<Record<string, Tensor>>>();
    for (const [module, { indices, delta, absolute }] of tensors) {
      if (!indices) throw new Error(`${module} has a layout and no indices`);
      // biome-ignore lint/plugin: the columns that one module tunes
      const places = Array.from(indices.data, Number);
      if (!places.every(Number.isSafeInteger)) {
        throw new TuneError("peft-bad-tensors", `paca_indices of ${module} are no whole numbers.`, {
          ...{ at, fix: "save the adapter again; it is damaged" },
        });
      }
      if (delta) read.set(module, inOrder(indices, places, delta));
      if (!absolute) continue;
      // The fork keeps columns divided by the scale: what was added to them is the difference from the model's own.
      const whole = await weight(module);
      const inside = places.every((place) => place >= 0 && place < (whole.shape[1] ?? 0));
      if (!inside || absolute.shape[0] !== whole.shape[0]) {
        read.set(module, { indices, delta: absolute }); // refused with all else that does not fit the model
        continue;
      }
      const scale = pacaScale(configAt(choice, module) as unknown as PacaConfig); // the method chosen above
      const own = someColumns(whole, places).data;
      const data = Float32Array.from(absolute.data as Float32Array, (value, i) => value - Number(own[i]) / scale); // read as float32
      read.set(module, inOrder(indices, places, { ...absolute, data }));
    }
    return { choice, tensors: read };
  },
};

/** Columns by their places; what PEFT writes is so already, the fork's is not. */
function inOrder(indices: Tensor, places: readonly number[], delta: Tensor): Readonly<Record<string, Tensor>> {
  const order = places.map((_, i) => i).sort((a, b) => (places[a] ?? 0) - (places[b] ?? 0));
  if (delta.shape[1] !== places.length || order.every((from, to) => from === to))
    return { indices: asInt64(indices), delta };
  const sorted = order.map((from) => places[from] ?? 0);
  return {
    indices: { dtype: "int64", shape: [sorted.length], data: BigInt64Array.from(sorted, BigInt) },
    delta: someColumns(delta, order),
  };
}

function asInt64({ shape, data }: Tensor): Tensor {
  return { dtype: "int64", shape, data: BigInt64Array.from(Array.from(data, Number), BigInt) };
}

/** By `peft_type`. */
export const translations: Readonly<Record<string, PeftTranslation>> = { LORA: lora, ADALORA: adalora, PACA: paca };
