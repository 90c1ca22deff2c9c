import { expect, it } from "vitest";
import { memoryStorage } from "./memory-storage.ts";
import { outputConformance } from "./outputs/outputs.conformance.ts";
import { storageConformance } from "./storage.conformance.ts";

storageConformance("memory", async () => ({ storage: memoryStorage(), root: "root" }));
outputConformance("memory", async () => ({ storage: memoryStorage(), root: "root" }));

it("starts with the files it is given", async () => {
  const storage = memoryStorage({ "/models/a/config.json": "{}", "./b": Uint8Array.of(7) });
  expect(await storage.list("")).toEqual(["b", "models/"]);
  expect(await storage.read("models//a/config.json")).toEqual(new TextEncoder().encode("{}"));
});
