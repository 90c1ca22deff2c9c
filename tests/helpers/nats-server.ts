import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, connect as dial } from "node:net";
import { delimiter, join } from "node:path";
import { type NatsServer, natsConfig } from "../../src/federated/engines/nats-config.ts";

/** A nats-server of this machine; undefined where there is none. */
export const natsServer: string | undefined = find();

/** Said once where it is missing. */
export const withoutNats =
  "no nats-server on the PATH, in /usr/sbin or /usr/local/bin: get one by apt-get install nats-server, brew install nats-server, or from github.com/nats-io/nats-server/releases";
if (natsServer === undefined) console.warn(`Tests over NATS are skipped: ${withoutNats}`);

function find(): string | undefined {
  const name = process.platform === "win32" ? "nats-server.exe" : "nats-server";
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin"];
  const found = folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
  return found !== undefined && spawnSync(found, ["--version"]).status === 0 ? found : undefined;
}

/** A port that nobody listens to. */
export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}

/** A server that runs. */
export interface RunningNats {
  readonly address: string;
  readonly process: () => ChildProcess;
  /** End it, as if the machine had failed unless told otherwise. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Start it again on what it kept. */
  start(): Promise<void>;
  /** Have it read another configuration. */
  reload(changes: Partial<NatsServer>): Promise<void>;
  readonly log: () => string;
}

/** Start a server in a folder with a configuration of ours, or with the text given. */
export async function startNats(folder: string, server: NatsServer, plain?: string): Promise<RunningNats> {
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "nats.conf");
  let config = server;
  let child: ChildProcess;
  let log = "";
  const write = (): void => writeFileSync(file, plain ?? natsConfig(config));
  const start = async (): Promise<void> => {
    child = spawn(natsServer ?? "", ["-c", file], { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [child.stdout, child.stderr]) stream?.on("data", (text) => (log += String(text)));
    await listening(server.listen, child, () => log);
  };
  write();
  await start();
  return {
    address: server.listen,
    process: () => child,
    kill: (signal = "SIGKILL") =>
      new Promise((resolve) => {
        if (child.exitCode !== null || child.signalCode !== null) return resolve();
        child.once("exit", () => resolve());
        child.kill(signal);
      }),
    start,
    reload: async (changes) => {
      config = { ...config, ...changes };
      write();
      const before = log.length;
      child.kill("SIGHUP");
      for (let i = 0; i < 100 && !log.slice(before).includes("Reloaded"); i++)
        await new Promise((r) => setTimeout(r, 50));
    },
    log: () => log,
  };
}

/** Three servers that keep the same, named n0 to n2. */
export async function startCluster(
  folder: string,
): Promise<{ readonly servers: readonly RunningNats[]; readonly addresses: readonly string[] }> {
  const routes = await Promise.all([0, 1, 2].map(async () => `127.0.0.1:${await freePort()}`));
  const settings = await Promise.all(
    routes.map((listen, i) => natsSettings(join(folder, `n${i}`), { cluster: { server: `n${i}`, listen, routes } })),
  );
  const servers = await Promise.all(settings.map((each, i) => startNats(join(folder, `n${i}`), each)));
  return { servers, addresses: settings.map(({ listen }) => listen) };
}

async function listening(address: string, child: ChildProcess, log: () => string): Promise<void> {
  const [host = "", port = ""] = address.split(":");
  for (let tries = 0; tries < 400; tries++) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = dial(Number(port), host, () => {
        socket.destroy();
        resolve(true);
      }).on("error", () => resolve(false));
    });
    if (open) return;
    if (child.exitCode !== null) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`nats-server did not start:\n${log()}`);
}

/** What tests need of a configuration; ports are free ones. */
export async function natsSettings(folder: string, changes: Partial<NatsServer> = {}): Promise<NatsServer> {
  return {
    run: "r1",
    listen: `127.0.0.1:${await freePort()}`,
    store: join(folder, "js"),
    maxFile: "1GB",
    coordinatorPassword: "secret-of-the-coordinator",
    clients: ["ann", "bob"].map((name) => ({ name, password: passwordOf(name) })),
    ...changes,
  };
}

/** What a client's password is in tests. */
export const passwordOf = (name: string): string =>
  name === "coordinator" ? "secret-of-the-coordinator" : `secret-of-${name}`;

/** The text of a file, for looking into configurations. */
export const readText = (path: string): string => readFileSync(path, "utf8");
