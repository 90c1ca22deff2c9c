import type { Tensor } from "../graph/index.ts";
import type { JsonObject } from "../io/json.ts";
import type { AdapterTensors } from "../io/peft.ts";
import { adaloraFromPeft, adaloraToPeft } from "../io/peft-adalora.ts";
import { type LoraSettings, loraFromPeft, loraToPeft } from "../io/peft-lora.ts";
import { type AdaloraConfig, type Adapter, chooseMethod, type MethodChoice, updatesOf } from "../methods/index.ts";
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
    at: string,
  ) => { readonly choice: MethodChoice; readonly tensors: ModuleTensors; readonly steps?: number };
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
  read: (config, tensors, at) => {
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
  read: (config, tensors, at) => {
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

/** By `peft_type`. */
export const translations: Readonly<Record<string, PeftTranslation>> = { LORA: lora, ADALORA: adalora };
