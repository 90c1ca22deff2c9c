import { by, type Check } from "./checked.ts";

type Checks = Readonly<Record<string, Check>>;

const golden = "tests/golden.test.ts";
const exported = "src/export/export.test.ts";
const adapterHub = "tests/adapterhub.test.ts";
const adapterHubLibrary = "tests/adapterhub-library.test.ts";
const activationOracles = "src/ops/activations.test.ts";
const adalora = "tests/adalora.test.ts";
const adaloraOracles = "src/methods/adalora.test.ts";
const compacter = "tests/compacter.test.ts";
const compacterOracles = "src/methods/compacter.test.ts";
const paca = "tests/paca.test.ts";
const optim = "src/optim/optim.test.ts";
const sweep = "src/quant/sweep.test.ts";
const preference = "tests/preference.test.ts";
const run = "src/train/run.test.ts";
const sample = "src/generate/sample.test.ts";
const forgetting = "tests/forgetting.test.ts";
const oracles = "src/diagnose/oracles.test.ts";
const mend = "src/diagnose/mend.test.ts";
const diagnosis = "tests/diagnose.test.ts";
const attention = "src/diagnose/attention/attention.test.ts";
const attentionCli = "tests/diagnose-attention-cli.test.ts";
const compare = "tests/compare.test.ts";
const quantised = "src/compress/compress.test.ts";
/** Flags of `tune` against settings, and options of other commands against what they do. */
const privately = "tests/private-tuning.test.ts";
const flags = "tests/options.test.ts";
const commands = "tests/commands.test.ts";
const cli = "tests/cli.test.ts";

const federate = "tests/federate.test.ts";
const strategyLaws = "src/federated/strategies/strategies.test.ts";
const parties = "src/federated/parties.test.ts";
const far = "tests/federate-far.test.ts";
const nats = "tests/federate-nats.test.ts";
const workers = "tests/compare-workers.test.ts";
const standing = "tests/federate-status.test.ts";
const arithmetic = "src/federated/arithmetic.test.ts";

const budget = by("PEFT: its schedule's numbers, and what is pruned over 50 updates", adaloraOracles, adalora);
const decay = by("PEFT's allocator at its own value, the recurrence at another", adaloraOracles);
const inPlace = by("PEFT: losses over 50 updates, logits", golden, exported);
const pattern = by("PEFT's logits", exported, flags);
const adamw = by("torch.optim.AdamW: losses at its own value and at another", golden, optim);
const sgd = by("torch.optim.SGD: losses over 30 updates", optim);
const decompositions = by("numpy's singular vectors and cosines of a planted intruder", oracles, commands);
const written = by("what is there afterwards", cli, commands);

const privacy = "tests/privacy.test.ts";
const accountants = by(
  "Opacus: RDP and PRV of sixty kinds of steps; formulas where there are any",
  "src/privacy/rdp.test.ts",
  "src/privacy/prv.test.ts",
  privacy,
);

