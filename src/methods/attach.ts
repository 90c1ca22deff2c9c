import { assert, listing, TuneError } from "../errors.ts";
import {
  computedTensor,
  constant,
  type InputValue,
  input,
  type Node,
  type ParameterValue,
  parameter,
  type Tensor,
  type Value,
  type WeightValue,
  weight as weightValue,
  withScope,
} from "../graph/index.ts";
import { Add, findOp, LayerNormalization, type LinearSite, mul, transpose, turned, where } from "../ops/index.ts";
import { rebuild, rewrite } from "../transforms/index.ts";
import { embeddingModules, embeddingOf, refuseEmbeddings } from "./embeddings.ts";
import { isInPlace, nameInModule, readersOfWeights, type WeightInPlace, weightsInPlace } from "./in-place.ts";
import { linearModules, linearOf } from "./linear.ts";
import type { LiveForm, ParameterSpec, Parameters, ReadsBehind, Site } from "./method.ts";
import { checkPatterns, configAt, type MethodChoice, type MethodConfig } from "./table.ts";
import { chooseModules, matchingModules, type TargetModules } from "./targets.ts";
import { rowsOf, tokenRowsKey } from "./token-rows.ts";

/** A tensor that an attached method trains. */
export interface Trainable {
  readonly value: ParameterValue;
  readonly module: string;
  /** The method's short name for it, such as `A`. */
  readonly key: string;
  readonly initial: ParameterSpec["initial"];
  readonly decays: boolean;
  /** Its learning rate as a multiple of the run's. */
  readonly rate: number;
  /** The pretrained weight it stands beside or in place of. */
  readonly weight: Value;
  /** Whether it stands in place of the weight, whatever the method does. */
  readonly inPlace: boolean;
  /** The rows of the weight that it stands in place of; all of it unless given. */
  readonly rows?: readonly number[];
  /** Whether training changes it; an adapter has tensors besides that only say where it acts. */
  readonly trained: boolean;
  /** What is wrong with values that come from outside, if anything. */
  readonly check?: (values: Tensor) => string | undefined;
}

/** A pretrained weight of which training keeps some columns current, for one module. */
export interface LiveWeight {
  /**
   * What the module reads: a buffer [in, out] whose rows are written, whichever way the model has the weight, or the
   * frozen weight, to be read with its columns put in.
   */
  readonly leaf: ParameterValue | WeightValue;
  readonly pretrained: WeightValue;
  readonly module: string;
  readonly layout: LinearSite["layout"];
  /** Which columns of [out, in]: int64 [count]. */
  readonly columns: ParameterValue;
  /** These columns as they are in the pretrained weight, [out, count]. */
  readonly original: ParameterValue;
  /** What is trained, [out, count]. */
  readonly trained: ParameterValue;
  /** Columns now, from what they were and what is trained, element by element, as the config has it. */
  readonly values: (original: Value, trained: Value) => Value;
  readonly config: MethodConfig;
}

/** A mask that training draws anew on every run: bool, each element kept with probability 1 − rate. */
export interface DropoutMask {
  readonly value: InputValue;
  /** float32 []: what is kept is multiplied by it. 1/(1 − rate) while training, 1 when every element is kept. */
  readonly scale: InputValue;
  readonly rate: number;
  readonly module: string;
}

/** Outputs with a method attached. */
export interface Attached {
  readonly outputs: Readonly<Record<string, Value>>;
  readonly trainables: readonly Trainable[];
  readonly dropoutMasks: readonly DropoutMask[];
  readonly live: readonly LiveWeight[];
}

/** Where to attach, and how. */
export interface AttachOptions {
  readonly choice: MethodChoice;
  readonly targets: TargetModules;
  /** The output layer's module, which `all-linear` leaves out. */
  readonly outputModule: string;
  /** Whether dropout acts. */
  readonly training: boolean;
  /**
   * Methods that can train a weight's own columns do so: in a buffer of the weight, or in the copies that are decoded
   * from it. Otherwise, as where nothing is trained, they act beside it.
   */
  readonly live?: "buffer" | "decoded";
  /** In front of the names of what the method adds, where several adapters are attached. */
  readonly prefix?: string;
}

