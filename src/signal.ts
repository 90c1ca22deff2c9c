/**
 * What stops something that takes long: an `AbortSignal`, as far as it is used here. Declared here because the types of a
 * package must stand without those of a page or of Node.
 */
export interface StopSignal {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}
