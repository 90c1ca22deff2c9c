import { describe, expect, it } from "vitest";
import { checkPatterns, chooseMethod, configAt } from "./table.ts";
import { chooseModules, showTargets, type TargetModules } from "./targets.ts";

const modules = [0, 1, 2].flatMap((layer) =>
  ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"].map((name) => `model.layers.${layer}.${name}`),
);
const all = [...modules, "lm_head"];

describe("selected modules", () => {
  const chosen = (targets: TargetModules): readonly string[] => chooseModules(targets, all, "lm_head");

  it("leave out what is excluded, and other layers", () => {
    expect(chosen({ modules: "all-linear", exclude: ["up_proj"] })).toEqual(modules.filter((m) => !m.includes("up")));
    expect(chosen({ modules: ["q_proj"], layers: [0, 2] })).toEqual([modules[0], modules[6]]);
    expect(chosen({ modules: "all-linear", exclude: /.*layers\.[01]\..*/, layers: [1, 2] })).toEqual(modules.slice(6));
  });

  it("are refused where nothing is left, a name is unknown or a layer is not there", () => {
    expect(() => chosen({ modules: ["q_proj"], exclude: ["q_proj"] })).toThrow("leave no module");
    expect(() => chosen({ modules: "all-linear", exclude: ["k_proj"] })).toThrow('called "k_proj"');
    expect(() => chosen({ modules: "all-linear", layers: [1, 7] })).toThrow(/no layer 7\.[\s\S]*0 to 2/);
  });

  it("are told in words", () => {
    expect(showTargets({ modules: "all-linear", exclude: ["up_proj"], layers: [0, 1] })).toBe(
      "all-linear without up_proj in layers 0, 1",
    );
    expect(showTargets(/q_.*/)).toBe("/q_.*/");
  });
});

describe("options by module", () => {
  const choice = chooseMethod(
    "lora",
    { rank: 4 },
    { rank: { "layers.0.self_attn.q_proj": 6, q_proj: 5 }, alpha: { up_proj: 1 } },
  );

  it("come from the first pattern that matches the end of the path", () => {
    expect(modules.slice(0, 4).map((module) => configAt(choice, module)["rank"])).toEqual([6, 4, 4, 5]);
    expect(modules.slice(0, 3).map((module) => configAt(choice, module)["alpha"])).toEqual([8, 8, 1]); // twice the rank but where a pattern says
  });

  it("decide something, or are refused", () => {
    expect(() => checkPatterns(choice, modules)).not.toThrow();
    expect(() => checkPatterns(choice, modules.slice(3))).toThrow('called "layers.0.self_attn.q_proj"');
  });

  it("are checked as the method's own are, and patterns never take long", () => {
    expect(() => chooseMethod("lora", {}, { rank: { q_proj: 0 } })).toThrow("at least 1");
    expect(() => chooseMethod("lora", {}, { beta: { q_proj: 1 } })).toThrow('no option "beta"');
    for (const pattern of ["[", "(a)\\1", "a++", "x".repeat(20_000)]) {
      expect(() => chooseMethod("lora", {}, { rank: { [pattern]: 2 } }), pattern).toThrow("cannot be used");
    }
  });
});
