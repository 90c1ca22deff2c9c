import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, normalize } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { root } from "./helpers/cli.ts";

/*
 * The package as npm publishes it, in a project that has it and its dependencies and nothing else of ours.
 */
let project: string;
let installed: string;
let files: readonly string[];
let packedBytes: number;

interface Manifest {
  readonly version: string;
  readonly engines: { readonly node: string };
  readonly dependencies: Readonly<Record<string, string>>;
  readonly [field: string]: unknown;
}
interface Locked {
  readonly dev?: boolean;
  readonly engines?: { readonly node?: string };
}
const json = <T>(path: string): T => JSON.parse(readFileSync(path, "utf8")) as T; // our own files, and npm's
const manifest = json<Manifest>(`${root}package.json`);

beforeAll(async () => {
  project = await mkdtemp(join(tmpdir(), "scion-package-"));
  installed = join(project, "node_modules/scionwood");
  const tarball = run(process.execPath, [`${root}scripts/pack.mjs`, project]).trim();
  packedBytes = statSync(tarball).size;
  mkdirSync(installed, { recursive: true });
  run("tar", ["-xzf", tarball, "-C", installed, "--strip-components", "1"]);
  files = readdirSync(installed, { recursive: true, encoding: "utf8" })
    .filter((name) => statSync(join(installed, name)).isFile())
    .map((name) => name.replaceAll("\\", "/"))
    .sort();
  // What npm would install beside it: its dependencies, and the runtime that the README names.
  for (const name of [...Object.keys(manifest.dependencies), "onnxruntime-node"]) {
    const target = join(project, "node_modules", name);
    mkdirSync(dirname(target), { recursive: true });
    symlinkSync(`${root}node_modules/${name}`, target, "junction");
  }
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "project", private: true, type: "module" }));
}, 600_000);
afterAll(() => rm(project, { recursive: true, force: true }));

