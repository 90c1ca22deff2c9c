import { TuneError } from "../errors.ts";
import {
  coordinate,
  type RoundSummary,
  type RunState,
  runState,
  type Transport,
  type Tuned,
} from "../federated/index.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import { checkNames, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { StopSignal } from "../signal.ts";
import type { TokenizedExample } from "../train/data/index.ts";
import { checkFingerprint, hashExamples } from "../train/fingerprint.ts";
import { checkDevice } from "./device-names.ts";
import {
  choiceNames,
  type FederationChoice,
  type FederationEnd,
  type FederationResult,
  insideFederation,
  settleFederation,
} from "./federate.ts";
import { openFederationFolder } from "./federation-folder.ts";
import { adapterOfTuned, openFederationTrainer } from "./federation-trainer.ts";
import type { LoadedData } from "./load-data.ts";
import type { LoadedModel } from "./load-model.ts";
import { admission } from "./memory.ts";
import type { OutputOptions } from "./save.ts";

/** How a federation is coordinated, over which transport, and where to. */
export interface ServeOptions extends FederationChoice, OutputOptions {
  /** Reaches the clients; its party is `coordinator`. It stays open. */
  readonly transport: Transport;
  /** The federation's name. */
  readonly run: string;
  /** How many clients must be there before the first round. */
  readonly clients: number;
  /** Seconds that clients have for a round; 0, the default, waits for all that were asked. */
  readonly roundSeconds?: number;
  /** How often a round may be tried before the federation stops; 3 unless given. */
  readonly attempts?: number;
  /** What each round's result is measured on; nothing is measured without it. */
  readonly data?: Pick<LoadedData, "kind" | "files"> & { readonly examples: readonly TokenizedExample[] };
  /** Folder for metrics and results; nothing is written without it. */
  readonly output?: string;
  readonly tensorboard?: boolean;
  /** Go on with the output folder's federation. The transport keeps what stands; where it has lost that, the folder has it. */
  readonly resume?: boolean;
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  readonly ignoreMemory?: boolean;
  /** Clients that take part no more, asked about again and again: `withdrawn` of `openCoordinatorTransport`. */
  readonly withdrawn?: () => readonly string[];
  /** Ends after what is under way; clients wait for a coordinator that goes on. */
  readonly signal?: StopSignal;
  readonly onEvent?: (event: ServeEvent) => void;
}

const serveNames: NamesOf<ServeOptions> = {
  ...choiceNames,
  ...{ transport: true, run: true, clients: true, roundSeconds: true, attempts: true, data: true },
  ...{ output: true, replace: true, inputs: true, tensorboard: true, resume: true, device: true, deviceOptions: true },
  ...{ ignoreMemory: true, withdrawn: true, signal: true, onEvent: true },
};

/** How often it looks whether it is told to end. */
const pollMs = 2000;

/** What happens at a coordinator. */
export type ServeEvent =
  | { readonly kind: "open"; readonly state: RunState }
  | {
      readonly kind: "asked";
      readonly round: number;
      readonly rounds: number;
      readonly participants: readonly string[];
    }
  | { readonly kind: "turned-away"; readonly client: string; readonly why: string }
  | { readonly kind: "upload"; readonly round: number; readonly client: string; readonly refused?: string }
  | { readonly kind: "round"; readonly rounds: number; readonly summary: RoundSummary }
  | { readonly kind: "end"; readonly ended: FederationEnd; readonly round: number; readonly rounds: number };

/**
 * Coordinate a federation: wait for clients, ask them for rounds of training, put together what they send. All that stands is kept
 * by the transport, so that a coordinator that was killed goes on when it is started again with the same settings.
 * @throws {TuneError} `bad-option`; `resume-mismatch` where another federation of that name stands; what the transport throws; as `tune`.
 */
