import { expect, it } from "vitest";
import { ortError } from "./ort-error.ts";

it("keeps ONNX Runtime's words and names the node", () => {
  const running = new Error(
    "Non-zero status code returned while running Add node. Name:'a.0/Add' Status Message: 2 by 3\n",
  );
  expect(ortError("run-failed", running)).toMatchObject({
    code: "run-failed",
    at: "node a.0/Add",
    what: expect.stringContaining("2 by 3"),
    cause: running,
  });
  const loading = new Error(
    'This is an invalid model. In Node, ("a.0/Nope", Nope, "", -1) : No Op registered for Nope',
  );
  expect(ortError("program-rejected", loading)).toMatchObject({ code: "program-rejected", at: "node a.0/Nope" });
});

it.each([
  "Non-zero status code while running Expand node. Name:'e' BFCArena Failed to allocate memory for requested buffer of size 4",
  "std::bad_alloc",
  "RangeError: Array buffer allocation failed",
  "WebGPU device error(3): Allocation size too large",
])("knows that memory ran out: %s", (message) => {
  expect(ortError("run-failed", new Error(message))).toMatchObject({ code: "out-of-memory" });
});

it("takes whatever was thrown", () => {
  expect(ortError("run-failed", 12345).what).toContain("12345");
});