/**
 * The linear maps and embeddings that a method attaches to: those that the targets name, but for what is trained in place.
 * @throws {TuneError} `unknown-target-modules`, and `bad-option` for embeddings that the method has no form for.
 */
export function adaptedModules(
  outputs: Readonly<Record<string, Value>>,
  { choice, targets, outputModule }: Omit<AttachOptions, "training" | "live" | "prefix">,
): readonly string[] {
  const { inPlace, method } = choice;
  const linear = [...linearModules(outputs).keys()];
  const embeddings = [...embeddingModules(outputs).keys()].filter((module) => !linear.includes(module));
  const able = method.embedding ? embeddings : [];
  const saved = (module: string): boolean => inPlace !== undefined && isInPlace(inPlace, module);
  if (able.length === 0) {
    refuseEmbeddings(
      method.name,
      matchingModules(targets, embeddings).filter((module) => !saved(module)),
    );
  }
  const chosen = chooseModules(targets, [...linear, ...able], outputModule, new Set(able));
  return chosen.filter((module) => !saved(module));
}

/**
 * Attach a method to the outputs of a model.
 * @throws {TuneError} `unknown-target-modules`, or what the method has against a site (such as `rank-too-large`).
 */
export function attach(outputs: Readonly<Record<string, Value>>, options: AttachOptions): Attached {
  return options.choice.method.attaches === "linear"
    ? besideLinear(outputs, options)
    : inPlaceOfWeights(outputs, options);
}