/** What checks an option, by its name, for every command that has it. */
export const checkedOptions: Checks = {
  model: by("folders whole, damaged and foreign; a hub that is asked once", cli, "src/runtime/node-hub.test.ts"),
  adapter: by("answers, losses and merged weights with it", cli),
  task: by("each task tuned, saved and judged again alike", "tests/tasks.test.ts", "tests/methods-cli.test.ts"),
  device: by(
    "losses of the CPU on WebGPU and in WebAssembly; `auto` among slowed devices; `cuda` by nothing yet",
    "tests/providers.test.ts",
    "src/runtime/fastest.test.ts",
  ),
  ignoreMemory: by("a run that does not fit, refused and made", "tests/memory.test.ts"),
  threads: by(
    "the losses of one thread, by two in a page; the same bits of packed decoding",
    "tests/providers.test.ts",
    "tests/packed-decoding.test.ts",
  ),
  data: by(
    "how often weighted files come in an epoch",
    "src/train/data/batches.test.ts",
    "tests/streaming.test.ts",
    flags,
  ),
  stream: by("the examples of a whole reading, and its losses", "tests/streaming.test.ts", flags),
  config: by("the losses of the run that wrote it; everything wrong in it named", cli),
  method: by("[each method's own](methods.md)", flags),
  objective: by("[each objective's own](training.md)", flags),
  optimizer: by("[each update rule's own](training.md)", flags),
  targetModules: by("PEFT's logits with names and with all-linear", exported, flags),
  excludeModules: by("modules written out by hand", "src/methods/targets.test.ts", commands),
  layers: by(
    "modules written out by hand; PEFT's adapters of some layers",
    "src/methods/targets.test.ts",
    exported,
    commands,
  ),
  rankPattern: pattern,
  alphaPattern: pattern,
  modulesToSave: inPlace,
  newTokens: by(
    "PEFT: losses over 50 updates, logits; transformers.js and llama.cpp say them",
    golden,
    "tests/new-tokens.test.ts",
  ),
  bias: by(
    "PEFT: losses over 50 updates, logits; names of the biases",
    golden,
    exported,
    "src/methods/in-place.test.ts",
  ),
  validation: by("counts, equal rows together, drawn by the seed", "src/train/data/batches.test.ts", flags),
  validationData: by("the rows of that file, and all of the other", flags, commands),
  columns: by("the examples of a file with the format's own names", "tests/data-cases.test.ts", flags),
  skipBadRows: by("the rows that are left, and which are told", "tests/data-cases.test.ts", flags),
  chatTemplate: by(
    "formats written out by hand; `@huggingface/jinja`; the tokenizer that is exported",
    "tests/data-cases.test.ts",
    flags,
  ),
  newHead: by("labels and shapes of the head", "tests/tasks.test.ts", flags),
  maxLength: by("tokens written out by hand", "src/train/data/tokenize.test.ts", flags, commands),
  schedule: by("transformers: the rate of every update", "src/optim/schedule.test.ts", commands),
  memory: by("[each choice's own](training.md)", "tests/levers.test.ts", flags),
  gradientCheckpointing: by("that it is `--memory small`", flags),
  baseWeights: by(
    "[each form's own](training.md)",
    "src/train/base-weights.test.ts",
    "src/train/block-codes.test.ts",
    flags,
  ),
  epochs: by("updates counted", "tests/plan.test.ts", "tests/streaming.test.ts"),
  maxSteps: by("updates counted", cli),
  batchSize: by("the updates of half as many, twice", run, flags),
  accumulationSteps: by("PEFT's losses over 25 updates of two batches", golden, run, flags),
  learningRate: by("PEFT's and torch's losses; the rates that are logged", golden, commands),
  warmup: by("transformers: the rate of every update", "src/optim/schedule.test.ts", commands),
  maxGradNorm: by("torch: the norm, and losses of clipped updates", golden, flags),
  dpEpsilon: by("the spend of the noise that it takes, by both accountants", privately, flags),
  dpNoise: by("deviations of the noise of an update; what it spends", "tests/private-step.test.ts", privately),
  dpDelta: by("what is spent at it; Opacus's accountants", privately, "src/privacy/prv.test.ts"),
  dpClip: by(
    "sums of clipped gradients, example by example in float64",
    "tests/per-example.test.ts",
    "src/transforms/clipped-sums.test.ts",
  ),
  dpAccountant: by("Opacus's accountants", "src/privacy/calibrate.test.ts", flags),
  evaluateEvery: by("the updates that are logged", run, commands),
  patience: by("where a diverging run stops", run, flags),
  checkpointEvery: by("losses after kills at any moment, bit for bit", "tests/interruption.test.ts", run),
  seed: by(
    "order, masks and held-back rows: alike by one seed, others by another",
    "src/train/data/batches.test.ts",
    "src/train/dropout.test.ts",
    flags,
  ),
  rank: by("PEFT: losses and logits; columns of the full gradient (PaCA)", golden, exported, paca),
  alpha: by("PEFT: losses and logits; float64 arithmetic (PaCA)", golden, exported, "src/methods/paca.test.ts"),
  rslora: by("PEFT: losses over 50 updates, logits", golden, exported),
  dropout: by(
    "the formula in float64 with the mask that was drawn; the share that is kept",
    "src/train/dropout.test.ts",
  ),
  plusRatio: by("torch: losses over 50 updates with B four times as fast", golden),
  freezeA: by("A after three updates, and B's gradient alone", "tests/freeze-a.test.ts"),
  init: by(
    "PEFT: losses over 50 updates, logits (PiSSA, OLoRA), spreads of the others",
    golden,
    exported,
    "src/methods/lora-init.test.ts",
  ),
  initialRank: by("PEFT: losses and what is pruned over 50 updates", adalora),
  targetRank: by("PEFT: losses and what is pruned over 50 updates", adalora),
  budgetWarmup: budget,
  budgetFinal: budget,
  budgetEvery: budget,
  sensitivityDecay: decay,
  uncertaintyDecay: decay,
  orthogonalWeight: by("PEFT: penalties over 50 updates", adalora),
  orthogonalForm: by("PEFT's penalties; float64 arithmetic of both forms", adalora, adaloraOracles),
  select: by("columns and their lengths computed apart", paca),
  columnList: by("columns written out by hand", paca),
  reduction: by(
    "AdapterHub's formulas in torch; the paper's share of T5-base's parameters",
    adapterHub,
    compacterOracles,
  ),
  positions: by("AdapterHub's formulas in torch; trained values counted", adapterHub, compacter),
  placement: by("AdapterHub's formulas in torch, of T5 and of BERT", adapterHub, compacter),
  crossAttention: by("AdapterHub's formulas in torch, of T5", adapterHub),
  activation: by("torch's functions of transformers' names, point by point", activationOracles, adapterHub),
  scaling: by("AdapterHub's formulas in torch, in parallel and not", adapterHub),
  frozenNorms: by("trained values counted with and without", compacter),
  terms: by("Kronecker products written out; the paper's share of T5-base's parameters", compacterOracles, adapterHub),
  fastRank: by("the product of the factors, made whole", compacterOracles),
  frozenRule: by("the rule after three updates", compacter),
  sharedRule: by("what AdapterHub's library computes: losses of ten updates", adapterHubLibrary),
  ownRules: by("AdapterHub's formulas in torch, of BERT", adapterHub),
  beta: by("TRL's formulas in torch: losses and rewards over 20 updates", preference),
  labelSmoothing: by("TRL's formulas in torch: losses and rewards over 20 updates", preference),
  similarityScale: by("torch at 20, the formula at others", "tests/embeddings.test.ts"),
  beta1: adamw,
  beta2: adamw,
  epsilon: adamw,
  weightDecay: by("torch.optim.AdamW and SGD: losses", golden, optim),
  momentum: sgd,
  nesterov: sgd,
  output: written,
  tensorboard: by(
    "tags and check values of the format; no file without it",
    "src/train/learning-rate.test.ts",
    "src/io/tfevents.test.ts",
    commands,
  ),
  replace: by("what is left of others' files, of every command that writes", "tests/outputs.test.ts"),
  resume: by("the losses of a run that was not stopped, bit for bit", "tests/interruption.test.ts", run),
  baseText: by("the loss above the base's, measured apart", forgetting, commands),
  attention: by("losses of a plan; heads that leave it; resumed to the same bits", "tests/tune-attention.test.ts"),
  attentionError: by("heads that qualify by their sample", attention),
  trackIntruders: by("when they are counted; the count itself as in diagnosis", forgetting, commands),
};

