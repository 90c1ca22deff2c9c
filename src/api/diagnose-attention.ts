import {
  type AttentionReport,
  chunkFor,
  diagnoseHeads,
  type Eligibility,
  eligibilityDefaults,
  type HeadDiagnosis,
  openProbe,
  wholeLength,
} from "../diagnose/attention/index.ts";
import { TuneError } from "../errors.ts";
import type { Adapter } from "../methods/index.ts";
import { refuseLongerThan } from "../models/index.ts";
import { checkNames, checkWhole, type NamesOf } from "../options.ts";
import { measureMachine } from "../plan/machine.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import { type BaseWeightsName, checkBaseWeights, defaultBaseWeights } from "../train/base-weights.ts";
import { sequencesOf, type TokenizedExample } from "../train/data/index.ts";
import { type AttentionPlan, planned } from "./attention.ts";
import { checkDevice, providerOf } from "./device-names.ts";
import type { LoadedModel } from "./load-model.ts";

/** What is looked at, and what qualifies a head. */
export interface DiagnoseAttentionOptions {
  /** Tokens of each text: examples are laid end to end to make texts as long. */
  readonly length: number;
  /** At most this many texts, 1 to 8; 4 unless given. */
  readonly texts?: number;
  /** An adapter of the model; heads are then looked at with it, and R is compared with R without it. */
  readonly adapter?: Adapter;
  /** What reports call it. */
  readonly adapterName?: string;
  /** A head is certified where no weight is off by more than this share; 0.03 unless given. */
  readonly weightError?: number;
  /** Let heads qualify by the error of outputs measured on sampled queries too, up to this share. */
  readonly attentionError?: number;
  readonly baseWeights?: BaseWeightsName;
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  readonly onProgress?: (done: number, total: number) => void;
}

const names: NamesOf<DiagnoseAttentionOptions> = {
  length: true,
  texts: true,
  adapter: true,
  adapterName: true,
  weightError: true,
  attentionError: true,
  baseWeights: true,
  device: true,
  deviceOptions: true,
  onProgress: true,
};

/** What was found, and the plan that training takes (`attention` of `tune`). */
export interface AttentionDiagnosisResult {
  readonly report: AttentionReport;
  readonly plan: AttentionPlan;
}

/**
 * Say of every head of a causal language model whether it could attend in nearly linear time on texts of a length: bounds on its
 * scores, what a polynomial of degree 2 or 4 would be off by (certified, and apart from that measured), and what it would cost.
 * Hu et al. 2025, "Computational Limits of LoRA" (arXiv 2406.03136).
 * @throws {TuneError} `bad-option`, `too-little-data` where the examples are shorter than one text, `task-mismatch`,
 * `sequence-too-long` for models with a table of positions, `not-finite-weight`.
 */
export async function diagnoseAttention(
  model: LoadedModel,
  examples: readonly TokenizedExample[],
  options: DiagnoseAttentionOptions,
): Promise<AttentionDiagnosisResult> {
  checkNames(options, names, "diagnoseAttention");
  checkDevice(options);
  const { pretrained, platform } = model;
  const eligibility = eligibilityOf(options);
  checkWhole("length", options.length, 4, "diagnoseAttention");
  checkWhole("texts", options.texts, 1, "diagnoseAttention");
  if ((options.texts ?? 1) > 8) refuse(`texts is ${options.texts}, but it must be 8 or fewer`);
  if (options.adapterName !== undefined && !options.adapter) refuse("adapterName does nothing without adapter");
  const length = wholeLength(options.length);
  if (pretrained.reads.table) refuseLongerThan(pretrained.reads.length, length);
  const texts = layEndToEnd(examples, length, options.texts ?? 4);
  const provider = await providerOf(platform, options);
  const baseWeights = options.baseWeights ?? defaultBaseWeights(pretrained, provider);
  checkBaseWeights(baseWeights, provider);
  const device = options.device ?? (await platform.openDevice(options.deviceOptions));
  const runs = options.adapter ? 2 : 1;
  const look = async (adapter: Adapter | undefined, run: number) => {
    const probe = await openProbe(device, pretrained, { baseWeights, ...(adapter ? { adapter } : {}) });
    try {
      return await diagnoseHeads(probe, texts, {
        ...eligibility,
        machine,
        onProgress: (done, total) => options.onProgress?.(run * total + done, runs * total),
      });
    } finally {
      await probe.close();
    }
  };
  const machine = await measureMachine(device);
  try {
    const before = options.adapter ? await look(undefined, 0) : undefined;
    const { heads, plan } = await look(options.adapter, runs - 1);
    return {
      plan: {
        ...plan,
        length,
        model: planned(model),
        ...(options.adapter ? { adapter: options.adapterName ?? "adapter" } : {}),
      },
      report: {
        model: model.source,
        ...(options.adapter ? { adapter: options.adapterName ?? "adapter" } : {}),
        texts: texts.length,
        length,
        threshold: Math.sqrt(Math.log(length)),
        weightError: eligibility.weightError,
        ...(eligibility.sampledError === undefined ? {} : { sampledError: eligibility.sampledError }),
        chunk: chunkFor(Math.max(...heads.map(({ headDim }) => headDim))),
        heads: before ? withGrowth(heads, before.heads) : heads,
        qualified: plan.heads.length,
        keyHeads: new Set(heads.map(({ layer, keyHead }) => `${layer} ${keyHead}`)).size,
      },
    };
  } finally {
    if (!options.device) await device.close();
  }
}

function eligibilityOf({ weightError, attentionError }: DiagnoseAttentionOptions): Eligibility {
  for (const [name, value] of Object.entries({ weightError, attentionError }))
    if (value !== undefined && !(value > 0 && value < 1))
      refuse(`${name} is ${value}, but it must be above 0 and below 1`);
  return {
    ...eligibilityDefaults,
    ...(weightError === undefined ? {} : { weightError }),
    ...(attentionError === undefined ? {} : { sampledError: attentionError }),
  };
}

function refuse(problem: string): never {
  throw new TuneError("bad-option", `${problem}.`, { at: "diagnoseAttention", fix: "change it, or leave it out" });
}

function withGrowth(heads: readonly HeadDiagnosis[], before: readonly HeadDiagnosis[]): readonly HeadDiagnosis[] {
  return heads.map((head, i) => ({ ...head, growth: head.bound / (before[i]?.bound ?? Number.NaN) }));
}

/** Texts of one length: the tokens of examples one after the other, what is left over put aside. */
function layEndToEnd(examples: readonly TokenizedExample[], length: number, most: number): readonly Int32Array[] {
  const pieces = examples.flatMap((example) => sequencesOf(example)).map(({ inputIds }) => inputIds);
  const tokens = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const count = Math.min(most, Math.floor(tokens / length));
  if (count === 0) {
    throw new TuneError("too-little-data", `The data hold ${tokens} tokens, and one text is to have ${length}.`, {
      at: "the data",
      fix: "give more text, or a smaller length",
    });
  }
  const all = new Int32Array(count * length);
  let at = 0;
  for (const piece of pieces) {
    if (at >= all.length) break;
    const part = piece.subarray(0, all.length - at);
    all.set(part, at);
    at += part.length;
  }
  return Array.from({ length: count }, (_, i) => all.subarray(i * length, (i + 1) * length));
}