function besideLinear(outputs: Readonly<Record<string, Value>>, options: AttachOptions): Attached {
  const { choice, training, prefix = "" } = options;
  const { method } = choice;
  const { embedding } = method;
  const chosen = new Set(adaptedModules(outputs, options));
  if (training) checkPatterns(choice, [...chosen]);
  const inPlace = weightsInPlace(outputs, choice.inPlace, chosen);
  const trainables: Trainable[] = [];
  const dropoutMasks: DropoutMask[] = [];
  const dropoutScale = (rate: number): InputValue =>
    dropoutMasks.find((mask) => mask.rate === rate)?.scale ?? input(`dropout.scale.${rate}`, "float32", []);
  const declared = new Map<string, ReturnType<typeof declare>>(); // a module may act in several places
  const bases = new Map<string, WeightValue>();
  const baseOf = (module: string, linear: LinearSite): WeightValue | undefined => {
    const base = bases.get(module) ?? departedWeight(choice, { module, ...linear });
    if (base) bases.set(module, base);
    return base;
  };
  const shared = new Map<string, Trainable>();
  // What a sublayer gives, and then what the block adds it to -> what is made of that sum, or of its norm and it.
  const behind = new Map<Value, Grow>();
  const live = new Map<string, LiveWeight>();
  const liveForm = options.live && method.live;
  if (training && method.live) refuseShared(method.name, outputs, chosen);
  const adapted = rewrite(Object.values(outputs), {
    node: (node, rewritten) => {
      const linear = chosen.has(node.scope) ? linearOf(node) : undefined;
      const base = linear && baseOf(node.scope, linear);
      const inputs = rewritten.map(
        (value, i) => (base && node.inputs[i] === linear.weight ? base : inPlace.at(node, i)) ?? value,
      );
      const x = inputs[0];
      const unchanged = inputs.every((value, i) => value === node.inputs[i]);
      const table = embedding && embeddingOf(node);
      if (table && chosen.has(table.module)) {
        const { module, x: _ids, bias: _none, ...sizes } = table;
        const site: Site = { module, ...sizes };
        const config = configAt(choice, module);
        if (training) embedding.check?.(site, config);
        const made =
          declared.get(module) ??
          declare(`${prefix}${module}`, method.name, site, embedding.parameters(site, config), shared);
        if (!declared.has(module)) trainables.push(...made.trainables);
        declared.set(module, made);
        const [y] = unchanged ? node.outputs : rebuild(node, inputs);
        const ids = inputs[1];
        assert(y !== undefined && ids !== undefined, "rows are looked up by their numbers");
        return withScope(module, () => [embedding.adapt({ site, ids, y }, made.read, config)]);
      }
      if (!linear || !x) {
        const results = unchanged ? node.outputs : rebuild(node, inputs);
        return inPlace.after(node, inputs, results) ?? grownBehind(behind, node, results, inputs) ?? results;
      }
      const { inFeatures, outFeatures, layout } = linear;
      const now = (value: Value): Value => inputs[node.inputs.indexOf(value)] ?? value;
      const weight = now(linear.weight);
      const bias = linear.bias && now(linear.bias);
      const site: Site = { module: node.scope, weight, inFeatures, outFeatures, layout };
      const config = configAt(choice, node.scope);
      let made = declared.get(node.scope);
      if (made === undefined) {
        const whole = { ...site, weight: linear.weight };
        if (training) method.check?.(whole, config);
        made = declare(`${prefix}${node.scope}`, method.name, whole, method.parameters(whole, config), shared);
        declared.set(node.scope, made);
        trainables.push(...made.trainables.filter((trainable) => !trainables.includes(trainable)));
      }
      const { read } = made;
      let leaf: Value = weight;
      if (liveForm && options.live) {
        const own = live.get(node.scope) ?? liveWeight(site, options.live, liveForm, read, config);
        live.set(node.scope, own);
        leaf = own.leaf;
      }
      const current = inputs.map((value) => (value === weight ? leaf : value));
      const rebuilt = leaf.kind === "parameter" && layout === "out,in" ? turned : rebuild;
      const [y] = unchanged && leaf === weight ? node.outputs : rebuilt(node, current);
      assert(y !== undefined, "a linear node has an output");
      const dropout = (value: Value, rate: number): Value => {
        if (!training || rate === 0) return value;
        const before = dropoutMasks.filter(({ module }) => module === node.scope).length;
        const mask = input(`dropout.${node.scope}${before > 0 ? `.${before}` : ""}`, "bool", value.shape);
        const scale = dropoutScale(rate);
        dropoutMasks.push({ value: mask, scale, rate, module: node.scope });
        return where(mask, mul(value, scale), constant(0, value.dtype));
      };
      const { adapt } = liveForm ?? method;
      const reads = method.readsBehind?.(config);
      if (reads) {
        const { scope } = node;
        behind.set(node.outputs[0] as Value, {
          reads,
          from: (x, y) => withScope(scope, () => adapt({ site, x, y, bias: undefined, dropout }, read, config)),
        });
        return [y];
      }
      return withScope(node.scope, () => [adapt({ site, x, y, bias, dropout }, read, config)]);
    },
  });
  if (behind.size > 0) {
    throw new TuneError("bad-option", "The model does not add what its sublayers give to the residual as it is.", {
      at: method.name,
      fix: "use the placement behind the sublayer itself (sublayer)",
    });
  }
  return {
    outputs: rename(outputs, adapted),
    trainables: [...trainables, ...inPlace.all.map(trainedInPlace)],
    dropoutMasks,
    live: [...live.values()],
  };
}

/** An adapter behind a block's sum: what it makes of the sum y, reading x. */
interface Grow {
  readonly reads: ReadsBehind;
  readonly from: (x: Value, y: Value) => Value;
}

/** What a node gives where an adapter stands behind it: the sum that ends a sublayer, or the norm of such a sum. */
function grownBehind(
  behind: Map<Value, Grow>,
  node: Node,
  results: readonly Value[],
  inputs: readonly (Value | undefined)[],
): readonly Value[] | undefined {
  const op = findOp(node.domain, node.op);
  const ended =
    op === Add || op === LayerNormalization ? node.inputs.find((value) => value && behind.has(value)) : undefined;
  const grow = ended && behind.get(ended);
  const [result] = results;
  if (!ended || !grow || !result) return undefined;
  behind.delete(ended);
  if (op === Add && grow.reads === "residual") return [grow.from(result, result)];
  if (op === Add && grow.reads === "parallel") {
    const into = inputs[node.inputs.findIndex((value) => value !== ended)];
    assert(into !== undefined, "a block adds its sublayer's output to something else");
    return [grow.from(into, result)];
  }
  if (op === Add) {
    behind.set(node.outputs[0] as Value, grow); // its norm comes next
    return undefined;
  }
  const [sum, ...others] = inputs;
  return rebuild(node, [grow.from(result, sum as Value), ...others]);
}

