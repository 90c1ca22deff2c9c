import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openMemoryEngine, type RunState, runState } from "../src/federated/index.ts";
import {
  type FederationChoice,
  federationStatus,
  joinFederation,
  loadClients,
  loadModel,
  openClientTransport,
  openCoordinatorTransport,
  privacySpent,
  serveFederation,
  simulateFederation,
} from "../src/index.ts";
import { natsConnect, nodePlatform } from "../src/runtime/node.ts";
import { root, runHere } from "./helpers/cli.ts";
import { natsServer, natsSettings, type RunningNats, readText, startNats, withoutNats } from "./helpers/nats-server.ts";

const { storage } = nodePlatform;
const reach = { connect: natsConnect, patienceMs: 5000 };

describe.skipIf(natsServer === undefined)(
  `looking at a federation, and ending it (${natsServer ?? withoutNats})`,
  () => {
    let folder: string;
    let server: RunningNats;
    const at = (path: string): string => join(folder, path);
    const fed = (): readonly string[] => ["--federation", at("fed")];

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), "scion-federate-status-"));
      const settings = await natsSettings(at("fed"));
      const address = `nats://${settings.listen}`;
      await runHere(
        "federate create",
        "--run",
        "shoot",
        "--listen",
        settings.listen,
        "--address",
        address,
        "-o",
        at("fed"),
      );
      for (const name of ["ana", "ben", "cy"])
        await runHere("federate invite", ...fed(), "--client", name, "-o", at(`${name}.json`));
      server = await startNats(at("fed"), settings, readText(at("fed/nats.conf")));
    });
    afterAll(async () => {
      await server?.kill();
      await rm(folder, { recursive: true, force: true });
    });
    const reload = async (): Promise<void> => {
      const before = server.log().length;
      server.process().kill("SIGHUP");
      await vi.waitFor(() => expect(server.log().slice(before)).toContain("Reloaded"), 10_000);
    };

    it("says who is late, goes on without who was withdrawn, stops after the round, and comes to the same bits", async () => {
      await expect(runHere("federate status", ...fed())).rejects.toMatchObject({ code: "no-federation" });
      await expect(runHere("federate stop", ...fed())).rejects.toMatchObject({ code: "no-federation" });
      await expect(runHere("federate report", at("fed"))).rejects.toMatchObject({ code: "file-not-found" });

      const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
      await writeFile(at("ana.jsonl"), rows.slice(0, 6).join("\n"));
      await writeFile(at("ben.jsonl"), rows.slice(6, 14).join("\n"));
      const model = await loadModel(`${root}assets/quickstart/model`, { platform: nodePlatform });
      const choice: FederationChoice = {
        ...{ rounds: 2, localSteps: 1, batchSize: 2, learningRate: 0.1, seed: 3 },
        ...{ methodOptions: { rank: 2 }, targetModules: ["q_proj"] },
      };
      const device = await nodePlatform.openDevice({ worker: false, threads: 1 });
      const files = [at("ana.jsonl"), at("ben.jsonl")];
      const data = await loadClients(model, files, { split: "files", maxLength: 48, validation: 0 });
      const serve = async (more: { readonly resume?: boolean }) => {
        const transport = await openCoordinatorTransport(storage, at("fed"), reach);
        const { run, withdrawn } = transport;
        const done = serveFederation(model, {
          ...{ ...choice, ...more, device, transport, run, withdrawn, clients: 3, output: at("served") },
        }).finally(() => transport.close());
        return { transport, done };
      };
      const first = await serve({});
      const cy = await openClientTransport(storage, at("cy"), { file: at("cy.json") }, reach);
      const joining = data.clients.map(async ({ name, train }) => {
        const transport = await openClientTransport(storage, at(name), { file: at(`${name}.json`) }, reach);
        return joinFederation(model, { train, kind: data.kind }, { transport, pollMs: 200, device }).finally(() =>
          transport.close(),
        );
      });
      let base: unknown;
      await vi.waitFor(async () => {
        base = ((await cy.update(runState, () => undefined)).value as RunState).plan.base;
      }, 20_000);
      await cy.publish({ kind: "join", id: "cy", body: { protocol: 1, examples: 7, base } }); // and says nothing more

      const status = async () => (await runHere("federate status", ...fed())).records[0] as Record<string, unknown>;
      await vi.waitFor(
        async () =>
          expect(await status()).toMatchObject({
            ...{ run: "shoot", phase: "training", stopping: false, round: 0, rounds: 2 },
            clients: [
              { client: "ana", examples: 6, now: "sent", rounds: 0 },
              { client: "ben", examples: 8, now: "sent" },
              { client: "cy", examples: 7, now: "late" },
            ],
          }),
        { timeout: 30_000, interval: 300 },
      );
      expect((await runHere("federate stop", ...fed())).records).toEqual([
        { kind: "stopping", run: "shoot", rounds: 1 },
      ]);
      expect((await runHere("federate status", ...fed())).said).toMatch(
        /0 of 2 rounds closed; round 1 under way.*it was told to stop[\s\S]*\ncy +7 +late/,
      );

      await expect(runHere("federate invite", ...fed(), "--withdraw", "dan")).rejects.toMatchObject({
        code: "no-client",
      });
      await expect(runHere("federate invite", ...fed(), "--withdraw", "cy", "--client", "cy")).rejects.toMatchObject({
        code: "bad-option",
      });
      await expect(runHere("federate invite", ...fed(), "--client", "dan")).rejects.toMatchObject({
        code: "bad-option",
      });
      const { records } = await runHere("federate invite", ...fed(), "--withdraw", "cy");
      expect(records).toEqual([{ kind: "withdrawn", client: "cy" }]);
      await first.transport.refresh(); // which serve does every few seconds
      expect(await first.done).toMatchObject({
        ...{ ended: "interrupted", rounds: 1 },
        history: [{ clients: { ana: {}, ben: {} }, declined: { cy: "withdrawn" } }],
      });
      await reload();
      await expect(cy.publish({ kind: "join", id: "again", body: {} })).rejects.toMatchObject({
        code: "not-permitted",
      });
      await cy.close();
      await expect(openClientTransport(storage, at("cy"), { file: at("cy.json") }, reach)).rejects.toMatchObject({
        code: "not-permitted",
      });
      const again = runHere("federate invite", ...fed(), "--client", "cy", "-o", at("cy2.json"));
      await expect(again).rejects.toMatchObject({ code: "client-exists" });

      const { records: drawn } = await runHere("federate report", at("served"));
      expect(drawn).toEqual([{ kind: "report", round: 1, rounds: 2, written: `${at("served")}/report.html` }]);
      const page = await readFile(at("served/report.html"), "utf8");
      expect(page).toMatch(/1 of 2 rounds[\s\S]*<svg[\s\S]*<td>cy<\/td><td>7<\/td><td>0<\/td>[\s\S]*withdrawn/);

      const result = await (await serve({ resume: true })).done;
      expect([result.ended, result.rounds]).toEqual(["finished", 2]);
      for (const { ended } of await Promise.all(joining)) expect(ended).toBe("finished");
      expect(await status()).toMatchObject({ phase: "done", clients: [{ rounds: 2 }, { rounds: 2 }, { now: "gone" }] });
      expect((await runHere("federate stop", ...fed())).said).toMatch(/has ended already/);
      const { adapter } = await simulateFederation(model, data, { ...choice, device });
      for (const [name, { data: values }] of adapter.parameters) {
        expect([...(result.adapter.parameters.get(name)?.data ?? [])], name).toEqual([...values]);
      }
      await device.close();
    }, 120_000);
  },
);