function run(command: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, [...args], { cwd: project, encoding: "utf8" });
  expect(status, `${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

describe("the tarball", () => {
  it("holds the program with its types, the quickstart, the pages and the licence, and nothing else", () => {
    const known = [
      /^dist\/[\w/-]+\.(js|d\.ts)$/,
      /^assets\/quickstart\/(README\.md|(train|heldout)\.jsonl|model\/[\w.]+\.(json|safetensors))$/,
      /^docs\/[\w/-]+\.(md|svg)$/,
      /^docs\/(tune\.schema|federated\/\w+)\.json$/,
      /^examples\/\w+\.mjs$/,
      /^(README\.md|CHANGELOG\.md|LICENSE|package\.json)$/,
    ];
    expect(files.filter((file) => !known.some((pattern) => pattern.test(file)))).toEqual([]);
    expect(
      files.filter((file) => /test|conformance|browser|golden|assembly/.test(file.replace(/fastest/, ""))),
    ).toEqual([]);
    expect(readFileSync(join(installed, "LICENSE"), "utf8")).toContain("Apache License\n");
    const unpackedBytes = files.reduce((sum, file) => sum + statSync(join(installed, file)).size, 0);
    // 4.3 and 7.4 MB, of which the quickstart's model is 3.6.
    expect(packedBytes).toBeLessThan(5e6);
    expect(unpackedBytes).toBeLessThan(9e6);
  });

  it("has a module for everything that it exports, with its types", () => {
    const { exports } = json<{ readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>> }>(
      join(installed, "package.json"),
    );
    const named = Object.values(exports).flatMap((entry) =>
      typeof entry === "string" ? [entry] : Object.values(entry),
    );
    expect(named.filter((path) => !existsSync(join(installed, path)))).toEqual([]);
  });

  it("says where it comes from", () => {
    expect(manifest).toMatchObject({
      license: "Apache-2.0",
      repository: { type: "git", url: expect.stringMatching(/^git\+https:/) },
      bugs: expect.stringMatching(/^https:/),
      homepage: expect.stringMatching(/^https:/),
    });
  });

  it("has every page and picture that its pages link to", () => {
    const broken = files
      .filter((file) => file.endsWith(".md"))
      .flatMap((page) => {
        const text = readFileSync(join(installed, page), "utf8").replace(/```[\s\S]*?```/g, "");
        const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link = ""]) => link.split("#")[0] ?? "");
        const own = links.filter((link) => link !== "" && !/^[a-z]+:/.test(link));
        return own
          .map((link) => normalize(join(dirname(page), link)).replaceAll("\\", "/"))
          .filter((path) => !files.includes(path))
          .map((path) => `${page}: ${path}`);
      });
    expect(broken).toEqual([]);
  });
});

describe("a project that has installed it", () => {
  // Another compiler, such as TypeScript 5.9's: CONSUMER_TSC=<path of its bin/tsc>.
  const here = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
  const compilers = [here, process.env["CONSUMER_TSC"]].filter((path) => path !== undefined);

  it.each(compilers)("type-checks with the library of ES2022 alone, and nothing skipped: %s", (compiler) => {
    const names = ["", "/ops", "/methods", "/node", "/web"];
    const used = `
      import { generate, loadModel, type StopSignal, TuneError, tune } from "scionwood";
      import { nodePlatform } from "scionwood/node";
      export async function use(signal: StopSignal): Promise<number | undefined> {
        const model = await loadModel("folder", { platform: nodePlatform });
        for await (const text of generate(model, "a", { signal })) if (text === "b") throw new TuneError("x", text);
        return undefined;
      }
      export const wrong: Parameters<typeof tune>[2] = {
        // @ts-expect-error: types are there, and say what is wrong
        learningRate: "fast",
      };`;
    const all = names.map((name, i) => `export * as m${i} from "scionwood${name}";`);
    writeFileSync(join(project, "use.ts"), [...all, used].join("\n"));
    const compilerOptions = {
      ...{ target: "es2022", lib: ["es2022"], types: [], module: "nodenext", moduleResolution: "nodenext" },
      ...{ strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, skipLibCheck: false },
      ...{ noEmit: true },
    };
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["use.ts"] }));
    run(process.execPath, [compiler, "-p", "tsconfig.json"]);
  });

  it("has the command", () => {
    const command = join(project, "node_modules/.bin/scion");
    mkdirSync(dirname(command), { recursive: true });
    symlinkSync("../scionwood/dist/cli/main.js", command); // as npm does
    chmodSync(join(installed, "dist/cli/main.js"), 0o755);
    expect(run(command, ["--version"]).trim()).toBe(manifest.version);
    expect(run(command, ["inspect", join(installed, "assets/quickstart/model")])).toContain("llama");
  });

  it("runs the README's example", () => {
    const [, code = ""] = /```js\n([\s\S]*?)```/.exec(readFileSync(join(installed, "README.md"), "utf8")) ?? [];
    writeFileSync(join(project, "example.mjs"), code);
    expect(run(process.execPath, ["example.mjs"])).toMatch(/validation loss \d/);
    expect(existsSync(join(project, "runs/example/adapter/adapter_model.safetensors"))).toBe(true);
    expect(existsSync(join(project, "runs/example/web/onnx/model.onnx"))).toBe(true);
  });
});

describe("the Node that engines name", () => {
  it("is enough for every dependency", () => {
    const [, least = ""] = /^>=(20\.12)$/.exec(manifest.engines.node) ?? [];
    const [major = 0, minor = 0] = least.split(".").map(Number);
    const { packages } = json<{ readonly packages: Readonly<Record<string, Locked>> }>(`${root}package-lock.json`);
    const wanting = Object.entries(packages).filter(([name, { dev, engines }]) => {
      if (name === "" || dev || engines?.node === undefined) return false;
      return !engines.node.split("||").some((range) => {
        const [, from, after = "0"] = /^\s*(?:>=|\^)?\s*(\d+)(?:\.(\d+))?/.exec(range) ?? [];
        return major > Number(from) ? !range.includes("^") : major === Number(from) && minor >= Number(after);
      });
    });
    expect(wanting).toEqual([]);
  });

  /** What each module of Node 20.12.2 exports: tests/fixtures/node-20.12.json was written by that very program. */
  it("has everything that is imported from it", () => {
    const exported = json<Readonly<Record<string, readonly string[]>>>(`${root}tests/fixtures/node-20.12.json`);
    const sources = readdirSync(`${root}src`, { recursive: true, encoding: "utf8" }).filter(
      (name) => name.endsWith(".ts") && !/\.(test|browser|conformance)\.ts$/.test(name),
    );
    let seen = 0;
    const missing = sources.flatMap((file) => {
      const text = readFileSync(`${root}src/${file}`, "utf8");
      const imported = [...text.matchAll(/^import (?!type )\{([^}]*)\} from "node:([\w/]+)"/gm)].flatMap(
        ([, names = "", module = ""]) =>
          names
            .split(",")
            .map((name) => name.trim().split(" as ")[0] ?? "")
            .filter((name) => name !== "" && !name.startsWith("type "))
            .map((name) => [module, name] as const),
      );
      const members = [...text.matchAll(/\bprocess\.(\w+)/g)].map(([, name = ""]) => ["process", name] as const);
      seen += imported.length + members.length;
      return [...imported, ...members]
        .filter(([module, name]) => exported[module]?.includes(name) !== true)
        .map(([module, name]) => `${file}: ${module}.${name}`);
    });
    expect(seen).toBeGreaterThan(40);
    expect(missing).toEqual([]);
  });
});