/** What a method's departure leaves of a weight, computed when it is read. */
function departedWeight(choice: MethodChoice, site: Site): WeightValue | undefined {
  const departure = choice.method.departure?.(site, configAt(choice, site.module));
  if (!departure || site.weight.kind !== "weight") return undefined;
  const { source } = site.weight;
  const left = computedTensor(source.shape, async () => departure.base(await source.read()));
  return weightValue(nameInModule(site.module, site.weight), left);
}

function liveWeight(
  { module, weight: pretrained, layout, inFeatures, outFeatures }: Site,
  mode: "buffer" | "decoded",
  form: LiveForm<MethodConfig>,
  read: Parameters,
  config: MethodConfig,
): LiveWeight {
  const [columns, trained] = [read(form.columns), read(form.trained)];
  assert(pretrained.kind === "weight", "a pretrained weight");
  assert(columns.kind === "parameter" && trained.kind === "parameter", "tensors beside it");
  const name = `${pretrained.name}#live`;
  const { source } = pretrained;
  return {
    ...{ pretrained, module, layout, columns, trained, config },
    leaf: mode === "buffer" ? parameter(name, "float32", [inFeatures, outFeatures]) : weightValue(name, source),
    original: parameter(`${name}#original`, "float32", trained.shape.map(Number)),
    values: (original, now) => form.values(original, now, config),
  };
}

/** A weight whose columns change cannot be another module's too. */
function refuseShared(method: string, outputs: Readonly<Record<string, Value>>, chosen: ReadonlySet<string>): void {
  const shared = [...readersOfWeights(outputs)].filter(([, modules]) => modules.size > 1);
  const problems = shared.flatMap(([weight, modules]) => {
    const own = [...modules].find((module) => chosen.has(module));
    const others = [...modules].filter((module) => module !== own);
    return own === undefined ? [] : [`${own} shares ${weight.name} with ${others.join(", ")}.`];
  });
  if (problems.length === 0) return;
  throw new TuneError("tied-weight", problems, {
    at: method,
    fix: "leave the output layer out of the target modules, or use lora",
  });
}

/** A weight that is trained in place, as what is trained. */
export function trainedInPlace({ value, module, weight, rows }: WeightInPlace): Trainable {
  const decays = value.shape.length >= 2;
  const made = { value, module, decays, rate: 1, weight, inPlace: true, trained: true };
  if (rows === undefined) return { ...made, key: "weight", initial: "weight" };
  return { ...made, key: tokenRowsKey, initial: { fromWeight: (whole) => rowsOf(whole, rows) }, rows };
}

function inPlaceOfWeights(outputs: Readonly<Record<string, Value>>, { choice }: AttachOptions): Attached {
  const { method, config } = choice;
  const trainables: Trainable[] = [];
  const adapted = rewrite(Object.values(outputs), {
    leaf: (value) => {
      if (value.kind !== "weight") return undefined;
      const sizes = value.shape.map(Number);
      const site: Site = {
        module: value.name,
        weight: value,
        inFeatures: sizes.at(-1) ?? 1,
        outFeatures: sizes.length > 1 ? (sizes[0] ?? 1) : 1,
        layout: "out,in",
      };
      const made = declare(site.module, undefined, site, method.parameters(site, config));
      trainables.push(...made.trainables);
      return method.adapt({ site, x: value, y: value, bias: undefined, dropout: (x) => x }, made.read, config);
    },
  });
  return { outputs: rename(outputs, adapted), trainables, dropoutMasks: [], live: [] };
}

/** The name of a parameter beside a linear map: `model.layers.0.self_attn.q_proj.lora_A`. */
export function parameterName(module: string, method: string, key: string): string {
  return `${module}.${method}_${key}`;
}

/** Whether a parameter has a name that {@link parameterName} gives for this method, whatever characters the method's has. */
export function isParameterOf(name: string, method: string): boolean {
  const start = name.lastIndexOf(`.${method}_`);
  const key = name.slice(start + method.length + 2);
  return start >= 0 && key !== "" && !key.includes(".");
}

