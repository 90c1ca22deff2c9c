import { writeFileSync } from "node:fs";
import {
  bytesField,
  type Message,
  message,
  messageField,
  serialise,
  stringField,
  varintField,
} from "../../src/io/onnx/wire.ts";

/** A product for ONNX Runtime: y [outputs] = W·x, float32 or MatMulNBits of 2, 4 or 8 bits. */
export interface OnnxProduct {
  readonly inputs: number;
  readonly outputs: number;
  readonly bits: 2 | 4 | 8 | 32;
  /** `accuracy_level` of MatMulNBits: 4 rounds inputs to int8, 0 (its default) keeps float32. */
  readonly level?: 0 | 4;
  /** Rows of x; 1 unless given. */
  readonly rows?: number;
}

/** Inputs that share a scale in MatMulNBits. */
export const blockSize = 128;

/** Bytes of the weights and scales of a product. */
export function onnxBytes({ inputs, outputs, bits }: OnnxProduct): number {
  return bits === 32 ? 4 * inputs * outputs : (inputs * outputs * bits) / 8 + (4 * inputs * outputs) / blockSize;
}

/** Codes of MatMulNBits [outputs][inputs·bits/8], low bits first, and scales [outputs][inputs/blockSize]. */
export interface NBits {
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
}

/** A model of independent products x0 → y0, x1 → y1, …, with weights drawn by `random`. */
export function writeProducts(path: string, products: readonly OnnxProduct[], random: () => number): readonly NBits[] {
  const drawn: NBits[] = [];
  const fields: Message[] = products.flatMap((product, i) => {
    const { inputs, outputs, bits, level = 0, rows = 1 } = product;
    const io = [value(11, `x${i}`, [rows, inputs]), value(12, `y${i}`, [rows, outputs])];
    if (bits === 32) {
      const weights = Float32Array.from({ length: inputs * outputs }, () => random() - 0.5);
      drawn.push({ codes: new Uint8Array(), scales: weights });
      return [
        node("MatMul", "", [`x${i}`, `w${i}`], [`y${i}`], {}),
        initializer(`w${i}`, 1, [inputs, outputs], weights),
        ...io,
      ];
    }
    const blocks = inputs / blockSize;
    const codes = Uint8Array.from({ length: (inputs * outputs * bits) / 8 }, () => Math.floor(256 * random()));
    const scales = Float32Array.from({ length: outputs * blocks }, () => 0.01 + 0.01 * random());
    drawn.push({ codes, scales });
    const attributes = { K: inputs, N: outputs, bits, block_size: blockSize, accuracy_level: level };
    return [
      node("MatMulNBits", "com.microsoft", [`x${i}`, `w${i}`, `s${i}`], [`y${i}`], attributes),
      initializer(`w${i}`, 2, [outputs, blocks, (blockSize * bits) / 8], codes),
      initializer(`s${i}`, 1, [outputs, blocks], scales),
      ...io,
    ];
  });
  const model = [
    varintField(1, 10),
    messageField(7, [...fields, stringField(2, "products")]),
    messageField(8, [varintField(2, 21)]),
    messageField(8, [stringField(1, "com.microsoft"), varintField(2, 1)]),
  ];
  writeFileSync(path, serialise(message(model)));
  return drawn;
}

function node(
  op: string,
  domain: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: Readonly<Record<string, number>>,
): Message {
  return messageField(1, [
    ...inputs.map((name) => stringField(1, name)),
    ...outputs.map((name) => stringField(2, name)),
    stringField(4, op),
    ...Object.entries(attributes).map(([name, number]) =>
      messageField(5, [stringField(1, name), varintField(3, number), varintField(20, 2)]),
    ),
    ...(domain ? [stringField(7, domain)] : []),
  ]);
}

function initializer(name: string, type: number, dims: readonly number[], data: Uint8Array | Float32Array): Message {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return messageField(5, [
    ...dims.map((dim) => varintField(1, dim)),
    varintField(2, type),
    stringField(8, name),
    bytesField(9, bytes),
  ]);
}

function value(field: number, name: string, dims: readonly number[]): Message {
  const shape = messageField(
    2,
    dims.map((dim) => messageField(1, [varintField(1, dim)])),
  );
  return messageField(field, [stringField(1, name), messageField(2, [messageField(1, [varintField(1, 1), shape])])]);
}
