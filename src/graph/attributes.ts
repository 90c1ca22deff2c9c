import type { Attribute, Attributes } from "./value.ts";

/** Tag attribute values the way ONNX does. */
export const int = (value: number): Attribute => ({ type: "int", value });
export const float = (value: number): Attribute => ({ type: "float", value });
export const ints = (value: readonly number[]): Attribute => ({ type: "ints", value });
export const floats = (value: readonly number[]): Attribute => ({ type: "floats", value });
export const string = (value: string): Attribute => ({ type: "string", value });

/** Read an integer or float attribute, or its default. */
export function numberAttribute(attributes: Attributes, name: string, otherwise: number): number {
  const attribute = attributes[name];
  return attribute?.type === "int" || attribute?.type === "float" ? attribute.value : otherwise;
}

/** Read a list-of-integers attribute; undefined when it is absent. */
export function intsAttribute(attributes: Attributes, name: string): readonly number[] | undefined {
  const attribute = attributes[name];
  return attribute?.type === "ints" ? attribute.value : undefined;
}

/** Read a string attribute, or its default. */
export function stringAttribute(attributes: Attributes, name: string, otherwise: string): string {
  const attribute = attributes[name];
  return attribute?.type === "string" ? attribute.value : otherwise;
}
