import type { FederationPlan } from "../federated/index.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { accountants, keyIn, type Ledger, newKey, openGenerator, openLedger, type Spend } from "../privacy/index.ts";
import { budgetOf, type ClientPrivacy, spendOf } from "./federation-trainer.ts";
import type { ClientData } from "./load-clients.ts";

/** What one client's data have spent in a federation. */
export interface ClientSpent {
  readonly client: string;
  readonly samplingRate: number;
  readonly noiseMultiplier: number;
  /** Updates that were made, or may have been. */
  readonly steps: number;
  readonly epsilon: number;
  readonly delta: number;
}

/** The secrets and ledgers of a simulation's clients. */
export interface FederationPrivacy {
  readonly clients: ReadonlyMap<string, ClientPrivacy>;
  /** What a client writes down before a round. */
  reserve(client: string): (id: string, spend: Spend) => Promise<void>;
  spent(): readonly ClientSpent[];
  /** Forget the secrets of a federation that will not go on. */
  forgetKeys(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Give every client a secret of its own and a ledger. They lie in the federation's folder, the secrets until it has finished, so
 * that a federation which goes on draws the same noise for a round that is made again; without a folder they are in memory.
 * @throws {TuneError} `no-privacy-key` where a federation that has begun lacks a secret; `budget-too-small`; `ledger-damaged`.
 */
export async function openFederationPrivacy(
  plan: FederationPlan,
  clients: readonly ClientData[],
  folder: { readonly storage: Storage; readonly path: string } | undefined,
  { begun, finished }: { readonly begun: boolean; readonly finished: boolean },
): Promise<FederationPrivacy> {
  const place = folder ?? { storage: memoryStorage(), path: "" };
  const at = (name: string): string => joinPath(place.path, "clients", name);
  const own = new Map<string, ClientPrivacy>();
  const ledgers = new Map<string, Ledger>();
  const close = async (): Promise<void> => {
    for (const ledger of ledgers.values()) await ledger.close();
  };
  try {
    if (!begun) await place.storage.remove(joinPath(place.path, "clients")); // of a federation that is started over
    for (const { name, train } of clients) {
      const spend = spendOf(plan, train.length);
      if (!spend) continue;
      const { samplingRate, noiseMultiplier } = spend;
      // Of one that has finished only the ledgers are read.
      const key = finished ? newKey() : await keyIn(place.storage, `${at(name)}.key`, { begun, whose: name });
      const generator = openGenerator(key);
      own.set(name, { samplingRate, noiseMultiplier, generator });
      ledgers.set(name, await openLedger(place.storage, `${at(name)}.ledger`));
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    clients: own,
    reserve: (client) => async (id, spend) => {
      const budget = budgetOf(plan, spend);
      if (budget) await ledgers.get(client)?.reserve({ id, ...spend }, budget);
    },
    spent: () =>
      [...ledgers].map(([client, { entries }]): ClientSpent => {
        const { delta = 1e-5, accountant = "prv" } = plan.privacy ?? {};
        const { samplingRate = 0, noiseMultiplier = 0 } = own.get(client) ?? {};
        const steps = entries.reduce((sum, entry) => sum + entry.steps, 0);
        const epsilon = steps === 0 ? 0 : accountants[accountant](entries, delta).epsilon;
        return { client, samplingRate, noiseMultiplier, steps, epsilon, delta };
      }),
    forgetKeys: async () => {
      for (const name of own.keys()) await place.storage.remove(`${at(name)}.key`);
    },
    close,
  };
}
