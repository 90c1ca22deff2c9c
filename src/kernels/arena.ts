import { assert, TuneError } from "../errors.ts";

const pageBytes = 65536;
const mostBytes = 2 ** 32;

/** A `WebAssembly.Memory`, declared here because the types of a package must stand without those of a page. */
export interface KernelMemory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}

/** A range of kernel memory. */
export interface Room {
  readonly at: number;
  readonly bytes: number;
}

/**
 * Kernel memory, laid out before it exists: first everything says what it takes, then the memory is made in one piece.
 * It never grows, so views of it stay valid; what is never touched takes no memory of the machine.
 */
export interface Arena {
  /** Reserve bytes, at a multiple of 64. 64 more are left after them, which a kernel may read. */
  reserve(bytes: number): Room;
  /** Bytes reserved so far. */
  readonly sizeBytes: number;
  /** Make the memory. @throws {TuneError} `kernel-memory` when there is more than WebAssembly can address or get. */
  create(options: { readonly shared: boolean }): KernelMemory;
}

/** An empty layout. */
export function createArena(): Arena {
  let size = 1024; // address 0 means "none" to kernels
  let created = false;
  return {
    reserve: (bytes) => {
      assert(!created, "the memory exists already");
      const at = size;
      size += Math.ceil(bytes / 64) * 64 + 64;
      return { at, bytes };
    },
    get sizeBytes() {
      return size;
    },
    create: ({ shared }) => {
      created = true;
      const fail = (reason: string): TuneError =>
        new TuneError("kernel-memory", `The kernels need ${Math.ceil(size / 1e6)} MB of memory${reason}.`, {
          at: "decoding a packed model",
          fix: "use a smaller model, fewer prompts at once, or a machine with more memory",
        });
      if (size > mostBytes) throw fail("; WebAssembly addresses 4295 MB");
      const pages = Math.ceil(size / pageBytes);
      try {
        // The types of the DOM know no shared memory; the engines do.
        return new WebAssembly.Memory({ initial: pages, maximum: pages, shared } as WebAssembly.MemoryDescriptor);
      } catch (error) {
        throw fail(`: ${error instanceof Error ? error.message : String(error)}`);
      }
    },
  };
}

/** Views of all of a kernel memory. */
export interface Views {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly floats: Float32Array;
}

/** Views of a memory, whichever thread it belongs to. */
export function viewsOf(memory: KernelMemory): Views {
  return {
    bytes: new Uint8Array(memory.buffer),
    words: new Uint32Array(memory.buffer),
    floats: new Float32Array(memory.buffer),
  };
}
