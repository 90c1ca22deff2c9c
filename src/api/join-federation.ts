import { TuneError } from "../errors.ts";
import {
  type ClientEvent,
  type FederationPlan,
  type LocalTraining,
  type RunState,
  readState,
  runState,
  type Transport,
  takePart,
  tunedAtEnd,
} from "../federated/index.ts";
import { joinPath } from "../io/storage.ts";
import { type Adapter, parseTargets } from "../methods/index.ts";
import { checkNames, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { StopSignal } from "../signal.ts";
import { checkDevice } from "./device-names.ts";
import { type FederationChoice, settleFederation } from "./federate.ts";
import { type ClientSpent, type FederationPrivacy, openFederationPrivacy } from "./federation-privacy.ts";
import { adapterOfTuned, openFederationTrainer, spendOf } from "./federation-trainer.ts";
import type { ClientData } from "./load-clients.ts";
import type { LoadedData } from "./load-data.ts";
import type { LoadedModel } from "./load-model.ts";
import { admission } from "./memory.ts";
import { claimOutput } from "./outputs.ts";

/** How a client takes part. */
export interface JoinOptions {
  /** Reaches the coordinator; its party is this client's name. It stays open. */
  readonly transport: Transport;
  /**
   * This client's folder, of its own: what its data have spent (`clients/<name>.ledger`), and the secret of its noise until the
   * federation is done. Needed where the federation is private.
   */
  readonly output?: string;
  /** Milliseconds after which a state that tells of nothing new is read again, should an event be lost; 5000 unless given. */
  readonly pollMs?: number;
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  readonly ignoreMemory?: boolean;
  /** Leaves after what is under way. */
  readonly signal?: StopSignal;
  readonly onEvent?: (event: JoinEvent) => void;
}

const joinNames: NamesOf<JoinOptions> = {
  ...{ transport: true, output: true, pollMs: true, device: true, deviceOptions: true, ignoreMemory: true },
  ...{ signal: true, onEvent: true },
};

/** What happens at a client. */
export type JoinEvent =
  | { readonly kind: "waiting" }
  | {
      readonly kind: "joined";
      readonly run: string;
      readonly plan: FederationPlan;
      readonly examples: number;
      readonly trainedParameters: number;
    }
  | ClientEvent
  | { readonly kind: "round"; readonly round: number; readonly rounds: number };

/** How it went. */
export interface JoinResult {
  readonly ended: "finished" | "stopped" | "left" | "interrupted";
  /** Rounds whose training this client took part in. */
  readonly rounds: number;
  /** What the federation has come to, where it is done. */
  readonly adapter?: Adapter;
  /** Why it left. */
  readonly why?: TuneError;
  /** What its data have spent, in a private federation. */
  readonly spent?: ClientSpent;
}

/**
 * Take part in a federation with data that stay here: train when asked to, and send what was trained. Returns when the federation is
 * done, or has no use for this client any more.
 * @throws {TuneError} `base-mismatch` where model, tokenizer or what is tuned are others than the coordinator's; `bad-option` where
 * the federation is private and there is no budget; what the transport throws; as `tune`.
 */
export async function joinFederation(
  model: LoadedModel,
  data: Pick<LoadedData, "train" | "kind">,
  options: JoinOptions,
): Promise<JoinResult> {
  checkNames(options, joinNames, "joinFederation");
  checkDevice(options);
  const { transport, output, pollMs = 5000, device, deviceOptions, ignoreMemory, signal, onEvent } = options;
  const first = await standing(transport, { pollMs, signal, waiting: () => onEvent?.({ kind: "waiting" }) });
  if (first === undefined) return { ended: "interrupted", rounds: 0 };
  const client = { name: transport.party, train: data.train };
  if (output !== undefined)
    await claimOutput(model.platform.storage, output, "federation-client", { names: [`${first.run}/`] });
  const { run, plan } = await settleFederation(
    model,
    {
      clients: [client],
      validation: [],
      kind: data.kind,
      expected: Math.max(1, first.plan.clientsPerRound, first.plan.minClients),
    },
    choiceOf(first.plan),
    { device, deviceOptions },
  );
  const opened = device ?? (await model.platform.openDevice(deviceOptions));
  try {
    const admit = ignoreMemory ? undefined : admission(model, run, opened);
    const trainer = await openFederationTrainer(opened, model, run, admit, first.plan.privacy !== undefined);
    const privacy = first.plan.privacy && (await ownPrivacy(model, first, client, output));
    try {
      const uploaded = new Set<number>(); // one may be sent more than once
      const secret = privacy?.clients.get(client.name);
      const training: LocalTraining = {
        ...{ examples: data.train.length, base: plan.base },
        spend: (of) => spendOf(of, data.train.length),
        train: (request) =>
          trainer.train({ name: client.name, examples: data.train, ...(secret ? { privacy: secret } : {}) }, request),
      };
      const part = await takePart({
        ...{ transport, training },
        ...(privacy ? { reserve: privacy.reserve(client.name) } : {}),
        ...(signal ? { signal } : {}),
        onEvent: (event) => {
          if (event.kind === "uploaded") uploaded.add(event.round);
          onEvent?.(event);
        },
      });
      onEvent?.({
        ...{ kind: "joined", run: first.run, plan: first.plan, examples: data.train.length },
        trainedParameters: trainer.trainedParameters,
      });
      try {
        return await until();
      } finally {
        await part.close();
      }

      async function until(): Promise<JoinResult> {
        let round = -1;
        for (;;) {
          const rounds = uploaded.size;
          const why = part.left();
          if (why) return { ended: "left", rounds, why, ...spentBy(privacy) };
          if (signal?.aborted) return { ended: "interrupted", rounds, ...spentBy(privacy) };
          const state = await readRun(transport);
          if (state?.phase === "training" && state.round !== round) {
            round = state.round;
            onEvent?.({ kind: "round", round, rounds: state.plan.rounds });
          }
          if (state?.phase === "stopped") return { ended: "stopped", rounds, ...spentBy(privacy) };
          if (state?.phase === "done") {
            const adapter = adapterOfTuned(run, await tunedAtEnd(transport, state));
            await privacy?.forgetKeys();
            return { ended: "finished", rounds, adapter, ...spentBy(privacy) };
          }
          await part.attend(); // events do the same, where none is lost
          await pause(pollMs, signal);
        }
      }
    } finally {
      await privacy?.close();
      await trainer.close();
    }
  } finally {
    if (!device) await opened.close();
  }
}

/** The ledger and the secret of this client, in its folder. */
async function ownPrivacy(
  model: LoadedModel,
  { plan, run }: RunState,
  client: ClientData,
  output: string | undefined,
): Promise<FederationPrivacy> {
  if (output === undefined) {
    throw new TuneError(
      "bad-option",
      "The federation is private, and this client has no folder for what its data spend.",
      {
        at: "joinFederation",
        fix: "give an output folder of this client's own, and keep it",
      },
    );
  }
  const { storage } = model.platform;
  const path = joinPath(output, run);
  // A ledger without its secret is of rounds that cannot be made again: it is refused, and never begun anew.
  const parts = [`${client.name}.key`, `${client.name}.ledger`].map((name) => joinPath(path, "clients", name));
  const sizes = await Promise.all(parts.map((part) => storage.sizeBytes(part)));
  const begun = sizes.some((size) => size !== undefined);
  return openFederationPrivacy(plan, [client], { storage, path }, { begun, finished: false });
}

function spentBy(privacy: FederationPrivacy | undefined): Pick<JoinResult, "spent"> {
  const [spent] = privacy?.spent() ?? [];
  return spent ? { spent } : {};
}

/** The state that stands, once there is one; undefined when the client was stopped before. */
async function standing(
  transport: Transport,
  {
    pollMs,
    signal,
    waiting,
  }: { readonly pollMs: number; readonly signal: StopSignal | undefined; readonly waiting: () => void },
): Promise<RunState | undefined> {
  for (let told = false; !signal?.aborted; ) {
    const state = await readRun(transport);
    if (state) return state;
    if (!told) waiting();
    told = true;
    await pause(Math.min(pollMs, 1000), signal);
  }
  return undefined;
}

async function readRun(transport: Transport): Promise<RunState | undefined> {
  return readState((await transport.update(runState, () => undefined)).value, "state of the federation");
}

/** A plan as the options that it was made of. */
function choiceOf(plan: FederationPlan): FederationChoice {
  const { strategy, config, rounds, localSteps, clientsPerRound, minClients, learningRate, batchSize, seed } = plan;
  const { training, aggregation } = plan;
  const { targetModules, objectiveOptions, ...rest } = training as Omit<FederationChoice, "targetModules"> & {
    readonly targetModules?: unknown;
  }; // options are checked one by one below
  if (typeof targetModules !== "string") {
    throw new TuneError("bad-message", "The coordinator does not say what is tuned.", {
      at: "plan of the federation",
      fix: "use the same version of Scion on all sides",
    });
  }
  return {
    ...rest,
    ...(objectiveOptions && Object.keys(objectiveOptions).length > 0 ? { objectiveOptions } : {}),
    targetModules: parseTargets(targetModules),
    ...{ strategy, strategyOptions: config, rounds, localSteps, clientsPerRound, minClients },
    ...{ learningRate, batchSize, seed, aggregation },
  };
}

function pause(ms: number, signal: StopSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
  });
}
