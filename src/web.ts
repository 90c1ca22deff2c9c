import { type JoinOptions, type JoinResult, joinFederation } from "./api/join-federation.ts";
import type { LoadedData } from "./api/load-data.ts";
import type { LoadedModel } from "./api/load-model.ts";
import { openClientTransport } from "./api/nats-federation.ts";
import { claimOutput } from "./api/outputs.ts";
import type { Invitation } from "./federated/invitations.ts";
import { natsConnect } from "./runtime/web-nats.ts";

/*
 * What a page imports besides the API: its platform, a storage whose files stay, and taking part in a federation over WebSocket.
 */
export * from "./runtime/web.ts";

/** How a page takes part in a federation. */
export interface FederateOptions extends Omit<JoinOptions, "transport"> {
  /** Who this client is: what `scion federate invite` wrote, or where the model's storage has it. */
  readonly invitation: Invitation | { readonly file: string };
  /**
   * This client's own folder of the model's storage: its key, and what its data have spent. It has to be there when the page is
   * opened again, or the client cannot come back: `opfsStorage`.
   */
  readonly output: string;
  /** Addresses such as `wss://host`, in place of those of the invitation. */
  readonly servers?: readonly string[];
}

/**
 * Take part in a federation from a page, as `scion federate join` does: connect, train when asked to, and return when the federation
 * is done. The data stay in the page.
 * @throws {TuneError} `bad-invitation`, `invitation-used`; `bad-option` where no address is one for pages; as `joinFederation`.
 */
export async function federate(
  model: LoadedModel,
  data: Pick<LoadedData, "train" | "kind">,
  options: FederateOptions,
): Promise<JoinResult> {
  const { invitation, servers, ...rest } = options;
  const { storage } = model.platform;
  await claimOutput(storage, options.output, "federation-client"); // this client's key is written there when it connects
  const reach = { connect: natsConnect, ...(servers ? { servers } : {}) };
  const transport = await openClientTransport(storage, options.output, invitation, reach);
  try {
    return await joinFederation(model, data, { ...rest, transport });
  } finally {
    await transport.close();
  }
}
