import { describe, expect, it } from "vitest";
import { linuxCores } from "./cpu-limits.ts";

const cores = (files: Readonly<Record<string, string>>): number | undefined => linuxCores((path) => files[path]);
const four = { "/proc/self/status": "Name:\tnode\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\nMems_allowed:\t1\n" };

describe("the cores that Linux lets a process compute on", () => {
  it("are the processors that it may run on", () => {
    expect(cores(four)).toBe(4);
    expect(cores({ "/proc/self/status": "Cpus_allowed_list:\t1,4-5\n" })).toBe(3);
    expect(cores({})).toBeUndefined();
  });

  it("count once where two processors are threads of one", () => {
    const siblings = ["0,2", "1,3", "0,2", "1,3"].map(
      (list, i) => [`/sys/devices/system/cpu/cpu${i}/topology/thread_siblings_list`, `${list}\n`] as const,
    );
    expect(cores({ ...four, ...Object.fromEntries(siblings) })).toBe(2);
  });

  it("are no more than the time that control groups allow, in both versions", () => {
    const second = { "/proc/self/cgroup": "0::/a.slice/job\n", "/sys/fs/cgroup/a.slice/job/cpu.max": "max 100000\n" };
    expect(cores({ ...four, ...second })).toBe(4);
    expect(cores({ ...four, ...second, "/sys/fs/cgroup/a.slice/cpu.max": "150000 100000\n" })).toBe(2);
    const first = {
      "/proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n",
      "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
      "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    };
    expect(cores({ ...four, ...first })).toBe(1);
    expect(cores({ ...four, ...first, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n" })).toBe(4);
  });
});
