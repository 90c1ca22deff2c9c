import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openClientTransport } from "../src/index.ts";
import { natsConnect } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { jsonLines, root, runHere, scion, startScion } from "./helpers/cli.ts";
import { natsServer, natsSettings, type RunningNats, readText, startNats, withoutNats } from "./helpers/nats-server.ts";

const model = `${root}assets/quickstart/model`;
const rounds = ["--rounds", "2", "--local-steps", "2", "--batch-size", "2", "--learning-rate", "0.1", "--rank", "2"];
const names = ["ana", "ben", "mallory"];

/** A federation of processes on one machine. */
describe.skipIf(natsServer === undefined)(`scion federate serve and join (${natsServer ?? withoutNats})`, () => {
  let folder: string;
  let server: RunningNats;
  let address: string;
  const at = (path: string): string => join(folder, path);

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scion-federate-nats-"));
    const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
    await writeFile(at("ana.jsonl"), rows.slice(0, 12).join("\n"));
    await writeFile(at("ben.jsonl"), rows.slice(12, 30).join("\n"));
    const settings = await natsSettings(at("fed"));
    address = `nats://${settings.listen}`;
    const here = ["--listen", settings.listen, "--address", address];
    await runHere("federate create", "--run", "shoot", ...here, "-o", at("fed"));
    for (const name of names)
      await runHere("federate invite", "--federation", at("fed"), "--client", name, "-o", at(`${name}.json`));
    server = await startNats(at("fed"), settings, readText(at("fed/nats.conf")));
  }, 60_000);
  afterAll(async () => {
    await server?.kill();
    await rm(folder, { recursive: true, force: true });
  });

  const join_ = (name: string): readonly string[] => [
    ...["-m", model, "-d", at(`${name}.jsonl`), "--invite", at(`${name}.json`), "-o", at(`of-${name}`)],
    ...["--threads", "1", "--json"],
  ];
  const serve = (...more: readonly string[]): readonly string[] => [
    ...["-m", model, "--federation", at("fed"), "--clients", "2", ...rounds, "-o", at("served")],
    ...["--threads", "1", "--json", ...more],
  ];
  const weights = async (path: string): Promise<string> =>
    (await readFile(join(at(path), "adapter/adapter_model.safetensors"))).toString("base64");

  it("comes to what the simulation comes to, though one client is killed and comes back, and one sends garbage", async () => {
    // Mallory tells of an upload that nobody was asked for, under its own name, and of a round that is not there.
    const serving = startScion("federate serve", ...serve("--seed", "3"));
    const invitation = JSON.parse(await readFile(at("mallory.json"), "utf8"));
    const mallory = await openClientTransport(nodeStorage, at("mallory"), invitation, { connect: natsConnect });
    await mallory.publish({ kind: "upload", id: "garbage", body: { round: 0, base: "x", layers: "none" } });
    await mallory.publish({ kind: "join", id: "mallory", body: { protocol: 99 } });

    const ben = startScion("federate join", ...join_("ben"));
    const killed = startScion("federate join", ...join_("ana"));
    await new Promise<void>((resolve) => {
      killed.child.stdout?.on("data", (text: Buffer) => String(text).includes('"joined"') && resolve());
    });
    killed.child.kill("SIGKILL");
    await killed.ended;
    const ana = startScion("federate join", ...join_("ana"));

    const ended = await Promise.all([serving.ended, ben.ended, ana.ended]);
    for (const { code, stderr } of ended) expect([code, stderr]).toEqual([0, stderr]);
    const lines = jsonLines(ended[0].stdout);
    expect(lines.filter(({ kind }) => kind === "round")).toHaveLength(2);
    expect(lines.at(-1)).toMatchObject({ kind: "saved", ended: "finished" });
    await mallory.close();

    const files = [at("ana.jsonl"), at("ben.jsonl")];
    const simulated = await scion([
      ...["federate simulate", "-m", model, "-d", ...files, "--split", "files", ...rounds, "--seed", "3"],
      ...["-o", at("simulated"), "--threads", "1"],
    ]);
    expect(simulated.code, simulated.stderr).toBe(0);
    const expected = await weights("simulated");
    for (const place of ["served", "of-ana", "of-ben"])
      expect([place, await weights(place)]).toEqual([place, expected]);
  }, 240_000);

  it("says what is wrong with credentials and servers", async () => {
    const failure = async (...args: readonly string[]): Promise<string> => {
      const { code, stdout } = await scion([...args]);
      expect(code).toBe(2);
      return String((jsonLines(stdout).at(-1)?.["error"] as { code: string } | undefined)?.code);
    };
    await writeFile(at("bad.json"), "no JSON");
    const join = join_("ana").with(5, at("bad.json"));
    expect(await failure("federate join", ...join)).toBe("bad-invitation");
    expect(await failure("federate join", ...join_("ana"), "--engine", "http://localhost:1")).toBe("bad-option");
    const guessed = { ...JSON.parse(await readFile(at("ana.json"), "utf8")), password: "guessed" };
    await writeFile(at("wrong.json"), JSON.stringify(guessed));
    expect(await failure("federate join", ...join_("ana").with(5, at("wrong.json")))).toBe("not-permitted");
    const twice = ["--federation", at("fed"), "--client", "ana"];
    expect(await failure("federate invite", ...twice, "-o", at("ana.json"), "--json")).toBe("output-exists");
    expect(await failure("federate invite", ...twice, "-o", at("more.json"), "--json")).toBe("client-exists");
    const again = ["--run", "shoot", "--address", "nats://a:1", "-o", at("fed"), "--json"];
    expect(await failure("federate create", ...again)).toBe("run-exists");
    // An invitation belongs to whoever used it first: another folder has another key.
    expect(await failure("federate join", ...join_("ana").with(7, at("elsewhere")))).toBe("invitation-used");
    expect(await failure("federate serve", ...serve().with(3, at("nowhere")), "--replace")).toBe("file-not-found");
    expect(await failure("federate serve", ...serve(), "--max-length", "9", "--replace")).toBe("bad-option");
  }, 120_000);
});