const session: Checks = {
  adapter: by("what each says alone", "src/generate/decoder.test.ts", cli),
  use: by("what the model, and each adapter, says alone", "src/generate/decoder.test.ts", cli),
  maxNewTokens: by("tokens counted", commands),
  temperature: by("shares of 20,000 draws", sample, commands),
  topK: by("shares of 20,000 draws", sample, commands),
  topP: by("shares of 20,000 draws", sample, commands),
  minP: by("shares of 20,000 draws", sample, commands),
  repetitionPenalty: by("scores written out by hand", sample, commands),
  seed: by("alike by one seed, others by another", sample, commands),
  lookups: by(
    "logits of the dequantised weights (exact); products within 1.5 % (fast)",
    "tests/packed-decoding.test.ts",
    "src/kernels/packed-product.test.ts",
    commands,
  ),
  system: by("the prompt's tokens; chat says what generate says", commands),
};

const comparison: Checks = {
  base: by("the model itself: nothing is counted", diagnosis),
  adapter: by("the merged model's diagnosis", diagnosis),
  tuned: by("the adapter's diagnosis; two files of weights", diagnosis, "tests/diagnose-files.test.ts"),
  k: decompositions,
  eps: decompositions,
  side: by("numpy's cosines on both sides, wide and tall", oracles, commands),
  method: by("the same intruders by all methods", oracles, diagnosis, commands),
  fused: by("rows of the parts counted, whole and apart", diagnosis, commands),
  cache: by("the same diagnosis from it, and from a damaged one", diagnosis, commands),
  output: by("the report, its page and its pictures", "tests/diagnose-cli.test.ts"),
};

