import { assert, TuneError } from "../errors.ts";
import {
  type Factors,
  type FederationPlan,
  hashOf,
  type LocallyTrained,
  normBound,
  type StrategyChoice,
  type TrainingRequest,
  type Tuned,
} from "../federated/index.ts";
import type { Tensor } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import {
  type Adapter,
  carriedLora,
  configAt,
  initialTensor,
  type MethodChoice,
  methods,
  type Trainable,
} from "../methods/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import {
  accountants,
  type Budget,
  type Calibration,
  calibrateNoise,
  type Generator,
  type Spend,
} from "../privacy/index.ts";
import type { Device } from "../runtime/device.ts";
import { type Batch, batchesByLength, layoutOf, planBatches, type TokenizedExample } from "../train/data/index.ts";
import type { Measured } from "../train/evaluator.ts";
import { chooseObjective } from "../train/objectives/index.ts";
import type { PlanOptions } from "../train/plan.ts";
import type { RunOptions } from "../train/run.ts";
import { openTrainer, type Trainer } from "../train/trainer.ts";
import type { LoadedModel } from "./load-model.ts";
import { factsOfModel } from "./model-facts.ts";

/** Trains for every client of a federation with one compiled step: only what is tuned and the data differ. */
export interface FederationTrainer {
  /** What a seed starts with, before any strategy has looked at it. */
  initial(seed: number): Promise<Tuned>;
  /** A client's updates of a round; those who ask at the same time take turns. */
  train(client: ClientExamples, request: TrainingRequest): Promise<LocallyTrained>;
  /** Mean loss and measures of what is tuned. */
  evaluate(tuned: Tuned, examples: readonly TokenizedExample[]): Promise<Measured>;
  /** Number of values that clients train. */
  readonly trainedParameters: number;
  close(): Promise<void>;
}

/** A client and its examples. */
export interface ClientExamples {
  readonly name: string;
  readonly examples: readonly TokenizedExample[];
  /** What its updates are made private with; needed where the trainer is private. */
  readonly privacy?: ClientPrivacy;
}

/** A client's own noise. */
export interface ClientPrivacy {
  readonly noiseMultiplier: number;
  readonly samplingRate: number;
  /** Draws batches and noise, under a secret of the client's alone. */
  readonly generator: Generator;
}

/** What a round of a client costs: as many updates as a round has, of batches that are drawn at its own rate. */
export function spendOf(plan: FederationPlan, examples: number): Spend | undefined {
  const { privacy, localSteps, batchSize } = plan;
  if (!privacy) return undefined;
  const samplingRate = Math.min(1, batchSize / examples);
  const { epsilon, delta, accountant, maxRounds } = privacy;
  const steps = localSteps * maxRounds;
  const noiseMultiplier =
    epsilon > 0 ? noiseFor({ epsilon, delta, samplingRate, steps, accountant }) : privacy.noiseMultiplier;
  return { samplingRate, noiseMultiplier, steps: localSteps };
}

/** What a client's data may spend in all: the plan's epsilon, or what its noise costs over all rounds that it is made for. */
export function budgetOf(plan: FederationPlan, spend: Spend): Budget | undefined {
  if (!plan.privacy) return undefined;
  const { epsilon, delta, accountant, maxRounds } = plan.privacy;
  if (epsilon > 0) return { epsilon, delta, accountant };
  const all = [{ ...spend, steps: spend.steps * maxRounds }];
  return { epsilon: accountants[accountant](all, delta).epsilon * (1 + 1e-9), delta, accountant };
}

const known = new Map<string, number>();

/** The least noise of a budget; clients with as many examples have the same. */
function noiseFor(calibration: Calibration): number {
  const key = JSON.stringify(calibration);
  const found = known.get(key) ?? calibrateNoise(calibration);
  known.set(key, found);
  return found;
}

/**
 * The run that a federation makes of a model: LoRA whose A is frozen where a strategy trains B alone, beside a dense update
 * where something leaves the factors for the weights.
 */
