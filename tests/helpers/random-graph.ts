import fc from "fast-check";
import {
  type Attribute,
  constantOf,
  type DType,
  type Graph,
  graph,
  input,
  type LazyTensor,
  makeNode,
  parameter,
  type Shape,
  sizeOf,
  type Tensor,
  tensor,
  type Value,
  viewAs,
  weight,
} from "../../src/graph/index.ts";

const dtypes: readonly DType[] = [
  "float32",
  "float64",
  "float16",
  "bfloat16",
  "int64",
  "int32",
  "int16",
  "int8",
  "uint64",
  "uint32",
  "uint16",
  "uint8",
];

/** A tensor of up to 27 elements; floats are any but NaN, whose payload no text keeps. */
export const someTensor: fc.Arbitrary<Tensor> = fc
  .tuple(fc.constantFrom(...dtypes), fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 3 }))
  .chain(([dtype, shape]) => {
    const length = sizeOf(shape);
    const exactly = { minLength: length, maxLength: length };
    if (dtype === "float32") {
      return fc.array(fc.float({ noNaN: true }), exactly).map((values): Tensor => tensor(dtype, shape, values));
    }
    if (dtype === "float64") {
      return fc.array(fc.double({ noNaN: true }), exactly).map((values): Tensor => tensor(dtype, shape, values));
    }
    const bytes = length * tensor(dtype, [1], 0).data.BYTES_PER_ELEMENT;
    return fc
      .uint8Array({ minLength: bytes, maxLength: bytes })
      .map((filled): Tensor => ({ dtype, shape, data: viewAs(dtype, filled) }));
  });

/** Any attribute; ints stay exact as numbers, and floats are float32, as files hold them. */
export const someAttribute: fc.Arbitrary<Attribute> = fc.oneof(
  fc.record({ type: fc.constant("int" as const), value: fc.maxSafeInteger() }),
  fc.record({ type: fc.constant("float" as const), value: fc.float({ noNaN: true }) }),
  fc.record({ type: fc.constant("string" as const), value: fc.string({ unit: "grapheme" }) }),
  fc.record({ type: fc.constant("tensor" as const), value: someTensor }),
  fc.record({ type: fc.constant("ints" as const), value: fc.array(fc.maxSafeInteger()) }),
  fc.record({ type: fc.constant("floats" as const), value: fc.array(fc.float({ noNaN: true })) }),
  fc.record({ type: fc.constant("strings" as const), value: fc.array(fc.string({ unit: "grapheme" })) }),
);

const someDim = fc.oneof(fc.integer({ min: 0, max: 9 }), fc.constantFrom("batch", "seq", "past+seq", "2*past-1"));
const someShape: fc.Arbitrary<Shape> = fc.array(someDim, { maxLength: 3 });
const someName = fc.oneof(
  fc.constantFrom("x", "_", "return", "weight", "from", "a b", 'q"uote', "0", "1e5", "model.layers.0/MatMul", "/a/b"),
  fc.string({ unit: "grapheme", minLength: 1, maxLength: 6 }),
);

/** A well-formed graph of nonsense operators: odd names, all kinds of values, omitted inputs, several outputs. */
export const someGraph: fc.Arbitrary<Graph> = fc
  .record({
    name: someName,
    inputs: fc.array(fc.tuple(someName, fc.constantFrom(...dtypes), someShape), { maxLength: 3 }),
    parameters: fc.array(fc.tuple(someName, fc.array(fc.nat(4), { maxLength: 2 })), { maxLength: 2 }),
    weights: fc.array(fc.tuple(someName, someTensor), { maxLength: 3 }),
    constants: fc.array(someTensor, { maxLength: 3 }),
    nodes: fc.array(
      fc.record({
        op: fc.constantFrom("Add", "MatMul", "constant", "Split"),
        domain: fc.constantFrom("", "", "com.microsoft"),
        scope: fc.oneof(fc.constantFrom("", "model.layers.0"), someName),
        inputs: fc.array(fc.option(fc.nat()), { maxLength: 4 }),
        attributes: fc.dictionary(someName, someAttribute, { maxKeys: 3 }),
        outputs: fc.array(fc.tuple(fc.constantFrom(...dtypes), someShape, fc.option(someName, { nil: undefined })), {
          minLength: 1,
          maxLength: 3,
        }),
      }),
      { minLength: 1, maxLength: 8 },
    ),
    outputs: fc.uniqueArray(fc.tuple(someName, fc.nat()), { minLength: 1, maxLength: 3, selector: ([name]) => name }),
  })
  .map((drawn) => {
    const taken = new Set<string>(drawn.outputs.map(([name]) => name));
    const free = (name: string): string => {
      let unique = name;
      while (taken.has(unique)) unique += "'";
      taken.add(unique);
      return unique;
    };
    const inputs = drawn.inputs.map(([name, dtype, shape]) => input(free(name), dtype, shape));
    const values: Value[] = [
      ...inputs,
      ...drawn.parameters.map(([name, shape]) => parameter(free(name), "float32", shape)),
      ...drawn.weights.map(([name, held]) => weight(free(name), lazily(held))),
      ...drawn.constants.map(constantOf),
    ];
    const pick = (index: number): Value | undefined => values[index % Math.max(1, values.length)];
    for (const { outputs, ...rest } of drawn.nodes) {
      const made = makeNode({
        ...rest,
        inputs: rest.inputs.map((index) => (index === null ? undefined : pick(index))),
        outputs: outputs.map(([dtype, shape]) => ({ dtype, shape })),
        hints: outputs.map(([, , hint]) => hint),
      });
      values.push(...made.outputs);
    }
    const last = values.at(-1);
    const outputs = new Map<string, Value>();
    for (const [name, index] of drawn.outputs) {
      const value = pick(index) ?? last;
      if (value !== undefined) outputs.set(name, value);
    }
    return graph({ name: drawn.name, inputs, outputs });
  });

/** A source that has its tensor at hand. */
export function lazily(held: Tensor): LazyTensor {
  const { dtype, shape, data } = held;
  return {
    dtype,
    shape,
    sizeBytes: data.byteLength,
    read: async () => ({ dtype, shape, data: data.slice() }) as Tensor,
  }; // same dtype
}