it("says what each client's data have spent at most: every round in which it was asked", async () => {
  const coordinator = openMemoryEngine().connect("coordinator");
  const privacy = { clip: 1, delta: 1e-5, epsilon: 0, noiseMultiplier: 1.1, maxRounds: 3, accountant: "prv" };
  const round = { clients: { ana: {} }, refused: {}, declined: {}, silent: ["ben"], measures: {} };
  const state = {
    ...{ protocol: 1, run: "r", phase: "training", round: 2, attempt: 1, since: Date.now(), gone: {}, uploads: {} },
    plan: { strategy: "ffa", rounds: 9, localSteps: 5, batchSize: 4, roundMs: 0, privacy },
    ...{ members: { ana: { examples: 400 }, ben: { examples: 200 }, cy: { examples: 100 } }, history: [round, round] },
    ...{ participants: ["ana", "ben"], refused: {}, declined: {} },
  };
  await coordinator.update(runState, () => state);
  const { clients } = await federationStatus(coordinator);
  const epsilon = (samplingRate: number): number =>
    privacySpent({ spends: [{ samplingRate, noiseMultiplier: 1.1, steps: 15 }], delta: 1e-5 }).prv;
  expect(clients.map(({ client, rounds, missed, now, spent }) => [client, rounds, missed, now, spent])).toEqual([
    ["ana", 2, 0, "training", { epsilon: epsilon(0.01), delta: 1e-5, steps: 15 }],
    ["ben", 0, 2, "training", { epsilon: epsilon(0.02), delta: 1e-5, steps: 15 }],
    ["cy", 0, 0, "idle", { epsilon: 0, delta: 1e-5, steps: 0 }],
  ]);
});