/** What stands for a module in the names of tensors that all modules share. */
export const sharedModule = "shared";

/** Parameters of a site; those that stand in place of a weight have the weight's own name. */
function declare(
  module: string,
  method: string | undefined,
  site: Site,
  specs: Readonly<Record<string, ParameterSpec>>,
  shared: Map<string, Trainable> = new Map(),
): { trainables: readonly Trainable[]; read: Parameters } {
  const own = Object.entries(specs).map(
    ([
      key,
      {
        shape,
        initial,
        check,
        dtype = "float32",
        decays = shape.length >= 2,
        rate = 1,
        trained = true,
        shared: isShared = false,
      },
    ]): Trainable => {
      const known = isShared ? shared.get(key) : undefined;
      if (known) return known;
      const owner = isShared ? sharedModule : module;
      const name = method === undefined ? module : parameterName(owner, method, key);
      const made: Trainable = {
        value: parameter(name, dtype, shape),
        module: isShared ? sharedModule : site.module,
        key,
        initial,
        decays,
        rate,
        weight: site.weight,
        inPlace: method === undefined,
        trained,
        ...(check ? { check } : {}),
      };
      if (isShared) shared.set(key, made);
      return made;
    },
  );
  const read = (key: string): Value => {
    const found = own.find((trainable) => trainable.key === key);
    assert(found !== undefined, `${site.module} has no parameter ${key}`);
    return found.value;
  };
  return { trainables: own, read };
}

function rename(outputs: Readonly<Record<string, Value>>, values: readonly Value[]): Readonly<Record<string, Value>> {
  return Object.fromEntries(Object.keys(outputs).map((name, i) => [name, values[i] as Value])); // one value an output
}

/**
 * Check that an adapter's tensors are those that its method has on this model.
 * @throws {TuneError} `adapter-mismatch` listing every tensor that is missing, left over or of another shape.
 */
export function checkParameters(
  trainables: readonly Trainable[],
  parameters: ReadonlyMap<string, Tensor>,
  at: string,
): void {
  throwMismatch(mismatches(trainables, parameters), at);
}

/** What is missing, left over or of another shape in an adapter, in words. */
export function mismatches(
  trainables: readonly Trainable[],
  parameters: ReadonlyMap<string, Tensor>,
): readonly string[] {
  const expected = new Map(trainables.map(({ value }) => [value.name, value.shape.join(", ")]));
  const wrong = trainables.flatMap(({ value: { name }, check }) => {
    const values = parameters.get(name);
    const problem = values && check?.(values);
    return problem === undefined ? [] : [`${name} ${problem}`];
  });
  const problems = [...expected].flatMap(([name, shape]) => {
    const found = parameters.get(name)?.shape.join(", ");
    if (found === shape) return [];
    return [
      found === undefined ? `${name} [${shape}] is missing` : `${name} is [${found}], but the model needs [${shape}]`,
    ];
  });
  problems.push(...wrong);
  for (const name of parameters.keys()) if (!expected.has(name)) problems.push(`the model has no place for ${name}`);
  return problems;
}

/** @throws {TuneError} `adapter-mismatch` with every problem; nothing when there is none. */
export function throwMismatch(problems: readonly string[], at: string): void {
  if (problems.length === 0) return;
  const shown = problems.slice(0, 12);
  if (problems.length > shown.length) shown.push(`and ${problems.length - shown.length} more`);
  throw new TuneError("adapter-mismatch", listing(`The adapter does not fit the model:`, shown), {
    at,
    fix: "use it with the base model that it was trained on",
  });
}

/** A module's weight as stored, with the adapter folded in; `pretrained` is that weight in the model, `weight` and parameters may be symbolic in size. */
export function mergeStored(
  choice: MethodChoice,
  { module, weight, layout, pretrained }: Pick<Site, "module" | "weight" | "layout"> & { readonly pretrained: Value },
  read: Parameters,
): Value {
  const upright = layout === "out,in" ? weight : transpose(weight, [1, 0]);
  const merged = choice.method.merge(upright, read, configAt(choice, module), { module, weight: pretrained });
  return layout === "out,in" ? merged : transpose(merged, [1, 0]);
}