export function federatedRun(run: PlanOptions, { strategy, config }: StrategyChoice): PlanOptions {
  const frozen = { ...run.choice.config, freezeA: !strategy.trains.includes("A") };
  const method = strategy.carries(config) ? (carriedLora as unknown as MethodChoice["method"]) : run.choice.method; // LoRA's options
  return { ...run, choice: { ...run.choice, method, config: frozen } };
}

/** Everything of model, tokenizer and tuning that all parties of a federation must have alike, as one hash. */
export async function federationBase(model: LoadedModel, run: PlanOptions): Promise<string> {
  const { choice, targets, objective } = run;
  return hashOf({
    ...(await factsOfModel(model)),
    options: choice.config,
    patterns: choice.patterns ?? {},
    inPlace: choice.inPlace ?? {},
    targets:
      typeof targets === "object" && !Array.isArray(targets) ? JSON.stringify(targets, regexpAsText) : String(targets),
    objective: objective?.objective.name ?? "",
    objectiveOptions: objective?.config ?? {},
  });
}

function regexpAsText(_key: string, value: unknown): unknown {
  return value instanceof RegExp ? String(value) : value;
}

/**
 * Compile the step that all clients share.
 * @throws {TuneError} what opening a trainer throws.
 */
export async function openFederationTrainer(
  device: Device,
  model: LoadedModel,
  run: PlanOptions,
  admit: RunOptions["admit"] | undefined,
  isPrivate = false,
): Promise<FederationTrainer> {
  const { settings, choice, targets, padId } = run;
  const objective = run.objective ?? chooseObjective(undefined);
  const trainer = await openTrainer(device, model.pretrained, {
    ...{ choice, targets, objective, accumulates: isPrivate, seed: settings.seed },
    ...(isPrivate ? { privacy: {} } : {}),
    optimizer: chooseOptimizer(settings.optimizer, settings.optimizerOptions),
    maxGradNorm: settings.maxGradNorm,
    memory: settings.memory,
    baseWeights: settings.baseWeights,
    ...(admit ? { admit } : {}),
  });
  const { trainables } = trainer;
  // With privacy every example is alone, in batches and where it is measured.
  const layout = { ...layoutOf(model.pretrained, padId), ...(isPrivate ? { alone: true } : {}) };
  const make = (examples: readonly TokenizedExample[]): Batch => objective.objective.batch(examples, layout);

  let turn: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const next = turn.then(work);
    turn = next.catch(() => undefined);
    return next;
  };
  const place = async (tuned: Tuned): Promise<void> => {
    await trainer.load(tensorsOf(tuned, trainables));
    await trainer.reset(); // an optimiser begins every round anew
  };
  const drawn = (examples: readonly TokenizedExample[], indices: readonly number[]): Batch =>
    make(indices.map((i) => examples[i] as TokenizedExample)); // indices of examples

  /** One private update: examples drawn each by itself, clipped, summed over batches of a fixed size at most, noised once. */
  const privateStep = async (
    { examples, privacy }: ClientExamples,
    { plan, round }: TrainingRequest,
    step: number,
  ): Promise<number> => {
    assert(privacy && plan.privacy, "a private client has its noise");
    const { generator, samplingRate, noiseMultiplier } = privacy;
    const numbers = new Float64Array(examples.length);
    await generator.uniforms(numbers, `batches of round ${round + 1}`, step);
    const indices = [...numbers.keys()].filter((i) => (numbers[i] ?? 1) < samplingRate);
    const batches = Array.from({ length: Math.ceil(indices.length / plan.batchSize) }, (_, k) =>
      drawn(examples, indices.slice(k * plan.batchSize, (k + 1) * plan.batchSize)),
    );
    const report = await trainer.step(
      step,
      batches.length > 0 ? batches : [{ ...drawn(examples, [0]), blank: true }],
      plan.learningRate,
      {
        ...{ noiseMultiplier, generator, clip: plan.privacy.clip },
        expectedBatch: samplingRate * examples.length,
        purpose: `noise of round ${round + 1}`,
      },
    );
    return report.loss;
  };

  return {
    trainedParameters: trainer.trainedParameters,
    initial: async (seed) => {
      const tensors = new Map<string, Tensor>();
      for (const trainable of trainables) tensors.set(trainable.value.name, await initialTensor(trainable, seed));
      return tunedOfTensors(tensors, trainables);
    },
    train: (client, request) =>
      inTurn(async () => {
        const { name, examples } = client;
        const { tuned, round, plan, signal } = request;
        await place(tuned);
        const seed = createRng(plan.seed, "batches", name, round).uint32();
        const schedule = planBatches([{ count: examples.length, weight: 1 }], { batchSize: plan.batchSize, seed });
        let sum = 0;
        for (let step = 1; step <= plan.localSteps; step++) {
          if (signal?.aborted) throw new TuneError("interrupted", "The round was stopped.", { at: name });
          sum += isPrivate
            ? await privateStep(client, request, step)
            : (await trainer.step(step, [drawn(examples, schedule.at(step - 1).indices)], plan.learningRate)).loss;
        }
        const after = tunedOfTensors(await trainer.parameters(), trainables);
        return { tuned: after, loss: sum / plan.localSteps, steps: plan.localSteps };
      }),
    evaluate: (tuned, examples) =>
      inTurn(async () => {
        await place(tuned);
        return trainer.evaluate(
          batchesByLength(examples, objective.objective.batch, { ...layout, batchSize: evaluationBatch }),
        );
      }),
    close: () => inTurn(() => trainer.close()),
  };
}