export async function serveFederation(model: LoadedModel, options: ServeOptions): Promise<FederationResult> {
  checkNames(options, serveNames, "serveFederation", insideFederation());
  checkDevice(options);
  const { transport, run: name, clients, roundSeconds = 0, attempts = 3, data, output, ...others } = options;
  const {
    tensorboard = false,
    resume = false,
    device,
    deviceOptions,
    ignoreMemory,
    withdrawn,
    signal,
    onEvent,
    ...rest
  } = others;
  const { replace, inputs = [], ...choice } = rest;
  checkServed({ name, clients, roundSeconds, attempts, choice, party: transport.party });
  const examples = data?.examples ?? [];
  const settled = await settleFederation(
    model,
    { clients: [], validation: examples, kind: data?.kind, expected: clients },
    choice,
    { device, deviceOptions },
  );
  const { run } = settled;
  const plan = { ...settled.plan, attempts, roundMs: Math.round(1000 * roundSeconds) };
  const storage = guardOutputs(model.platform.storage, {
    inputs: [...(data?.files ?? []), ...inputs],
    ...(replace === undefined ? {} : { replace }),
  });
  const kept = output === undefined ? undefined : await openFederationFolder(storage, output, { resume, tensorboard });
  const opened = device ?? (await model.platform.openDevice(deviceOptions));
  try {
    const facts = { run: name, plan: { ...plan }, validationData: await hashExamples(examples) };
    if (kept?.saved && output !== undefined) checkFingerprint(kept.saved.facts, facts, output);
    const trainer = await openFederationTrainer(
      opened,
      model,
      run,
      // Only what is measured is computed here.
      ignoreMemory || examples.length === 0 ? undefined : admission(model, { ...run, train: examples }, opened),
    );
    try {
      const measure = async (tuned: Tuned): Promise<Readonly<Record<string, number>>> => {
        if (examples.length === 0) return {};
        const { loss, measures } = await trainer.evaluate(tuned, examples);
        return { loss, ...measures };
      };
      const initial = await trainer.initial(plan.seed);
      const base = kept?.saved?.base ?? (await measure(initial));
      if (kept?.saved) await putBack(transport, kept.saved);
      const { state, tuned, stopped } = await coordinate({
        ...{ transport, run: name, plan, initial: async () => initial, gather: clients, measure },
        now: Date.now,
        wait: waitFor,
        pollMs,
        ...(withdrawn ? { withdrawn } : {}),
        ...(signal ? { signal } : {}),
        onEvent: async (event) => {
          if (event.kind === "open") {
            if (kept && !kept.saved) await kept.begin(facts, base, event.state, await transport.get(event.state.base));
            onEvent?.({ kind: "open", state: event.state });
          } else if (event.kind === "round") {
            const { round, participants } = event.state;
            onEvent?.({ kind: "asked", round, rounds: plan.rounds, participants });
          } else if (event.kind === "closed") {
            await kept?.keep(event.state, await transport.get(event.state.base), event.summary);
            const { base, news } = event.state;
            await transport.keep?.([base.sha256, ...(news ? [news.object.sha256] : [])]);
            onEvent?.({ kind: "round", rounds: plan.rounds, summary: event.summary });
          } else if (event.kind === "upload") {
            const { client, refused, state: now } = event;
            onEvent?.({ kind: "upload", round: now.round, client, ...(refused === undefined ? {} : { refused }) });
          } else onEvent?.(event);
        },
      });
      const ended: FederationEnd = state.phase === "done" ? "finished" : stopped ? "too-few-clients" : "interrupted";
      onEvent?.({ kind: "end", ended, round: state.round, rounds: plan.rounds });
      return {
        ...{ adapter: adapterOfTuned(run, tuned), ended, rounds: state.round, history: state.history, base, plan },
        ...(stopped ? { why: stopped.what } : {}),
      };
    } finally {
      await trainer.close();
    }
  } finally {
    if (!device) await opened.close();
    await kept?.close();
  }
}

/** Where the transport has lost what stood, the folder's copy of it is put back. */
async function putBack(
  transport: Transport,
  saved: { readonly state: RunState; readonly object: Uint8Array },
): Promise<void> {
  const { revision } = await transport.update(runState, () => undefined);
  if (revision > 0) return;
  await transport.put(saved.object);
  await transport.update(runState, (now) => (now.revision === 0 ? saved.state : undefined));
}

/** A wait that a change ends. */
async function waitFor(ms: number, wake: Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const longest = 2 ** 31 - 1;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, Math.min(longest, ms));
  });
  await Promise.race([timeout, wake]);
  clearTimeout(timer);
}

function checkServed({
  name,
  clients,
  roundSeconds,
  attempts,
  choice,
  party,
}: {
  readonly name: string;
  readonly clients: number;
  readonly roundSeconds: number;
  readonly attempts: number;
  readonly choice: FederationChoice;
  readonly party: string;
}): void {
  const problems = [
    ...(/^[A-Za-z0-9_-]{1,64}$/.test(name) ? [] : [`run is "${name}", but it must be letters, digits, _ and -`]),
    ...(Number.isSafeInteger(clients) && clients >= 1
      ? []
      : [`clients is ${clients}, but it must be a whole number from 1`]),
    ...(roundSeconds >= 0 && Number.isFinite(roundSeconds)
      ? []
      : [`roundSeconds is ${roundSeconds}, but it must be 0 or more`]),
    ...(Number.isSafeInteger(attempts) && attempts >= 1
      ? []
      : [`attempts is ${attempts}, but it must be a whole number from 1`]),
    ...(party === "coordinator" ? [] : [`the transport speaks for ${party}, not for the coordinator`]),
    ...(typeof choice.targetModules === "object" && "modules" in choice.targetModules
      ? ["targetModules leaves modules or layers out, which clients cannot be told: name the modules instead"]
      : []),
  ];
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems, { at: "serveFederation", fix: "change the values named above" });
}
