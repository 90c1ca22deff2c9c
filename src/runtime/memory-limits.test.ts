import { describe, expect, it } from "vitest";
import { linuxAvailable } from "./memory-limits.ts";

const machine = { "/proc/meminfo": "MemTotal:  24683620 kB\nMemFree: 100 kB\nMemAvailable:   1000000 kB\n" };
const plenty = 1024 * 1_000_000;
const available = (files: Readonly<Record<string, string>>): number | undefined =>
  linuxAvailable((path) => files[path]);

describe("what Linux leaves to a process", () => {
  it("is what the machine has available, where nothing else limits it", () => {
    expect(available(machine)).toBe(plenty);
    expect(available({})).toBeUndefined();
    const open = {
      "/proc/self/cgroup": "0::/user\n3:memory:/\n",
      "/sys/fs/cgroup/user/memory.max": "max\n",
      "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
      "/proc/self/limits": "Max address space         unlimited            unlimited            bytes\n",
    };
    expect(available({ ...machine, ...open })).toBe(plenty);
  });

  it("is what a control group leaves, in version 2, with files in its cache counted as free", () => {
    const group = {
      "/proc/self/cgroup": "0::/a.slice/job\n",
      "/sys/fs/cgroup/a.slice/job/memory.max": "600000000\n",
      "/sys/fs/cgroup/a.slice/job/memory.current": "500000000\n",
      "/sys/fs/cgroup/a.slice/job/memory.stat": "anon 1\ninactive_file 300000000\n",
    };
    expect(available({ ...machine, ...group })).toBe(400e6);
    const around = { "/sys/fs/cgroup/a.slice/memory.high": "350000000", "/sys/fs/cgroup/a.slice/memory.current": "1" };
    expect(available({ ...machine, ...group, ...around })).toBe(350e6 - 1);
    const container = {
      "/proc/self/cgroup": "0::/\n",
      "/sys/fs/cgroup/memory.max": "5000",
      "/sys/fs/cgroup/memory.current": "6000",
    };
    expect(available({ ...machine, ...container })).toBe(0);
  });

  it("is what a control group leaves, in version 1, where the container sees its own group at the root", () => {
    const group = {
      "/proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n",
      "/sys/fs/cgroup/memory/memory.limit_in_bytes": "700000000\n",
      "/sys/fs/cgroup/memory/memory.usage_in_bytes": "200000000\n",
      "/sys/fs/cgroup/memory/memory.stat": "cache 5\ntotal_inactive_file 50000000\n",
    };
    expect(available({ ...machine, ...group })).toBe(550e6);
  });

  it("is what the process may still take by its own limits (ulimit -v, -d)", () => {
    const limits = {
      "/proc/self/limits":
        "Max data size             900000000            unlimited            bytes\nMax address space         800000000            unlimited            bytes\n",
      "/proc/self/status": "VmSize:\t  100000 kB\nVmData:\t  500000 kB\n",
    };
    expect(available({ ...machine, ...limits })).toBe(900e6 - 1024 * 500_000);
  });
});