/** Examples that are measured together. */
const evaluationBatch = 32;

/** What a device holds, as what is tuned. */
function tunedOfTensors(tensors: ReadonlyMap<string, Tensor>, trainables: Trainer["trainables"]): Tuned {
  const factors = new Map<string, Partial<Factors>>();
  const whole = new Map<string, { readonly shape: readonly number[]; readonly data: Float32Array }>();
  const residual = new Map<string, Factors["A"]>();
  for (const { value, module, key, inPlace } of trainables) {
    const { shape, data } = tensors.get(value.name) ?? {};
    assert(shape && data instanceof Float32Array, () => `${value.name} is float32`);
    if (inPlace) {
      whole.set(value.name, { shape, data });
      continue;
    }
    const matrix = { rows: shape[0] ?? 0, cols: shape[1] ?? 0, data };
    if (key === "R") {
      if (data.some((one) => one !== 0)) residual.set(module, matrix);
    } else factors.set(module, { ...factors.get(module), [key]: matrix });
  }
  return { factors: factors as ReadonlyMap<string, Factors>, whole, residual }; // LoRA has A and B at every module
}

/** What is tuned, as a device holds it. */
function tensorsOf({ factors, whole, residual }: Tuned, trainables: readonly Trainable[]): ReadonlyMap<string, Tensor> {
  return new Map(
    trainables.map(({ value, module, key, inPlace }) => {
      const shape = value.shape.map(Number);
      const size = shape.reduce((product, side) => product * side, 1);
      const found = inPlace
        ? whole.get(value.name)?.data
        : key === "R"
          ? (residual.get(module)?.data ?? new Float32Array(size))
          : factors.get(module)?.[key as "A" | "B"].data;
      assert(found?.length === size, () => `${value.name} is there`);
      return [value.name, { dtype: "float32", shape, data: found }];
    }),
  );
}

/**
 * What a federation has tuned, as an ordinary LoRA adapter. What left the factors for the weights is in it without loss: where
 * there is such an update, a module's factors are as wide as its smaller side, with the update as one and the identity as the
 * other.
 */