/** What checks the options of any federation; the plan of one far away is that of its simulation. */
const federated: Checks = {
  data: by("clients by column, file, label and evenly", federate),
  clients: by("how many there are, and what no client has", federate),
  method: by("the specification's oracles and laws; weights of the adapter", strategyLaws, federate),
  rounds: by("metrics of every round", federate),
  localSteps: by("steps of every client", federate),
  clientsPerRound: by("who took part, by a seed", parties),
  minClients: by("rounds that are tried again", parties),
  aggregation: by("means, medians and trimmed means worked by hand", arithmetic),
  weighting: by("shares worked by hand", arithmetic),
  maxWeight: by("shares that are capped", arithmetic),
  trim: by("trimmed means worked by hand", arithmetic),
  dpEpsilon: by("what every ledger holds at the end", federate),
  dpDelta: by("what every ledger holds at the end", federate),
  dpClip: by("private steps against single examples", "src/train/trainer.test.ts", federate),
  dpNoise: by("private steps against single examples", "src/train/trainer.test.ts", federate),
  dpAccountant: by("Opacus's numbers", "src/privacy/rdp.test.ts", "src/privacy/prv.test.ts"),
  dpRounds: by("when a client leaves", federate),
  output: by("what is there afterwards", federate),
  resume: by("the same bits after a stop in any round", federate),
  tensorboard: by("a file of events", federate),
  batchSize: by("losses of rounds", federate),
  seed: by("the same bits for a seed", federate),
  period: by("a fixed orthonormal A, whatever the period (E1)", strategyLaws),
  orthonormalStart: by("a fixed orthonormal A (E1)", strategyLaws),
  refreshEvery: by("row spaces, and the adapter's losses", strategyLaws, federate),
  refreshKeep: by("products before and after", arithmetic, strategyLaws),
};

