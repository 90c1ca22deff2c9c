import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { guardOutputs, putBack, writeFolder } from "../src/io/outputs/index.ts";
import { outputConformance } from "../src/io/outputs/outputs.conformance.ts";
import { storageConformance } from "../src/io/storage.conformance.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { program, root, runHere, scion } from "./helpers/cli.ts";

/*
 * Outputs on other file systems than the inputs': another disk, something mounted at the very place, a layered disk as
 * containers have it, whose folders cannot be renamed. Where the system lets nobody mount, these say so and are skipped.
 */

const folder = await mkdtemp(join(tmpdir(), "scion-disks-"));
const mounted: string[] = [];
const made: string[] = [folder];
afterAll(async () => {
  for (const place of mounted.reverse()) spawnSync("umount", [place]);
  for (const place of made) await rm(place, { recursive: true, force: true });
});

/** Mount something at a folder of its own; undefined, with a message, where that is not allowed. */
async function mount(name: string, ...args: readonly string[]): Promise<string | undefined> {
  const place = join(folder, name);
  await mkdir(place, { recursive: true });
  const { status, stderr, error } = spawnSync("mount", [...args, place], { encoding: "utf8" });
  if (status === 0) {
    mounted.push(place);
    return place;
  }
  console.warn(`${name} is not tried: mount answers ${error?.message ?? stderr.trim()}`);
  return undefined;
}

async function otherDisk(): Promise<string | undefined> {
  const device = async (path: string): Promise<number | undefined> => (await stat(path).catch(() => undefined))?.dev;
  const own = await device(folder);
  for (const place of ["/dev/shm", "/run/shm"]) {
    const there = await device(place);
    if (there === undefined || there === own) continue;
    const inside = await mkdtemp(join(place, "scion-disks-")).catch(() => undefined);
    if (inside === undefined) continue;
    made.push(inside);
    return inside;
  }
  console.warn("another disk is not tried: there is none at /dev/shm");
  return undefined;
}

const disk = await otherDisk();
const tmpfs = await mount("tmpfs", "-t", "tmpfs", "-o", "size=60m", "scion");
const layers = ["lower", "upper", "work"].map((name) => join(folder, name));
for (const layer of layers) await mkdir(layer, { recursive: true });
await mkdir(join(folder, "lower/theirs/sub"), { recursive: true });
await writeFolder(nodeStorage, join(folder, "lower/out"), "peft", (to) => nodeStorage.write(join(to, "sub/a"), "old"));
await writeFile(join(folder, "lower/theirs/sub/a"), "old");
const [lower, upper, work] = layers;
const layered = await mount(
  "layered",
  "-t",
  "overlay",
  "-o",
  `lowerdir=${lower},upperdir=${upper},workdir=${work}`,
  "scion",
);

describe.skipIf(disk === undefined)("another disk", () => {
  const fresh = async (): Promise<{ storage: typeof nodeStorage; root: string }> => {
    return { storage: nodeStorage, root: await mkdtemp(join(disk ?? "", "o-")) };
  };
  outputConformance("another disk", fresh);
  storageConformance("another disk", fresh);

  it("takes what is made of a model on this one, and files are not renamed from one to the other", async () => {
    const out = join(disk ?? "", "export");
    for (const _again of [1, 2]) {
      const { code } = await runHere(
        "export",
        "-m",
        `${root}assets/quickstart/model`,
        "--to",
        "safetensors",
        "-o",
        out,
      );
      expect(code).toBe(0);
    }
    expect((await readdir(out)).includes("model.safetensors")).toBe(true);
    await writeFile(join(folder, "file"), "here");
    await expect(nodeStorage.rename(join(folder, "file"), join(disk ?? "", "file"))).rejects.toMatchObject({
      code: "write-failed",
      message: expect.stringContaining("EXDEV"),
    });
    expect(await readFile(join(folder, "file"), "utf8")).toBe("here");
  });
});