export function adapterOfTuned({ choice, targets }: Pick<PlanOptions, "choice" | "targets">, tuned: Tuned): Adapter {
  const lora = methods.get("lora") as MethodChoice["method"]; // one of them
  const { factors, whole, residual } = tuned;
  const parameters = new Map<string, Tensor>();
  const ranks: Record<string, number> = {};
  const alphas: Record<string, number> = {};
  const put = (module: string, { A, B }: Factors): void => {
    for (const [key, { rows, cols, data }] of Object.entries({ A, B })) {
      parameters.set(`${module}.lora_${key}`, { dtype: "float32", shape: [rows, cols], data });
    }
  };
  for (const [module, own] of factors) {
    const carried = residual.get(module);
    const config = configAt(choice, module);
    if (!carried) {
      put(module, own);
      continue;
    }
    const whole = sumOf(carried, own);
    const tall = whole.rows >= whole.cols;
    const rank = Math.min(whole.rows, whole.cols);
    put(module, tall ? { B: whole, A: identity(rank) } : { B: identity(rank), A: whole });
    ranks[module] = rank;
    const scale =
      Number(config["alpha"]) /
      (config["rslora"] === true ? Math.sqrt(Number(config["rank"])) : Number(config["rank"]));
    alphas[module] = scale * (config["rslora"] === true ? Math.sqrt(rank) : rank);
  }
  for (const [name, { shape, data }] of whole) parameters.set(name, { dtype: "float32", shape: [...shape], data });
  const { patterns = {} } = choice;
  const widened = Object.keys(ranks).length > 0;
  return {
    choice: {
      ...choice,
      method: lora,
      config: { ...choice.config, freezeA: false },
      ...(widened
        ? {
            patterns: {
              ...patterns,
              rank: { ...ranks, ...patterns["rank"] },
              alpha: { ...alphas, ...patterns["alpha"] },
            },
          }
        : {}),
    },
    targets,
    parameters,
  };
}

function sumOf(carried: Factors["A"], { A, B }: Factors): Factors["A"] {
  const data = Float64Array.from(carried.data);
  const [rank, cols] = [A.rows, A.cols];
  for (let i = 0; i < B.rows; i++) {
    for (let k = 0; k < rank; k++) {
      const b = B.data[i * rank + k] ?? 0;
      if (b !== 0)
        for (let j = 0; j < cols; j++) data[i * cols + j] = (data[i * cols + j] ?? 0) + b * (A.data[k * cols + j] ?? 0);
    }
  }
  return { rows: carried.rows, cols, data: Float32Array.from(data) };
}

function identity(size: number): Factors["A"] {
  const data = new Float32Array(size * size);
  for (let i = 0; i < size; i++) data[i * (size + 1)] = 1;
  return { rows: size, cols: size, data };
}

/**
 * The longest change that honest training of a plan makes, where the optimiser says so: plain gradient descent.
 * @param parameters how many values clients train.
 */
export function boundOf(
  plan: FederationPlan,
  { settings }: PlanOptions,
  { parameters, examples }: { readonly parameters: number; readonly examples: readonly number[] },
): number | undefined {
  const plain = settings.optimizer === "sgd" && settings.optimizerOptions["momentum"] === 0;
  const { learningRate, localSteps, privacy, batchSize } = plan;
  if (!plain || settings.optimizerOptions["weightDecay"] !== 0) return undefined;
  const each = { learningRate, steps: localSteps };
  if (!privacy) {
    return settings.maxGradNorm === 0 ? undefined : normBound({ ...each, clip: settings.maxGradNorm });
  }
  // Clients of few examples have the most noise.
  const bounds = [...new Set(examples)].map((count) => {
    const { noiseMultiplier: multiplier = 0 } = spendOf(plan, count) ?? {};
    return normBound({
      ...each,
      clip: privacy.clip,
      noise: { multiplier, parameters, expectedBatch: Math.min(batchSize, count) },
    });
  });
  return Math.max(...bounds);
}