/** What checks an option, where a command has one of its own by that name. */
export const checkedByCommand: Readonly<Record<string, Checks>> = {
  compare: {
    methods: by("a row each", compare),
    rates: by("the rates of the runs", compare, commands),
    seeds: by("a run each; means and deviations by hand", compare),
    testData: by("losses other than on what the rate was chosen on", compare, commands),
    baseText: by("the measures of a run", compare, commands),
    output: by("the table, the picture and every run's files", compare),
    resume: by("the outcomes of a comparison that was not cut off", compare, commands),
    workers: by("the outcomes of the same comparison on one machine, with a worker that is killed", workers),
    federation: by("a folder that holds none; runs that are handed out", workers),
    silence: by("a run of a worker that was killed goes to another", workers),
    invite: by("runs that are made; other options than the comparison's", workers),
  },
  continual: {
    // biome-ignore lint/suspicious/noThenProperty: it is the name of an option.
    then: by("a loss for every data set after each", forgetting, "tests/forgetting-cli.test.ts"),
    between: by("weights of the last task, or of the base", forgetting, "tests/forgetting-cli.test.ts"),
    baseText: by("what eval measures of the last", "tests/forgetting-cli.test.ts"),
    output: by("the matrix of losses, and the models behind it", forgetting, "tests/forgetting-cli.test.ts"),
    resume: by("the losses of the first time", forgetting, "tests/forgetting-cli.test.ts"),
  },
  privacy: {
    samplingRate: accountants,
    noise: accountants,
    steps: accountants,
    delta: accountants,
    epsilon: by("Opacus's noise for eight budgets", "src/privacy/calibrate.test.ts", privacy),
    ledger: by("what its steps and others cost together; damaged ones refused", "src/privacy/ledger.test.ts", privacy),
  },
  plan: { available: by("what fits and what does not, with what would", "tests/plan.test.ts", cli) },
  quantize: {
    calibration: by("too little text is refused", quantised, commands),
    method: by("[each scheme's own](quantisation.md)", sweep, commands),
    bits: by("bits of every matrix in the file; averages kept", quantised, commands),
    variant: by("scales of blocks within 1.6 times the error of columns", sweep, commands),
    allocate: by("optima worked by hand, and no random allocation better", "src/quant/allocate.test.ts", commands),
    calibrationRows: by("tokens counted", commands),
    maxLength: by("tokens counted", commands),
    keepAs: by("the dtype in the file", commands),
    output: by("read back as it was evaluated", quantised, commands),
    tuneScales: by("nearer the model, codes unchanged", "src/compress/tune-scales.test.ts", commands),
    tuneSteps: by("updates counted", commands),
    tuneRate: by("the rates of its updates", commands),
    compare: by("a row for every way", commands),
    evaluation: by("a loss on it for every way", commands),
    resume: by("the codes of a run that was not stopped", quantised, commands),
    terms: by("a float64 reference with one, two and three", "src/quant/binary-code.test.ts", sweep),
    rounds: by("a float64 reference after none, one and all; no round makes it worse", "src/quant/binary-code.test.ts"),
    blockWise: by("within 1.6 times the error of columns", sweep),
    rowGroup: by("rows quantised apart, bit for bit", sweep),
    damping: by("the Hessian's diagonal; a float64 factor of its inverse", sweep),
    activationOrder: by("a float64 reference in either order", sweep),
    groupSize: by("columns quantised apart, bit for bit", sweep),
    compensate: by("a float64 reference with and without", sweep),
  },
  lr: {
    from: by("the rates of the updates", "src/train/learning-rate.test.ts", commands),
    to: by("the rates of the updates", "src/train/learning-rate.test.ts", commands),
    steps: by("the rates of the updates", "src/train/learning-rate.test.ts", commands),
    picture: by("that it is drawn", commands),
  },
  generate: {
    ...session,
    prompt: by("the answer of chat; standard input", cli, commands),
    raw: by("the prompt's tokens", commands),
    stop: by("the greedy answer, cut there", commands),
  },
  chat: session,
  eval: {
    data: by("the perplexity of its loss; the loss that mend measures", cli, "tests/diagnose-cli.test.ts"),
    attention: by("the loss that tuning measured with the same plan", "tests/tune-attention.test.ts"),
    maxLength: by("targets counted", commands),
    batchSize: by("the loss one by one", commands),
    exactMatch: by("answers counted", cli, commands),
    show: by("answers shown counted", commands),
    baseText: by("the same of an adapter and of the merged model", "tests/forgetting-cli.test.ts", commands),
    baseModel: by("the same as of the adapter", commands),
  },
  diagnose: {
    ...comparison,
    attention: by("bounds and errors by plain loops; verdicts of models made for them", attention, attentionCli),
    model: by("the heads that it has", attentionCli),
    data: by("the texts laid end to end", attentionCli),
    length: by("the texts looked at", attentionCli),
    texts: by("as many texts as the data hold, up to that", attentionCli),
    weightError: by("heads that qualify at one and not at another", attention, attentionCli),
    attentionError: by("heads that qualify by their sample", attention),
  },
  mend: {
    ...comparison,
    output: by("losses of what was written are those that were measured", "tests/diagnose-cli.test.ts"),
    to: by("weights of the adapter and of the model alike", diagnosis, "tests/diagnose-cli.test.ts"),
    rank: by("numpy: exact, and the error when cut back", mend, commands),
    mode: by("how many are scaled", diagnosis, commands),
    lambda: by("numpy: singular values and distances of six factors", mend),
    data: by("the loss of eval on what was written", "tests/diagnose-cli.test.ts"),
    baseText: by("that it is measured before and after", "tests/diagnose-cli.test.ts"),
  },
  "federate create": {
    ...Object.fromEntries(
      ["run", "address", "listen", "store", "maxFile", "websocket", "origin", "certificate", "key"].map((name) => [
        name,
        by("a server that starts with it; what is no name, size or address", "tests/federated-nats.test.ts"),
      ]),
    ),
    servers: by("three that start with it, of which one is killed; what is no cluster", "tests/federated-nats.test.ts"),
    output: by("files for their owner alone; secrets that are there stay", nats, "tests/federated-nats.test.ts"),
  },
  "federate invite": {
    federation: by("a folder that holds none", nats),
    client: by("a client that joins; a name twice", nats),
    output: by("a file that a client joins with", nats),
    withdraw: by("a client that is refused by the server and asked no more; who was not invited", standing),
  },
  "federate status": {
    federation: by("a folder that holds none; a federation under way", standing),
    engine: by("servers that are none", nats, standing),
  },
  "federate report": { folder: by("a folder that holds none; the page of a coordinator's", standing) },
  "federate stop": {
    federation: by("a coordinator that ends after its round, and goes on", standing),
    engine: by("servers that are none", nats, standing),
  },
  "federate serve": {
    ...federated,
    data: by("measures of rounds", far),
    engine: by("servers that are none", nats),
    federation: by("a folder that holds none", nats),
    clients: by("when the first round begins", far, nats),
    roundSeconds: by("rounds that are closed by their deadline", parties),
    attempts: by("rounds that are tried again", parties),
    output: by("the adapter, byte for byte that of a simulation", nats),
    resume: by("coordinators killed in any round", parties),
  },
  "federate join": {
    data: by("the adapter, byte for byte that of a simulation", nats),
    maxLength: by("the examples of a client", far),
    engine: by("servers that are none", nats),
    invite: by("damaged, with a wrong password, and used by another", nats),
    output: by("the adapter, byte for byte that of a simulation; ledgers", nats, far),
  },
  "federate simulate": {
    ...federated,
    split: by("by column, by file, evenly, and shares of labels", federate),
    compare: by("a table of methods and rates", federate),
    rates: by("a table of methods and rates", federate),
    seeds: by("a table of methods and rates", federate),
    epsilons: by("a table of methods, budgets and rates", federate),
  },
  combine: {
    adapter: by("PEFT's logits of the sum", "src/export/combine.test.ts", cli),
    weights: by("PEFT's logits of the sum", "src/export/combine.test.ts", cli),
    how: by("PEFT's logits by each way", "src/export/combine.test.ts", commands),
    rank: by("PEFT's logits by svd to rank 3", "src/export/combine.test.ts", commands),
  },
  merge: { adapter: by("logits of the adapter beside the model", exported, cli) },
  export: {
    to: by("[each form's own](exports.md)", cli, commands),
    dtype: by(
      "logits by transformers.js, tokens by llama.cpp",
      "tests/transformers-js.test.ts",
      "tests/gguf.test.ts",
      commands,
    ),
    preTokenizer: by("llama.cpp's tokens", "tests/gguf.test.ts", commands),
  },
  runs: {
    folder: by("runs found, and none", cli),
    picture: by("a line for every run", cli),
  },
  inspect: { path: by("a model, a file of weights, an adapter and data", cli) },
};

/** What checks an option of a command. @throws when nobody has said it. */
export function checkOfOption(command: string, option: string): Check {
  const found = checkedByCommand[command]?.[option] ?? checkedOptions[option];
  if (found === undefined) throw new Error(`scripts/reference/checked-options.ts says nothing of ${command} ${option}`);
  return found;
}
