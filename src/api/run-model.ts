import { type Lookups, lowRankUpdates, openPackedDecoder } from "../decode/index.ts";
import { TuneError } from "../errors.ts";
import {
  type Answer,
  type GenerateOptions as DecodeOptions,
  type Decoder,
  type ExactMatch,
  exactMatch,
  exactTargets,
  type Generation,
  generateTarget,
  generateText,
  openDecoder,
  resolveSampling,
} from "../generate/index.ts";
import type { ChatMessage } from "../io/chat-template.ts";
import { chatTemplateOf } from "../io/tokenizer.ts";
import type { Adapter } from "../methods/index.ts";
import { attendingExactly } from "../models/index.ts";
import { checkNames, checkWhole, checkWord, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import { attendingBy, type LeftHead } from "../train/attending.ts";
import { type BaseWeightsName, checkBaseWeights, defaultBaseWeights, weightBytes } from "../train/base-weights.ts";
import { batchesByLength, layoutOf, longestOf, type TokenizedExample } from "../train/data/index.ts";
import { type Measured, meanLoss, openEvaluator } from "../train/evaluator.ts";
import { judgeExamples } from "../train/judge.ts";
import { chooseObjective } from "../train/objectives/index.ts";
import { tasks } from "../train/tasks/index.ts";
import { type AttentionPlan, checkPlan } from "./attention.ts";
import { checkDevice, providerOf } from "./device-names.ts";
import { type LoadedModel, padIdOf } from "./load-model.ts";
import { refuseTooLarge } from "./memory.ts";

/** What is continued: plain text, or a conversation in the model's chat template. */
export type Prompt = string | readonly ChatMessage[];

/** How to continue it, with what, where. */
export interface GenerateOptions extends DecodeOptions {
  readonly adapter?: Adapter;
  /** Several instead, side by side on one base; `use` names the one that acts, and may be another with every prompt. */
  readonly adapters?: Readonly<Record<string, Adapter>>;
  /** A device to run on; one is opened, and closed again, when it is not given. */
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  /** How finely the kernels of packed models look sums up; by the model's size unless given. */
  readonly lookups?: Lookups;
  /** How frozen weights are held on ONNX Runtime; in float32 unless given, or as the file holds them where that would not fit. */
  readonly baseWeights?: BaseWeightsName;
  /** Go on although the weights are more than what is free. */
  readonly ignoreMemory?: boolean;
}

const sessionNames: NamesOf<SessionOptions> = {
  baseWeights: true,
  adapter: true,
  adapters: true,
  device: true,
  deviceOptions: true,
  lookups: true,
  ignoreMemory: true,
};
const decodeNames: NamesOf<DecodeOptions> = {
  temperature: true,
  topK: true,
  topP: true,
  minP: true,
  repetitionPenalty: true,
  maxNewTokens: true,
  stop: true,
  seed: true,
  use: true,
  signal: true,
};
const generateNames: NamesOf<GenerateOptions> = { ...decodeNames, ...sessionNames };

/**
 * Continue a prompt, giving text as it becomes complete; the generator returns the whole.
 * @throws {TuneError} `prompt-too-long`, `no-chat-template` for conversations without one, `adapter-mismatch`, …
 */
export async function* generate(
  model: LoadedModel,
  prompt: Prompt,
  options: GenerateOptions = {},
): AsyncGenerator<string, Generation> {
  checkNames(options, generateNames, "generate");
  const { adapter, adapters, device, deviceOptions, lookups, baseWeights, ignoreMemory, ...rest } = options;
  resolveSampling(rest);
  const session = await openSession(model, {
    ...(adapter ? { adapter } : {}),
    ...(adapters ? { adapters } : {}),
    ...(device ? { device } : {}),
    ...(deviceOptions ? { deviceOptions } : {}),
    ...(lookups ? { lookups } : {}),
    ...(baseWeights ? { baseWeights } : {}),
    ...(ignoreMemory ? { ignoreMemory } : {}),
  });
  try {
    return yield* session.generate(prompt, rest);
  } finally {
    await session.close();
  }
}

/** A model that stays compiled, to answer many prompts. */
export interface Session {
  readonly decoder: Decoder;
  /** Continue a prompt, giving text as it becomes complete. */
  generate(prompt: Prompt, options?: DecodeOptions): AsyncGenerator<string, Generation>;
  /**
   * Free the model, and the device when the session opened it; closing twice is closing once. What is generated later, or was
   * being generated, rejects with `session-closed`.
   */
  close(): Promise<void>;
}

/** With what a session is opened, and where. */
export type SessionOptions = Pick<
  GenerateOptions,
  "adapter" | "adapters" | "device" | "deviceOptions" | "lookups" | "baseWeights" | "ignoreMemory"
>;

/**
 * Open a model, with adapters or without, to answer many prompts. A packed model runs on WebAssembly kernels, without
 * being unpacked, unless a device or base weights are given, another provider than the platform's first is asked for, the model has no
 * recipe, there are several adapters, or one that is no low-rank update: then its dequantised weights run on ONNX Runtime.
 */
export async function openSession(model: LoadedModel, options: SessionOptions = {}): Promise<Session> {
  checkSession(model, options);
  const tokenizer = await model.tokenizer();
  const elsewhere = options.device || options.adapters || options.baseWeights;
  const onKernels = elsewhere ? undefined : await openOnKernels(model, options);
  const provider = await providerOf(model.platform, options);
  checkBaseWeights(options.baseWeights, provider);
  const held = options.baseWeights ?? narrowWhereTight(model, provider);
  if (onKernels === undefined && ["cpu", "wasm"].includes(provider) && !options.ignoreMemory)
    refuseTooLarge(model, { doing: "Generating", baseWeights: held });
  if (options.lookups !== undefined && onKernels === undefined) {
    throw new TuneError("bad-option", "lookups would do nothing: the model runs dequantised here, not on kernels.", {
      at: "openSession",
      fix: "leave lookups out, or run the packed model alone, or with one low-rank adapter, on the default provider",
    });
  }
  const { decoder, close } = onKernels ?? (await openOnDevice(model, { ...options, baseWeights: held }));
  return {
    decoder,
    generate: (prompt, decodeOptions = {}) => {
      checkNames(decodeOptions, decodeNames, "session.generate");
      return generateText(decoder, tokenizer, promptIds(prompt), decodeOptions);
    },
    close,
  };

  function promptIds(prompt: Prompt): readonly number[] {
    if (typeof prompt === "string") return tokenizer.encode(prompt);
    const text = chatTemplateOf(tokenizer).render(prompt, { addGenerationPrompt: true });
    return tokenizer.encode(text, { addSpecialTokens: false });
  }
}

/** @throws {TuneError} `bad-option` for options of a session that do not fit or would do nothing. */
function checkSession({ pretrained }: LoadedModel, options: SessionOptions): void {
  checkNames(options, sessionNames, "openSession");
  checkDevice(options);
  checkWord("lookups", options.lookups, ["fast", "exact"], "openSession");
  const problem =
    options.adapter && options.adapters
      ? "adapters would do nothing beside adapter"
      : options.lookups !== undefined && pretrained.packed === undefined
        ? "lookups would do nothing: the model is not packed"
        : undefined;
  if (problem === undefined) return;
  throw new TuneError("bad-option", `${problem}.`, { at: "openSession", fix: "leave one of the two, or lookups, out" });
}

interface OpenDecoder {
  readonly decoder: Decoder;
  close(): Promise<void>;
}

/** A model on a device: the one that is given, which stays open, or one of its own. */
async function openOnDevice(
  { pretrained, platform }: LoadedModel,
  { adapter, adapters = {}, device: given, deviceOptions, baseWeights }: SessionOptions,
): Promise<OpenDecoder> {
  const device = given ?? (await platform.openDevice(deviceOptions));
  const closeDevice = async (): Promise<void> => {
    if (!given) await device.close();
  };
  const held = baseWeights ? { baseWeights } : {};
  const decoder = await openDecoder(device, pretrained, adapter ?? new Map(Object.entries(adapters)), held).catch(
    async (error: unknown) => {
      await closeDevice();
      throw error;
    },
  );
  return {
    decoder,
    close: async () => {
      await decoder.close();
      await closeDevice();
    },
  };
}

/**
 * As a file holds weights, where float32 is more than what is free; else in float32, for a token at a time takes longer when
 * weights are widened for each.
 */
function narrowWhereTight({ pretrained, platform }: LoadedModel, provider: string): BaseWeightsName {
  const fits = weightBytes(pretrained) <= platform.memory().availableBytes;
  return fits ? "f32" : defaultBaseWeights(pretrained, provider);
}

/** A packed model on WebAssembly kernels; undefined where they cannot run it as it is asked for. */
async function openOnKernels(
  { pretrained, platform }: LoadedModel,
  { adapter, deviceOptions = {}, lookups }: Pick<GenerateOptions, "adapter" | "deviceOptions" | "lookups">,
): Promise<OpenDecoder | undefined> {
  if (pretrained.packed === undefined) return undefined;
  const { provider, threads } = deviceOptions;
  if (provider !== undefined && provider !== (await platform.providers())[0]) return undefined;
  const recipe = pretrained.recipe();
  const updates = adapter ? lowRankUpdates(pretrained, adapter) : new Map();
  if (recipe === undefined || updates === undefined) return undefined;
  const decoder = await openPackedDecoder(pretrained, recipe, platform.threads, {
    updates,
    ...(threads === undefined ? {} : { threads }),
    ...(lookups ? { lookups } : {}),
  });
  return { decoder, close: () => decoder.close() };
}

/** How well a model predicts and answers examples. */
export interface Evaluation {
  /** The objective's mean loss: for sequences the negative log-likelihood of a label, in nats. */
  readonly loss: number;
  /** e^loss, where the loss is one of likelihood. */
  readonly perplexity?: number;
  /** What else the objective measures, such as the accuracy of rewards. */
  readonly measures: Readonly<Record<string, number>>;
  /** What the loss is a mean over, and how many there are. */
  readonly meanOver: string;
  readonly targets: number;
  /** Answers given greedily that are exactly right; absent when it was not asked for, or nothing asks a question. */
  readonly exactMatch?: { readonly matches: number; readonly total: number; readonly answers: readonly Answer[] };
  /** With a plan of attention: heads that attended by a polynomial, and those that had outgrown it and attended exactly. */
  readonly attention?: { readonly polynomial: number; readonly left: readonly LeftHead[] };
}

/** What to measure, with what, where. */
export interface EvaluateOptions {
  readonly adapter?: Adapter;
  readonly batchSize?: number;
  /** `causal-lm`, `dpo`, …: a name in `objectives`; what the examples are for unless given. */
  readonly objective?: string;
  /** Whether to answer every example greedily too. */
  readonly exactMatch?: boolean;
  /**
   * How the loss attends: exactly unless a plan is given (of `diagnoseAttention`, or of a run, by `readPlan`). Heads whose
   * scores outgrow the plan on these examples attend exactly, and the result says which. Answers are always given exactly.
   */
  readonly attention?: "exact" | AttentionPlan;
  /** How frozen weights are held; as the file holds them unless given, where that saves 500 MB or more. */
  readonly baseWeights?: BaseWeightsName;
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  /** Go on although the weights are more than what is free. */
  readonly ignoreMemory?: boolean;
  readonly onProgress?: (stage: "loss" | "exact match", done: number, total: number) => void;
}

const evaluateNames: NamesOf<EvaluateOptions> = {
  attention: true,
  baseWeights: true,
  adapter: true,
  batchSize: true,
  objective: true,
  exactMatch: true,
  device: true,
  deviceOptions: true,
  ignoreMemory: true,
  onProgress: true,
};

/** Measure loss and perplexity on examples (of pairs: loss and rewards), and exact match by greedy decoding when asked. */
export async function evaluate(
  model: LoadedModel,
  examples: readonly TokenizedExample[],
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  checkNames(options, evaluateNames, "evaluate");
  checkDevice(options);
  checkWhole("batchSize", options.batchSize, 1, "evaluate");
  const provider = await providerOf(model.platform, options);
  const { adapter, batchSize = 8, onProgress, attention = "exact" } = options;
  if (typeof attention === "string") checkWord("attention", attention, ["exact"], "evaluate");
  else checkPlan(model, attention, { examples, starts: adapter !== undefined });
  const plan = attention === "exact" ? undefined : attention;
  const { baseWeights = defaultBaseWeights(model.pretrained, provider) } = options;
  checkBaseWeights(baseWeights, provider);
  const held = { baseWeights };
  const task = tasks[model.pretrained.task];
  const chosen = chooseObjective(options.objective, {}, examples[0] && task.kindOf(examples[0]));
  const { objective } = chosen;
  const pretrained = attendingExactly(model.pretrained, longestOf(examples));
  const padId = await padIdOf(model);
  const layout = layoutOf(pretrained, padId);
  const device = options.device ?? (await model.platform.openDevice(options.deviceOptions));
  try {
    if (!options.ignoreMemory && ["cpu", "wasm"].includes(device.provider))
      refuseTooLarge(model, { doing: "Evaluating", baseWeights });
    const measure = task.judge ? judged : measured;
    const { loss, measures, targets, left } = await measure();
    const { meanOver } = objective;
    const perplexity = objective.perplexity ? { perplexity: Math.exp(loss) } : {};
    const attended = plan && { attention: { polynomial: plan.heads.length - left.length, left } };
    const scores = { loss, ...perplexity, measures, meanOver, targets, ...attended };
    if (!options.exactMatch) return scores;
    const match = await (chosen.objective.learnsFrom === "target" ? matchTargets() : matchAnswers());
    const { matches, total, answers } = match;
    return total === 0 ? scores : { ...scores, exactMatch: { matches, total, answers } };
  } finally {
    if (!options.device) await device.close();
  }

  async function matchAnswers(): Promise<ExactMatch> {
    const tokenizer = await model.tokenizer();
    const decoder = await openDecoder(device, model.pretrained, adapter, held);
    try {
      return await exactMatch(decoder, tokenizer, examples, {
        ...(onProgress ? { onProgress: (done, total) => onProgress("exact match", done, total) } : {}),
      });
    } finally {
      await decoder.close();
    }
  }

  async function matchTargets(): Promise<ExactMatch> {
    const tokenizer = await model.tokenizer();
    const { padId } = layout;
    const generate = (sources: readonly Int32Array[], maxNewTokens: number): ReturnType<typeof generateTarget> =>
      generateTarget(device, model.pretrained, sources, {
        padId,
        eosId: tokenizer.eosId,
        maxNewTokens,
        ...held,
        ...(adapter ? { adapter } : {}),
      });
    return exactTargets(tokenizer, examples, generate, {
      ...(onProgress ? { onProgress: (done, total) => onProgress("exact match", done, total) } : {}),
    });
  }

  /** Heads that outgrow the plan leave it, and all is measured again. */
  async function measured(
    attending = attendingBy(pretrained, plan),
    left: readonly LeftHead[] = [],
  ): Promise<Measured & { readonly targets: number; readonly left: readonly LeftHead[] }> {
    const evaluator = await openEvaluator(device, attending.model, {
      objective: chosen,
      ...held,
      ...(adapter ? { adapter } : {}),
    });
    const batches = batchesByLength(examples, objective.batch, { batchSize, ...layoutOf(attending.model, padId) });
    const found = await meanLoss(evaluator, batches, (done, total) => onProgress?.("loss", done, total)).finally(() =>
      evaluator.close(),
    );
    const outgrown = attending.leaving(found.attentionShares);
    return outgrown.length === 0 ? { ...found, left } : measured(attending.without(outgrown), [...left, ...outgrown]);
  }

  async function judged(): ReturnType<typeof measured> {
    const found = await judgeExamples(
      device,
      model.pretrained,
      task.judge as NonNullable<typeof task.judge>,
      examples,
      {
        objective: chosen,
        layout,
        batchSize,
        ...held,
        ...(adapter ? { adapter } : {}),
        onProgress: (done, total) => onProgress?.("loss", done, total),
      },
    );
    return { ...found, left: [] };
  }
}
