/** Reads a small file, or nothing where there is none. */
export type ReadText = (path: string) => string | undefined;

/** A control group of Linux: its path below the root of its version and controller. */
export interface ControlGroup {
  readonly version: 1 | 2;
  readonly path: string;
}

/**
 * The control groups that a controller (`memory`, `cpu`) limits this process by, and those around them; cgroups(7). A
 * container may see its own group at the root alone, so every part of a path is one.
 */
export function controlGroups(read: ReadText, controller: string): readonly ControlGroup[] {
  return (read("/proc/self/cgroup") ?? "").split("\n").flatMap((line) => {
    const [, controllers, path = "/"] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined) return [];
    const version = controllers === "" ? 2 : controllers.split(",").includes(controller) ? 1 : undefined;
    return version ? pathsUp(path).map((part) => ({ version, path: part }) as const) : [];
  });
}

/** `/a/b`, `/a`, and the root. */
function pathsUp(path: string): readonly string[] {
  const parts = path.split("/").filter((part) => part !== "" && part !== "..");
  return Array.from({ length: parts.length + 1 }, (_, i) =>
    parts
      .slice(0, parts.length - i)
      .map((part) => `/${part}`)
      .join(""),
  );
}
