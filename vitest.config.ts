import { defineConfig, type ViteUserConfig } from "vitest/config";

/** Tests that close every device of their process, stand in for modules, or measure what a process takes: each file has its own. */
const alone = [
  "tests/flag-laws.test.ts",
  "src/runtime/node.test.ts",
  "tests/{size,memory,streaming,large-files}.test.ts",
  "tests/{data-bombs,template-bombs,bounded-reading}.test.ts",
];

/** All others share processes: each file would load ONNX Runtime and the sources anew, which takes a third of the time. */
const config: ViteUserConfig = defineConfig({
  test: {
    globalSetup: ["tests/helpers/vulkan.setup.ts", "tests/helpers/build.setup.ts"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: "forks",
    maxWorkers: 2,
    projects: [
      { extends: true, test: { name: "alone", include: alone, isolate: true } },
      {
        extends: true,
        test: {
          name: "together",
          include: ["src/**/*.test.ts", "tests/**/*.test.ts", "examples/**/*.test.ts"],
          exclude: ["**/node_modules/**", ...alone],
          isolate: false,
        },
      },
    ],
  },
});

export default config;