describe.skipIf(tmpfs === undefined)("a mount point", () => {
  const at = tmpfs ?? "";

  it("gets its files one by one, from a model on another disk, and leaves what is somebody's", async () => {
    expect(await nodeStorage.fixed(at)).toBe(true);
    const run = (...more: readonly string[]): Promise<unknown> =>
      runHere("export", "-m", `${root}assets/quickstart/model`, "--to", "safetensors", "-o", at, ...more);
    expect(await run()).toMatchObject({ code: 0 });
    expect(await run()).toMatchObject({ code: 0 });
    await writeFile(join(at, "mine"), "mine");
    await expect(run()).rejects.toMatchObject({ code: "output-exists" });
    expect(await readFile(join(at, "mine"), "utf8")).toBe("mine");
    expect(await run("--replace")).toMatchObject({ code: 0 });
    expect((await readdir(at)).sort()).toEqual(
      (await readdir(at)).filter((name) => !/mine|partial|lock/.test(name)).sort(),
    );
    expect((await readdir(folder)).filter((name) => name.startsWith("tmpfs"))).toEqual(["tmpfs"]);
    expect((await stat(at)).dev).not.toBe((await stat(folder)).dev);
    await rm(join(at, "model.safetensors"));
  });

  it("takes a run, which goes on there", async () => {
    await rm(join(at, "run"), { recursive: true, force: true });
    const inner = join(folder, "run");
    await mkdir(inner);
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=60m", "scion", inner]).status).toBe(0);
    mounted.push(inner);
    const tune = (...more: readonly string[]): Promise<{ code: number }> =>
      runHere(
        "tune",
        ...[
          "-m",
          `${root}assets/quickstart/model`,
          "-d",
          `${root}assets/quickstart/heldout.jsonl`,
          "--batch-size",
          "2",
        ],
        ...["--max-steps", "2", "--max-length", "48", "-o", inner, ...more],
      );
    expect((await tune()).code).toBe(0);
    await expect(tune()).rejects.toMatchObject({ code: "run-exists" });
    expect((await tune("--resume")).code).toBe(0);
    expect((await tune("--replace")).code).toBe(0);
    expect(existsSync(join(inner, "adapter/adapter_config.json"))).toBe(true);
  });
});

describe.skipIf(layered === undefined)("a folder of a lower layer", () => {
  it("is replaced file by file, as it cannot be renamed", async () => {
    const at = (name: string): string => join(layered ?? "", name);
    const write = (name: string, storage = nodeStorage): Promise<void> =>
      writeFolder(storage, at(name), "peft", (to) => storage.write(join(to, "b"), "new"));
    await write("out");
    await expect(write("theirs")).rejects.toMatchObject({ code: "output-exists" });
    await write("theirs", guardOutputs(nodeStorage, { replace: true }));
    for (const name of ["out", "theirs"]) expect(await readdir(at(name))).toEqual([".scion.json", "b"]);
    expect(await readdir(layered ?? "")).toEqual(["out", "theirs"]);
    await write("out");
    expect(await readFile(join(folder, "lower/theirs/sub/a"), "utf8")).toBe("old");
  });
});

describe("a process that is killed between the two names of a folder", () => {
  it("leaves a model that commands find", async () => {
    const out = join(folder, "killed/out");
    await cp(`${root}assets/quickstart/model`, out, { recursive: true });
    const modules = program.replace("cli/main.js", "");
    const script = `
      import { guardOutputs, writeFolder } from "./${modules}io/outputs/index.js";
      import { nodePlatform } from "./${modules}runtime/node.js";
      const rename = async (from, to) => {
        await nodePlatform.storage.rename(from, to);
        if (to.endsWith("/old")) process.kill(process.pid, "SIGKILL");
      };
      const storage = guardOutputs({ ...nodePlatform.storage, rename }, { replace: true });
      await writeFolder(storage, ${JSON.stringify(out)}, "safetensors", (to) => storage.write(to + "/a", "new"));`;
    const { signal, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
      cwd: root,
      encoding: "utf8",
    });
    expect(signal, stderr).toBe("SIGKILL");
    expect(existsSync(out)).toBe(false);
    const { code, stdout } = await scion(["generate", "-m", out, "-p", "Once", "--max-new-tokens", "2", "--json"]);
    expect([code, stdout]).toEqual([0, expect.stringContaining("finishReason")]);
    expect(await readdir(join(folder, "killed"))).toEqual(["out", "out.scion-partial"]); // which the next writer clears
  });

  it("is told with the place, where nothing can be put back", async () => {
    const aside = join(folder, "aside/out.scion-replaced");
    await nodeStorage.write(join(aside, ".scion.json"), JSON.stringify({ version: 1, kind: "replaced", files: {} }));
    await nodeStorage.write(join(aside, "old/config.json"), "{}");
    const lock = await nodeStorage.lock(join(folder, "aside/out"));
    await expect(putBack(nodeStorage, join(folder, "aside/out"))).rejects.toMatchObject({
      code: "put-aside",
      message: expect.stringContaining(join(aside, "old")),
    });
    await lock.release();
    await putBack(nodeStorage, join(folder, "aside/out"));
    expect(await readdir(join(folder, "aside"))).toEqual(["out"]);
  }, 20_000);
});
